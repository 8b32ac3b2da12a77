"""How large a tensor's values get, as a histogram of magnitudes that grows with them."""

import numpy as np
from numpy.typing import NDArray

_N_BINS = 2048
_SHARES = np.linspace(0.1, 1.0, 91)


class Histogram:
    """Magnitudes of a tensor's values over many images, in 2048 bins.

    The bins reach from 0 to a power of two; when a value exceeds it, neighbours are merged.
    """

    def __init__(self) -> None:
        self._counts: NDArray[np.float64] = np.zeros(_N_BINS)
        self._range = 0.0
        self.peak = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the magnitudes of finite values of any shape."""
        magnitudes = np.abs(values.astype(np.float32).ravel())
        self.peak = max(self.peak, float(magnitudes.max(initial=0.0)))
        if self.peak == 0.0:
            return  # zeros are exact in every scale
        if self._range == 0.0:
            self._range = float(2.0 ** np.ceil(np.log2(self.peak)))
        while self.peak > self._range:
            merged = self._counts[::2] + self._counts[1::2]
            self._counts = np.concatenate([merged, np.zeros(_N_BINS // 2)])
            self._range *= 2.0
        self._counts += np.histogram(magnitudes, _N_BINS, (0.0, self._range))[0]

    def best_clip(self, largest: int) -> float:
        """Return the magnitude to clip at, of least squared error in steps of clip / `largest`.

            error(T) = sum of counts below T * (T / largest)^2 / 12
                     + sum of counts above T * (value - T)^2

        over T = 0.10, 0.11 .. 1.00 of the peak. 1.0 where all values were zero.
        """
        if self.peak == 0.0:
            return 1.0
        centres = (np.arange(_N_BINS) + 0.5) * self._range / _N_BINS
        errors = []
        for clip in _SHARES * self.peak:
            inside = centres <= clip
            rounding = self._counts[inside].sum() * (clip / largest) ** 2 / 12.0
            clipping = (self._counts[~inside] * (centres[~inside] - clip) ** 2).sum()
            errors.append(rounding + clipping)
        return float(_SHARES[int(np.argmin(errors))] * self.peak)
