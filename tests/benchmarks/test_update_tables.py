"""Tables in the documents: digits from a JSON written by hand, and what `--check` says."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def difference(metric: str, mean: float, k: int = 4) -> dict[str, Any]:
    return {
        "k": k,
        "metric": metric,
        "mean": mean,
        "low": mean - 0.01,
        "high": mean + 0.02,
        "p_value": 0.01,
    }


def figures(value: float) -> dict[str, Any]:
    """Return figures of all metrics, `value` and a little more from one to the next."""
    names = ("pixel_ap", "pixel_auroc", "pro", "image_auroc")
    return {
        name: {"mean": value + 0.01 * index, "std": 0.0123, "low": None, "high": None}
        for index, name in enumerate(names)
    }


def means(value: float) -> dict[str, float]:
    return {name: figure["mean"] for name, figure in figures(value).items()}


def row(name: str, value: float, minus: dict[str, Any]) -> dict[str, Any]:
    per_k = {str(k): figures(value - 0.1 / k) for k in (1, 4)}
    return {"name": name, "k": per_k, "minus": minus}


ALL_GAINS = [difference(m, 0.1) for m in ("pixel_ap", "pixel_auroc", "image_auroc")]
REPORT: dict[str, Any] = {
    "protocol": {
        "shots": [1, 4],
        "test_sets": {"parts": {"products": ["bolt", "nut"], "n_images": 31}},
        "rows": {
            "raw": {"label": "no head", "training": ["a=1", "b=2"], "run": "", "evaluation": []},
            "affine": {"label": "the default", "training": [], "run": "", "evaluation": []},
            "alone": {"label": "bank", "training": [], "run": "affine", "evaluation": ["c=0"]},
        },
    },
    "main": [
        row("raw", 0.6, {"affine": [difference("pixel_ap", -0.2)]}),
        row(
            "affine",
            0.8,
            {"raw": [difference("pixel_ap", 0.15, k=1), difference("pixel_ap", -0.25)]},
        ),
    ],
    "test": {"parts": [row("raw", 0.6, {}), row("affine", 0.8, {})]},
    "overall": {"affine": ALL_GAINS},
    "development": {
        "cloth": {"affine-text-0.1": means(0.5), "raw": means(0.3), "affine-text-0.0": means(0.6)},
        "drawn": {"affine-text-0.1": means(0.7), "raw": means(0.4), "affine-text-0.0": means(0.7)},
    },
    "on_references": {"on_batch": means(0.7), "on_references": means(0.6), "minus": ALL_GAINS},
}

EXPECTED = {
    "experiment_main": """\
| row | pixel AP, K = 1 | pixel AP, K = 4 | pixel AUROC, K = 4 | PRO, K = 4 | image AUROC, K = 4 \
| pixel AP minus `raw`, K = 4 |
| --- | --- | --- | --- | --- | --- | --- |
| `raw` | 50.0 ± 1.2 | 57.5 ± 1.2 | 58.5 | 59.5 | 60.5 |  |
| `affine` | 70.0 ± 1.2 | 77.5 ± 1.2 | 78.5 | 79.5 | 80.5 | -25.0 (-26.0 to -23.0) |""",
    "experiment_labels": """\
| row | what it is | trained with | evaluated with |
| --- | --- | --- | --- |
| `raw` | no head | `a=1`, `b=2` |  |
| `affine` | the default | none |  |
| `alone` | bank | run of `affine` | `c=0` |""",
    "experiment_sets": """\
| test set | row | pixel AP | pixel AUROC | PRO | image AUROC |
| --- | --- | --- | --- | --- | --- |
| parts (2 products, 31 images) | `raw` | 57.5 ± 1.2 | 58.5 ± 1.2 | 59.5 ± 1.2 | 60.5 ± 1.2 |
| parts (2 products, 31 images) | `affine` | 77.5 ± 1.2 | 78.5 ± 1.2 | 79.5 ± 1.2 | 80.5 ± 1.2 |""",
    "experiment_overall": """\
| row | pixel AP minus `raw` | pixel AUROC minus `raw` | image AUROC minus `raw` |
| --- | --- | --- | --- |
| `affine` | +10.0 (+9.0 to +12.0) | +10.0 (+9.0 to +12.0) | +10.0 (+9.0 to +12.0) |""",
    "experiment_development": """\
| row | cloth | drawn | mean pixel AP | mean pixel AUROC | mean image AUROC |
| --- | --- | --- | --- | --- | --- |
| `raw` | 30.0 | 40.0 | 35.0 | 36.0 | 38.0 |
| `affine-text-0.0` | 60.0 | 70.0 | 65.0 | 66.0 | 68.0 |
| `affine-text-0.1` | 50.0 | 70.0 | 60.0 | 61.0 | 63.0 |""",
    "experiment_references": """\
| metric | on the batch | on the references | difference |
| --- | --- | --- | --- |
| pixel AP | 70.0 | 60.0 | +10.0 (+9.0 to +12.0) |
| pixel AUROC | 71.0 | 61.0 | +10.0 (+9.0 to +12.0) |
| image AUROC | 73.0 | 63.0 | +10.0 (+9.0 to +12.0) |""",
}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, at work on documents of its own."""
    path = ROOT / "scripts" / "update_tables.py"
    spec = importlib.util.spec_from_file_location("update_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(document("latency", "typed by hand"))
    (tmp_path / "docs" / "experiment.md").write_text(
        "".join(document(name, "old") for name in EXPECTED)
    )
    (tmp_path / "docs" / "thresholds.md").write_text(document("thresholds_rule", "no JSON yet"))
    (tmp_path / "docs" / "profiles.md").write_text(document("search_vitl", "no JSON yet"))
    for name in module.DOCUMENTS:
        (tmp_path / name).touch()
    return module


def document(name: str, table: str) -> str:
    return f"Before {name}\n<!-- table:{name} -->\n{table}\n<!-- /table:{name} -->\nafter\n\n"


def write_report(root: Path) -> None:
    (root / "docs" / "results" / "experiment.json").write_text(json.dumps(REPORT))


@pytest.mark.parametrize("name", EXPECTED)
def test_digits(script: ModuleType, name: str) -> None:
    assert script.TABLES[name][1](REPORT) == EXPECTED[name]


def test_documents_hold_the_tables_and_keep_the_rest(script: ModuleType, tmp_path: Path) -> None:
    write_report(tmp_path)
    assert script.main([]) == 0
    found = (tmp_path / "docs" / "experiment.md").read_text()
    assert found == "".join(document(name, table) for name, table in EXPECTED.items())
    assert (tmp_path / "README.md").read_text() == document("latency", "typed by hand")
    assert script.main([]) == 0
    assert (tmp_path / "docs" / "experiment.md").read_text() == found


def test_an_empty_place_is_filled(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "docs" / "experiment.md"
    marks = ("<!-- table:experiment_overall -->\n", "<!-- /table:experiment_overall -->\n")
    path.write_text("".join(marks))
    write_report(tmp_path)
    assert script.main([]) == 0
    assert path.read_text() == f"{marks[0]}{EXPECTED['experiment_overall']}\n{marks[1]}"


def test_check_finds_a_stale_document_and_leaves_it(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(tmp_path)
    path = tmp_path / "docs" / "experiment.md"
    before = path.read_text()
    assert script.main(["--check"]) == 1
    assert path.read_text() == before
    message = "docs/experiment.md differ from the JSON; run this script\n"
    assert capsys.readouterr().err == message
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    path.write_text(path.read_text().replace("77.5", "77.6"))
    assert script.main(["--check"]) == 1
    assert capsys.readouterr() == ("", message)


def test_without_json_documents_stay(script: ModuleType, tmp_path: Path) -> None:
    names = ("README.md", "docs/experiment.md")
    before = [(tmp_path / name).read_text() for name in names]
    assert script.main(["--check"]) == 0
    assert script.main([]) == 0
    assert [(tmp_path / name).read_text() for name in names] == before


def test_every_table_has_its_place(script: ModuleType) -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in script.DOCUMENTS)
    for name in script.TABLES:
        assert text.count(f"<!-- table:{name} -->\n") == 1
        assert text.count(f"<!-- /table:{name} -->") == 1
    assert text.count("<!-- table:") == len(script.TABLES)
