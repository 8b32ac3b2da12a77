"""Augmentations of libcff against OpenCV's, as the Python runtime makes them."""

import ctypes
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.thresholds import N_AUGMENTATIONS, augmentations, without_border

SIZE = ctypes.c_size_t
# OpenCV's last bits depend on the processor: with AVX2 (its feature 11) it fuses multiplications
# and additions, as libcff always does; without, two in ten thousand levels round the other way.
OPENCV_IS_FUSED = cv2.checkHardwareSupport(11)
MOST_DIFFERING = 1e-3
SHAPES = [(16, 16), (16, 300), (300, 16), (37, 41), (96, 96), (224, 336), (131, 257), (518, 518)]


def _augment(library: ctypes.CDLL, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    moved = np.zeros_like(image)
    status = library.cff__augment(
        ctypes.c_void_p(image.ctypes.data),
        *(SIZE(number) for number in (*image.shape[:2], index)),
        ctypes.c_void_p(moved.ctypes.data),
    )
    assert status == 0
    return moved


@pytest.mark.parametrize("shape", SHAPES)
def test_are_opencvs(c_internals: ctypes.CDLL, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    smooth = np.indices((*shape, 3)).sum(axis=0).astype(np.uint8)
    for image in (noise, smooth, np.where(noise > 127, 255, 0).astype(np.uint8)):
        for index, expected in enumerate(augmentations(image)):
            got = _augment(c_internals, image, index)
            off = np.abs(got.astype(int) - expected)
            assert off.max() <= (0 if OPENCV_IS_FUSED else 1)
            assert np.mean(off > 0) < MOST_DIFFERING


def test_no_such_augmentation(c_internals: ctypes.CDLL, c_status: SimpleNamespace) -> None:
    for height, width, index in ((16, 16, N_AUGMENTATIONS), (0, 16, 0), (16, 1 << 40, 0)):
        sides = (SIZE(number) for number in (height, width, index))
        assert c_internals.cff__augment(None, *sides, None) == c_status.USAGE


@pytest.mark.parametrize("shape", [(15, 15), (16, 16), (17, 40), (96, 333)])
def test_border_is_cut(c_internals: ctypes.CDLL, shape: tuple[int, int]) -> None:
    whole = np.random.default_rng(shape).random(shape, dtype=np.float32)
    inner = np.zeros(whole.size, np.float32)
    c_internals.cff__without_border.restype = SIZE
    n = c_internals.cff__without_border(
        ctypes.c_void_p(whole.ctypes.data),
        SIZE(shape[0]),
        SIZE(shape[1]),
        ctypes.c_void_p(inner.ctypes.data),
    )
    np.testing.assert_array_equal(inner[:n], without_border(whole).ravel())
