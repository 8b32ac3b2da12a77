"""`cff-eval`: what it prints, writes and refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cff_edge.evaluation.runner as runner
from cff_edge.evaluation.cells import Cell, CellResult
from cff_edge.evaluation.cli import main
from cff_edge.evaluation.context import Context
from cff_edge.evaluation.runner import run_cell
from cff_edge.metrics import BOOTSTRAP_METRICS, paired_difference
from cff_runtime import Bundle

Captured = pytest.CaptureFixture[str]
SMALL = ["--set", "backbone.image_size=96", "--set", "backbone.joint_dim=64"]
SMALL += ["--set", "train.device=cpu"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are computed, in order."""
    cells: list[Cell] = []

    def counting(context: Context, cell: Cell) -> CellResult:
        cells.append(cell)
        return run_cell(context, cell)

    monkeypatch.setattr(runner, "run_cell", counting)
    return cells


def _fails(capsys: Captured, arguments: list[str], exit_code: int = 2) -> str:
    """Run, check that there is one error and no data, and return it."""
    assert main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
    return err[err.index("error: ") :]


def test_evaluate_resume_and_compare(
    lite_run: Path,
    lite_bundle: Bundle,
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
    computed: list[Cell],
) -> None:
    out = tmp_path / "out"
    command = ["--data", str(tiny_dataset), "--out", str(out), "--shots", "2,1", "--seeds", "2"]
    command += ["--products", "ring", *SMALL]
    methods = ["--method", "raw=raw", "--method", f"cff={lite_run}"]
    assert main([*command, *methods]) == 0
    text = capsys.readouterr().out
    assert len(computed) == 8
    assert "raw" in text
    assert "cff" in text
    assert "Published" not in text
    assert "each product" not in text
    assert "each product" in (out / "tables.txt").read_text()
    assert "8 cells, 8 of them computed now" in caplog.text
    names = {path.name for path in out.iterdir()}
    assert {"cells", "references.json", "tables.txt", "tables.csv", "index.html"} <= names
    # the same again computes nothing and prints the same; a further method computes its own
    assert main([*command, *methods]) == 0
    assert capsys.readouterr().out == text
    assert len(computed) == 8
    onnx = ["--method", f"onnx={lite_bundle.path}", "--compare", "cff,raw", "--json"]
    assert main([*command, *methods, *onnx]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert {cell.method for cell in computed[8:]} == {"onnx"}
    assert (fields["n_cells"], fields["n_computed"]) == (12, 4)
    assert len(fields["results"]) == 12
    _check_comparisons(fields["comparisons"], out)
    # the table's figure is the mean over the cells
    cells = [r for r in fields["results"] if (r["method"], r["k"]) == ("cff", 1)]
    mean = sum(cell["metrics"]["pixel_auroc"] for cell in cells) / len(cells)
    line = next(line for line in text.splitlines() if line.split()[:2] == ["1", "cff"])
    assert f"{100 * mean:.1f}" in line


def _check_comparisons(rows: list[dict[str, object]], out: Path) -> None:
    assert [(row["k"], row["metric"]) for row in rows] == [
        (k, metric) for k in (1, 2) for metric in BOOTSTRAP_METRICS
    ]
    paths = {
        m: sorted((out / "cells" / m / "data" / "ring").glob("k2*.json")) for m in ("cff", "raw")
    }
    evidence = {m: [CellResult.load(p).evidence for p in paths[m]] for m in paths}
    expected = paired_difference(evidence["cff"], evidence["raw"], "pixel_ap")
    row = next(row for row in rows if (row["k"], row["metric"]) == (2, "pixel_ap"))
    assert row["mean"] == expected.mean
    assert row["p_value"] == expected.p_value
    assert (row["a"], row["b"], row["n_cells"]) == ("cff", "raw", 2)


def test_comparison_is_printed(tiny_dataset: Path, tmp_path: Path, capsys: Captured) -> None:
    command = ["--data", str(tiny_dataset), "--out", str(tmp_path / "out"), "--shots", "1"]
    command += ["--seeds", "1", *SMALL, "--method", "a=raw", "--method", "b=raw"]
    assert main([*command, "--compare", "a,b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("a minus b"))
    end = lines.index("", start)
    rows = [line.split() for line in lines[start + 2 : end]]
    assert f"{tmp_path / 'out' / 'tables.txt'} (.md, .csv, .json)" in lines[-1]
    assert len(lines) < 20
    assert [row[1] for row in rows] == list(BOOTSTRAP_METRICS)
    assert all(float(row[2]) == 0.0 and float(row[-1]) == 1.0 for row in rows)


def test_references_may_be_drawn_first_and_used_later(
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
    computed: list[Cell],
) -> None:
    data = ["--data", str(tiny_dataset), "--shots", "1", *SMALL]
    assert main([*data, "--out", str(tmp_path / "a"), "--seeds", "3", "--pool", "good"]) == 0
    assert not computed
    assert capsys.readouterr().out == ""
    path = tmp_path / "a" / "references.json"
    assert str(path) in caplog.text
    draws = json.loads(path.read_text())["datasets"]["data"]["washer"]
    assert set(draws) == {"0", "1", "2"}
    again = ["--out", str(tmp_path / "b"), "--references", str(path), "--method", "raw=raw"]
    assert main([*data, *again, "--products", "washer"]) == 0
    assert [cell.seed for cell in computed] == [0, 1, 2]
    for seed in range(3):
        folder = tmp_path / "b" / "cells" / "raw" / "data" / "washer"
        result = CellResult.load(folder / f"k1_seed{seed}.json")
        assert list(result.references) == draws[str(seed)]
        assert not set(result.references) & set(result.images)


@pytest.mark.usefixtures("capsys")
def test_a_list_in_the_folder_of_results_keeps_products_that_are_not_evaluated(
    tiny_dataset: Path, tmp_path: Path, computed: list[Cell]
) -> None:
    data = ["--data", str(tiny_dataset), "--out", str(tmp_path), "--shots", "1", *SMALL]
    assert main([*data, "--seeds", "1"]) == 0
    path = tmp_path / "references.json"
    before = path.read_bytes()
    assert set(json.loads(before)["datasets"]["data"]) == {"ring", "washer"}
    for product in ("ring", "washer"):
        one = ["--method", "raw=raw", "--references", str(path), "--products", product]
        assert main([*data, *one]) == 0
        assert path.read_bytes() == before
    assert [cell.product for cell in computed] == ["ring", "washer"]


def test_an_interrupt_ends_with_130_and_a_sentence(
    tiny_dataset: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(context: Context, cell: Cell) -> CellResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_cell", interrupted)
    command = ["--data", str(tiny_dataset), "--out", str(tmp_path / "out"), "--shots", "1"]
    assert main([*command, *SMALL, "--method", "raw=raw"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "the same command goes on" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "one"], "`--shots` must be whole numbers separated by commas"),
        (["--shots", ","], "`--shots` must be whole numbers separated by commas"),
        (["--shots", "-1"], "`--shots` must be whole numbers separated by commas"),
        (["--seeds", "0"], "`--seeds` must be 1 or more, got 0"),
        (["--products", "rings"], "got 'rings'; did you mean 'ring'"),
        (["--method", "cff"], "`--method` must be NAME=PATH"),
        (["--method", "cff=/absent"], "must be a run of cff-train, a bundle of cff-export"),
        (["--method", "c/f=raw"], "must be of letters, digits"),
        (["--method", "a=raw", "--method", "a=raw"], "got two called 'a'"),
        (["--method", "a=raw", "--compare", "a,b"], "`--compare` must name two of the methods a"),
        (["--method", "a=raw", "--compare", "a"], "`--compare` must name two of the methods a"),
        (
            ["--method", "a=raw", "--set", "head.text_wight=1", "--shots", "1"],
            "did you mean `head.text_weight`",
        ),
        (["--method", "a=raw", "--shots", "0"], "`--shots` 0 is zero-shot"),
        (["--references", "/absent.json"], "`--references` must be an existing file"),
    ],
)
def test_wrong_calls_exit_with_2(
    tiny_dataset: Path, tmp_path: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    command = ["--data", str(tiny_dataset), "--out", str(tmp_path / "out"), *arguments]
    assert message in _fails(capsys, command)
    assert not (tmp_path / "out" / "cells").exists()


def test_what_is_wrong_with_the_data_exits_with_1(
    write_dataset: Callable[[Path], Path], tmp_path: Path, capsys: Captured
) -> None:
    root = write_dataset(tmp_path / "data")
    command = ["--data", str(root), "--out", str(tmp_path / "out"), "--method", "a=raw", *SMALL]
    error = _fails(capsys, [*command, "--shots", "1,2,4"], 1)
    assert "must be 4 or more, got 2 for seed 0, 1, 2, 3, 4; add images" in error
    (root / "ring" / "test" / "good" / "000.png").write_bytes(b"")
    assert "ring/test/good/000.png` must be a readable" in _fails(
        capsys, [*command, "--shots", "1"], 1
    )
    blocked = tmp_path / "file"
    blocked.write_text("")
    (root / "ring" / "test" / "good" / "000.png").unlink()
    command = ["--data", str(root), "--out", str(blocked), "--shots", "1"]
    assert "could not be written" in _fails(capsys, command, 1)


def test_a_missing_data_set_exits_with_2(tmp_path: Path, capsys: Captured) -> None:
    command = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    assert "must be an existing folder" in _fails(capsys, command)


def test_help_is_quick_and_complete() -> None:
    code = (
        "import sys; from cff_edge.evaluation.cli import _parser; _parser().format_help(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
