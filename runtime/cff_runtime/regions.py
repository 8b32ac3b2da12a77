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
    above = (anomaly_map > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    scale_y = image_size[0] / anomaly_map.shape[0]
    scale_x = image_size[1] / anomaly_map.shape[1]
    peaks = np.full(count, -np.inf, np.float32)
    inside = above > 0
    np.maximum.at(peaks, np.asarray(labels)[inside].astype(np.intp), anomaly_map[inside])
    regions = []
    for label in range(1, count):  # 0 is the background
        left, top, width, height, area = (int(value) for value in statistics[label])
        x0, y0 = int(left * scale_x), int(top * scale_y)
        x1 = int(np.ceil((left + width) * scale_x))
        y1 = int(np.ceil((top + height) * scale_y))
        box = (x0, y0, min(x1, image_size[1]) - x0, min(y1, image_size[0]) - y0)
        regions.append(Region(area * scale_x * scale_y, float(peaks[label]), box))
    return tuple(sorted(regions, key=lambda region: -region.peak))
