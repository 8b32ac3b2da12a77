"""Four numbers of a picture that no encoder is needed for: sharpness, brightness, position.

sharpness    variance of the Laplacian of the grey values
brightness   mean grey value, 0 to 255
position     centroid, as a share of the width and height, of how far the grey values are from the
             median of the border: of the part, where it lies on an even ground. On a texture that
             fills the picture it means little, varies much, and so is never reported.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 64  # of the picture that the position is measured in
_TINY = 1e-6


def picture_measures(image: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a picture.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        RGB, as the encoder sees it, so that values of one profile compare.

    Returns
    -------
    dict
        ``sharpness``, ``brightness``, ``position_x`` and ``position_y``.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    x, y = _centroid(small)
    return {
        "sharpness": float(deviation[0, 0]) ** 2,
        "brightness": float(cv2.mean(grey)[0]),
        "position_x": x,
        "position_y": y,
    }


def _centroid(small: NDArray[np.float32]) -> tuple[float, float]:
    border = np.concatenate((small[0], small[-1], small[1:-1, 0], small[1:-1, -1]))
    apart = np.abs(small - np.float32(np.median(border)))
    total = float(apart.sum())
    if total < _TINY:  # a picture of one grey
        return 0.5, 0.5
    centres = (np.arange(_SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(_SIDE)
    return float(apart.sum(axis=0) @ centres) / total, float(apart.sum(axis=1) @ centres) / total
