"""What a peer could not run: told, never a number, and no excuse for anything else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_edge.evaluation.cli import main
from cff_edge.evaluation.comparison import compare
from cff_edge.evaluation.not_run import NotRun, stated_reasons
from cff_edge.evaluation.references import ReferenceLists
from cff_edge.metrics import METRIC_NAMES
from cff_runtime.errors import DatasetError

Captured = pytest.CaptureFixture[str]
Write = Callable[..., Path]
REASON = "two images or more\n| its covariance\tdivides by zero"
TOLD = "not run: two images or more | its covariance divides by zero"


def _note(folder: Path, *shots: int, reason: str = REASON) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"shots": list(shots), "reason": reason}]
    fields = {"schema": 1, "method": folder.name, "not_run": entries}
    (folder / "not_run.json").write_text(json.dumps(fields))


@pytest.fixture
def command(tiny_dataset: Path, tmp_path: Path) -> list[str]:
    """An evaluation of one product and one draw, its references drawn."""
    words = ["--data", str(tiny_dataset), "--out", str(tmp_path / "out"), "--products", "ring"]
    words += ["--shots", "1,2", "--seeds", "1"]
    assert main(words) == 0
    return words


@pytest.fixture
def write(command: list[str], tiny_dataset: Path, tmp_path: Path) -> Write:
    """Return ``write(name, *shots)``, which writes a peer's predictions and returns its folder."""
    draw = ReferenceLists.load(tmp_path / "out" / "references.json").of("data", "ring", 0)
    test = sorted((tiny_dataset / "ring" / "test").glob("*/*.png"))
    images = [path.relative_to(tiny_dataset).as_posix() for path in test]

    def make(name: str, *shots: int) -> Path:
        rng = np.random.default_rng(len(name))
        for k in shots:
            folder = tmp_path / name / "data" / "ring" / f"k{k}_seed0"
            folder.mkdir(parents=True)
            np.save(folder / "maps.npy", rng.random((len(images), 24, 30), np.float32))
            fields = {"references": draw[:k], "images": images}
            fields["scores"] = list(rng.random(len(images)))
            (folder / "predictions.json").write_text(json.dumps(fields))
        return tmp_path / name

    return make


def _tables(command: list[str]) -> dict[str, str]:
    out = Path(command[3])
    names = ("tables.txt", "tables.md", "tables.csv", "tables.json", "index.html")
    return {name: (out / name).read_text("utf-8") for name in names}


def test_a_k_that_did_not_run_is_told_and_not_counted(
    command: list[str], write: Write, capsys: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    padim, spade = write("padim", 2), write("spade", 1, 2)
    _note(padim, 0, 1)
    methods = ["--method", f"padim={padim}", "--method", f"spade={spade}"]
    assert main([*command, *methods]) == 0

    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("1  padim")] == [
        f"1  padim   {TOLD}"
    ]
    assert [line[:9] for line in text.splitlines() if line.startswith(("1 ", "2 "))] == [
        *("1  padim ", "1  spade ", "2  padim ", "2  spade ")
    ]
    warnings = [r.getMessage() for r in caplog.records if "did not run" in r.getMessage()]
    assert warnings == [f"warning: padim did not run at K = 1: {TOLD.removeprefix('not run: ')}"]
    assert "3 cells, 3 of them computed now" in caplog.text
    _check_files(_tables(command))


def _check_files(tables: dict[str, str]) -> None:
    told = [line for line in tables["tables.txt"].splitlines() if line.startswith("1  padim")]
    assert len(told) == 3  # means, intervals, products
    assert all(line.endswith(TOLD) for line in told)
    rows = [line for line in tables["tables.md"].splitlines() if line.startswith("| 1 | padim ")]
    n_cells = [row.replace("\\|", "").count("|") - 1 for row in rows]
    assert n_cells == [4 + len(METRIC_NAMES), 2 + 6, 4 + len(METRIC_NAMES)]
    assert all(TOLD.replace("|", "\\|") in row for row in rows)
    for row in rows:
        assert not "".join(row.split("|")[5:]).strip()  # nothing after the reason but spaces
    assert f'<td>padim</td><td colspan="10">{TOLD}</td></tr>' in tables["index.html"]
    assert [line for line in tables["tables.csv"].splitlines() if ",padim,1," in line] == []
    (dataset,) = json.loads(tables["tables.json"])["datasets"]
    assert dataset["not_run"] == [
        {"dataset": "data", "k": 1, "method": "padim", "reason": TOLD.removeprefix("not run: ")}
    ]
    assert [(row["k"], row["method"]) for row in dataset["rows"]] == [
        *((1, "spade"), (2, "padim"), (2, "spade"))
    ]


def test_comparisons_leave_such_a_k_out(command: list[str], write: Write, capsys: Captured) -> None:
    padim, spade = write("padim", 2), write("spade", 1, 2)
    _note(padim, 1)
    methods = ["--method", f"padim={padim}", "--method", f"spade={spade}"]
    assert main([*command, *methods, "--compare", "padim,spade", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert {row["k"] for row in fields["comparisons"]} == {2}
    assert [(entry["method"], entry["k"]) for entry in fields["not_run"]] == [("padim", 1)]
    assert fields["n_cells"] == 3
    assert compare([], "padim", "spade", [NotRun("data", 1, "padim", "why")]) == []


def test_a_peer_that_ran_nowhere_is_told_alone_and_beside_others(
    command: list[str], write: Write, tmp_path: Path, capsys: Captured
) -> None:
    _note(tmp_path / "winclip", 1, 2, reason="no weights")
    alone = [*command, "--method", f"winclip={tmp_path / 'winclip'}"]
    assert main(alone) == 0
    text = capsys.readouterr().out
    assert "No method ran." in text
    assert text.count("not run: no weights") == 2
    assert "not run: no weights" in _tables(command)["index.html"]
    assert main([*alone, "--method", f"spade={write('spade', 1, 2)}"]) == 0
    text = capsys.readouterr().out
    assert "No method ran." not in text
    assert text.count("not run: no weights") == 2


def test_zero_shot_may_be_what_did_not_run(
    command: list[str], write: Write, capsys: Captured
) -> None:
    padim = write("padim", 2)
    _note(padim, 0, 1)
    words = [word if word != "1,2" else "0,2" for word in command]
    assert main([*words, "--method", f"padim={padim}"]) == 0
    assert f"0  padim   {TOLD}" in capsys.readouterr().out


def test_a_cell_missing_without_a_reason_is_an_error(
    command: list[str], write: Write, capsys: Captured
) -> None:
    padim = write("padim", 2)
    method = ["--method", f"padim={padim}"]
    assert main([*command, *method]) == 1
    assert "run it for this cell" in capsys.readouterr().err
    _note(padim, 4)  # of another K
    assert main([*command, *method]) == 1
    assert "run it for this cell" in capsys.readouterr().err


def test_a_reason_does_not_excuse_a_hole_among_predictions(
    command: list[str], write: Write, capsys: Captured
) -> None:
    """A second draw is missing where the first one ran: not what the note speaks of."""
    padim = write("padim", 1, 2)
    _note(padim, 1)
    words = [word if word != "1" else "2" for word in command]  # --seeds
    assert main([*words, "--method", f"padim={padim}"]) == 1
    assert "k1_seed1` must hold predictions.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": 2}, "`schema` must be 1, got 2"),
        ({"not_run": {}}, "field `not_run` must be of type list"),
        ({"not_run": [1]}, "an entry of `not_run` must be an object"),
        ({"not_run": [{"shots": [1]}]}, "field `reason` must be present"),
        ({"not_run": [{"shots": [1], "reason": " "}]}, "`reason` must say why"),
        ({"not_run": [{"shots": ["1"], "reason": "x"}]}, "`shots` must be whole numbers"),
        ({"not_run": [{"shots": [True], "reason": "x"}]}, "`shots` must be whole numbers"),
        ({"not_run": [{"shots": [-1], "reason": "x"}]}, "`shots` must be whole numbers"),
    ],
)
def test_a_damaged_note_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "not_run.json"
    assert stated_reasons(tmp_path) == {}
    path.write_text(json.dumps({"schema": 1, "method": "x", "not_run": [], **fields}))
    with pytest.raises(DatasetError, match="must be as cff-peers writes it") as caught:
        stated_reasons(tmp_path)
    assert message in str(caught.value)
    path.write_text("{")
    with pytest.raises(DatasetError, match="must be JSON"):
        stated_reasons(tmp_path)
