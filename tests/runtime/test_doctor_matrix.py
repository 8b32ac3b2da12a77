"""The matrix: its rows have sources, its releases are found, and the document shows it."""

import json
import re
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cff_runtime.doctor import matrix as matrix_module
from cff_runtime.doctor.matrix import (
    Matrix,
    at_least,
    in_range,
    load_matrix,
    parse_matrix,
    release_numbers,
)
from cff_runtime.doctor.tables import fill_tables, matrix_tables

ROOT = Path(__file__).resolve().parents[2]
TABLES = [field.name for field in fields(Matrix)]


def _rows() -> list[Any]:
    return [row for name in TABLES for row in getattr(load_matrix(), name)]


def test_every_row_has_addresses_and_a_date() -> None:
    rows = _rows()

    assert len(rows) > 40
    for row in rows:
        assert row.sources, row
        assert all(re.fullmatch(r"https://[^\s|)]+", source) for source in row.sources), row
        assert date(2026, 1, 1) <= date.fromisoformat(row.read), row


def test_no_cell_breaks_a_table() -> None:
    for name, text in matrix_tables(load_matrix()).items():
        assert len({line.count(" | ") for line in text.splitlines()}) == 1, name


def test_the_document_shows_the_matrix() -> None:
    document = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")

    expected = fill_tables(document, matrix_tables(load_matrix()))

    assert document == expected, "run `python -m cff_runtime.doctor.tables docs/doctor.md`"


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers of table 'jetpack'"):
        fill_tables("nothing", {"jetpack": "x"})


def test_unknown_fields_are_refused() -> None:
    path = Path(matrix_module.__file__).with_name("matrix.json")
    tables = json.loads(path.read_text())
    tables["jetpack"][0]["colour"] = "green"

    with pytest.raises(TypeError, match="colour"):
        parse_matrix(tables)


@pytest.mark.parametrize(
    ("l4t", "package", "jetpack"),
    [
        ("36.4.3", None, "6.2"),
        ("36.4.7", "6.2.1+b38", "6.2.1"),
        ("36.4", None, "6.1"),
        ("39.2", None, "7.2"),
        ("35.4.1", None, "5.1.2"),
        ("99.0", "6.2+b77", "6.2"),
        (None, "6.1", "6.1"),
        ("99.0", None, None),
        (None, None, None),
    ],
)
def test_jetpack_by_its_release(l4t: str | None, package: str | None, jetpack: str | None) -> None:
    row = load_matrix().jetpack_of(l4t, package)

    assert (row.jetpack if row is not None else None) == jetpack


def test_jetpack_6_2_is_tensorrt_10_3_and_cuda_12_6() -> None:
    row = load_matrix().jetpack_of("36.4.3")

    assert row is not None
    assert (row.tensorrt, row.cuda, row.python) == ("10.3", "12.6", "3.10")


@pytest.mark.parametrize(
    ("release", "cuda"),
    [("1.18.1", 11), ("1.23.2", 12), ("1.26.0", 12), ("1.27.0", 13), ("1.31.1", 13)],
)
def test_cuda_of_an_onnxruntime(release: str, cuda: int) -> None:
    row = load_matrix().onnxruntime_of(release)

    assert row is not None
    assert row.cuda == cuda


def test_releases_that_nobody_read_of_are_not_guessed() -> None:
    matrix = load_matrix()

    assert matrix.onnxruntime_of("2.0.0") is None
    assert matrix.tensorrt_of("tensorrt", "12.0") is None
    assert matrix.oldest_driver(14) is None
    assert matrix.oldest_driver(12) == "525.60.13"


@pytest.mark.parametrize(
    ("release", "precision", "transformer", "capability", "expected"),
    [
        ("10.3.0", "fp16", True, "8.7", ["vit-10.3"]),
        ("10.3.0", "fp32", True, None, ["vit-10.3-fp32"]),
        ("10.3.0", "fp16", False, "8.7", []),
        ("10.16.1.11", "fp16", True, "12.0", ["mha-sm120"]),
        ("10.16.1.11", "fp16", True, "8.9", []),
        ("11.1.0.106", "fp32", True, "8.9", []),  # reports that do not touch our engines
        (None, "fp16", True, "8.7", []),
    ],
)
def test_reports_of_wrong_results(
    release: str | None,
    precision: str,
    transformer: bool,
    capability: str | None,
    expected: list[str],
) -> None:
    rows = load_matrix().bad_rows("tensorrt", release, precision, transformer, capability)

    assert [row.id for row in rows] == expected


def test_releases_are_compared_by_their_numbers() -> None:
    assert release_numbers("10.3.0.30-1+cuda12.5") == (10, 3, 0, 30)
    assert release_numbers("none") == ()
    assert at_least("10.10", "10.9")
    assert at_least("580", "580.0")
    assert not at_least("535.183.01", "580.65.06")
    assert in_range("10.3.0.30", "10.3", "10.3")
    assert in_range("11.4.0.106", "11.0", "11.4.0")
    assert not in_range("11.4.1", "11.0", "11.4.0")
    assert not in_range("10.4", "10.5", "10.6")
