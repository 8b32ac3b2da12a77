"""Scales of a plot: where a value lies in pixels, and which values carry a tick."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))
_FROM_ZERO = 0.5  # an axis starts at 0 where the smallest value is below this share of the largest


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic axis.

    Attributes
    ----------
    low, high : float
        Ends in values.
    start_px, end_px : float
        Where they lie; `end_px` may be the smaller.
    is_log : bool
    """

    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; a logarithmic axis has one for positive values only."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start_px + (value - low) / (high - low) * (self.end_px - self.start_px)

    def has(self, value: float | None) -> bool:
        """Return whether a value can be drawn."""
        return value is not None and math.isfinite(value) and (value > 0 or not self.is_log)

    def ticks(self, spacing_px: float) -> list[float]:
        """Return round values, not closer than `spacing_px` on average."""
        n_most = max(2, int(abs(self.end_px - self.start_px) / spacing_px))
        return _ticks(self.low, self.high, n_most, self.is_log)


def fit_scale(
    values: Iterable[float | None],
    start_px: float,
    end_px: float,
    is_log: bool = False,
    from_zero: bool | None = None,
) -> Scale:
    """Return a scale that holds all values, its ends a little beyond them.

    Parameters
    ----------
    values : iterable of float or None
        What cannot be drawn is passed over.
    start_px, end_px : float
    is_log : bool
    from_zero : bool, optional
        Whether a straight axis begins at 0; decided by the values if None.
    """
    kept = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not is_log)]
    if not kept:
        kept = [1.0, 10.0] if is_log else [0.0, 1.0]
    low, high = min(kept), max(kept)
    if is_log:
        margin = max((high / low) ** 0.04, 1.05)
        return Scale(low / margin, high * margin, start_px, end_px, True)
    if from_zero is None:
        from_zero = low >= 0 and low < _FROM_ZERO * high
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    low = low if from_zero and low == 0 else low - margin
    high = high if from_zero and high == 0 else high + margin
    return Scale(low, high, start_px, end_px)


def format_tick(value: float, ticks: Sequence[float]) -> str:
    """Return a tick with as many decimals as tell it from its neighbours; thousands as k, M, G."""
    if value == 0:
        return "0"
    largest = max(abs(tick) for tick in ticks)
    if abs(value) < 1e-3 or (largest < 1e-3):
        return f"{value:.2g}"
    for size, letter in _SI:
        if abs(value) >= size:
            return f"{value / size if letter != 'k' else value / 1e3:.4g}{letter}"
    return f"{value:.4g}"


def _ticks(low: float, high: float, n_most: int, is_log: bool) -> list[float]:
    if not is_log:
        return _straight_ticks(low, high, n_most)
    if high / low < 4:
        return [tick for tick in _straight_ticks(low, high, n_most) if tick > 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**k for k in decades for d in digits]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= n_most:
            return found
    step = math.ceil(len(found) / n_most)
    return found[::step]


def _straight_ticks(low: float, high: float, n_most: int) -> list[float]:
    size = 10.0 ** math.floor(math.log10((high - low) / n_most))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (size * m) <= n_most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
