"""Maps, scores and verdicts of libcff against the Python runtime's."""

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.errors import BackendError
from cff_runtime.finishing import fuse_maps, image_score, peak_scale_of, stage_distance, upsample

Floats = NDArray[np.float32]
SIZE = ctypes.c_size_t
DISTANCES = {"cosine": 0, "log": 1}
# libm's log1pf and NumPy's may differ in the last bits, 2**-21 at the largest distance
LOG_TOLERANCE = 1e-6


class _Grid(ctypes.Structure):
    _fields_ = (("height", SIZE), ("width", SIZE))


def _pointer(array: Floats) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _nearest(n: int, seed: int = 0) -> Floats:
    """Cosines as they come: most near 1, some a hair beyond it, a few negative."""
    rng = np.random.default_rng(seed)
    cosines = 1.0 - rng.exponential(0.1, n)
    return np.clip(cosines + rng.normal(0, 1e-7, n), -1.0, 1.000001).astype(np.float32)


@pytest.mark.parametrize("distance", DISTANCES)
def test_stage_distance(c_internals: ctypes.CDLL, distance: str) -> None:
    special = [1.0, 1.000001, 0.0, -1.0, np.nan, -np.inf, 0.99999994]
    nearest = np.concatenate([_nearest(10_000), np.array(special, np.float32)])
    got = np.zeros_like(nearest)
    c_internals.cff__stage_distance(
        _pointer(nearest), SIZE(nearest.size), DISTANCES[distance], _pointer(got)
    )
    expected = stage_distance(nearest, distance)
    if distance == "cosine":
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=LOG_TOLERANCE)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (6, 1), (2, 2), (37, 37), (24, 31)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 37), (96, 112), (518, 300), (20, 11)])
def test_upsample(c_internals: ctypes.CDLL, grid: tuple[int, int], size: tuple[int, int]) -> None:
    plane = np.random.default_rng(grid).normal(size=grid).astype(np.float32)
    total = np.random.default_rng(size).normal(size=size).astype(np.float32)
    expected = total + upsample(plane, *size)
    status = c_internals.cff__upsample_add(
        _pointer(plane), _Grid(*grid), _pointer(total), SIZE(size[0]), SIZE(size[1])
    )
    assert status == 0
    np.testing.assert_array_equal(total, expected)


def _fuse(
    library: ctypes.CDLL,
    nearest: Sequence[Floats],
    grids: Sequence[tuple[int, int]],
    text_map: Floats,
    text_weight: float,
    distance: str,
) -> tuple[int, Floats]:
    planes = (ctypes.c_void_p * len(nearest))(*(plane.ctypes.data for plane in nearest))
    sizes = (_Grid * len(grids))(*(_Grid(*grid) for grid in grids))
    fused = np.zeros_like(text_map)
    status = library.cff__fuse_maps(
        planes,
        sizes,
        SIZE(len(grids)),
        DISTANCES[distance],
        _pointer(text_map),
        ctypes.c_float(text_weight),
        _pointer(fused),
        SIZE(text_map.shape[0]),
        SIZE(text_map.shape[1]),
    )
    return status, fused


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    "grids",
    [
        [(37, 37)],
        [(16, 16)] * 4,
        [(56, 56), (28, 28), (14, 14), (7, 7)],
        [(8, 6), (4, 3), (8, 6), (4, 3), (6, 8)],
    ],
)
@pytest.mark.parametrize("text_weight", [0.0, 0.1, 1.0])
def test_fuse_maps(
    c_internals: ctypes.CDLL, distance: str, grids: list[tuple[int, int]], text_weight: float
) -> None:
    nearest = [_nearest(h * w, seed) for seed, (h, w) in enumerate(grids)]
    text_map = np.random.default_rng(9).random((224, 210), dtype=np.float32)
    expected = fuse_maps(nearest, grids, text_map, text_weight, distance)
    status, fused = _fuse(c_internals, nearest, grids, text_map, text_weight, distance)
    assert status == 0
    if distance == "cosine":
        np.testing.assert_array_equal(fused, expected)
    else:
        np.testing.assert_allclose(fused, expected, rtol=0, atol=LOG_TOLERANCE * len(grids))


def test_impossible_grids(c_internals: ctypes.CDLL, c_status: SimpleNamespace) -> None:
    plane = np.zeros(4, np.float32)
    text_map = np.zeros((4, 4), np.float32)
    for grid in ((0, 4), (1 << 33, 1 << 33)):
        status, _ = _fuse(c_internals, [plane], [grid], text_map, 1.0, "cosine")
        assert status == c_status.MEMORY
        assert c_internals.cff_last_error()


def test_peak(c_internals: ctypes.CDLL) -> None:
    c_internals.cff__peak.restype = ctypes.c_float
    values = np.random.default_rng(1).normal(size=1001).astype(np.float32)
    for place in (None, 0, 500, 1000):
        if place is not None:
            values[place] = 10.0 + place
        assert c_internals.cff__peak(_pointer(values), SIZE(values.size)) == float(values.max())
    for place in (0, 500, 1000):
        with_nan = values.copy()
        with_nan[place] = np.nan
        assert np.isnan(c_internals.cff__peak(_pointer(with_nan), SIZE(values.size)))


def test_peak_scale(c_internals: ctypes.CDLL) -> None:
    c_internals.cff__peak_scale.restype = ctypes.c_double
    for peaks in ([0.3], [0.1, 2.5, 0.7], [0.0], [-1.0, 0.0], [1e-40, 1e-300]):
        held = np.array(peaks, np.float64)
        got = c_internals.cff__peak_scale(ctypes.c_void_p(held.ctypes.data), SIZE(held.size))
        assert got == peak_scale_of(peaks)


def _score(
    library: ctypes.CDLL, peak: float, text_score: float | None, peak_scale: float
) -> tuple[int, float]:
    text = None if text_score is None else ctypes.byref(ctypes.c_double(text_score))
    score = ctypes.c_double()
    status = library.cff__image_score(
        ctypes.c_double(peak), text, ctypes.c_double(peak_scale), ctypes.byref(score)
    )
    return status, score.value


def test_image_score(c_internals: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    for peak, text_score, peak_scale in rng.exponential(size=(200, 3)):
        for text in (None, float(text_score)):
            expected = image_score(float(peak), text, float(peak_scale))
            assert _score(c_internals, peak, text, peak_scale) == (0, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_image_score_is_finite(
    c_internals: ctypes.CDLL, c_status: SimpleNamespace, bad: float
) -> None:
    for numbers in ((bad, None, 1.0), (bad, 0.5, 1.0), (1.0, bad, 1.0), (1.0, 0.5, bad)):
        with pytest.raises(BackendError):
            image_score(*numbers)
        status, _ = _score(c_internals, *numbers)
        assert status == c_status.BACKEND
        assert b"must be finite, got" in c_internals.cff_last_error()


def test_verdicts(c_internals: ctypes.CDLL) -> None:
    for score, threshold, review, expected in (
        (1.0, 2.0, 1.5, 0),
        (1.5, 2.0, 1.5, 0),
        (np.nextafter(1.5, 2), 2.0, 1.5, 1),
        (2.0, 2.0, 1.5, 1),
        (np.nextafter(2.0, 3), 2.0, 1.5, 2),
        (2.0, 2.0, 2.0, 0),
        (3.0, 2.0, 2.0, 2),
    ):
        numbers = (ctypes.c_double(number) for number in (score, threshold, review))
        assert c_internals.cff__verdict_of(*numbers) == expected
