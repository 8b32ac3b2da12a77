"""Anomaly maps to evaluate: seeded, smooth as real ones, and every pixel another value."""

import numpy as np
from numpy.typing import NDArray

_GRID = 37  # of ViT-L/14 at 518 px; real maps are upsampled from a grid too
_RAISED = 2.0  # in standard deviations, inside a defect

Problem = tuple[
    NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float32]
]  # labels [n], scores [n], masks [n,H,W], maps [n,H,W]


def make_problem(n_images: int, size: int, seed: int = 0) -> Problem:
    """Return labels, scores, masks and maps of a product.

    Every third image is defective, with one square of a twelfth of the side; the first n of a
    larger problem of the same size are the problem of n.

    Parameters
    ----------
    n_images : int
        At least 3.
    size : int
        Side of the maps in pixels.
    seed : int
    """
    labels = np.arange(n_images) % 3 == 2
    masks = np.zeros((n_images, size, size), bool)
    maps = np.empty((n_images, size, size), np.float32)
    side = max(1, size // 12)
    for index in range(n_images):
        rng = np.random.default_rng((seed, index))
        coarse = rng.standard_normal((_GRID, _GRID), np.float32)
        maps[index] = _upsampled(coarse, size)
        # float32 has few values: rounding noise breaks the ties that interpolation leaves
        maps[index] += rng.standard_normal((size, size), np.float32) * np.float32(1e-3)
        if labels[index]:
            top, left = rng.integers(0, size - side + 1, 2)
            masks[index, top : top + side, left : left + side] = True
            maps[index][masks[index]] += np.float32(_RAISED)
    return labels, maps.max(axis=(1, 2)).astype(np.float64), masks, maps


def _upsampled(coarse: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return a grid brought to size x size, bilinear."""
    place = np.linspace(0, len(coarse) - 1, size)
    low = np.minimum(place.astype(int), len(coarse) - 2)
    part = (place - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    smooth: NDArray[np.float32] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return smooth
