"""The experiment's figures against NumPy, its JSON against its cells, its plot as XML."""

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cff_bench import cli
from cff_bench.experiment import pipeline, report
from cff_bench.experiment.pipeline import Experiment
from cff_bench.experiment.protocol import EVERYWHERE, ON_REFERENCES, ROWS
from cff_edge.config import load_config
from cff_edge.evaluation.cells import CellResult
from cff_edge.metrics import METRIC_NAMES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPT = Path(__file__).parents[2] / "scripts" / "update_tables.py"
SVG = "{http://www.w3.org/2000/svg}"
SEEDS = (0, 1, 2)
PRODUCTS = {"mvtec_mini": ("bolt", "nut"), "piped": ("pipe",), "ballscrew": ("screw",)}
NAMES = (*EVERYWHERE, "mlp")
# how far defective images stand above good ones
STRENGTH = {"raw": 0.1, "raw-log": 0.2, "projectors": 0.4, "affine": 0.8, "mlp": 0.8}
STRENGTH |= {"align-references": 0.1}
COMMAND = ("cff-bench", "experiment", "--jobs", "2")


def make_cell(method: str, dataset: str, product: str, k: int, seed: int) -> CellResult:
    """Return a cell whose values are drawn, the same for the same arguments."""
    name = f"{method}/{dataset}/{product}"
    rng = np.random.default_rng([*map(ord, name), k, seed])
    n_images = 8
    labels = np.arange(n_images) % 2 == 1
    strength = STRENGTH[method.partition("-text-")[0]]
    scores = rng.uniform(0.0, 1.0, n_images) + strength * labels
    return CellResult(
        method=method,
        dataset=dataset,
        product=product,
        k=k,
        seed=seed,
        image_score="peak",
        metrics=dict(zip(METRIC_NAMES, rng.uniform(0.3, 1.0, len(METRIC_NAMES)), strict=True)),
        references=tuple(f"{product}/train/good/{seed}{index}.png" for index in range(k)),
        images=tuple(f"{product}/test/{index}.png" for index in range(n_images)),
        defects=tuple("bar" if label else "good" for label in labels),
        labels=tuple(bool(label) for label in labels),
        scores=tuple(scores),
        seconds=2.0,
        provenance={
            "command": ["cff-eval", "--data", "/home/somebody/data"],
            "versions": {"cff-edge": "0.1.0"},
            "method": {"kind": "run", "run": "/home/somebody/run"},
            "warnings": [],
        },
        positive=(rng.integers(0, 5, (n_images, 8)) * labels[:, None]).astype(np.uint32),
        negative=rng.integers(1, 50, (n_images, 8)).astype(np.uint32),
    )


def make_cells() -> list[CellResult]:
    main = [
        make_cell(method, "mvtec_mini", product, k, seed)
        for method in NAMES
        for product in PRODUCTS["mvtec_mini"]
        for k in (1, 2, 4)
        for seed in SEEDS
    ]
    others = [
        make_cell(method, name, PRODUCTS[name][0], 4, seed)
        for method in EVERYWHERE
        for name in ("piped", "ballscrew")
        for seed in SEEDS
    ]
    aligned = [make_cell("align-references", "mvtec_mini", p, 4, 0) for p in ("bolt", "nut")]
    return [*main, *others, *aligned]


def make_development() -> list[CellResult]:
    return [
        make_cell(method, name, "part", 4, seed)
        for method in ("raw", "affine-text-0.1", "affine-text-1.0")
        for name in ("fabric_hsst", "hazelnut_toy", "synthetic")
        for seed in SEEDS
    ]


def write_run(folder: Path, data: Path, overrides: Sequence[str], n_epochs: int) -> None:
    roots = f'data.roots=["{data / "piped"}", "{data / "deeppcb"}"]'
    folder.mkdir(parents=True)
    config = load_config(None, [roots, *overrides])
    (folder / "config.toml").write_text(config.to_toml())
    epochs = [
        {"phase": "projectors", "epoch": 1 + n, "loss": 0.5 / (n + 1)} for n in range(n_epochs)
    ]
    if epochs:
        (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    return make_cells()


@pytest.fixture(scope="module")
def folder(cells: list[CellResult], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of results of an experiment whose cells and runs are made up."""
    root = tmp_path_factory.mktemp("experiment")
    data, out = root / "data", root / "out"
    for name in (*PRODUCTS, "fabric_hsst", "deeppcb", "hazelnut_toy"):
        (data / name).mkdir(parents=True)
    (out / "data" / "synthetic").mkdir(parents=True)
    for cell in cells:
        cell.save(out / "test" / cell.dataset)
    for cell in make_development():
        cell.save(out / "development" / cell.dataset)
    reference = data / "mvtec_mini" / "bolt" / "train" / "good" / "0.png"
    aligned = ['train.align_on="references"', f'data.align_references=["{reference}"]']
    write_run(out / "runs" / "untrained" / "raw", data, ["train.projector_epochs=0"], 0)
    write_run(out / "runs" / "all" / "affine", data, [], 3)
    write_run(out / "runs" / "all" / "align-references" / "bolt", data, aligned, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "ROWS", tuple(row for row in ROWS if row.name in NAMES))
        report.write_report(Experiment(data, out, jobs=1), root / "results", COMMAND)
    yield root / "results"


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "experiment.json").read_text())
    return fields


def values_of(
    cells: Sequence[CellResult], dataset: str, method: str, k: int, metric: str
) -> np.ndarray[Any, Any]:
    """Return a metric as [seeds, products]."""
    table = {
        (c.seed, c.product): c.metrics[metric]
        for c in cells
        if (c.dataset, c.method, c.k) == (dataset, method, k)
    }
    return np.array([[table[seed, p] for p in PRODUCTS[dataset]] for seed in SEEDS])


def auroc(cell: CellResult) -> float:
    """Compare every defective image with every good one."""
    pairs = itertools.product(
        (s for s, label in zip(cell.scores, cell.labels, strict=True) if label),
        (s for s, label in zip(cell.scores, cell.labels, strict=True) if not label),
    )
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))


def mean_auroc(cells: Sequence[CellResult], method: str, k: int, sets: Sequence[str]) -> float:
    """Return the mean over draws, then over the products of all sets."""
    return float(
        np.mean(
            [
                np.mean([auroc(c) for c in cells if (c.product, c.method, c.k) == (p, method, k)])
                for name in sets
                for p in PRODUCTS[name]
            ]
        )
    )


def entry(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if wanted.items() <= row.items()]
    return found


class TestFigures:
    @pytest.mark.parametrize("metric", METRIC_NAMES)
    def test_means_are_over_products_and_spreads_over_draws(
        self, written: dict[str, Any], cells: list[CellResult], metric: str
    ) -> None:
        assert [row["name"] for row in written["main"]] == [r.name for r in ROWS if r.name in NAMES]
        expected = [("main", "mvtec_mini", row, k) for row in written["main"] for k in (1, 2, 4)]
        expected += [
            ("test", name, row, 4) for name, rows in written["test"].items() for row in rows
        ]
        for _, name, row, k in expected:
            means = values_of(cells, name, row["name"], k, metric).mean(axis=1)
            figure = row["k"][str(k)][metric]
            assert figure["mean"] == pytest.approx(means.mean(), abs=1e-12)
            assert figure["std"] == pytest.approx(means.std(ddof=1), abs=1e-12)

    def test_every_set_has_its_rows(self, written: dict[str, Any]) -> None:
        assert list(written["test"]) == list(PRODUCTS)
        for rows in written["test"].values():
            assert [row["name"] for row in rows] == ["raw", "raw-log", "projectors", "affine"]

    def test_a_difference_is_the_row_minus_the_other(
        self, written: dict[str, Any], cells: list[CellResult]
    ) -> None:
        for row in written["main"]:
            assert list(row["minus"]) == ([] if row["name"] == "raw" else ["raw"])
            for differences in row["minus"].values():
                found = [(d["k"], d["metric"]) for d in differences]
                assert found == [(4, "pixel_ap"), (4, "pixel_auroc"), (4, "image_auroc")]
                own, raw = (
                    mean_auroc(cells, name, 4, ["mvtec_mini"]) for name in (row["name"], "raw")
                )
                assert differences[2]["mean"] == pytest.approx(own - raw, abs=1e-9)
                assert differences[2]["low"] <= own - raw <= differences[2]["high"]

    def test_a_better_head_has_a_positive_difference(self, written: dict[str, Any]) -> None:
        affine = entry(written["main"], name="affine")
        better = entry(affine["minus"]["raw"], k=4, metric="image_auroc")
        assert better["mean"] > 0.1
        assert better["p_value"] < 0.05

    def test_overall_differences_weigh_every_product_of_every_set_alike(
        self, written: dict[str, Any], cells: list[CellResult]
    ) -> None:
        assert list(written["overall"]) == ["raw-log", "projectors", "affine"]
        raw = mean_auroc(cells, "raw", 4, list(PRODUCTS))
        for name, differences in written["overall"].items():
            d = entry(differences, metric="image_auroc")
            expected = mean_auroc(cells, name, 4, list(PRODUCTS)) - raw
            assert d["k"] == 4
            assert d["mean"] == pytest.approx(expected, abs=1e-9)

    def test_alignment_on_references_stands_beside_the_same_cells(
        self, written: dict[str, Any], cells: list[CellResult]
    ) -> None:
        found = written["on_references"]
        own = {
            name: [c for c in cells if (c.method, c.k, c.seed) == (name, 4, 0)]
            for name in ("align-references", "affine")
        }
        own["affine"] = [c for c in own["affine"] if c.dataset == "mvtec_mini"]
        for metric in METRIC_NAMES:
            for key, name in (("on_references", "align-references"), ("on_batch", "affine")):
                expected = np.mean([c.metrics[metric] for c in own[name]])
                assert found[key][metric] == pytest.approx(expected, abs=1e-12)
        means = {name: np.mean([auroc(c) for c in own[name]]) for name in own}
        difference = entry(found["minus"], metric="image_auroc")["mean"]
        expected = means["align-references"] - means["affine"]
        assert difference == pytest.approx(expected, abs=1e-9)
        assert difference < 0

    def test_development_means(self, written: dict[str, Any]) -> None:
        development = make_development()
        assert list(written["development"]) == ["fabric_hsst", "hazelnut_toy", "synthetic"]
        for name, methods in written["development"].items():
            assert set(methods) == {"raw", "affine-text-0.1", "affine-text-1.0"}
            for method, means in methods.items():
                own = [c for c in development if (c.dataset, c.method) == (name, method)]
                assert len(own) == len(SEEDS)
                for metric in METRIC_NAMES:
                    expected = np.mean([c.metrics[metric] for c in own])
                    assert means[metric] == pytest.approx(expected, abs=1e-12)


class TestRecord:
    def test_every_cell_is_in_the_json(
        self, written: dict[str, Any], cells: list[CellResult]
    ) -> None:
        names = ("dataset", "method", "product", "k", "seed")
        found = {tuple(c[name] for name in names): c for c in written["cells"]}
        assert len(found) == len(written["cells"]) == len(cells)
        for cell in cells:
            fields = found[tuple(getattr(cell, name) for name in names)]
            assert fields["references"] == list(cell.references)
            assert fields["metrics"] == pytest.approx(cell.metrics, abs=5e-7)

    def test_protocol_and_command(self, written: dict[str, Any]) -> None:
        protocol = written["protocol"]
        assert (written["schema"], written["command"]) == (1, "cff-bench experiment --jobs 2")
        assert protocol["test_sets"] == {
            "mvtec_mini": {"products": ["bolt", "nut"], "n_images": 16},
            "piped": {"products": ["pipe"], "n_images": 8},
            "ballscrew": {"products": ["screw"], "n_images": 8},
        }
        assert list(protocol["rows"])[-1] == ON_REFERENCES.name
        for row in ROWS:
            if row.name in NAMES:
                assert protocol["rows"][row.name] == {
                    "label": row.label,
                    "training": list(row.training),
                    "run": row.run,
                    "evaluation": list(row.evaluation),
                }
        assert written["environment"]["packages"]["numpy"] == np.__version__

    def test_every_run_has_its_configuration_and_losses(self, written: dict[str, Any]) -> None:
        training = written["training"]
        assert {run: len(training[run]["epochs"]) for run in training} == {
            "untrained/raw": 0,
            "all/affine": 3,
            "all/align-references/bolt": 2,
        }
        assert training["all/affine"]["epochs"][1] == {
            "phase": "projectors",
            "epoch": 2,
            "loss": 0.25,
        }
        config = tomllib.loads(training["untrained/raw"]["config"])
        assert config["train"]["projector_epochs"] == 0

    def test_no_path_of_this_machine_is_told(
        self, folder: Path, written: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        text = (folder / "experiment.json").read_text()
        local = (tmp_path_factory.getbasetemp(), Path.cwd(), Path.home(), sys.prefix)
        for path in (str(p) for p in local if len(str(p)) > 1):
            assert path not in text
        assert "/home/somebody" not in text
        for run in written["training"].values():
            data = tomllib.loads(run["config"])["data"]
            assert set(data) == {"products", "exclude", "max_per_product"}

    @pytest.mark.parametrize("indent", [True, False], ids=["multi-line", "one-line"])
    @pytest.mark.parametrize("n_roots", [0, 1, 3])
    @pytest.mark.parametrize("key", ["roots", "align_references"])
    def test_the_rest_of_a_configuration_stays(self, key: str, n_roots: int, indent: bool) -> None:
        roots = [f'/home/some ] [body/"{index}" ]' for index in range(n_roots)]
        words = [json.dumps(root) for root in roots]
        value = f"[{', '.join(words)}]"
        if indent and words:
            value = "[\n" + "".join(f"    {word},\n" for word in words) + "]"
        config = (
            f'[backbone]\nname = "x"\ntaps = [\n    1,\n    2,\n]\n\n'
            f'[data]\n{key} = {value}\nproducts = []\nexclude = [\n    "a",\n]\n\n'
            "[train]\nseed = 3\n"
        )
        expected = tomllib.loads(config)
        assert expected["data"].pop(key) == roots
        kept = report._without_roots(config)
        assert tomllib.loads(kept) == expected
        assert "/home" not in kept

    def test_a_configuration_as_it_is_written(self) -> None:
        overrides = ['data.roots=["/home/a", "/home/b"]', 'data.products=["roots = [", "bolt"]']
        overrides += ['train.align_on="references"', 'data.align_references=["/home/c.png"]']
        config = load_config(None, overrides)
        expected = tomllib.loads(config.to_toml())
        for key in ("roots", "align_references"):
            assert expected["data"].pop(key)
        assert tomllib.loads(report._without_roots(config.to_toml())) == expected


class TestPictures:
    def test_the_plot_is_xml_and_names_its_lines(
        self, folder: Path, cells: list[CellResult]
    ) -> None:
        root = ElementTree.fromstring((folder / "experiment.svg").read_text(encoding="utf-8"))
        assert root.tag == f"{SVG}svg"
        assert len(list(root.iter(f"{SVG}polyline"))) == len(NAMES)
        texts = [element.text for element in root.findall(f"{SVG}text")]
        assert texts == list(NAMES)
        titles = [element.text for element in root.iter(f"{SVG}title")]
        means = values_of(cells, "mvtec_mini", "affine", 4, "pixel_ap").mean(axis=1)
        expected = f"affine, K = 4: {100 * means.mean():.1f} ± {100 * means.std(ddof=1):.1f}"
        assert expected in titles
        assert len(titles) == len(NAMES) * 3

    def test_a_line_has_the_colour_of_its_name(self, folder: Path) -> None:
        root = ElementTree.fromstring((folder / "experiment.svg").read_text(encoding="utf-8"))
        plot, *entries = root.findall(f"{SVG}svg")
        drawn = [line.attrib["stroke"] for line in plot.iter(f"{SVG}polyline")]
        named = [line.attrib["stroke"] for e in entries for line in e.iter(f"{SVG}line")]
        assert drawn == named
        assert len(set(drawn)) == len(NAMES)

    def test_everything_lies_inside(self, folder: Path) -> None:
        root = ElementTree.fromstring((folder / "experiment.svg").read_text(encoding="utf-8"))
        *_, width, height = map(float, root.attrib["viewBox"].split())
        plot, *entries = root.findall(f"{SVG}svg")
        assert float(plot.attrib["width"]) <= width
        corners = {(float(e.attrib["x"]), float(e.attrib["y"])) for e in entries}
        assert len(corners) == len(NAMES)
        for x, y in corners:
            assert 0 <= x <= width - 30
            assert float(plot.attrib["height"]) <= y <= height - 12


def test_what_is_printed_is_what_the_json_says(written: dict[str, Any]) -> None:
    lines = report.format_report(written).splitlines()
    assert lines[0].split() == ["K", "=", "4", "image_auroc", "pixel_auroc", "pixel_ap", "pro"]
    for line, row in zip(lines[1:], written["main"], strict=False):
        names = lines[0].split()[3:]
        values = [f"{100 * row['k']['4'][name]['mean']:.1f}" for name in names]
        assert line.split() == [row["name"], *values]
    below = lines[len(written["main"]) + 2 :]
    assert len(below) == 3 * 3
    d = entry(written["overall"]["affine"], metric="pixel_ap")
    low, high = (f"{100 * d[key]:+.1f}" for key in ("low", "high"))
    line = f"affine - raw, all sets, pixel_ap: {100 * d['mean']:+.1f} ({low} to {high})"
    assert line in below


def test_the_command_prints_the_report(
    folder: Path,
    written: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[object] = []

    def write_report(
        experiment: Experiment, results: Path, command: Sequence[str]
    ) -> dict[str, Any]:
        steps.append((experiment.out, results))
        return written

    monkeypatch.setenv("CFF_DATA", str(folder.parent / "data"))
    monkeypatch.setattr(pipeline.Experiment, "develop", lambda self: steps.append("develop"))
    monkeypatch.setattr(pipeline.Experiment, "test", lambda self: steps.append("test"))
    monkeypatch.setattr(report, "write_report", write_report)
    out = folder.parent / "out"
    arguments = ["--out", str(out), "--results", str(folder), "--jobs", "1"]
    assert cli.main(["experiment", *arguments]) == 0
    assert steps == ["develop", "test", (out, folder)]
    assert capsys.readouterr().out == report.format_report(written) + "\n"


def test_the_tables_can_be_written_from_it(written: dict[str, Any]) -> None:
    spec = importlib.util.spec_from_file_location("update_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    n_rows = {"main": 5, "labels": 6, "sets": 12, "overall": 3, "development": 3, "references": 3}
    for name, expected in n_rows.items():
        table = script.TABLES[f"experiment_{name}"][1](written).splitlines()
        assert len(table) == 2 + expected
        assert {line.count("|") for line in table} == {table[0].count("|")}
