"""Reports as JSON and back, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import cff_bench.report
from cff_bench.report import Check, Column, Mark, Plot, PlotSeries, Report, Series, Table
from cff_bench.report.document import MAX_VALUES, format_cell
from cff_bench.report.reading import load_reports, save_reports
from cff_runtime.errors import UsageError


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "kind": "latency",
        "title": "One inspection",
        "command": ["cff-bench", "latency", "b", "-n", "3"],
        "environment": {"cpu_model": "Some CPU", "cores_available": 2},
        "settings": {"n": 3},
        "series": [Series("latency/total", "ms", [1.5, 2.0, 2.5], role="total")],
        "tables": [
            Table(
                "t", "Stages", [Column("a", "A", "left"), Column("b", "B", spec=".1f")], [{"b": 2}]
            )
        ],
        "plots": [
            Plot(
                "p",
                "Plot",
                "line",
                series=[PlotSeries("s", [1, 2], [3, None], [2, None], [4, None])],
                marks=[Mark("limit", y=4.0)],
            )
        ],
        "checks": [Check.of("c", 1.0, 2.0)],
        "notes": ["A note."],
        "facts": {"bundle_id": "abc"},
    }
    return Report(**{**values, **changes})


def test_a_report_comes_back_from_json() -> None:
    original = report()
    data = json.loads(json.dumps(original.to_dict()))
    assert data["schema_version"] == 1
    assert Report.from_dict(data) == original


def test_files_hold_one_report_or_several(tmp_path: Path) -> None:
    save_reports(tmp_path / "one.json", [report()])
    assert json.loads((tmp_path / "one.json").read_text())["kind"] == "latency"
    assert load_reports(tmp_path / "one.json") == [report()]
    several = [report(), report(kind="table6")]
    save_reports(tmp_path / "all.json", several)
    assert load_reports(tmp_path / "all.json") == several
    assert '"values": [1.5, 2.0, 2.5]' in (tmp_path / "all.json").read_text()  # on one line


def test_what_is_not_finite_becomes_none() -> None:
    tables = [Table("t", "T", [Column("a", "A")], [{"a": math.nan}, {"a": math.inf}])]
    data = report(tables=tables).to_dict()
    assert data["tables"][0]["rows"] == [{"a": None}, {"a": None}]
    json.dumps(data, allow_nan=False)


def test_many_samples_are_thinned_evenly() -> None:
    series = Series("a", "ms", [float(index) for index in range(10 * MAX_VALUES)])
    assert len(series.values) == MAX_VALUES
    assert series.n_measured == 10 * MAX_VALUES
    assert (series.values[0], series.values[-1]) == (0.0, 10.0 * MAX_VALUES - 1)
    steps = {round(b - a) for a, b in zip(series.values, series.values[1:], strict=False)}
    assert steps == {10, 11} or steps == {10}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Series("a", "ms", []), "finite values"),
        (lambda: Series("a", "ms", [1.0, math.nan]), "finite values"),
        (lambda: Column("a", "A", "middle"), "`align` must be one of"),
        (lambda: Plot("p", "P", "pie"), "`kind` must be one of"),
        (lambda: PlotSeries("s", [1, 2], [1]), "same length"),
        (lambda: PlotSeries("s", [1], ["one"]), "numbers"),
        (lambda: Check("c", 1.0, 1.0, better="more"), "`better` must be one of"),
        (lambda: report(series=[Series("a", "ms", [1.0])] * 2), "names of series must differ"),
    ],
)
def test_wrong_parts_are_refused(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def test_a_check_is_worked_out() -> None:
    assert Check.of("c", 1.05, 1.05).passed is True
    assert Check.of("c", 1.06, 1.05).passed is False
    assert Check.of("c", 0.9, 0.9, better="higher").passed is True
    assert Check.of("c", None, 0.9, better="higher").passed is None
    checks = [Check.of("a", 2, 1), Check.of("b", None, 1), Check.of("c", 1, 1)]
    assert [check.name for check in report(checks=checks).failed] == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "`schema_version` 1, got 2"),
        ({"series": {}}, "`series` must be a list"),
        ({"series": [{"name": "a"}]}, "must be complete"),
        ({"series": [{"name": "a", "unit": "ms", "values": ["x"]}]}, "must be complete"),
        ({"series": [3]}, "must be an object"),
        ({"title": 3}, "`title` must be text"),
        ({"colour": 3}, "`colour`"),
        ({"environment": []}, "`environment` must be an object"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**report().to_dict(), **change}))
    with pytest.raises(UsageError, match=words) as caught:
        load_reports(path)
    assert "r.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1", "3", "[]", '{"reports": []}', '{"stages": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError):
        load_reports(tmp_path / "r.json")
    with pytest.raises(UsageError):
        load_reports(tmp_path / "nothing.json")


def test_cells_are_formatted_at_the_end_only() -> None:
    assert format_cell(None) == format_cell(math.nan, ".1f") == "–"
    assert format_cell(0.123, ".0%") == "12%"
    assert format_cell(True) == "yes"
    assert format_cell([1, 2]) == "1 + 2"
    assert format_cell("text", ".1f") == "text"


def test_what_is_exported_is_there() -> None:
    assert len(cff_bench.report.__all__) == len(set(cff_bench.report.__all__))
    assert all(hasattr(cff_bench.report, name) for name in cff_bench.report.__all__)
