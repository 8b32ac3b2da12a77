"""PRO against a brute force that finds regions by flood fill and counts at every threshold."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_edge.metrics import pro_as_published, pro_exact
from cff_runtime.errors import DatasetError, UsageError

Masks = NDArray[np.bool_]
Maps = NDArray[np.floating]
Region = list[tuple[int, int, int]]


def flood_regions(masks: Masks) -> list[Region]:
    """Return the pixels (image, row, column) of each 8-connected region."""
    left = {tuple(place) for place in np.argwhere(masks).tolist()}
    regions = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            image, row, column = edge.pop()
            region.append((image, row, column))
            for y in (row - 1, row, row + 1):
                for x in (column - 1, column, column + 1):
                    if (image, y, x) in left:
                        left.remove((image, y, x))
                        edge.append((image, y, x))
        regions.append(region)
    return regions


def at_threshold(masks: Masks, regions: list[Region], called: Masks) -> tuple[float, float]:
    """Return the false positive rate and the mean overlap."""
    overlaps = [sum(bool(called[place]) for place in region) / len(region) for region in regions]
    return float((called & ~masks).sum() / (~masks).sum()), sum(overlaps) / len(overlaps)


def trapezoids(points: list[tuple[float, float]]) -> float:
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))


def brute_exact(masks: Masks, maps: Maps, limit: float) -> float:
    """Walk the curve from (0, 0) and cut it at the limit."""
    regions, points = flood_regions(masks), [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        x, y = at_threshold(masks, regions, maps >= threshold)
        if x > limit:
            x0, y0 = points[-1]
            points.append((limit, y0 + (y - y0) * (limit - x0) / (x - x0)))
            break
        points.append((x, y))
    return trapezoids(points) / limit


def brute_published(masks: Masks, maps: Maps) -> float:
    """Follow the recipe to the letter."""
    values, regions = maps.astype(np.float64), flood_regions(masks)
    low, high = values.min(), values.max()
    curve = [
        at_threshold(masks, regions, values > threshold)
        for threshold in np.arange(low, high, (high - low) / 200)
    ]
    kept = [(x, y) for x, y in curve if x < 0.3]
    lowest, highest = min(x for x, _ in kept), max(x for x, _ in kept)
    return trapezoids([((x - lowest) / (highest - lowest), y) for x, y in reversed(kept)])


def draw(seed: int, n_levels: int, gain: float = 0.8) -> tuple[Masks, Maps]:
    """Return masks with blots that touch at corners, and maps that help a little."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, 17, 14), bool)
    for image, (row, column) in zip(
        (0, 0, 1, 1, 1, 2, 4), rng.integers(0, 13, (7, 2)), strict=True
    ):
        masks[image, row : row + 3, column : column + 2] = True
        masks[image, min(row + 3, 16), min(column + 2, 13)] = True
    maps = rng.normal(masks * gain, 1.0)
    return masks, np.round(maps * n_levels) / n_levels


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_levels", [1, 4, 10_000])
@pytest.mark.parametrize("seed", range(3))
class TestAgainstBruteForce:
    def test_exact(self, seed: int, n_levels: int, dtype: type[np.floating]) -> None:
        masks, maps = draw(seed, n_levels)
        maps = maps.astype(dtype)
        for limit in (0.05, 0.3, 1.0):
            expected = brute_exact(masks, maps, limit)
            assert pro_exact(masks, maps, limit) == pytest.approx(expected, abs=1e-12)
        assert pro_exact(masks, maps) == pro_exact(masks, maps, 0.3)

    def test_published(self, seed: int, n_levels: int, dtype: type[np.floating]) -> None:
        masks, maps = draw(seed, n_levels)
        maps = maps.astype(dtype)
        expected = brute_published(masks, maps)
        assert pro_as_published(masks, maps) == pytest.approx(expected, abs=1e-12)


def test_published_calls_what_is_above_a_threshold_not_on_it() -> None:
    """Whole scores from 0 to 200 lie on the thresholds themselves."""
    masks, maps = draw(7, 10_000)
    maps = np.round(200 * (maps - maps.min()) / np.ptp(maps))
    for dtype in (np.float16, np.float32, np.float64):
        expected = brute_published(masks, maps)
        assert pro_as_published(masks, maps.astype(dtype)) == pytest.approx(expected, abs=1e-12)


def test_exact_by_hand() -> None:
    """A diagonal pair is one region, beside a single pixel; 13 good pixels, 8 in a good part.

    Falling scores: 9 half of the pair; 8 a good pixel; 7 the single pixel and a good one; then the
    rest at once.
    """
    masks = np.array([[[1, 0, 0, 1], [0, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], bool)
    maps = np.array([[[9, 8, 0, 7], [0, 0, 0, 7]], [[0, 0, 0, 0], [0, 0, 0, 0]]], np.float32)
    rates = np.array([0, 0, 1, 2, 13]) / 13
    overlaps = np.array([0, 1 / 4, 1 / 4, 3 / 4, 1])
    at_limit = 3 / 4 + (0.3 - 2 / 13) / (11 / 13) / 4
    area = 1 / 13 / 4 + 1 / 13 / 2 + (0.3 - 2 / 13) * (3 / 4 + at_limit) / 2
    assert pro_exact(masks, maps) == pytest.approx(area / 0.3, abs=1e-12)
    whole = trapezoids(list(zip(rates.tolist(), overlaps.tolist(), strict=True)))
    assert pro_exact(masks, maps, 1.0) == pytest.approx(whole, abs=1e-12)


def test_each_region_counts_once_whatever_its_size() -> None:
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 2:12, 2:12], masks[0, 15, 15] = True, True  # 100 pixels and one
    found_large = np.where(np.arange(20) < 13, masks, False).astype(np.float32)
    found_small = (masks & (np.arange(20) == 15)).astype(np.float32)
    assert pro_exact(masks, found_large) == pytest.approx(pro_exact(masks, found_small), abs=1e-12)


def test_a_perfect_map() -> None:
    masks, _ = draw(0, 1)
    assert pro_exact(masks, masks.astype(np.float32)) == 1.0
    # every kept threshold has the false positive rate 0: the recipe divides 0 by 0
    assert pro_as_published(masks, masks.astype(np.float32)) == 1.0


def test_maps_that_say_nothing() -> None:
    masks, maps = draw(0, 1)
    for value in (-1.0, 0.0, 0.3):
        constant = np.full(maps.shape, value, np.float32)
        assert pro_exact(masks, constant) == pytest.approx(0.15)  # a straight line to (1, 1)
        assert pro_exact(masks, constant, 1.0) == pytest.approx(0.5)
        assert pro_as_published(masks, constant) == 0.0
        assert pro_as_published(masks, constant.astype(np.float64)) == 0.0


def test_published_is_0_if_too_many_good_pixels_have_the_highest_score() -> None:
    masks = np.zeros((1, 4, 5), bool)
    masks[0, 0, 0] = True
    maps = np.ones((1, 4, 5), np.float32)
    maps[0, 3] = 0.0  # 14 of 19 good pixels stay above every threshold
    assert pro_as_published(masks, maps) == 0.0


def test_published_hangs_on_single_scores_and_exact_does_not() -> None:
    """Why there are two: one hot good pixel leaves a hundredth of the thresholds to the rest."""
    masks, maps = draw(3, 10_000, gain=2.0)
    hot = maps.copy()
    hot[3, 0, 0] = 1e4
    assert abs(pro_exact(masks, hot) - pro_exact(masks, maps)) < 0.01
    assert pro_as_published(masks, maps) > 0.5
    assert pro_as_published(masks, hot) == 0.0


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, float("nan")])
def test_limits_out_of_range(limit: float) -> None:
    with pytest.raises(UsageError, match=r"^`fpr_limit` must be above 0 and at most 1, got "):
        pro_exact(*draw(0, 1), limit)


@pytest.mark.parametrize("metric", [pro_exact, pro_as_published])
def test_without_any_region(metric: type) -> None:
    with pytest.raises(DatasetError, match=r"^`masks` must hold .* got 0 defective of 8; "):
        metric(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2)))


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_real_anomaly_maps() -> None:
    """64 maps with exact areas worked out on another machine."""
    folder = Path(os.environ["CFF_DATA"]) / "_metric_fixture"
    expected = json.loads((folder / "expected.json").read_text())["paper_fvn01_k4"]["expected"]
    with np.load(folder / "paper_fvn01_k4.npz") as file:
        maps, packed = file["maps"], file["masks"]
    masks = np.unpackbits(packed, axis=-1, count=maps.shape[2]).astype(bool)
    assert pro_exact(masks, maps) == pytest.approx(expected["aupro_030_exact"], abs=1e-12)
    assert pro_exact(masks, maps, 0.05) == pytest.approx(expected["aupro_005_exact"], abs=1e-12)
