"""Gentle deterministic augmentations: how a good part may lie or be lit next time."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

# rotation in degrees, shift in x and y as a share of the side, gain of the grey values
_AUGMENTATIONS = (
    (1.5, 0.01, 0.0, 1.0),
    (-1.5, -0.01, 0.0, 1.0),
    (0.0, 0.0, 0.015, 1.04),
    (0.0, 0.0, -0.015, 0.96),
)
N_AUGMENTATIONS = len(_AUGMENTATIONS)
_BORDER_SHARE = 16  # of a side; shift and rotation reach 3 % into it, the features a little more


def augmentations(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield small fixed rotations, shifts and changes of brightness of an image [H,W,3], uint8."""
    height, width = image.shape[:2]
    for degrees, shift_x, shift_y, gain in _AUGMENTATIONS:
        motion = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
        motion[:, 2] += (shift_x * width, shift_y * height)
        moved = cv2.warpAffine(
            image,
            motion,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        yield np.clip(np.rint(moved * np.float32(gain)), 0, 255).astype(np.uint8)


def without_border(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a sixteenth of each side off the map [H,W] of an augmented image.

    Moving an image invents what comes in at its border; that is not how a good part varies, and
    it doubled the largest map value of some products.
    """
    height, width = anomaly_map.shape
    y, x = height // _BORDER_SHARE, width // _BORDER_SHARE
    return anomaly_map[y : height - y, x : width - x]
