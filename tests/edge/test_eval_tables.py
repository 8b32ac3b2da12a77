"""Rows against NumPy, published digits against a second transcription, files against each other."""

import csv
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_edge.evaluation import summary
from cff_edge.evaluation.cells import CellResult
from cff_edge.evaluation.published import PublishedRow, complete_dataset, published_rows
from cff_edge.evaluation.summary import summarise
from cff_edge.evaluation.tables import format_short, write_all
from cff_edge.metrics import BOOTSTRAP_METRICS, METRIC_NAMES, Interval, bootstrap_interval
from cff_runtime.errors import UsageError

MakeResult = Callable[..., CellResult]
N_RESAMPLES = 20


def _make_result(
    method: str = "affine",
    product: str = "ring",
    k: int = 1,
    seed: int = 0,
    dataset: str = "parts",
    n_images: int = 6,
    command: Sequence[str] = ("cff-eval", "my data"),
) -> CellResult:
    """Return a cell whose metrics and counts are drawn, the same for the same arguments."""
    rng = np.random.default_rng([len(method), *map(ord, product), k, seed])
    labels = np.arange(n_images) % 2 == 1
    positive = rng.integers(0, 5, (n_images, 8)).astype(np.uint32) * labels[:, None]
    return CellResult(
        method=method,
        dataset=dataset,
        product=product,
        k=k,
        seed=seed,
        image_score="peak",
        metrics=dict(zip(METRIC_NAMES, rng.uniform(0.5, 1.0, len(METRIC_NAMES)), strict=True)),
        references=tuple(f"{product}/train/good/{index}.png" for index in range(k)),
        images=tuple(f"{product}/test/{index}.png" for index in range(n_images)),
        defects=tuple("bar" if label else "good" for label in labels),
        labels=tuple(bool(label) for label in labels),
        scores=tuple(rng.uniform(0.0, 1.0, n_images) + 0.3 * labels),
        seconds=2.0,
        provenance={
            "command": list(command),
            "versions": {"cff-edge": "0.1.0"},
            "method": {"kind": "run"},
            "warnings": [],
        },
        positive=positive.astype(np.uint32),
        negative=rng.integers(1, 50, (n_images, 8)).astype(np.uint32),
    )


@pytest.fixture
def make_result() -> MakeResult:
    return _make_result


@pytest.fixture
def results() -> list[CellResult]:
    """Two methods, two products, K = 1 and 4, three seeds, in no order."""
    cells = [
        _make_result(method, product, k, seed)
        for seed in (2, 0, 1)
        for k in (4, 1)
        for product in ("washer", "ring")
        for method in ("raw", "affine")
    ]
    return cells[7:] + cells[:7]


@pytest.fixture
def quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(cells: object, metric: str, n_resamples: int, level: float) -> Interval:
        return Interval(0.5, 0.25, 0.75)

    monkeypatch.setattr(summary, "bootstrap_interval", interval)


def test_a_row_is_the_mean_over_products_and_its_spread_that_of_the_seeds(
    results: list[CellResult],
) -> None:
    (dataset,) = summarise(results, N_RESAMPLES)

    assert [(row.k, row.method) for row in dataset.rows] == [
        (1, "affine"),
        (1, "raw"),
        (4, "affine"),
        (4, "raw"),
    ]
    for row in dataset.rows:
        own = [cell for cell in results if (cell.k, cell.method) == (row.k, row.method)]
        for metric in METRIC_NAMES:
            table = np.array(
                [
                    [c.metrics[metric] for c in own if c.seed == seed and c.product == product]
                    for seed in range(3)
                    for product in ("ring", "washer")
                ]
            ).reshape(3, 2)
            means = table.mean(axis=1)
            figure = row.figures[metric]
            assert figure.mean == pytest.approx(means.mean(), abs=1e-12)
            assert figure.std == pytest.approx(means.std(ddof=1), abs=1e-12)
        assert row.seeds == (0, 1, 2)
        assert row.seconds == 12.0


def test_intervals_are_those_of_the_rows_own_cells(results: list[CellResult]) -> None:
    (dataset,) = summarise(results, N_RESAMPLES)
    row = dataset.rows[3]
    own = [cell for cell in results if (cell.k, cell.method) == (4, "raw")]
    evidence = [cell.evidence for cell in sorted(own, key=lambda cell: cell.cell)]
    for metric in BOOTSTRAP_METRICS:
        expected = bootstrap_interval(evidence, metric, N_RESAMPLES)
        figure = row.figures[metric]
        assert (figure.low, figure.high) == (expected.low, expected.high)
        assert expected.low < expected.high
    assert row.figures["pro"].low is None


def test_products_have_rows_of_their_own(results: list[CellResult]) -> None:
    (dataset,) = summarise(results, N_RESAMPLES)
    assert len(dataset.product_rows) == 8
    row = dataset.product_rows[1]
    values = [
        cell.metrics["pro"]
        for cell in results
        if (cell.k, cell.method, cell.product) == (1, "affine", "washer")
    ]
    assert (row.k, row.method, row.product) == (1, "affine", "washer")
    assert row.figures["pro"].mean == pytest.approx(np.mean(values), abs=1e-12)
    assert row.figures["pro"].std == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def _written(results: Sequence[CellResult]) -> str:
    """Return what `tables.txt` holds."""
    with tempfile.TemporaryDirectory() as folder:
        write_all(results, Path(folder))
        return (Path(folder) / "tables.txt").read_text("utf-8")


@pytest.mark.usefixtures("quick_intervals")
def test_a_seed_that_lacks_a_product_enters_no_mean(results: list[CellResult]) -> None:
    def is_missing(cell: CellResult) -> bool:
        return (cell.method, cell.k, cell.seed, cell.product) == ("raw", 4, 1, "ring")

    full = summarise(results)[0].rows[3]
    partial = summarise([cell for cell in results if not is_missing(cell)])[0].rows[3]

    kept = [cell for cell in results if (cell.method, cell.k) == ("raw", 4) and cell.seed != 1]
    assert full.seeds_left_out == ()
    assert (partial.seeds, partial.seeds_left_out) == ((0, 2), (1,))
    assert partial.figures["pro"].mean == pytest.approx(
        np.mean([cell.metrics["pro"] for cell in kept]), abs=1e-12
    )
    assert len(partial.cells) == 4


@pytest.mark.usefixtures("quick_intervals")
def test_a_method_without_a_complete_seed_prints_dashes(make_result: MakeResult) -> None:
    cells = [make_result("affine", product) for product in ("ring", "washer")]
    text = _written([*cells, make_result("raw", "ring")])
    line = next(line for line in text.splitlines() if line.startswith("1  raw "))
    assert line.split() == ["1", "raw", "0", "peak", *"-" * len(METRIC_NAMES)]
    assert "Seed 0 of raw at K = 1 left out" in text


@pytest.mark.usefixtures("quick_intervals")
def test_one_seed_has_no_spread(make_result: MakeResult) -> None:
    row = summarise([make_result()])[0].rows[0]
    assert all(figure.std is None for figure in row.figures.values())
    lines = _written([make_result()]).split("Published")[0].splitlines()
    assert not [line for line in lines if line.startswith("1 ") and "±" in line]


@pytest.mark.usefixtures("quick_intervals")
def test_text_and_markdown_print_per_cent_with_one_decimal(
    results: list[CellResult], tmp_path: Path
) -> None:
    (dataset,) = write_all(results, tmp_path)

    row = dataset.rows[0]
    text = (tmp_path / "tables.txt").read_text("utf-8")
    cells = [f"{100 * row.figures[name].mean:.1f}" for name in METRIC_NAMES]
    line = next(line for line in text.splitlines() if line.startswith("1  affine"))
    assert line.split()[4::3] == cells
    assert "25.0 to 75.0" in text
    markdown = (tmp_path / "tables.md").read_text("utf-8")
    spread = f"{cells[0]} ± {100 * (row.figures['pixel_auroc'].std or 0):.1f}"
    assert f"| 1 | affine | 3     | peak        | {spread} |" in markdown
    assert "    cff-eval 'my data'" in markdown
    widths = {line.count("|") for line in markdown.split("## parts: each")[1].splitlines()[4:8]}
    assert widths == {4 + len(METRIC_NAMES) + 1}


@pytest.mark.usefixtures("quick_intervals")
def test_every_figure_of_the_json_names_cells_that_are_there(
    results: list[CellResult], tmp_path: Path
) -> None:
    for result in results:
        result.save(tmp_path)
    write_all(results, tmp_path)

    facts = json.loads((tmp_path / "tables.json").read_text("utf-8"))

    rows = [
        row for dataset in facts["datasets"] for row in (*dataset["rows"], *dataset["product_rows"])
    ]
    assert len(rows) == 12
    for row in rows:
        loaded = [CellResult.load(tmp_path / path) for path in row["cells"]]
        assert {(cell.method, cell.k) for cell in loaded} == {(row["method"], row["k"])}
        assert {cell.seed for cell in loaded} == set(row["seeds"])
        mean = np.mean([cell.metrics["pixel_ap"] for cell in loaded])
        assert row["figures"]["pixel_ap"]["mean"] == pytest.approx(mean, abs=1e-12)
    assert facts["provenance"]["commands"] == [["cff-eval", "my data"]]
    assert facts["provenance"]["versions"] == [{"cff-edge": "0.1.0"}]
    assert facts["provenance"]["seeds"] == [0, 1, 2]


@pytest.mark.usefixtures("quick_intervals")
def test_csv_and_json_hold_the_same_numbers_in_full(
    results: list[CellResult], tmp_path: Path
) -> None:
    write_all(results, tmp_path)
    facts = json.loads((tmp_path / "tables.json").read_text("utf-8"))
    with (tmp_path / "tables.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))

    (dataset,) = facts["datasets"]
    expected = {
        (row["product"] or "", row["method"], row["k"], metric): figure["mean"]
        for row in (*dataset["rows"], *dataset["product_rows"])
        for metric, figure in row["figures"].items()
    }
    ours = [line for line in lines if not line["kind"].startswith("published")]
    assert {
        (line["product"], line["method"], int(line["k"]), line["metric"]): float(line["mean"])
        for line in ours
    } == expected
    assert {line["low"] for line in ours if line["kind"] == "product"} == {""}
    assert {line["source"] for line in ours} == {""}
    assert all(line["source"] for line in lines if line not in ours)


def test_nothing_to_print_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one cell, got none"):
        write_all([], tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- published figures

# copied once more from the specification, in other words and another order
SECOND_TRANSCRIPTION = [
    # dataset, K, table, method, metric, per cent
    ("mvtec", 4, "transfer", "APRIL-GAN + CFF", "pixel_ap", 57.9),
    ("mvtec", 4, "transfer", "APRIL-GAN + CFF", "image_auroc", 96.1),
    ("mvtec", 2, "transfer", "APRIL-GAN + CFF", "pro", 92.3),
    ("mvtec", 2, "transfer", "APRIL-GAN", "pixel_f1_max", 55.9),
    ("mvtec", 1, "transfer", "APRIL-GAN + CFF", "image_f1_max", 95.2),
    ("mvtec", 1, "transfer", "APRIL-GAN", "image_ap", 95.8),
    ("visa", 4, "transfer", "APRIL-GAN + CFF", "pixel_auroc", 97.8),
    ("visa", 4, "transfer", "APRIL-GAN", "image_f1_max", 88.4),
    ("visa", 2, "transfer", "APRIL-GAN + CFF", "pixel_f1_max", 42.0),
    ("visa", 1, "transfer", "APRIL-GAN + CFF", "image_auroc", 89.2),
    ("visa", 1, "transfer", "APRIL-GAN", "image_auroc", 91.7),
    ("mvtec", 2, "transfer", "SPADE", "pixel_auroc", 89.2),
    ("visa", 4, "transfer", "PaDiM", "pixel_auroc", 93.2),
    ("visa", 2, "transfer", "PatchCore", "pixel_auroc", 96.1),
    ("mvtec", 1, "transfer", "WinCLIP", "pixel_auroc", 95.3),
    ("mvtec", 4, "calibrator ablation", "CFF, MLP", "image_ap", 98.6),
    ("mvtec", 4, "calibrator ablation", "without CFF", "pixel_ap", 54.9),
    ("mvtec", 4, "lambda_a ablation", "CFF, lambda_a 0.2", "pixel_ap", 57.7),
    ("mvtec", 2, "MLP by K", "CFF, MLP", "pixel_ap", 56.9),
    ("mvtec", 0, "APRIL-GAN", "APRIL-GAN", "pro", 44.0),
    ("visa", 0, "APRIL-GAN", "APRIL-GAN", "pixel_ap", 25.7),
    ("visa", 1, "APRIL-GAN", "APRIL-GAN", "image_auroc", 91.2),
    ("mvtec", 8, "APRIL-GAN", "APRIL-GAN", "pixel_f1_max", 57.7),
    ("visa", 8, "APRIL-GAN", "APRIL-GAN", "image_ap", 94.9),
    ("visa", 4, "APRIL-GAN", "APRIL-GAN", "pixel_ap", 32.2),
    ("visa", 4, "rivals", "AnomalyDINO-S", "image_auroc", 92.6),
    ("mvtec", 2, "rivals", "WinCLIP+", "pixel_auroc", 96.0),
]


def _find(dataset: str, k: int, table: str, method: str) -> PublishedRow:
    (row,) = (
        row
        for row in published_rows()
        if (row.dataset, row.k, row.table, row.method) == (dataset, k, table, method)
    )
    return row


@pytest.mark.parametrize(
    ("dataset", "k", "table", "method", "metric", "percent"), SECOND_TRANSCRIPTION
)
def test_published_digits(
    dataset: str, k: int, table: str, method: str, metric: str, percent: float
) -> None:
    assert _find(dataset, k, table, method).percent[metric] == percent


def test_published_deviations() -> None:
    row = _find("visa", 1, "APRIL-GAN", "APRIL-GAN")
    assert row.deviation == {
        "image_auroc": 0.8,
        "image_ap": 0.8,
        "image_f1_max": 0.6,
        "pixel_auroc": 0.0,
        "pixel_f1_max": 0.3,
        "pro": 0.1,
    }
    assert "pixel_ap" not in _find("mvtec", 4, "APRIL-GAN", "APRIL-GAN").deviation


def test_calibration_gains_what_the_paper_says_in_words() -> None:
    """The MLP gains over the affine map on images and loses on pixels, at K = 4."""
    affine, mlp = (_find("mvtec", 4, "calibrator ablation", f"CFF, {c}") for c in ("affine", "MLP"))
    assert affine.percent["pixel_ap"] > mlp.percent["pixel_ap"]
    assert affine.percent["image_auroc"] < mlp.percent["image_auroc"]
    transfer = _find("mvtec", 4, "transfer", "APRIL-GAN + CFF").percent
    assert {name: transfer[name] for name in affine.percent} == affine.percent


def test_published_rows_are_whole() -> None:
    rows = published_rows()
    assert len(rows) == 74
    assert len({(r.table, r.source, r.dataset, r.method, r.k) for r in rows}) == len(rows)
    for row in rows:
        assert row.dataset in ("mvtec", "visa") and row.trained_on != row.dataset
        assert set(row.percent) <= set(METRIC_NAMES)
        assert all(20 < percent < 100 for percent in row.percent.values())
        assert row.source


VISA = (
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
    *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
)


def test_only_all_products_with_all_images_are_a_published_data_set() -> None:
    assert complete_dataset(VISA, 2162) == "visa"
    assert complete_dataset(VISA[1:], 2162) is None
    assert complete_dataset((*VISA, "ring"), 2162) is None
    assert complete_dataset(VISA, 240) is None


def _visa_cells(make: MakeResult, n_first: int) -> list[CellResult]:
    sizes = [n_first, *[180] * 11]
    return [
        make(product=product, k=4, dataset="anything", n_images=size)
        for product, size in zip(VISA, sizes, strict=True)
    ]


@pytest.mark.usefixtures("quick_intervals")
def test_published_rows_stand_beside_a_complete_data_set(make_result: MakeResult) -> None:
    text = _written(_visa_cells(make_result, 182))

    beside, *others = text.split("anything: 95% intervals")
    published = [line for line in beside.splitlines() if "published, transfer" in line]
    assert len(published) == 6
    assert "4  APRIL-GAN + CFF [1]  -      published, transfer" in beside
    assert "[1] CFF, Sensors 2026" in beside
    assert "NOT comparable" not in text
    assert "published" not in others[0]


@pytest.mark.usefixtures("quick_intervals")
def test_published_rows_stand_apart_from_anything_less(make_result: MakeResult) -> None:
    text = _written(_visa_cells(make_result, 181))

    ours, mvtec, visa = text.split("\nPublished, ")
    assert "published, " not in ours
    for block, digits in ((mvtec, "57.9"), (visa, "36.3")):
        assert "NOT comparable with the results above" in " ".join(block.split())
        assert digits in block
        assert all(line.startswith("4") for line in block.splitlines() if "published, " in line)


@pytest.mark.usefixtures("quick_intervals")
def test_the_short_table_is_methods_by_metrics_and_nothing_else(
    results: list[CellResult],
) -> None:
    text = format_short(summarise(results))

    body = [re.split(" {2,}", line) for line in text.splitlines() if re.match(r"\d ", line)]
    assert [row[:2] for row in body] == [[k, m] for k in "14" for m in ("affine", "raw")]
    own = [cell for cell in results if (cell.k, cell.method) == (4, "raw")]
    for column, metric in enumerate(METRIC_NAMES, 2):
        means = [np.mean([c.metrics[metric] for c in own if c.seed == s]) for s in range(3)]
        expected = f"{100 * np.mean(means):.1f} ± {100 * np.std(means, ddof=1):.1f}"
        assert body[3][column] == expected
    assert "12 test images of 2 products, mean ± standard deviation over seeds" in text
    assert len(text.splitlines()) == 9
    partial = format_short(summarise([c for c in results if c.cell != results[0].cell]))
    assert "left out: products are missing" in " ".join(partial.split())


@pytest.mark.usefixtures("quick_intervals")
@pytest.mark.parametrize(("n_first", "n_published"), [(182, 10), (181, 0)])
def test_the_short_table_holds_published_rows_beside_a_complete_data_set(
    make_result: MakeResult, n_first: int, n_published: int
) -> None:
    text = format_short(summarise(_visa_cells(make_result, n_first)))
    assert text.count("(published, ") == n_published
    assert ("4  APRIL-GAN + CFF (published, transfer)" in text) == bool(n_published)
    assert text.splitlines()[5].startswith("4  affine ")  # ours first


@pytest.mark.usefixtures("quick_intervals")
def test_json_says_what_is_comparable(make_result: MakeResult, tmp_path: Path) -> None:
    def comparable(cells: list[CellResult]) -> Any:
        write_all(cells, tmp_path, 5)
        return json.loads((tmp_path / "tables.json").read_text("utf-8"))["published"]

    assert comparable(_visa_cells(make_result, 182))["comparable_with"] == ["anything"]
    assert comparable([make_result()])["comparable_with"] == []
    assert len(comparable([make_result()])["rows"]) == len(published_rows())


@pytest.mark.usefixtures("quick_intervals")
def test_markdown_escapes_what_would_end_a_cell(tmp_path: Path) -> None:
    write_all([_make_result(product="a|b")], tmp_path)
    assert "a\\|b" in (tmp_path / "tables.md").read_text("utf-8")
