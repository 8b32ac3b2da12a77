"""Is the picture still taken as the references were? Focus, exposure and shift, with hysteresis.

focus     variance of the Laplacian: at least 0.5 times the lowest of the references
brightness  mean grey value: within the references' range and 12 levels or that range beyond it
saturation  share of pixels above 250: at most the largest of the references, and 0.02 or that
          range more
shift     place of the largest cross-correlation with the nearest reference, on a grid of
          128 x 128: at most 2 % of the side, and the largest that the references have among
          themselves; off where they correlate by less than 0.6, as textures do. Phase correlation
          weighs all frequencies alike and sees shifts in the noise of smooth parts

A warning comes after 5 measurements in a row outside a bound and goes after 10 in a row inside a
bound that is a tenth tighter. Nothing here changes a verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.image_checks import sharpness_of

_FOCUS_SHARE = 0.5
_GREY_LEVELS, _SATURATED, _SATURATED_SHARE = 12.0, 250, 0.02
_SHIFT_SHARE, _LEAST_CORRELATION = 0.02, 0.6
_SIDE_PX = 128  # of the images that are correlated
_N_ON, _N_OFF = 5, 10
_TIGHTER = 0.1


@dataclass(frozen=True)
class Bounds:
    """What a measurement may be: `low` to `high`; `usual` is the references' middle."""

    low: float
    high: float
    usual: float

    def holds(self, value: float, tighter: float = 0.0) -> bool:
        """Tell whether a value is inside the bounds, or tighter ones."""
        low, high = self.low, self.high
        if tighter:
            low += tighter * (self.usual - low)
            if np.isfinite(high):
                high -= tighter * (high - self.usual)
        return low <= value <= high


class ConditionWatch:
    """Compares images with the references of a profile.

    Parameters
    ----------
    references : ndarray of shape (K, H, W, 3), uint8
        As the encoder sees them.

    Attributes
    ----------
    bounds : dict of str to Bounds
        By measurement; without ``shift_px`` where the references do not correlate.
    """

    def __init__(self, references: NDArray[np.uint8]) -> None:
        self._small = [_small(image) for image in references]
        height, width = references.shape[1:3]
        self._scale = max(height, width) / _SIDE_PX
        self.bounds = _bounds([_measure(image) for image in references])
        shifts = self._shifts_among_references()
        if shifts is not None:
            most = _SHIFT_SHARE * max(height, width) + max(shifts, default=0.0)
            self.bounds["shift_px"] = Bounds(0.0, most, 0.0)
        self._outside = dict.fromkeys(self.bounds, 0)
        self._inside = dict.fromkeys(self.bounds, 0)
        self._warned: dict[str, str] = {}

    def __call__(self, image: NDArray[np.uint8]) -> tuple[dict[str, float], dict[str, str]]:
        """Measure an image [H,W,3] of the references' size.

        Returns
        -------
        measured : dict of str to float
        warnings : dict of str to str
            By measurement, while they last.
        """
        measured = _measure(image)
        if "shift_px" in self.bounds and (shift := self._shift(_small(image))) is not None:
            measured["shift_px"] = shift
        for name in self.bounds:
            self._count(name, measured.get(name))
        return measured, dict(self._warned)

    def _count(self, name: str, value: float | None) -> None:
        """Count measurements in a row; one that could not be made is neither inside nor outside."""
        if value is None:
            return
        bounds = self.bounds[name]
        self._outside[name] = 0 if bounds.holds(value) else self._outside[name] + 1
        self._inside[name] = self._inside[name] + 1 if bounds.holds(value, _TIGHTER) else 0
        if self._outside[name] >= _N_ON:
            self._warned.setdefault(name, _sentence(name, value, bounds))
        elif self._inside[name] >= _N_OFF:
            self._warned.pop(name, None)

    def _shift(self, image: NDArray[np.float32]) -> float | None:
        """Return the shift in px against the nearest reference; None where it is not to be told."""
        apart = [float(np.abs(image - reference).mean()) for reference in self._small]
        return _shift(image, self._small[int(np.argmin(apart))], self._scale)

    def _shifts_among_references(self) -> list[float] | None:
        shifts = []
        for index, image in enumerate(self._small):
            others = [other for number, other in enumerate(self._small) if number != index]
            if not others:
                continue
            nearest = min(others, key=lambda other: float(np.abs(image - other).mean()))
            shift = _shift(image, nearest, self._scale)
            if shift is None:
                return None
            shifts.append(shift)
        return shifts


def _measure(image: NDArray[np.uint8]) -> dict[str, float]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {
        "focus": sharpness_of(image),
        "brightness": float(grey.mean()),
        "saturation": float((grey > _SATURATED).mean()),
    }


def _bounds(references: list[Mapping[str, float]]) -> dict[str, Bounds]:
    values = {name: np.array([one[name] for one in references]) for name in references[0]}
    focus, bright, share = values["focus"], values["brightness"], values["saturation"]
    range_grey, range_share = float(np.ptp(bright)), float(np.ptp(share))
    margin, more = max(_GREY_LEVELS, range_grey), max(_SATURATED_SHARE, range_share)
    return {
        "focus": Bounds(_FOCUS_SHARE * float(focus.min()), np.inf, float(np.median(focus))),
        "brightness": Bounds(
            float(bright.min()) - margin, float(bright.max()) + margin, float(np.median(bright))
        ),
        "saturation": Bounds(0.0, float(share.max()) + more, float(np.median(share))),
    }


def _small(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return grey values less their mean [128,128], faded out towards the border, which wraps."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = (_SIDE_PX, _SIDE_PX)
    small = cv2.resize(grey, side, interpolation=cv2.INTER_AREA).astype(np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), 1.0)
    window = cv2.createHanningWindow(side, cv2.CV_32F)
    return np.asarray((smooth - smooth.mean()) * window, dtype=np.float32)


def _shift(
    image: NDArray[np.float32], reference: NDArray[np.float32], scale: float
) -> float | None:
    """Return the shift in px of an image of `scale` times the side; None without correlation."""
    norm = float(np.linalg.norm(image) * np.linalg.norm(reference))
    if not norm:
        return None
    spectrum = np.fft.rfft2(reference).conj() * np.fft.rfft2(image)
    correlation = np.fft.irfft2(spectrum, image.shape)
    peak = int(np.argmax(correlation))
    if correlation.flat[peak] < _LEAST_CORRELATION * norm:
        return None
    half = _SIDE_PX // 2
    rows, columns = ((place + half) % _SIDE_PX - half for place in divmod(peak, _SIDE_PX))
    return float(np.hypot(rows, columns)) * scale


def _sentence(name: str, value: float, bounds: Bounds) -> str:
    if name == "focus":
        return (
            f"sharpness is {value:.3g}, the references' {bounds.usual:.3g}; "
            "is the lens clean and in focus?"
        )
    if name == "shift_px":
        return (
            f"the image is shifted by {value:.1f} px, usual is {bounds.high:.1f} at most; "
            "has the camera moved?"
        )
    what = "mean grey value" if name == "brightness" else "share of white pixels"
    return (
        f"{what} is {value:.3g}, usual is {bounds.low:.3g} to {bounds.high:.3g}; "
        "is the light as it was?"
    )
