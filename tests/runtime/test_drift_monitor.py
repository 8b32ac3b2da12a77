"""The rule against sums by hand, quiet and moved streams, states that outlive a restart."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_runtime.drift import Alarm, DriftMonitor
from cff_runtime.drift.counter import DEAD_ZONE, LARGEST_Z, LIMIT, Counter
from cff_runtime.drift.signals import signals_of
from cff_runtime.errors import StorageError, UsageError

N_LEARN = 50


def record(rng: np.random.Generator, **shifts: float) -> dict[str, Any]:
    """Return an inspection whose signals are normal; shifts are in standard deviations."""
    z = {
        name: float(rng.normal()) + shifts.get(name, 0.0)
        for name in ("score", "s1", "s2", "sharp", "bright", "x", "y")
    }
    return {
        "score": 5.0 + 0.5 * z["score"],
        "verdict": "pass",
        "stage_distances": [1.0 + 0.2 * z["s1"], 2.0 + 0.2 * z["s2"]],
        "measures": {
            "sharpness": math.exp(6.0 + 0.3 * z["sharp"]),
            "brightness": 120.0 + 4.0 * z["bright"],
            "position_x": 0.5 + 0.01 * z["x"],
            "position_y": 0.5 + 0.01 * z["y"],
        },
    }


def clock(n: int) -> str:
    return f"2026-11-22T{10 + n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}+00:00"


def learnt(seed: int = 0, **limits: Any) -> tuple[DriftMonitor, np.random.Generator]:
    rng = np.random.default_rng(seed)
    monitor = DriftMonitor("profile", n_learn=N_LEARN, **limits)
    for n in range(N_LEARN):
        assert monitor.is_learning
        assert monitor.observe_record(record(rng), clock(n)) is None
    assert not monitor.is_learning
    return monitor, rng


def drift(
    monitor: DriftMonitor, rng: np.random.Generator, n: int, **shifts: float
) -> Iterator[tuple[int, Alarm]]:
    for i in range(n):
        alarm = monitor.observe_record(record(rng, **shifts), clock(N_LEARN + i))
        if alarm is not None:
            yield i + 1, alarm


@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_usual_pictures_are_quiet(seed: int) -> None:
    monitor, rng = learnt(seed)

    assert list(drift(monitor, rng, 2000)) == []
    assert monitor.n_pictures == N_LEARN + 2000 and not monitor.active


@pytest.mark.parametrize(
    ("name", "shift", "signal", "direction", "says"),
    [
        ("s2", 6.0, "stage 2", "up", "stage 2 features moved away from the references"),
        ("s1", -6.0, "stage 1", "down", "nearer to the references"),
        ("sharp", -5.0, "sharpness", "down", "blur looks like this"),
        ("bright", 5.0, "brightness", "up", "is the light as it was"),
        ("x", -5.0, "position across", "down", "moved camera or fixture"),
        ("y", 5.0, "position down", "up", "moved down"),
        ("score", 4.0, "score", "up", "scores rose"),
    ],
)
def test_a_moved_signal_is_named_with_its_direction(
    name: str, shift: float, signal: str, direction: str, says: str
) -> None:
    monitor, rng = learnt()
    assert list(drift(monitor, rng, 40)) == []

    n, alarm = next(drift(monitor, rng, 50, **{name: shift}))

    assert (alarm.signal, alarm.direction) == (signal, direction)
    assert math.copysign(alarm.spreads, shift) == alarm.spreads
    assert abs(alarm.spreads) == pytest.approx(abs(shift), rel=0.3)
    assert 10 <= n <= 30
    assert says in alarm.text
    assert list(monitor.active) == [(signal, direction)]
    assert json.loads(json.dumps(alarm.to_dict()))["text"] == str(alarm)


def test_the_sentence_tells_since_when_and_how_much() -> None:
    monitor, rng = learnt()
    list(drift(monitor, rng, 70))

    n, alarm = next(drift(monitor, rng, 50, s2=8.0))

    assert alarm.since == clock(N_LEARN) and alarm.at == clock(N_LEARN + n - 1)
    assert f"since 10:00 ({alarm.n_pictures} pictures)" in alarm.text
    usual = 0.01 * math.expm1(alarm.usual)
    assert alarm.usual == pytest.approx(2.0, abs=0.1)
    assert f"usual is {usual:.2g}" in alarm.text
    assert alarm.mean == pytest.approx(alarm.usual + alarm.spreads * alarm.spread)


def test_blur_of_all_stages_is_called_blur_by_its_sharpness() -> None:
    monitor, rng = learnt()

    _, alarm = next(drift(monitor, rng, 50, s1=8.0, s2=8.0, sharp=-8.0, score=2.0))

    assert alarm.signal == "sharpness" and alarm.moved["stage 1"] > 2.0
    assert "blur" in alarm.text


def test_what_is_less_than_the_dead_zone_is_never_reported() -> None:
    monitor, rng = learnt()

    assert list(drift(monitor, rng, 2000, s1=1.0)) == []


def test_eight_strange_pictures_in_a_row_are_no_drift_and_ten_are() -> None:
    monitor, rng = learnt()
    for _ in range(3):
        assert list(drift(monitor, rng, 8, s1=1000.0)) == []
        assert list(drift(monitor, rng, 40)) == []

    counter = Counter()
    assert [counter.add(1000.0, "") for _ in range(14)] == [False] * 9 + [True] + [False] * 4


def test_an_alarm_comes_once_ends_with_its_cause_and_may_come_again() -> None:
    monitor, rng = learnt()

    assert len(list(drift(monitor, rng, 500, s1=6.0))) == 1
    assert list(monitor.active) == [("stage 1", "up")]
    assert list(drift(monitor, rng, 60)) == [] and not monitor.active
    assert len(list(drift(monitor, rng, 60, s1=6.0))) == 1


@pytest.mark.parametrize(("mean", "spread"), [(2.2, 2.0), (5.0, 6.0), (0.0, 1.0)])
def test_the_counter_is_pages_sum(mean: float, spread: float) -> None:
    z = np.random.default_rng(3).normal(mean, spread, 400)
    counter, sums, shares, alarmed, n_alarms = Counter(), 0.0, 0.0, False, 0

    for n, value in enumerate(z):
        sums = min(max(0.0, sums + min(value, LARGEST_Z) - DEAD_ZONE), LIMIT + 10.0)
        shares = min(max(0.0, shares + (1.0 if value > 6.0 else -0.5)), 15.0)
        said = counter.add(float(value), str(n))
        over = sums >= LIMIT or shares >= 10.0
        assert said == (over and not alarmed)
        n_alarms += said
        alarmed = (alarmed or over) and (sums > 0.0 or shares > 0.0)
        assert (counter.value, counter.strange) == pytest.approx((sums, shares))
        assert counter.alarmed == alarmed
        if counter.n:
            started = int(counter.since or 0)
            assert counter.n == n - started + 1
            assert counter.mean_z == pytest.approx(z[started : n + 1].mean())
    assert (n_alarms > 0) == (mean > 0.0)


def test_a_mixture_of_which_half_is_strange_is_told_and_a_fifth_is_not() -> None:
    monitor, rng = learnt()
    for n in range(600):
        strange = {"s1": 12.0} if n % 5 == 0 else {}
        assert monitor.observe_record(record(rng, **strange), clock(n)) is None

    mixed = (record(rng, **({"s1": 12.0} if n % 2 else {})) for n in range(60))
    said = [n for n, one in enumerate(mixed, 1) if monitor.observe_record(one, clock(n))]
    assert len(said) == 1 and 20 <= said[0] <= 45


def test_usual_is_mean_and_standard_deviation_until_enough_have_passed() -> None:
    rng = np.random.default_rng(1)
    monitor, seen = DriftMonitor("profile", n_learn=N_LEARN), []
    for n in range(140):
        inspection = record(rng)
        if n % 3 == 0:
            inspection |= {"verdict": "reject", "score": 99.0}
        if monitor.is_learning:
            seen.append(signals_of(inspection))
        monitor.observe_record(inspection, clock(n))

    usual = monitor.to_dict()["usual"]
    assert len(seen) == 1.5 * N_LEARN and set(usual) == set(seen[1])
    for name, found in usual.items():
        values = np.array([signals[name] for signals in seen if name in signals])
        assert found["n"] == (N_LEARN if name == "score" else 1.5 * N_LEARN)
        assert found["mean"] == pytest.approx(values.mean())
        assert found["spread"] == pytest.approx(values.std(ddof=1))


def test_strange_pictures_among_the_first_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    monitor = DriftMonitor("profile", n_learn=N_LEARN)
    for n in range(N_LEARN):
        monitor.observe_record(record(rng, **({"s1": 500.0} if n % 10 == 0 else {})), clock(n))

    usual = monitor.to_dict()["usual"]["stage 1"]
    assert usual["n"] == 45 and usual["mean"] == pytest.approx(1.0, abs=0.1)
    assert usual["spread"] == pytest.approx(0.2, rel=0.3)


def test_where_few_pass_the_latest_pictures_are_kept() -> None:
    rng = np.random.default_rng(1)
    monitor = DriftMonitor("profile", n_learn=20)
    for n in range(1000):
        monitor.observe_record({**record(rng), "verdict": "reject"}, clock(n))

    assert monitor.is_learning
    assert {len(values) for values in monitor.to_dict()["first"].values()} == {80}


def test_parts_that_do_not_pass_count_but_for_their_score() -> None:
    monitor, rng = learnt()
    for n in range(60):
        reject = {**record(rng), "score": 50.0, "verdict": "reject"}
        assert monitor.observe_record(reject, clock(n)) is None

    rejects = ({**record(rng, s1=6.0), "verdict": "reject"} for _ in range(40))
    alarms = [a for one in rejects if (a := monitor.observe_record(one, clock(0)))]
    assert [alarm.signal for alarm in alarms] == ["stage 1"]


def test_signals_without_any_spread_have_a_least_one() -> None:
    monitor = DriftMonitor("profile", n_learn=20)
    same = record(np.random.default_rng(0))
    for n in range(20):
        monitor.observe_record(same, clock(n))
    nearly = {**same, "stage_distances": [value + 0.05 for value in same["stage_distances"]]}
    off = {**same, "stage_distances": [value + 0.5 for value in same["stage_distances"]]}

    assert [monitor.observe_record(nearly, clock(n)) for n in range(200)] == [None] * 200
    assert any(monitor.observe_record(off, clock(n)) for n in range(20))


def test_the_first_pictures_are_compared_with_the_references() -> None:
    rng = np.random.default_rng(0)
    monitor = DriftMonitor("profile", {"stage 1": 0.5, "stage 2": 9.0}, N_LEARN)

    said = [monitor.observe_record(record(rng), clock(n)) for n in range(N_LEARN)]

    assert said[:-1] == [None] * (N_LEARN - 1)
    alarm = said[-1]
    assert alarm is not None and (alarm.signal, alarm.usual) == ("stage 1", 0.5)
    assert "farther from the references" in alarm.text and "Enrol again" in alarm.text
    assert not monitor.is_learning and list(drift(monitor, rng, 200)) == []


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "5", True, []])
def test_values_that_are_no_numbers_are_passed_over(bad: Any) -> None:
    inspection = {
        "score": bad,
        "verdict": "pass",
        "stage_distances": [bad, 1.0],
        "measures": {"sharpness": bad, "brightness": 3},
    }

    assert signals_of(inspection) == {"stage 2": 1.0, "brightness": 3.0}
    assert signals_of({}) == {}


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    shifts: list[dict[str, float]] = (
        [{}] * 30 + [{"s1": 4.0}] * 60 + [{}] * 60 + [{"bright": -4.0}] * 40
    )
    rng = np.random.default_rng(5)
    stream = [record(rng) for _ in range(N_LEARN)] + [record(rng, **shift) for shift in shifts]
    whole = DriftMonitor("profile", n_learn=N_LEARN)
    expected = [whole.observe_record(one, clock(n)) for n, one in enumerate(stream)]
    assert sum(alarm is not None for alarm in expected) == 2

    path, said = tmp_path / "state" / "drift.json", []
    for n, one in enumerate(stream):
        monitor = DriftMonitor("profile", n_learn=N_LEARN)
        assert monitor.resume(path) is (n > 0)
        said.append(monitor.observe_record(one, clock(n)))
        monitor.save(path)

    assert said == expected
    assert json.loads(path.read_text()) == json.loads(json.dumps(whole.to_dict()))
    assert path.stat().st_size < 20_000


def test_the_state_does_not_grow() -> None:
    monitor, rng = learnt()
    list(drift(monitor, rng, 100, s1=3.0))
    size = len(json.dumps(monitor.to_dict()))
    list(drift(monitor, rng, 1000, s1=3.0))

    assert len(json.dumps(monitor.to_dict())) < 1.1 * size


def test_a_state_of_another_profile_or_setting_is_not_taken_up(tmp_path: Path) -> None:
    monitor, _ = learnt()
    monitor.save(tmp_path / "state")

    for other in (DriftMonitor("other", n_learn=N_LEARN), DriftMonitor("profile", n_learn=60)):
        assert other.resume(tmp_path / "state") is False
        assert other.is_learning and other.n_pictures == 0
    assert DriftMonitor("profile").resume(tmp_path / "none") is False


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"n_learnt": 50', '"n_learnt": "50"'),
        lambda text: text.replace('"spread": ', '"spread": -'),
        lambda text: text.replace('"first": {', '"first": {"x": [0, "1"], '),
        lambda text: text.replace('"n": 50', '"n": NaN'),
        lambda text: text.replace('"value": ', '"value": 1e9'),
        lambda text: text.replace('"usual": {', '"usual": {"x": 3, '),
        lambda text: "x" * (1 << 21),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_is_taken_over(damage: Any, tmp_path: Path) -> None:
    monitor, rng = learnt()
    list(drift(monitor, rng, 20, s1=4.0))
    monitor.save(tmp_path / "state")
    text = (tmp_path / "state").read_text()
    (tmp_path / "state").write_text(damage(text))
    fresh = DriftMonitor("profile", n_learn=N_LEARN)
    before = fresh.to_dict()

    with pytest.raises(StorageError):
        fresh.resume(tmp_path / "state")

    assert fresh.to_dict() == before


def test_too_few_pictures_to_learn_from_are_refused() -> None:
    with pytest.raises(UsageError, match="20 or more, got 19"):
        DriftMonitor("profile", n_learn=19)


def test_another_material_is_not_called_a_moved_camera() -> None:
    monitor, rng = learnt()

    _, alarm = next(drift(monitor, rng, 50, s1=9.0, x=2.6))

    assert alarm.signal == "stage 1" and "another material, supplier" in alarm.text
