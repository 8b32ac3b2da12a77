"""`cff-bench evaluate-cost`: the made-up maps, the subjects, and the report's figures."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_bench.evaluate_cost import command, document, memory
from cff_bench.evaluate_cost.document import EvaluateCostSettings, run
from cff_bench.evaluate_cost.subjects import WHAT, load_subject
from cff_bench.evaluate_cost.synthetic import make_problem
from cff_bench.report.document import Report
from cff_runtime.errors import BackendError, UsageError

SETTINGS = EvaluateCostSettings(counts=(3, 6, 12), size=24, n=3, warmup=1, rival_rounds=2)


@pytest.fixture(scope="module")
def report() -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "peak_memory_mb", lambda _, count, __: (2.0 + 3.0 * count, 1.0))
        return Report.from_dict(json.loads(json.dumps(run(SETTINGS).to_dict())))


def table(report: Report, name: str) -> list[dict[str, Any]]:
    return next(table.rows for table in report.tables if table.name == name)


def test_a_smaller_problem_is_the_beginning_of_a_larger_one() -> None:
    small, large = make_problem(4, 40), make_problem(9, 40)
    for part, whole in zip(small, large, strict=True):
        np.testing.assert_array_equal(part, whole[:4])


def test_a_third_is_defective_and_nearly_every_pixel_is_a_threshold() -> None:
    labels, scores, masks, maps = make_problem(9, 60)
    assert labels.tolist() == [False, False, True] * 3
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), labels)
    assert masks[2].sum() == 25 and maps.dtype == np.float32
    np.testing.assert_array_equal(scores, maps.reshape(9, -1).max(axis=1))
    assert len(np.unique(maps)) > 0.99 * maps.size
    assert maps[masks].mean() > maps[~masks].mean() + 1


def test_subjects_agree() -> None:
    problem = make_problem(6, 32)
    ours = load_subject("evaluate")(problem)
    theirs = load_subject("scikit-learn")(problem)
    assert (ours.pixel_auroc, ours.pixel_ap) == pytest.approx(theirs)  # type: ignore[attr-defined]
    counts = load_subject("collect_evidence")(problem)
    assert counts.positive.sum() == problem[2].sum()  # type: ignore[attr-defined]


def test_figures_are_of_the_samples(report: Report) -> None:
    samples = {series.name: series.values for series in report.series}
    rows = table(report, "cost")
    assert [(row["subject"], row["images"]) for row in rows] == [
        (subject, count) for subject in WHAT for count in SETTINGS.counts
    ]
    for row in rows:
        values = samples[f"evaluate-cost/{row['subject']}/n{row['images']}"]
        ours = samples[f"evaluate-cost/evaluate/n{row['images']}"]
        assert row["n"] == len(values) == (2 if row["subject"] == "scikit-learn" else 3)
        assert row["p50_ms"] == pytest.approx(np.median(values))
        assert row["images_s"] == pytest.approx(1000 * row["images"] / np.median(values))
        assert row["ratio"] == pytest.approx(np.median(values) / np.median(ours))
        assert (row["beyond_mb"], row["arguments_mb"]) == (2 + 3 * row["images"], 1)


def test_growth_is_fitted(report: Report) -> None:
    fits = {row["of"]: row for row in table(report, "fits")}
    assert len(fits) == 2 * len(WHAT)
    megabytes = fits["evaluate, MB"]
    assert (megabytes["a"], megabytes["b"]) == pytest.approx((2, 3))
    assert megabytes["residual"] == pytest.approx(0, abs=1e-9) and megabytes["low"] is None
    rows = [row for row in table(report, "cost") if row["subject"] == "evaluate"]
    x, t = (np.array([row[name] for row in rows]) for name in ("images", "p50_ms"))
    slope, intercept = np.polyfit(x, t, 1, w=1 / t)
    assert (fits["evaluate, ms"]["b"], fits["evaluate, ms"]["a"]) == pytest.approx(
        (slope, intercept)
    )


def test_plots_show_time_and_memory(report: Report) -> None:
    time, peaks = report.plots
    assert [series.name for series in time.series] == list(WHAT)
    assert peaks.series[0].y == [11, 20, 38]


def test_where_the_system_does_not_tell_memory_there_is_a_dash(monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "_PROCESS", Path("/nowhere"))
    report = run(replace(SETTINGS, counts=(3,), n=1, subjects=("evaluate",)))
    (row,) = table(report, "cost")
    assert row["beyond_mb"] is None and row["arguments_mb"] is None
    assert table(report, "fits") == [] and len(report.plots) == 1


def test_memory_is_found_out_in_a_process_of_its_own() -> None:
    peak = memory.peak_memory_mb("collect_evidence", 3, 300)
    if peak is None:
        pytest.skip("no /proc/self/clear_refs here")
    beyond, arguments = peak
    expected = 3 * 300 * 300 * 5 + 3 + 3 * 8  # maps and masks, labels, scores
    assert arguments == pytest.approx(expected / 1e6)
    assert 0 <= beyond < 100


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(BackendError, match="`nothing` on 3 images must run on its own"):
        memory.peak_memory_mb("nothing", 3, 16)


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_evaluate_cost_parser(parser.add_subparsers())
    args = parser.parse_args(["evaluate-cost", *argv])
    args.command_line = ("cff-bench", "evaluate-cost", *argv)
    return args


def test_the_command_writes_its_report(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(document, "peak_memory_mb", lambda *_: None)
    out = tmp_path / "cost.json"
    args = parse("--quick", "--images", "3", "--size", "16", "-n", "1", "--json", str(out))
    assert args.run(args) == 0
    assert Report.from_dict(json.loads(out.read_text())).settings["rival_rounds"] == 1
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"counts": ()}, "`--images` must be 3 or more"),
        ({"counts": (2, 9)}, "`--images` must be 3 or more"),
        ({"subjects": ("sums",)}, "`--subjects` must be of"),
        ({"subjects": ()}, "`--subjects` name one"),
        ({"n": 0}, "`-n` and `--rival-rounds` must be"),
        ({"size": 15}, "`--size` 16"),
        ({"warmup": -1}, "`--warmup` 0"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        run(replace(SETTINGS, **change))
