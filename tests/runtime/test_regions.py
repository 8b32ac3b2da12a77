"""Regions on constructed maps, and against a flood fill."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.regions import find_regions
from cff_runtime.result import Region


def _map(*blocks: tuple[slice, slice, float], shape: tuple[int, int] = (40, 60)) -> NDArray:
    anomaly_map = np.full(shape, 0.1, np.float32)
    for rows, columns, value in blocks:
        anomaly_map[rows, columns] = value
    return anomaly_map


def test_a_quiet_map_has_no_regions() -> None:
    assert find_regions(_map(), 0.5, (40, 60)) == ()


def test_blocks_are_found_strongest_first() -> None:
    anomaly_map = _map((np.s_[2:6], np.s_[10:20], 0.75), (np.s_[30:31], np.s_[5:8], 2.0))
    anomaly_map[3, 12] = 0.875

    regions = find_regions(anomaly_map, 0.5, (40, 60))

    assert regions == (Region(3.0, 2.0, (5, 30, 3, 1)), Region(40.0, 0.875, (10, 2, 10, 4)))


def test_boxes_and_areas_are_in_pixels_of_the_image() -> None:
    anomaly_map = _map((np.s_[4:8], np.s_[30:45], 1.0))

    (region,) = find_regions(anomaly_map, 0.5, (120, 240))

    assert region == Region(4 * 15 * 3 * 4, 1.0, (120, 12, 60, 12))


@pytest.mark.parametrize("image_size", [(96, 96), (120, 150), (700, 410), (30, 31), (17, 999)])
def test_boxes_are_rounded_outwards_and_stay_inside(image_size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        top, left = rng.integers(0, 90, 2)
        bottom, right = (int(start + rng.integers(1, 97 - start)) for start in (top, left))
        anomaly_map = _map((np.s_[top:bottom], np.s_[left:right], 1.0), shape=(96, 96))
        scale_y, scale_x = Fraction(image_size[0], 96), Fraction(image_size[1], 96)
        x0, y0 = floor(int(left) * scale_x), floor(int(top) * scale_y)
        x1, y1 = ceil(right * scale_x), ceil(bottom * scale_y)

        (region,) = find_regions(anomaly_map, 0.5, image_size)

        assert region.box == (x0, y0, x1 - x0, y1 - y0)
        assert x1 <= image_size[1] and y1 <= image_size[0]
        area = (bottom - int(top)) * (right - int(left)) * scale_x * scale_y
        assert region.area_px == pytest.approx(float(area), rel=1e-12)


def test_every_edge_of_a_box_is_exact() -> None:
    """Of all edges 1 to 518, scaled to sizes that divide badly in floating point."""
    for side in (333, 518, 777, 1036, 1037, 2590):
        for edge in range(1, 519):
            anomaly_map = np.zeros((1, 518), np.float32)
            anomaly_map[0, :edge] = 1.0

            (region,) = find_regions(anomaly_map, 0.5, (1, side))

            assert region.box == (0, 0, ceil(Fraction(edge * side, 518)), 1)


def test_diagonal_neighbours_belong_together() -> None:
    anomaly_map = np.zeros((20, 20), np.float32)
    anomaly_map[[3, 4, 5, 6], [7, 8, 7, 6]] = (0.6, 0.7, 0.8, 0.9)

    (region,) = find_regions(anomaly_map, 0.5, (20, 20))

    assert region == Region(4.0, float(np.float32(0.9)), (6, 3, 3, 4))


def test_a_region_may_be_the_whole_image() -> None:
    (region,) = find_regions(np.ones((96, 96), np.float32), 0.5, (123, 457))

    assert region == Region(123 * 457, 1.0, (0, 0, 457, 123))


def test_a_value_at_the_threshold_is_no_region() -> None:
    anomaly_map = _map((np.s_[4:8], np.s_[30:45], 0.5))

    assert find_regions(anomaly_map, 0.5, (40, 60)) == ()
    below = float(np.nextafter(0.5, 0.0))
    assert len(find_regions(anomaly_map, below, (40, 60))) == 1


def test_the_threshold_is_not_rounded_to_float32() -> None:
    """The verdict compares in float64: a region must not vanish by rounding its threshold."""
    value = np.float32(0.7)
    anomaly_map = _map((np.s_[4:8], np.s_[30:45], float(value)))
    just_below = float(value) - 1e-12
    assert np.float32(just_below) == value

    assert len(find_regions(anomaly_map, just_below, (40, 60))) == 1
    assert find_regions(anomaly_map, float(value), (40, 60)) == ()
    assert find_regions(anomaly_map, float(value) + 1e-12, (40, 60)) == ()


def _flood_fill(anomaly_map: NDArray[np.float32], threshold: float) -> list[Region]:
    """8-connected regions, pixel by pixel."""
    unseen = {(int(y), int(x)) for y, x in zip(*np.nonzero(anomaly_map > threshold), strict=True)}
    regions = []
    while unseen:
        inside, frontier = set(), [unseen.pop()]
        while frontier:
            y, x = frontier.pop()
            inside.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & unseen
            unseen -= near
            frontier += near
        ys, xs = [y for y, _ in inside], [x for _, x in inside]
        box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        peak = max(float(anomaly_map[place]) for place in inside)
        regions.append(Region(float(len(inside)), peak, box))
    return sorted(regions, key=lambda region: -region.peak)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.6])
def test_random_maps_agree_with_a_flood_fill(density: float) -> None:
    for seed in range(10):
        anomaly_map = np.random.default_rng(seed).random((33, 47)).astype(np.float32)

        regions = find_regions(anomaly_map, 1.0 - density, (33, 47))

        assert list(regions) == _flood_fill(anomaly_map, 1.0 - density)
