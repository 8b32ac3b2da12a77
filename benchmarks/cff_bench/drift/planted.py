"""Planted drifts: what becomes of a picture when lens, light, camera or supplier change.

Every picture, references included, is cut by 6 % on each side, so that a shifted one shows what
the camera would have seen and no invented border.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
BORDER = 0.06
BLURS_PX = (0.5, 0.75, 1.0, 1.5, 2.0)
GAINS = (0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2)
SHIFTS = (0.01, 0.02, 0.04, 0.06)
TEXTURES = (2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Drift:
    """A change of pictures.

    Attributes
    ----------
    kind : str
    strength : str
        As the report has it.
    apply : callable
        From a picture [h,w,3] as taken to one as cut and changed.
    """

    kind: str
    strength: str
    apply: Callable[[Picture], Picture]


def cut(image: Picture, x: float = 0.0, y: float = 0.0) -> Picture:
    """Return a picture without its border, seen by a camera that moved by shares of its sides."""
    height, width = image.shape[:2]
    border_x, border_y = round(BORDER * width), round(BORDER * height)
    off_x, off_y = round(x * width), round(y * height)
    rows = slice(border_y + off_y, height - border_y + off_y)
    return image[rows, border_x + off_x : width - border_x + off_x].copy()


def planted_drifts(texture: Picture) -> list[Drift]:
    """Return the drifts that are tried on every product, without any first.

    Parameters
    ----------
    texture : ndarray of shape (h, w, 3), uint8
        Of another material, laid over the part.
    """
    drifts = [Drift("none", "", cut)]
    drifts += [Drift("blur", f"{px:g} px of 256", _blur(px)) for px in BLURS_PX]
    drifts += [Drift("exposure", f"x {gain:g}", _gain(gain)) for gain in GAINS]
    drifts += [Drift("shift", f"{share:.0%} of the side", _shift(share)) for share in SHIFTS]
    drifts += [Drift("texture", f"{sd:g} grey levels", _lay_over(texture, sd)) for sd in TEXTURES]
    return drifts


def _blur(sigma_px: float) -> Callable[[Picture], Picture]:
    def blur(image: Picture) -> Picture:
        part = cut(image)
        sigma = sigma_px * max(part.shape[:2]) / 256
        return np.asarray(cv2.GaussianBlur(part, (0, 0), sigma), np.uint8)

    return blur


def _gain(gain: float) -> Callable[[Picture], Picture]:
    return lambda image: _grey_levels(cut(image) * np.float32(gain))


def _shift(share: float) -> Callable[[Picture], Picture]:
    return lambda image: cut(image, share, share)


def _lay_over(texture: Picture, deviation: float) -> Callable[[Picture], Picture]:
    """Add a texture of mean 0 and a standard deviation in grey levels."""
    grey = cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY)

    def lay_over(image: Picture) -> Picture:
        part = cut(image)
        size = (part.shape[1], part.shape[0])
        laid = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        laid = (laid - laid.mean()) * (deviation / max(float(laid.std()), 1e-6))
        return _grey_levels(part + laid[..., None])

    return lay_over


def _grey_levels(values: NDArray[np.float32]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
