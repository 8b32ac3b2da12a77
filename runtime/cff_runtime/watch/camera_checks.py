"""Has the camera failed? Images that are black, white, or the same again and again."""

import time

import numpy as np
from numpy.typing import NDArray

from cff_runtime.watch.config import SourceConfig

_BLACK, _WHITE = 16, 239  # grey levels that 99 % of the pixels must be on the other side of
_N_SAMPLES = 40_000


def blankness(image: NDArray[np.uint8]) -> str | None:
    """Return ``black`` or ``white`` where 99 % of an image [h,w,3] are, else None."""
    step = max(1, int((image.shape[0] * image.shape[1] / _N_SAMPLES) ** 0.5))
    values = image[::step, ::step]
    if np.count_nonzero(values >= _BLACK) <= 0.01 * values.size:
        return "black"
    if np.count_nonzero(values <= _WHITE) <= 0.01 * values.size:
        return "white"
    return None


def blank_references(references: NDArray[np.uint8]) -> frozenset[str]:
    """Return what good parts look like by themselves and cannot be a sign of a failed camera."""
    return frozenset(kind for kind in map(blankness, references) if kind is not None)


class FrozenCheck:
    """Notices a camera that gives one frame again and again; the noise of a sensor never does."""

    def __init__(self, config: SourceConfig) -> None:
        self._least_frames = config.frozen_frames
        self._least_s = config.frozen_ms / 1000
        self._last: NDArray[np.uint8] | None = None
        self._n_equal = 0
        self._since = 0.0

    def __call__(self, image: NDArray[np.uint8]) -> str | None:
        """Return a sentence while the camera is frozen, else None."""
        now = time.monotonic()
        last, self._last = self._last, image
        if not self._least_frames:
            return None
        if last is None or not np.array_equal(last, image):
            self._n_equal, self._since = 1, now
            return None
        self._n_equal += 1
        if self._n_equal < self._least_frames or now - self._since < self._least_s:
            return None
        return "the camera is frozen, its frames are equal to the last bit"

    def reset(self) -> None:
        """Forget the last frame, as after opening the camera again."""
        self._last = None
