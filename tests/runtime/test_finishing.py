"""Maps against PyTorch in float64, scores by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cff_runtime.errors import BackendError
from cff_runtime.finishing import (
    fuse_maps,
    image_score,
    stage_distance,
    upsample,
    upsampling_matrix,
)

SIDES = [((12, 12), (96, 96)), ((37, 37), (518, 518)), ((3, 7), (40, 33)), ((5, 4), (5, 4))]
EDGES = [
    ((1, 1), (9, 8)),
    ((1, 6), (20, 20)),
    ((8, 2), (1, 17)),
    ((9, 9), (4, 1)),
    ((2, 2), (2, 3)),
]


def _interpolate(grid: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size, mode="bilinear", align_corners=True
    )
    array: NDArray[np.float64] = upsampled[0, 0].numpy()
    return array


@pytest.mark.parametrize(("grid", "size"), SIDES + EDGES)
def test_upsampling_is_pytorchs_with_aligned_corners(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    values = np.random.default_rng(1).normal(size=grid).astype(np.float32)

    upsampled = upsample(values, *size)

    assert upsampled.dtype == np.float32
    expected = _interpolate(values.astype(np.float64), size)
    np.testing.assert_allclose(upsampled, expected, atol=2e-6, rtol=0)


def test_the_corners_keep_their_values() -> None:
    values = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)

    upsampled = upsample(values, 50, 70)

    np.testing.assert_allclose(upsampled[::49, ::69], values[::5, ::8], atol=1e-7, rtol=0)


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 96), (37, 518), (3, 96), (1, 9), (5, 1), (9, 4)])
def test_the_matrix_is_the_same_interpolation(n_in: int, n_out: int) -> None:
    matrix = upsampling_matrix(n_in, n_out)

    expected = _interpolate(np.eye(n_in), (n_out, n_in))
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)


def test_distances_by_hand() -> None:
    nearest = np.array([1.0, 0.99, 0.91, 0.01, -0.27], np.float32)

    # 1 + D / 0.01 is 1, 2, 10, 100 and 128
    expected = np.log(10) * np.array([0.0, 0.301029996, 1.0, 2.0, 2.107209970])
    np.testing.assert_allclose(stage_distance(nearest, "log"), expected, atol=1e-5, rtol=0)
    expected = np.array([0.0, 0.01, 0.09, 0.99, 1.27])
    np.testing.assert_allclose(stage_distance(nearest, "cosine"), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_distances_of_every_size_keep_their_digits(distance: str) -> None:
    nearest = (1.0 - np.logspace(-7, np.log10(2.0), 4000)).astype(np.float32)
    before = nearest.copy()

    found = stage_distance(nearest, distance)

    exact = 1.0 - nearest.astype(np.float64)
    expected = np.log1p(exact / 0.01) if distance == "log" else exact
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(nearest, before)


def test_a_token_is_not_beyond_its_own_twin() -> None:
    """The dot product of a unit row with itself may round to above 1; its logarithm may not err."""
    one = np.float32(1.0)
    nearest = np.array([one, np.nextafter(one, np.float32(2.0)), 1.0 + 3e-7], np.float32)
    assert (nearest[1:] > 1.0).all()

    np.testing.assert_array_equal(stage_distance(nearest, "log"), 0.0)
    assert stage_distance(nearest, "cosine")[0] == 0.0


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_a_distance_of_nan_stays_one(distance: str) -> None:
    found = stage_distance(np.array([np.nan, 0.5], np.float32), distance)

    assert np.isnan(found).tolist() == [True, False]


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("text_weight", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(
    "grids", [[(12, 12), (12, 12), (6, 6), (3, 3)], [(37, 37)] * 4, [(3, 4), (4, 3), (3, 4)]]
)
def test_maps_are_the_sum_of_the_stages_and_the_weighted_text(
    grids: list[tuple[int, int]], text_weight: float, distance: str
) -> None:
    rng = np.random.default_rng(2)
    nearest = [rng.uniform(-1, 1, h * w).astype(np.float32) for h, w in grids]
    text_map = rng.uniform(0, 4, (100, 90)).astype(np.float32)
    expected = text_weight * text_map.astype(np.float64)
    for best, grid in zip(nearest, grids, strict=True):
        plane = 1.0 - best.astype(np.float64).reshape(grid)
        if distance == "log":
            plane = np.log1p(plane / 0.01)
        expected += _interpolate(plane, (100, 90))

    fused = fuse_maps(nearest, grids, text_map, text_weight, distance)

    assert fused.shape == (100, 90) and fused.dtype == np.float32
    # a logarithm reaches 5.3 where a distance reaches 2
    atol = 5e-6 if distance == "cosine" else 1.5e-5
    np.testing.assert_allclose(fused, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_inputs_are_not_written_to(distance: str) -> None:
    text_map = np.ones((8, 8), np.float32)
    nearest = [np.zeros(4, np.float32), np.zeros(4, np.float32)]

    fuse_maps(nearest, [(2, 2), (2, 2)], text_map, 1.0, distance)

    np.testing.assert_array_equal(text_map, 1.0)
    np.testing.assert_array_equal(nearest, 0.0)


def test_a_missing_stage_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        fuse_maps(
            [np.zeros(4, np.float32)], [(2, 2), (2, 2)], np.ones((8, 8), np.float32), 1.0, "log"
        )


def test_without_a_text_tower_the_score_is_the_peak() -> None:
    for peak, scale in product((-0.25, 0.0, 0.75), (0.1, 7.0)):
        assert image_score(peak, None, scale) == peak


@pytest.mark.parametrize(
    ("peak", "text_score", "peak_scale", "expected"),
    [(0.5, 0.25, 1.0, 0.375), (0.5, 0.25, 0.5, 0.25), (2.0, 0.0, 0.25, 0.25), (0.0, 1.0, 9.0, 0.5)],
)
def test_with_a_text_tower_the_score_is_the_mean(
    peak: float, text_score: float, peak_scale: float, expected: float
) -> None:
    assert image_score(peak, text_score, peak_scale) == expected


@pytest.mark.parametrize(
    ("peak", "text_score"),
    [(float("nan"), None), (float("inf"), None), (0.5, float("nan")), (float("nan"), 0.5)],
)
def test_a_score_that_is_not_finite_never_passes(peak: float, text_score: float | None) -> None:
    with pytest.raises(BackendError, match=r"must be finite.*cff-run verify"):
        image_score(peak, text_score, 1.0)
