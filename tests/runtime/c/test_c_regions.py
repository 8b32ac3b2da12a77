"""Regions of libcff against the Python runtime's, order and ties included."""

import ctypes
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.regions import find_regions
from cff_runtime.result import Region

SIZE = ctypes.c_size_t


class _Region(ctypes.Structure):
    _fields_ = (
        ("area_px", ctypes.c_double),
        ("peak", ctypes.c_double),
        ("box", ctypes.c_int64 * 4),
    )


_FREE = ctypes.CDLL(None).free
_FREE.argtypes, _FREE.restype = [ctypes.c_void_p], None


def _find(
    library: ctypes.CDLL,
    anomaly_map: NDArray[np.float32],
    threshold: float,
    image_size: tuple[int, int],
) -> tuple[Region, ...]:
    found, count = ctypes.POINTER(_Region)(), SIZE(7)
    status = library.cff__find_regions(
        ctypes.c_void_p(anomaly_map.ctypes.data),
        SIZE(anomaly_map.shape[0]),
        SIZE(anomaly_map.shape[1]),
        ctypes.c_double(threshold),
        SIZE(image_size[0]),
        SIZE(image_size[1]),
        ctypes.byref(found),
        ctypes.byref(count),
    )
    assert status == 0
    assert bool(found) == (count.value > 0)
    regions = tuple(
        Region(found[i].area_px, found[i].peak, tuple(found[i].box)) for i in range(count.value)
    )
    _FREE(found)
    return regions


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 9), (64, 64), (130, 257)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 1.0])
def test_noise(c_internals: ctypes.CDLL, shape: tuple[int, int], share: float) -> None:
    anomaly_map = np.random.default_rng(shape).random(shape, dtype=np.float32)
    for size in ((480, 640), shape, (17, 2049)):
        expected = find_regions(anomaly_map, 1.0 - share, size)
        assert _find(c_internals, anomaly_map, 1.0 - share, size) == expected


def test_blobs(c_internals: ctypes.CDLL) -> None:
    noise = np.random.default_rng(1).random((200, 300), dtype=np.float32)
    anomaly_map = np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.float32)
    for threshold in np.quantile(anomaly_map, [0.3, 0.5, 0.9, 0.99]):
        expected = find_regions(anomaly_map, float(threshold), (1000, 999))
        assert len(expected) > 1
        assert _find(c_internals, anomaly_map, float(threshold), (1000, 999)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_order_of_equal_peaks(c_internals: ctypes.CDLL, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(2, 60, 2))
    anomaly_map = (rng.random(shape) < 0.15).astype(np.float32)
    expected = find_regions(anomaly_map, 0.5, (100, 100))
    assert _find(c_internals, anomaly_map, 0.5, (100, 100)) == expected


def test_threshold_is_compared_in_float64(c_internals: ctypes.CDLL) -> None:
    value = np.float32(0.1)
    anomaly_map = np.full((3, 3), value)
    for threshold in (0.1, float(value), np.nextafter(float(value), 0), np.inf, -np.inf):
        expected = find_regions(anomaly_map, float(threshold), (16, 16))
        assert _find(c_internals, anomaly_map, float(threshold), (16, 16)) == expected


def test_nan_and_infinity(c_internals: ctypes.CDLL) -> None:
    anomaly_map = np.random.default_rng(2).random((20, 20), dtype=np.float32)
    anomaly_map[3:6, 3:6] = np.nan
    anomaly_map[10, 10] = np.inf
    expected = find_regions(anomaly_map, 0.5, (64, 64))
    assert _find(c_internals, anomaly_map, 0.5, (64, 64)) == expected
    assert _find(c_internals, anomaly_map, np.nan, (64, 64)) == ()


def test_spiral_is_one(c_internals: ctypes.CDLL) -> None:
    """Rows joined only at alternate ends, and a comb whose teeth meet in the last row."""
    snake = np.zeros((41, 30), np.float32)
    snake[::2] = 1
    snake[1::4, -1] = snake[3::4, 0] = 1
    comb = np.zeros((40, 41), np.float32)
    comb[:, ::2] = comb[-1] = 1
    for anomaly_map in (snake, comb):
        found = _find(c_internals, anomaly_map, 0.5, (410, 300))
        assert len(found) == 1
        assert found == find_regions(anomaly_map, 0.5, (410, 300))


def test_impossible_sides(c_internals: ctypes.CDLL, c_status: SimpleNamespace) -> None:
    found, count = ctypes.POINTER(_Region)(), SIZE(7)
    for sides in ((0, 5, 16, 16), (5, 5, 16, 1 << 40)):
        h, w, image_h, image_w = (SIZE(side) for side in sides)
        outs = (ctypes.byref(found), ctypes.byref(count))
        status = c_internals.cff__find_regions(
            None, h, w, ctypes.c_double(0), image_h, image_w, *outs
        )
        assert status == c_status.IMAGE
        assert not found
        assert count.value == 0
