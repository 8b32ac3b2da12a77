"""`cff-bench accuracy-latency`: the front by brute force, figures as cff-eval's, resuming."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench.accuracy_latency import artefacts, command, measurement
from cff_bench.accuracy_latency.artefacts import list_artefacts
from cff_bench.accuracy_latency.document import run
from cff_bench.accuracy_latency.measurement import AccuracyLatencySettings
from cff_bench.accuracy_latency.pareto import pareto_front
from cff_bench.precision.runnable import AS_IT_IS, EMULATED
from cff_bench.precision.speed import NOT_TIMED
from cff_bench.report.document import Report
from cff_edge.evaluation import cli as evaluation_cli
from cff_edge.evaluation.runner import run_cell
from cff_export.variants import extend_bundle
from cff_runtime import Bundle, Inspector
from cff_runtime.errors import DatasetError, UsageError

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
FP32, FP16 = "efficientnet-lite0-96-fp32", "efficientnet-lite0-96-fp16"


@pytest.fixture(scope="module")
def half_bundle(lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with an fp16 encoder; read-only."""
    out = tmp_path_factory.mktemp("half") / "bundle"
    extend_bundle(lite_bundle.path, out, ["fp16"])
    return out


@pytest.fixture(scope="module")
def data(draw_part: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product in MVTec AD layout: 3 references, 3 good and 3 defective test parts."""
    root = tmp_path_factory.mktemp("data") / "rings"
    for number, folder in enumerate(("train/good", "test/good", "test/bar")):
        for index in range(3):
            pixels = draw_part(10 * number + index, defective=folder.endswith("bar"))
            save(pixels, root / "ring" / folder / f"{index}.png")
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[52:60, 80:115] = 255
    for index in range(3):
        save(mask, root / "ring" / "ground_truth" / "bar" / f"{index}_mask.png")
    return root


@pytest.fixture(scope="module")
def settings(
    half_bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> AccuracyLatencySettings:
    out = tmp_path_factory.mktemp("out")
    return AccuracyLatencySettings(
        (half_bundle,), (data,), shots=(1, 2), seeds=2, n=3, warmup=1, out=out
    )


@pytest.fixture(scope="module")
def report(settings: AccuracyLatencySettings) -> Report:
    return Report.from_dict(json.loads(json.dumps(run(settings).to_dict())))


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def table(report: Report, name: str) -> list[dict[str, Any]]:
    return next(table.rows for table in report.tables if table.name == name)


# --- the front


def beaten(cost: float, worth: float, others: list[tuple[float | None, float | None]]) -> bool:
    return any(
        c is not None and w is not None and c <= cost and w >= worth and (c, w) != (cost, worth)
        for c, w in others
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 8, (30, 2))  # few values, so that many are equal
    points: list[tuple[float | None, float | None]] = [(float(c), float(w)) for c, w in drawn]
    points[3], points[7] = (None, 9.0), (0.0, None)
    expected = {
        index
        for index, (cost, worth) in enumerate(points)
        if cost is not None and worth is not None and not beaten(cost, worth, points)
    }
    front = pareto_front([c for c, _ in points], [w for _, w in points])
    assert set(front) == expected and len(front) == len(expected)
    costs = [points[index][0] for index in front]
    assert costs == sorted(costs, key=lambda cost: cost or 0.0)


def test_rows_without_a_figure_are_on_no_front() -> None:
    assert pareto_front([], []) == []
    assert pareto_front([None, 1.0], [1.0, float("nan")]) == []


# --- what is measured


def test_accuracy_is_that_of_cff_eval(
    report: Report, half_bundle: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    argv = ["--data", str(data), "--method", f"x={half_bundle}", "--out", str(tmp_path)]
    assert evaluation_cli.main([*argv, "--shots", "1,2", "--seeds", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    rows = table(report, "accuracy_latency")
    assert [(row["precision"], row["shots"]) for row in rows] == [
        ("fp16", 1),
        ("fp32", 1),
        ("fp16", 2),
        ("fp32", 2),
    ]
    for row in rows:
        if row["precision"] == "fp32":
            cells = [r["metrics"] for r in results if r["k"] == row["shots"]]
            for metric in METRICS:
                assert row[metric] == pytest.approx(np.mean([cell[metric] for cell in cells]))


def test_latency_is_of_the_samples(report: Report) -> None:
    by_name = {series.name: series.values for series in report.series}
    assert set(by_name) == {f"accuracy-latency/{FP32}/k{k}" for k in (1, 2)}
    for row in table(report, "accuracy_latency"):
        if row["precision"] == "fp32":
            values = by_name[f"accuracy-latency/{FP32}/k{row['shots']}"]
            assert row["n"] == len(values) == 3
            assert row["p50_ms"] == pytest.approx(np.median(values))
            assert row["p95_ms"] == pytest.approx(np.percentile(values, 95))
            assert row["images_s"] == pytest.approx(1000 / row["p50_ms"])


def test_fp16_has_accuracy_and_a_dash(report: Report) -> None:
    rows = [r for r in table(report, "accuracy_latency") if r["precision"] == "fp16"]
    for row in rows:
        assert row["p50_ms"] is row["p95_ms"] is row["front"] is None
        assert 0 <= row["image_auroc"] <= 1 and row["computed"] == EMULATED
    (line,) = table(report, "not_timed")
    assert line["reason"] == NOT_TIMED["fp16"]
    others = [r for r in table(report, "accuracy_latency") if r["precision"] == "fp32"]
    assert {row["computed"] for row in others} == {AS_IT_IS}


def test_the_front_is_marked_and_drawn(report: Report) -> None:
    rows = table(report, "accuracy_latency")
    for metric, title in (("image_auroc", "image AUROC"), ("pixel_ap", "pixel AP")):
        front = pareto_front([r["p50_ms"] for r in rows], [r[metric] for r in rows])
        marked = [index for index, row in enumerate(rows) if title in (row["front"] or [])]
        assert sorted(front) == marked != []
        plot = next(p for p in report.plots if p.name == f"front_rings_{metric}")
        line = next(series for series in plot.series if series.name == "front")
        assert line.x == [rows[index]["p50_ms"] for index in front]
        assert line.y == [rows[index][metric] for index in front]


def test_intervals_hold_the_means(report: Report) -> None:
    rows = table(report, "intervals")
    assert len(rows) == 4 * len(METRICS)
    for row in rows:
        assert row["low"] - 0.02 <= row["mean"] <= row["high"] + 0.02 and row["std"] >= 0


def test_finished_cells_are_not_computed_again(
    settings: AccuracyLatencySettings, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counted(context: Any, cell: Any, method: Any) -> Any:
        computed.append((cell.method, cell.k, cell.seed))
        return run_cell(context, cell, method)

    monkeypatch.setattr(artefacts, "run_cell", counted)
    damaged = settings.out / "cells" / FP32 / "rings" / "ring" / "k2_seed1.json"
    damaged.write_text("{")
    again = run(settings)
    assert computed == [(FP32, 2, 1)]
    for before, after in zip(
        table(report, "accuracy_latency"), table(again, "accuracy_latency"), strict=True
    ):
        assert [before[m] for m in METRICS] == [after[m] for m in METRICS]
    assert not (settings.out / "pictures").exists()


def test_another_encoder_is_another_artefact(half_bundle: Path) -> None:
    fp32, fp16 = list_artefacts([half_bundle], ())
    assert (fp32.name, fp16.name) == (FP32, FP16)
    assert fp32.sha256 != fp16.sha256
    manifest = fp32.bundle.manifest
    entry = replace(manifest.files[manifest.encoder], sha256="0" * 64)
    files = {**manifest.files, manifest.encoder: entry}
    changed = replace(fp32, bundle=Bundle(half_bundle, replace(manifest, files=files)))
    assert changed.sha256 != fp32.sha256


def test_all_artefacts_get_the_same_image_in_a_round(
    lite_inspector: Inspector, good_parts: list[NDArray[np.uint8]], monkeypatch: Any
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Inspector, "inspect", lambda _, image, __: seen.append(id(image)))
    calls = [measurement._inspecting(lite_inspector, object(), good_parts) for _ in "ab"]  # type: ignore[arg-type]
    for _ in range(5):
        for call in calls:
            call()
    assert seen[::2] == seen[1::2] and seen[0] == seen[8] and len(set(seen)) == 4


# --- the command


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_accuracy_latency_parser(parser.add_subparsers())
    args = parser.parse_args(["accuracy-latency", *argv])
    args.command_line = ("cff-bench", "accuracy-latency", *argv)
    return args


def test_the_command_writes_its_report(
    half_bundle: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "report.json"
    argv = [str(half_bundle), "--data", str(data), "--shots", "1", "--precisions", "fp32"]
    args = parse(*argv, "--quick", "-n", "1", "--out", str(tmp_path / "o"), "--json", str(out))
    assert args.run(args) == 0
    report = Report.from_dict(json.loads(out.read_text()))
    assert report.kind == "accuracy-latency" and len(table(report, "accuracy_latency")) == 1
    assert report.settings["seeds"] == [0]
    assert "image AUROC" in capsys.readouterr().out


def test_data_come_from_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mvtec_mini").mkdir()
    monkeypatch.setenv("CFF_DATA", str(tmp_path))
    settings = command.read_settings(parse("a"))
    assert settings.data == (tmp_path / "mvtec_mini",) and settings.shots == (1, 2, 4)
    assert settings.seeds is None and settings.n == 50
    monkeypatch.delenv("CFF_DATA")
    with pytest.raises(UsageError, match="`CFF_DATA` must name"):
        command.read_settings(parse("a"))


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"bundles": ()}, UsageError, "`BUNDLE` must be"),
        ({"precisions": ("int8",)}, UsageError, "`--precisions` must be of those in the bundles"),
        ({"shots": (0,)}, UsageError, "`--shots` and `-n`"),
        ({"n": 0}, UsageError, "`--shots` and `-n`"),
        ({"shots": (4,)}, DatasetError, "must be 4 or more"),
    ],
)
def test_settings_out_of_range_are_refused(
    change: dict[str, Any],
    error: type[Exception],
    expected: str,
    settings: AccuracyLatencySettings,
) -> None:
    with pytest.raises(error, match=expected):
        run(replace(settings, **change))
