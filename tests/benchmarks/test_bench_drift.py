"""The drift benchmark: rivals against plain formulas, trials on invented lines, real parts."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_bench.drift import command, inspections, report, rivals, simulation, trials
from cff_bench.drift.inspections import Inspected
from cff_bench.drift.planted import BORDER, cut, planted_drifts
from cff_runtime.errors import UsageError
from cff_runtime.inspector import Inspector


def test_a_shifted_picture_shows_what_was_beside_it() -> None:
    image = np.arange(100 * 200 * 3, dtype=np.uint64).reshape(100, 200, 3).astype(np.uint8)

    still, moved = cut(image), cut(image, BORDER, 0.02)

    np.testing.assert_array_equal(still, image[6:94, 12:188])
    np.testing.assert_array_equal(moved, image[8:96, 24:200])


def test_planted_drifts_keep_size_and_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    image, texture = (rng.integers(60, 120, (100, 100, 3), dtype=np.uint8) for _ in range(2))
    still = cut(image).astype(float)

    changed = {(d.kind, d.strength): d.apply(image) for d in planted_drifts(texture)}

    assert {one.shape for one in changed.values()} == {(88, 88, 3)}
    assert len(changed) == 21
    np.testing.assert_array_equal(changed["none", ""], still)
    assert changed["exposure", "x 0.8"].mean() == pytest.approx(0.8 * still.mean(), abs=0.5)
    laid = changed["texture", "8 grey levels"] - still
    assert (laid.mean(), laid.std()) == pytest.approx((0.0, 8.0), abs=0.3)
    deviations = [changed["blur", f"{px} px of 256"].std() for px in ("0.5", "1", "1.5", "2")]
    assert deviations == sorted(deviations, reverse=True)


def test_energy_distance_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    base, values = rng.normal(size=(20, 2)), rng.normal(0.5, 2.0, size=(40, 2))

    found = rivals.energy_distances(base, values, window=15)

    def mean_apart(one: Any, other: Any) -> float:
        return float(np.abs(one[:, None] - other[None]).mean())

    for start in range(26):
        part = values[start : start + 15]
        expected = max(
            2 * mean_apart(x, y) - mean_apart(x, x) - mean_apart(y, y)
            for x, y in zip(base.T, part.T, strict=True)
        )
        assert found[start] == pytest.approx(expected)
    assert len(found) == 26


def test_the_stability_index_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    base, values = rng.normal(size=(50, 1)), rng.normal(1.0, 1.0, size=(33, 1))

    found = rivals.stability_indices(base, values, window=30)

    edges = [-np.inf, *np.quantile(base, [0.2, 0.4, 0.6, 0.8]), np.inf]
    for start in range(4):
        p = np.histogram(values[start : start + 30], edges)[0] / 30
        q = np.histogram(base, edges)[0] / 50
        p, q = np.maximum(p, 0.01), np.maximum(q, 0.01)
        assert found[start] == pytest.approx(((p - q) * np.log(p / q)).sum())


def records(n: int, shift: float, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "score": 5.0 + rng.normal(),
            "verdict": "pass" if i % 5 else "reject",
            "stage_distances": (1.0 + 0.2 * (rng.normal(size=2) + shift)).tolist(),
            "measures": {"sharpness": 500.0, "brightness": 100.0 + rng.normal()},
        }
        for i in range(n)
    ]


def invented(seed: int = 0) -> Inspected:
    shifts = {"none": 0.0, "blur weak": 0.3, "blur strong": 8.0, trials.MIXED: 9.0}
    found = {label: records(60, shift, seed + i) for i, (label, shift) in enumerate(shifts.items())}
    limits = {"stage 1": 2.0, "stage 2": 2.0}
    return Inspected("set/thing", False, limits, records(4, 0.0, 99), found)


def test_no_picture_is_both_learnt_and_watched() -> None:
    drawn = list(trials.streams(invented(), 6, 50, 300))

    assert len(drawn) == 6
    for stream in drawn:
        assert not set(stream.learn) & set(stream.quiet)
        assert sum(bool(i % 5) for i in stream.learn) == 50 and stream.learn[-1] % 5
        assert len(stream.quiet) == 300
    assert set(drawn[0].learn) != set(drawn[1].learn)


def test_an_invented_line_is_quiet_and_its_drift_is_seen() -> None:
    row = trials.try_product([invented(), invented(10)], 6, 50, 2000)

    assert row["quiet"] == {"draws": 6, "alarmed": 0, "alarms": {}, "far": 0}
    strong, weak = (row["drifts"][f"blur {name}"] for name in ("strong", "weak"))
    assert strong["within_50"] == strong["n"] == 6 and 9 <= strong["median"] <= 12
    assert strong["far_at_start"] == 6
    assert weak == {"n": 6, "within_50": 0, "median": None, "p90": None, "far_at_start": 0}
    assert trials.references_alone([invented()], 4, 50, 300)["draws"] == 4


def test_summaries_of_delays() -> None:
    assert trials.summary([3, None, 60, 5]) == {"n": 4, "within_50": 2, "median": 5, "p90": None}
    assert trials.summary([7, 1, 50])["p90"] == 50


def test_rivals_see_the_strong_drift() -> None:
    report = rivals.try_rivals([[invented()]], 4, 50, 400)

    for rule in rivals.RULES:
        assert report[rule]["drifts"]["blur strong"]["within_50"] == 4
        assert report[rule]["limit"] > 0


def test_quiet_laws_stay_quiet() -> None:
    for row in simulation.simulate(100, 50, 2000):
        assert row["alarmed"] <= (0.0 if row["law"] != "log-normal" else 0.05)


def test_the_report_holds_all_its_tables(tmp_path: Path) -> None:
    facts = {
        "products": [trials.try_product([invented()], 4, 50, 100)],
        "references_alone": {"draws": 4, "alarmed": 1},
        "rivals": rivals.try_rivals([[invented()]], 4, 50, 100),
        "simulation": [{"law": "normal", "runs": 3, "alarmed": 0.0}],
        "settings": {"quiet": 100},
    }
    facts = json.loads(json.dumps(facts))

    text = report.format_report(facts)

    assert "energy distance" in text and "unseen" in text
    assert "1 of 4 quiet runs alarm" in text
    assert "blur strong" in text and "4/4" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables:drift -->\nold\n<!-- /tables:drift -->\nafter\n")
    report.fill_page(page, facts)
    once = page.read_text()
    report.fill_page(page, facts)
    assert page.read_text() == once and "old" not in once
    assert once.startswith("before\n") and once.endswith("after\n")
    assert "| blur weak | 0/4 |" in once and "1 of 4 such runs alarm" in once
    page.write_text("no marks")
    with pytest.raises(UsageError, match="marks of the tables once, got 0"):
        report.fill_page(page, facts)


def test_wrong_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CFF_DATA", raising=False)
    with pytest.raises(UsageError, match="`--product` must be one of ballscrew"):
        command.measure(tmp_path, None, products=["no/thing"])
    with pytest.raises(UsageError, match="`--draws` must be at least"):
        command.measure(tmp_path, None, n_draws=1)
    with pytest.raises(UsageError, match="CFF_DATA"):
        command.measure(tmp_path, None)


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_real_parts_drift_and_do_not(
    lite_inspector: Inspector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_drift_parser(parser.add_subparsers())
    common = ["drift", str(lite_inspector.bundle.path), "--cache", str(tmp_path / "cache")]
    options = ["--draws", "4", "--reference-draws", "1", "--product", "mvtec_mini/transistor"]
    args = parser.parse_args([*common, *options, "--json", str(tmp_path / "drift.json")])
    args.command_line = ("cff-bench", "drift")

    assert args.run(args) == 0

    (row,) = json.loads((tmp_path / "drift.json").read_text())["products"]
    assert row["product"] == "mvtec_mini/transistor" and not row["trained_on"]
    assert row["quiet"]["alarmed"] == 0 and row["quiet"]["far"] == 0
    for label in ("blur 1.5 px of 256", "exposure x 0.8", "shift 6% of the side"):
        assert row["drifts"][label]["within_50"] == 4, label
    assert row["drifts"]["texture 16 grey levels"]["p90"] <= 20
    assert "mvtec_mini/transistor" in capsys.readouterr().out
    again = inspections.inspect_product(
        lite_inspector, Path(os.environ["CFF_DATA"]), row["product"], 4, 40, tmp_path / "cache"
    )
    assert len(again.records["none"]) == row["n_held_out"] == 40
