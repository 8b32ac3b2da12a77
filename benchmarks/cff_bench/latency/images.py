"""The images that are inspected, and where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cff_runtime.imaging import load_image

NOISE_SIDE_PX = 1024
NOISE_SEED = 0


@dataclass(frozen=True)
class ImageSource:
    """An image, and how to get it.

    Attributes
    ----------
    name : str
        In words.
    path : Path or None
        None for the noise, which needs no decoding.
    read : callable
        Returns the image [h,w,3], uint8.
    """

    name: str
    path: Path | None
    read: Callable[[], NDArray[np.uint8]]


def image_sources(paths: Sequence[Path] | None) -> list[ImageSource]:
    """Return a source per file, or one of noise if there is no file."""
    if paths:
        return [_file(path) for path in paths]
    noise = noise_image()
    name = f"seeded noise (seed {NOISE_SEED}) in memory, nothing to decode"
    return [ImageSource(name, None, lambda: noise)]


def noise_image() -> NDArray[np.uint8]:
    """Return a seeded noise image [1024,1024,3], uint8."""
    shape = (NOISE_SIDE_PX, NOISE_SIDE_PX, 3)
    return np.random.default_rng(NOISE_SEED).integers(0, 256, shape, dtype=np.uint8)


def _file(path: Path) -> ImageSource:
    return ImageSource(str(path), path, lambda: load_image(path))
