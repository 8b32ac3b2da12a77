"""Calibration images for int8: a few normal images make a set.

Nobody with four good parts has the 500 images that quantisation tools ask for; a handful is enough
(`cff_export.precision.int8_qdq` has the figures). What is missing up to `n` is made of what is
there: flips, rotations of at most 5 degrees, crops of at least 80 % of a side, gain and gamma of
0.8 to 1.25. A rotated image is cropped to what the original shows, so no pixel is invented. Same
sources, count and seed: the same images, whose hash goes into the manifest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import UsageError
from cff_runtime.imaging import load_image, require_image
from cff_runtime.preprocessing import Preprocessing

DEFAULT_N_IMAGES = 32
_MAX_DEGREES = 5.0
_MIN_CROP = 0.8
_MAX_CHANGE = 1.25


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Images and where they come from.

    Attributes
    ----------
    images : tuple of ndarrays of shape (H, W, 3), uint8
        Preprocessed; the originals first.
    n_originals : int
    sha256 : str
        Over all images.
    """

    images: tuple[NDArray[np.uint8], ...]
    n_originals: int
    sha256: str

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "n_images": len(self.images),
            "n_augmented": len(self.images) - self.n_originals,
            "sha256": self.sha256,
        }


def calibration_images(
    sources: Sequence[Path | NDArray[np.uint8]],
    preprocessing: Preprocessing,
    n: int = DEFAULT_N_IMAGES,
    seed: int = 0,
) -> CalibrationSet:
    """Choose or make `n` calibration images.

    Parameters
    ----------
    sources : sequence of Path, or of ndarray of shape (h, w, 3), uint8
        Images of normal parts.
    preprocessing : Preprocessing
        Of the bundle.
    n : int
        Of images to return; more sources than that are drawn from at random.
    seed : int

    Raises
    ------
    UsageError
        If there is no source, or `n` is below 1.
    ImageError
        If an image cannot be read or used.
    """
    if n < 1:
        raise UsageError(f"`n` must be at least 1 calibration image, got {n}")
    if not sources:
        raise UsageError("`sources` must name images of normal parts, got none")
    rng = np.random.default_rng(seed)
    chosen = [sources[index] for index in rng.permutation(len(sources))[:n]]
    originals = [_load(source) for source in chosen]
    images = [preprocessing(image) for image in originals]
    for index in range(n - len(originals)):
        images.append(preprocessing(_vary(originals[index % len(originals)], rng)))
    return CalibrationSet(tuple(images), len(originals), images_sha256(images))


def images_sha256(images: Sequence[NDArray[np.uint8]]) -> str:
    """Return the hex SHA-256 over the shapes and values of images."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _load(source: Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(source, np.ndarray):
        require_image(source)
        return source
    return load_image(source)


def _vary(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image flipped, rotated, cropped and lit in another way."""
    degrees = float(rng.uniform(-_MAX_DEGREES, _MAX_DEGREES))
    varied = _cropped(_rotated(image, degrees), rng)
    for axis in (0, 1):
        if rng.random() < 0.5:
            varied = np.flip(varied, axis)
    gain, gamma = np.exp(rng.uniform(-1.0, 1.0, 2) * np.log(_MAX_CHANGE))
    grey = 255.0 * gain * (np.arange(256) / 255.0) ** gamma
    table = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(table[varied])


def _rotated(image: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Rotate about the centre and keep the largest part of the same shape that shows the image.

    A rectangle of ratio r = long / short, turned by a within itself, must shrink by
    1 / (cos a + r sin a).
    """
    height, width = image.shape[:2]
    motion = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
    turned = cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_LINEAR)
    angle = np.deg2rad(abs(degrees))
    ratio = max(height, width) / min(height, width)
    share = 1.0 / (np.cos(angle) + ratio * np.sin(angle))
    # one pixel less on every side: interpolation reads neighbours
    y = int(np.ceil((1.0 - share) * height / 2)) + 1
    x = int(np.ceil((1.0 - share) * width / 2)) + 1
    inside = turned[y : height - y, x : width - x]
    return np.asarray(inside, np.uint8) if min(inside.shape[:2]) >= 16 else image


def _cropped(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    shares = rng.uniform(_MIN_CROP, 1.0, 2)
    sides = [max(16, round(side * share)) for side, share in zip(image.shape, shares, strict=False)]
    y, x = (int(rng.integers(0, image.shape[axis] - sides[axis] + 1)) for axis in (0, 1))
    return image[y : y + sides[0], x : x + sides[1]]
