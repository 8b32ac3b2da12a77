"""Upsampling and blur as one matrix per axis, against PyTorch's interpolation and SciPy's blur."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cff_export.passes import fold_upsampling

Array = NDArray[np.float64]


def _expected(plane: Array, size: tuple[int, int], sigma: float) -> Array:
    planes = torch.from_numpy(plane)[None, None]
    up = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=True)
    blurred: Array = gaussian_filter(up[0, 0].numpy(), sigma)
    return blurred


@pytest.mark.parametrize(
    ("grid", "size", "sigma"),
    [
        ((64, 64), (256, 256), 4.0),  # as published
        ((32, 32), (256, 256), 4.0),
        ((12, 9), (96, 80), 2.5),
        ((3, 5), (7, 6), 4.0),  # the blur is wider than the map
        ((5, 5), (5, 5), 1.0),
        ((8, 4), (64, 32), 0.0),
        ((1, 1), (6, 4), 0.5),
    ],
)
def test_two_matrices_are_interpolation_and_blur(
    grid: tuple[int, int], size: tuple[int, int], sigma: float
) -> None:
    plane = np.random.default_rng(sum(grid)).normal(size=grid)
    y, x = (fold_upsampling(n, m, sigma) for n, m in zip(grid, size, strict=True))
    assert y.dtype == x.dtype == np.float64
    np.testing.assert_allclose(y @ plane @ x.T, _expected(plane, size, sigma), atol=1e-12)


def test_rows_are_means() -> None:
    matrix = fold_upsampling(16, 128, 4.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-14)
    assert matrix.min() >= 0.0
