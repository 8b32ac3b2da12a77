"""`product_check` of libcff against float64 and against the Python runtime."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.product_check import mean_features, product_distance, product_limit

F32 = NDArray[np.float32]
WIDTHS = (1, 3, 24, 112, 1024)


def _unit_rows(seed: int, n: int, width: int, spread: float = 0.3) -> F32:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=width) + spread * rng.normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _pointers(arrays: Sequence[F32]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])


def _sizes(references: Sequence[F32]) -> Any:
    return (ctypes.c_size_t * len(references))(*[rows.shape[1] for rows in references])


def _distance(
    library: ctypes.CDLL, means: Sequence[F32], references: Sequence[F32], left_out: int | None
) -> float:
    function = library.cff__product_distance
    function.restype = ctypes.c_double
    n = len(references[0])
    return float(
        function(
            _pointers(means),
            _pointers(references),
            _sizes(references),
            ctypes.c_size_t(len(references)),
            ctypes.c_size_t(n),
            ctypes.c_size_t(n if left_out is None else left_out),
        )
    )


def _limit(library: ctypes.CDLL, references: Sequence[F32]) -> float:
    function = library.cff__product_limit
    function.restype = ctypes.c_double
    return float(
        function(
            _pointers(references),
            _sizes(references),
            ctypes.c_size_t(len(references)),
            ctypes.c_size_t(len(references[0])),
        )
    )


def _exact_distance(means: Sequence[F32], references: Sequence[F32]) -> float:
    total = sum(
        np.log1p(np.maximum(1.0 - rows.astype(np.float64) @ mean.astype(np.float64), 0.0) / 0.01)
        for mean, rows in zip(means, references, strict=True)
    )
    return float(np.min(total))


@pytest.mark.parametrize("n", [1, 2, 9, 1369])
@pytest.mark.parametrize("width", WIDTHS)
def test_mean_feature(c_internals: ctypes.CDLL, n: int, width: int) -> None:
    rows = _unit_rows(n, n, width)
    mean = np.full(width + 1, 7.0, np.float32)
    c_internals.cff__mean_feature(
        ctypes.c_void_p(rows.ctypes.data),
        ctypes.c_size_t(n),
        ctypes.c_size_t(width),
        ctypes.c_void_p(mean.ctypes.data),
    )
    exact = rows.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean[:-1], exact / np.linalg.norm(exact), rtol=0, atol=1e-6)
    np.testing.assert_allclose(mean[:-1], mean_features([rows])[0], rtol=0, atol=1e-7)
    assert mean[-1] == 7.0


def test_mean_of_opposite_rows_is_finite(c_internals: ctypes.CDLL) -> None:
    rows, mean = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.empty(2, np.float32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (rows, mean)]
    c_internals.cff__mean_feature(pointers[0], ctypes.c_size_t(2), ctypes.c_size_t(2), pointers[1])
    assert mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n_references", [1, 2, 7])
def test_distance(c_internals: ctypes.CDLL, n_references: int) -> None:
    references = [_unit_rows(width, n_references, width) for width in WIDTHS]
    means = [_unit_rows(50 + width, 1, width)[0] for width in WIDTHS]
    found = _distance(c_internals, means, references, None)
    assert found == pytest.approx(_exact_distance(means, references), abs=1e-9)
    assert found == pytest.approx(product_distance(means, references), abs=1e-5)


def test_distance_without_a_reference(c_internals: ctypes.CDLL) -> None:
    references = [_unit_rows(width, 4, width) for width in WIDTHS]
    for left_out in range(4):
        own = [rows[left_out] for rows in references]
        others = [np.delete(rows, left_out, axis=0) for rows in references]
        found = _distance(c_internals, own, references, left_out)
        assert found == pytest.approx(_exact_distance(own, others), abs=1e-9)
        # to itself: what float32 leaves of 1 - 1, as many times as there are stages
        assert _distance(c_internals, own, references, None) == pytest.approx(0.0, abs=1e-4)


def test_distance_of_nan_is_nan(c_internals: ctypes.CDLL) -> None:
    references = [_unit_rows(width, 3, width) for width in WIDTHS]
    means = [rows[0].copy() for rows in references]
    means[2][5] = np.nan
    assert math.isnan(_distance(c_internals, means, references, None))


@pytest.mark.parametrize("spread", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("n_references", [1, 2, 6])
def test_limit(c_internals: ctypes.CDLL, n_references: int, spread: float) -> None:
    references = [_unit_rows(width, n_references, width, spread) for width in WIDTHS]
    expected = 10.0
    if n_references > 1:
        distances = [
            _exact_distance(
                [rows[index] for rows in references],
                [np.delete(rows, index, axis=0) for rows in references],
            )
            for index in range(n_references)
        ]
        expected = min(max(distances) + 2.8, 12.0)
    assert _limit(c_internals, references) == pytest.approx(expected, abs=1e-9)
    assert _limit(c_internals, references) == pytest.approx(product_limit(references), abs=2e-5)
