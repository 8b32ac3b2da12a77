"""Regions: connected parts of an anomaly map above a threshold."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.result import Region


def find_regions(
    anomaly_map: NDArray[np.float32], threshold: float, image_size: tuple[int, int]
) -> tuple[Region, ...]:
    """Find 8-connected regions of the map above `threshold`, strongest first.

    Parameters
    ----------
    anomaly_map : ndarray of shape (H, W), float32
    threshold : float
        Pixel threshold in the map's units.
    image_size : (h, w)
        Size of the inspected image; areas and boxes are given in its pixels.

    Returns
    -------
    tuple of Region
    """
    # as an array: NumPy rounds a bare number to float32, perhaps up to the map's own value
    above = (anomaly_map > np.array([threshold])).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    (map_height, map_width), (image_height, image_width) = anomaly_map.shape, image_size
    pixel_area = (image_height * image_width) / (map_height * map_width)
    peaks = np.full(count, -np.inf, np.float32)
    inside = above > 0
    if count == 2:  # one region, perhaps the whole map: 5 times faster than by label
        peaks[1] = anomaly_map[inside].max()
    else:
        np.maximum.at(peaks, np.asarray(labels)[inside].astype(np.intp), anomaly_map[inside])
    regions = []
    for label in range(1, count):  # 0 is the background
        left, top, width, height, area = (int(value) for value in statistics[label])
        x0, x1 = _outward(left, left + width, image_width, map_width)
        y0, y1 = _outward(top, top + height, image_height, map_height)
        box = (x0, y0, x1 - x0, y1 - y0)
        regions.append(Region(area * pixel_area, float(peaks[label]), box))
    return tuple(sorted(regions, key=lambda region: -region.peak))


def _outward(start: int, stop: int, image_side: int, map_side: int) -> tuple[int, int]:
    """Scale [start, stop) from the map to whole pixels of the image, rounding outwards."""
    return start * image_side // map_side, -(-stop * image_side // map_side)
