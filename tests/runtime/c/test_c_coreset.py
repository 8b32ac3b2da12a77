"""Compressing memory banks in libcff: literal greedy in float64, and the Python runtime."""

import ctypes
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import coreset as python
from cff_runtime.coreset import Coreset, Coverage

F32 = NDArray[np.float32]
Rows = NDArray[np.int64]


class CCoreset(ctypes.Structure):
    """`cff__coreset`."""

    _fields_ = [
        ("rows", ctypes.POINTER(ctypes.c_int64)),
        ("n_rows", ctypes.c_int64),
        ("n_rows_full", ctypes.c_int64),
        ("largest", ctypes.c_double),
        ("percentile_99", ctypes.c_double),
        ("mean", ctypes.c_double),
    ]


Compress = Callable[[F32, int], tuple[Rows, CCoreset]]


def make_bank(seed: int, n: int, width: int, n_clusters: int = 20) -> F32:
    """Unit rows in clusters, as features are; no two are near each other."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_clusters, width))
    rows = centres[rng.integers(n_clusters, size=n)] + 0.4 * rng.normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def literal_greedy(bank: F32, n_kept: int) -> tuple[list[int], NDArray[np.float64]]:
    """One step after the other, in float64; returns the rows and all rows' distances."""
    exact = bank.astype(np.float64)
    kept = [int((exact @ exact.mean(axis=0)).argmax())]
    nearest = exact @ exact[kept[0]]
    while len(kept) < n_kept:
        nearest[kept] = 9.0
        kept.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, exact @ exact[kept[-1]])
    distances = 1.0 - (exact @ exact[kept].T).max(axis=1)
    return kept, np.maximum(distances, 0.0)


@pytest.fixture
def compress(c_internals: ctypes.CDLL) -> Compress:
    """Return ``compress(bank, n_kept) -> (rows, facts)``."""

    def run(bank: F32, n_kept: int) -> tuple[Rows, CCoreset]:
        found = CCoreset()
        status = c_internals.cff__compress_bank(
            ctypes.c_void_p(bank.ctypes.data),
            ctypes.c_int64(bank.shape[0]),
            ctypes.c_int64(bank.shape[1]),
            ctypes.c_int64(n_kept),
            ctypes.byref(found),
        )
        assert status == 0, c_internals.cff_last_error()
        rows = np.ctypeslib.as_array(found.rows, (found.n_rows,)).copy()
        facts = CCoreset.from_buffer_copy(found)
        c_internals.cff__coreset_free(ctypes.byref(found))
        assert not found.rows
        return rows, facts

    return run


def _compress_keeping(library: ctypes.CDLL, bank: F32, rows: Rows, n_references: int) -> list[Rows]:
    """`cff__leave_one_out_rows` for a coreset of these rows."""
    values = (ctypes.c_int64 * len(rows))(*rows.tolist())
    given = CCoreset(values, len(rows), len(bank))
    found, n_left = ctypes.POINTER(ctypes.c_int64)(), ctypes.c_int64()
    status = library.cff__leave_one_out_rows(
        ctypes.c_void_p(bank.ctypes.data),
        ctypes.c_int64(bank.shape[0]),
        ctypes.c_int64(bank.shape[1]),
        ctypes.c_int64(n_references),
        ctypes.byref(given),
        ctypes.byref(found),
        ctypes.byref(n_left),
    )
    assert status == 0, library.cff_last_error()
    lists = np.ctypeslib.as_array(found, (n_references, n_left.value)).copy()
    ctypes.CDLL(None).free(found)
    return list(lists)


@pytest.mark.parametrize(
    ("n", "width", "n_kept"),
    [(1, 3, 1), (40, 24, 1), (40, 24, 39), (300, 130, 30), (1500, 16, 60), (4000, 33, 400)],
)
def test_rows_are_those_of_literal_greedy(
    compress: Compress, n: int, width: int, n_kept: int
) -> None:
    bank = make_bank(n, n, width)
    kept, distances = literal_greedy(bank, n_kept)
    rows, facts = compress(bank, n_kept)
    assert rows.tolist() == sorted(kept)
    dropped = np.delete(distances, kept)
    if not dropped.size:
        dropped = np.zeros(1)
    assert (facts.n_rows, facts.n_rows_full) == (n_kept, n)
    assert facts.largest == pytest.approx(dropped.max(), abs=1e-6)
    assert facts.percentile_99 == pytest.approx(np.percentile(dropped, 99), abs=1e-6)
    assert facts.mean == pytest.approx(dropped.mean(), abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
def test_as_python(compress: Compress, share: float) -> None:
    bank = make_bank(3, 5000, 96)
    n_kept = int(share * len(bank))
    expected = python.compress_bank(bank, n_kept)
    rows, facts = compress(bank, n_kept)
    assert np.array_equal(rows, expected.rows)
    assert facts.largest == pytest.approx(expected.coverage.largest, abs=1e-6)
    assert facts.percentile_99 == pytest.approx(expected.coverage.percentile_99, abs=1e-6)
    assert facts.mean == pytest.approx(expected.coverage.mean, abs=1e-6)


def test_all_rows_are_kept_where_there_are_no_more(compress: Compress) -> None:
    bank = make_bank(0, 10, 5)
    for n_kept in (10, 11, 1 << 40):
        rows, facts = compress(bank, n_kept)
        assert rows.tolist() == list(range(10))
        assert (facts.largest, facts.percentile_99, facts.mean) == (0.0, 0.0, 0.0)


def test_copies_of_rows(compress: Compress) -> None:
    """2000 copies of four rows: the four are kept, then any, and nothing is left uncovered."""
    bank = np.repeat(np.eye(4, 7, dtype=np.float32), 500, axis=0)
    for n_kept in (4, 5, 1999):
        rows, facts = compress(bank, n_kept)
        assert len(set(rows.tolist())) == n_kept
        assert set((rows // 500).tolist()) == {0, 1, 2, 3}
        assert facts.largest == 0.0


def test_opposite_rows(compress: Compress) -> None:
    """Distances up to 2."""
    bank = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    rows, facts = compress(bank, 1)
    assert rows.tolist() == [0]
    assert (facts.largest, facts.mean) == (2.0, 1.0)


def test_nan_ends(compress: Compress) -> None:
    """A bank that no image can be scored against must not hang the work before it is refused."""
    bank = make_bank(0, 1500, 8)
    bank[::7] = np.nan
    rows, _ = compress(bank, 700)
    assert len(set(rows.tolist())) == 700


@pytest.mark.parametrize(
    ("n_references", "size", "n_kept"), [(2, 40, 9), (5, 300, 150), (3, 9, 25)]
)
def test_leaving_references_out(
    c_internals: ctypes.CDLL, compress: Compress, n_references: int, size: int, n_kept: int
) -> None:
    bank = make_bank(size, n_references * size, 32)
    kept, _ = compress(bank, n_kept)
    coverage = Coverage(len(bank), n_kept, 0.0, 0.0, 0.0)
    expected = python.leave_one_out_rows(bank, n_references, Coreset(kept, coverage))
    lists = _compress_keeping(c_internals, bank, kept, n_references)
    for left_out, (rows, as_python) in enumerate(zip(lists, expected, strict=True)):
        assert np.array_equal(rows, as_python)
        assert len(rows) == min(n_kept, len(bank) - size)
        assert left_out not in rows // size
        assert set(kept[kept // size != left_out]) <= set(rows)


def test_leaving_out_the_only_kept_reference(c_internals: ctypes.CDLL) -> None:
    """No row of the others was kept: greedy begins anew among them."""
    bank = make_bank(0, 30, 12)
    lists = _compress_keeping(c_internals, bank, np.arange(4), 3)
    assert lists[0].min() >= 10
    assert len(set(lists[0].tolist())) == 4
    assert lists[1].tolist() == lists[2].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("n_rows", "width", "n_kept"), [(0, 3, 1), (-1, 3, 1), (2, 0, 1), (2, 3, 0), (2, 3, -5)]
)
def test_usage(c_internals: ctypes.CDLL, n_rows: int, width: int, n_kept: int) -> None:
    values, found = np.ones(6, np.float32), CCoreset()
    status = c_internals.cff__compress_bank(
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_int64(n_rows),
        ctypes.c_int64(width),
        ctypes.c_int64(n_kept),
        ctypes.byref(found),
    )
    assert status == 1
    assert b"must be" in c_internals.cff_last_error()
    assert not found.rows


@pytest.mark.parametrize("n_references", [-1, 0, 1, 4])
def test_usage_of_leaving_out(c_internals: ctypes.CDLL, n_references: int) -> None:
    bank = make_bank(0, 10, 3)
    with pytest.raises(AssertionError, match="divide the rows"):
        _compress_keeping(c_internals, bank, np.arange(2), n_references)


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_map_rise(c_internals: ctypes.CDLL, distance: str) -> None:
    function = c_internals.cff__map_rise
    function.restype = ctypes.c_double
    for given in ([0.0], [0.3, 0.01, 2.0], [-1e-9, 2.1], np.linspace(0, 2, 16).tolist()):
        values = (ctypes.c_double * len(given))(*given)
        kind = ctypes.c_int(["cosine", "log"].index(distance))
        found = function(values, ctypes.c_size_t(len(given)), kind)
        assert found == pytest.approx(python.map_rise(given, distance), abs=1e-12)


def test_facts(c_internals: ctypes.CDLL) -> None:
    coverages = [Coverage(100, 7, 0.5, 0.25, 0.125), Coverage(9, 9, 0.0, 0.0, 0.0)]
    coresets = [Coreset(np.arange(c.n_rows), c) for c in coverages]
    for kind, distance in enumerate(("cosine", "log")):
        facts = json.loads(_facts_json(c_internals, coverages, kind))
        expected = python.compression_facts(coresets, distance)
        assert list(facts) == list(expected)
        for name in ("map_rise_largest", "map_rise_percentile_99"):
            assert facts.pop(name) == pytest.approx(expected.pop(name), abs=1e-12)
        assert facts == expected


def _facts_json(library: ctypes.CDLL, coverages: Sequence[Coverage], kind: int) -> str:
    class Writer(ctypes.Structure):
        _fields_ = [
            ("text", ctypes.c_char_p),
            ("n_bytes", ctypes.c_size_t),
            ("n_allocated", ctypes.c_size_t),
            ("needs_comma", ctypes.c_bool),
            ("failed", ctypes.c_bool),
        ]

    writer = Writer()
    given = (CCoreset * len(coverages))(
        *[
            CCoreset(None, c.n_rows, c.n_rows_full, c.largest, c.percentile_99, c.mean)
            for c in coverages
        ]
    )
    library.cff__put_compression(
        ctypes.byref(writer), given, ctypes.c_size_t(len(coverages)), ctypes.c_int(kind)
    )
    text = bytes(writer.text or b"").decode()
    library.cff__json_free(ctypes.byref(writer))
    return text
