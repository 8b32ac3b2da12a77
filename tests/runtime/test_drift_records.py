"""What feeds a monitor: measures of pictures, results, records, and the watch's observers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile, Result
from cff_runtime.cli import main
from cff_runtime.drift import DriftMonitor, drift_observers, replay
from cff_runtime.drift.baseline import START_MARGIN, start_limits
from cff_runtime.drift.measures import picture_measures
from cff_runtime.drift.signals import signals_of
from cff_runtime.image_checks import sharpness_of
from cff_runtime.product_check import mean_features, product_distance

Picture = NDArray[np.uint8]


def part(rng: np.random.Generator, x: float = 0.0, light: float = 1.0) -> Picture:
    """Return a disc on an even ground, 64 x 64, shifted by a share of the side."""
    image = np.full((64, 64, 3), 60, np.uint8)
    centre = (32 + 64 * x + rng.normal(0, 0.5), 32 + rng.normal(0, 0.5))
    fixed = tuple(round(value * 16) for value in centre)
    cv2.circle(image, fixed, 12 * 16, (150, 140, 130), -1, cv2.LINE_AA, 4)
    noisy = image + rng.normal(0, 2, image.shape)
    return np.clip(np.rint(noisy * light), 0, 255).astype(np.uint8)


def test_measures_are_what_their_names_say() -> None:
    image = part(np.random.default_rng(0))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    rows, columns = np.mgrid[0:64, 0:64]
    border = np.concatenate((grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]))
    apart = np.abs(grey - np.median(border))

    found = picture_measures(image)

    assert found["sharpness"] == pytest.approx(sharpness_of(image), rel=1e-4)
    assert found["brightness"] == pytest.approx(grey.mean())
    for name, grid in (("position_x", columns), ("position_y", rows)):
        assert found[name] == pytest.approx(((grid + 0.5) / 64 * apart).sum() / apart.sum())


def test_a_shifted_part_moves_by_its_shift_and_light_does_not_move_it() -> None:
    still, moved, lit = (
        picture_measures(part(np.random.default_rng(4), *change))
        for change in ((), (0.1,), (0.0, 1.3))
    )

    assert moved["position_x"] - still["position_x"] == pytest.approx(0.1, abs=0.015)
    assert moved["position_y"] == pytest.approx(still["position_y"], abs=0.01)
    assert lit["position_x"] == pytest.approx(still["position_x"], abs=0.01)
    assert lit["brightness"] == pytest.approx(1.3 * still["brightness"], rel=0.02)


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_of_one_grey_has_measures(value: int) -> None:
    found = picture_measures(np.full((20, 30, 3), value, np.uint8))

    assert found == pytest.approx(
        {
            "sharpness": 0.0,
            "brightness": value,
            "position_x": 0.5,
            "position_y": 0.5,
        }
    )
    assert np.isfinite(list(signals_of({"measures": found}).values())).all()


def test_a_result_carries_what_a_monitor_needs(numpy_inspector: Callable[..., Inspector]) -> None:
    inspector, rng = numpy_inspector(), np.random.default_rng(0)
    profile = inspector.enroll([part(rng) for _ in range(3)], "disc")
    image = part(rng)

    result = inspector.inspect(image, profile)

    resized = inspector.bundle.manifest.preprocessing(image)
    encoding = inspector._backend.encode(resized, profile.condition)
    means = mean_features([inspector._backend.download(one) for one in encoding.features])
    alone = [
        min(product_distance([mean], [rows[k : k + 1]]) for k in range(3))
        for mean, rows in zip(means, profile.means, strict=True)
    ]
    assert result.stage_distances == pytest.approx(alone, abs=1e-4)  # cosines of float32
    assert sum(alone) <= product_distance(means, profile.means) + 1e-4
    assert result.measures == picture_measures(resized)
    fields = json.loads(json.dumps(result.to_record()))
    assert fields["stage_distances"] == pytest.approx(result.stage_distances, abs=1e-6)
    assert set(signals_of(fields)) >= {"score", "stage 1", "stage 4", "sharpness", "brightness"}
    assert inspector.judge(encoding, profile, (64, 64)).measures == {}


def test_limits_are_distances_left_out(numpy_inspector: Callable[..., Inspector]) -> None:
    inspector, rng = numpy_inspector(), np.random.default_rng(0)
    profile = inspector.enroll([part(rng) for _ in range(3)], "disc")

    limits = start_limits(profile.means)

    for stage, rows in enumerate(profile.means, start=1):
        left_out = [
            min(product_distance([rows[i]], [rows[k : k + 1]]) for k in range(3) if k != i)
            for i in range(3)
        ]
        assert limits[f"stage {stage}"] == pytest.approx(max(left_out) + START_MARGIN)
    assert start_limits([rows[:1] for rows in profile.means]) == {}


def test_parts_that_move_are_reported_as_moved(
    numpy_inspector: Callable[..., Inspector],
) -> None:
    inspector, rng = numpy_inspector(), np.random.default_rng(0)
    profile = inspector.enroll([part(rng) for _ in range(4)], "disc")
    profile = replace(profile, threshold=replace(profile.threshold, value=99.0, review=99.0))
    monitor = DriftMonitor.of(profile, "p")

    quiet = [monitor.observe(inspector.inspect(part(rng), profile), "") for _ in range(150)]
    moved = [monitor.observe(inspector.inspect(part(rng, 0.08), profile), "") for _ in range(50)]

    assert quiet == [None] * 150
    alarm = next(alarm for alarm in moved if alarm is not None)
    assert alarm.signal == "position across" and "moved right" in alarm.text


@dataclass(frozen=True)
class Frame:
    captured_at: str = "2026-11-22T10:42:00+00:00"


@dataclass(frozen=True, eq=False)
class Judge:
    profile: Profile
    profile_sha256: str = "a" * 64


def result_of(rng: np.random.Generator, shift: float = 0.0) -> Result:
    distances = tuple((np.array([1.0, 2.0]) + 0.2 * rng.normal(size=2) + shift).tolist())
    empty = np.zeros((2, 2), np.float32)
    return Result(5.0, "pass", 9.0, empty, (), None, {}, stage_distances=distances)


def judge_of(inspector: Inspector) -> Judge:
    rng = np.random.default_rng(0)
    return Judge(inspector.enroll([part(rng)], "disc"))


def test_an_observer_says_what_lasts_and_resumes(
    numpy_inspector: Callable[..., Inspector], tmp_path: Path
) -> None:
    judge, rng = judge_of(numpy_inspector()), np.random.default_rng(1)
    make = drift_observers(tmp_path / "state", save_every=10)
    observe = make("camera", judge)
    for _ in range(100):
        assert list(observe(Frame(), result_of(rng))) == []
    state = tmp_path / "state" / "drift-camera.json"
    assert json.loads(state.read_text())["n_pictures"] == 100

    said = [list(observe(Frame(), result_of(rng, 2.0))) for _ in range(20)]
    assert said[0] == [] and len(said[-1]) == 2 and "away from the references" in said[-1][0]

    resumed = make("camera", judge)
    assert list(resumed(Frame(), result_of(rng, 2.0))) == said[-1]
    other = make("camera", replace(judge, profile_sha256="b" * 64))
    assert [list(other(Frame(), result_of(rng, 2.0))) for _ in range(60)] == [[]] * 60


def test_an_observer_outlives_bad_states_and_full_disks(
    numpy_inspector: Callable[..., Inspector], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge, rng = judge_of(numpy_inspector()), np.random.default_rng(1)
    (tmp_path / "drift-camera.json").write_text("{")
    observe = drift_observers(tmp_path, save_every=1)("camera", judge)
    assert "learnt again" in caplog.text
    list(observe(Frame(), result_of(rng)))
    assert json.loads((tmp_path / "drift-camera.json").read_text())["n_pictures"] == 1

    (tmp_path / "file").write_text("")
    observe = drift_observers(tmp_path / "file", save_every=1)("camera", judge)
    assert list(observe(Frame(), result_of(rng))) == []
    assert "could not be written" in caplog.text


def lines(rng: np.random.Generator, n: int, **more: Any) -> list[dict[str, Any]]:
    at = {"captured_at": "2026-11-22T10:42:00+00:00", "kind": "inspection", "name": "p.png"}
    base = {"source": "camera", "profile": "a" * 64, **at}
    shift = more.pop("shift", 0.0)
    return [{**base, "seq": i, **result_of(rng, shift).to_record(), **more} for i in range(n)]


def test_replay_keeps_sources_and_profiles_apart() -> None:
    rng = np.random.default_rng(0)
    one, two = lines(rng, 100), lines(rng, 100, source="other", shift=2.0)
    quiet = [record for pair in zip(one, two, strict=True) for record in pair]
    assert list(replay(quiet)) == []

    error = {"source": "camera", "verdict": "error", "score": None}
    moved = lines(rng, 30, shift=2.0)
    found = list(replay([*quiet, error, {"kind": "event"}, *moved]))
    assert len(found) == 1 and found[0][0] is moved[found[0][0]["seq"]]
    assert list(replay([*quiet, *lines(rng, 60, shift=2.0, profile="b" * 64)])) == []


def run(arguments: list[str]) -> int:
    return main(["drift", *arguments])


def test_the_command_reads_records(
    numpy_inspector: Callable[..., Inspector], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "camera"
    folder.mkdir()
    text = "".join(json.dumps(one) + "\n" for one in [*lines(rng, 80), *lines(rng, 40, shift=2.0)])
    (folder / "records-000001-000000000001.jsonl").write_text(text + '{"torn')
    judge_of(numpy_inspector()).profile.save(tmp_path / "p.safetensors")

    assert run([str(tmp_path), "--profile", str(tmp_path / "p.safetensors")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "camera" in said[0] and "features moved away" in said[0]
    assert said[-1].startswith("120 inspections, ")
    assert run([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["direction"] == "up"


@pytest.mark.parametrize("content", [None, "", '{"kind": "event"}\n', "\xff\x00\n"])
def test_the_command_refuses_what_holds_no_records(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    if content is not None:
        path.write_text(content, encoding="latin-1")

    assert run([str(path)]) == 2
    assert "must" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run([str(tmp_path / "empty")]) == 2
    assert "holds none" in capsys.readouterr().err
