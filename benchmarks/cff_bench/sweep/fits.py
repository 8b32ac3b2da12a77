"""Laws that times should follow, fitted to medians, with intervals and what is left over.

A line t = a + b x is fitted by least squares of relative residuals (weights 1 / t): noise grows
with the time, and a small time counts as much as a large one. Amdahl's law t = s + p / n is the
same line in x = 1 / n. The interval resamples rounds with all their times together, because what
the machine does in a round hits every point of it; it tells the noise of a and b, and the residuals
tell whether the law holds at all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import UsageError

LEVEL = 0.95
N_RESAMPLES = 1000
MAX_RESIDUAL = 0.1  # a law that misses a point by more is told not to fit
MIN_POINTS = 3  # two points always lie on a line


@dataclass(frozen=True)
class LineFit:
    """A fitted line t = intercept + slope x.

    Attributes
    ----------
    x, t_ms : tuple of float
        Points: positions, and medians over the rounds.
    intercept, slope : float
    intercept_interval, slope_interval : tuple of float or None
        95 % intervals over resampled rounds; None with a single round.
    residuals : tuple of float
        (t - line) / t of every point.
    t_intervals : tuple of pairs of float, or None
        95 % interval of every median; None with a single round.
    r2 : float or None
        Share of the points' variance that the line explains; None where they do not differ.
    n : int
        Rounds.
    """

    x: tuple[float, ...]
    t_ms: tuple[float, ...]
    intercept: float
    slope: float
    intercept_interval: tuple[float, float] | None
    slope_interval: tuple[float, float] | None
    residuals: tuple[float, ...]
    t_intervals: tuple[tuple[float, float], ...] | None
    r2: float | None
    n: int

    @property
    def largest_residual(self) -> float | None:
        """The largest relative residual; None with two points, which leave none."""
        if len(self.x) < MIN_POINTS:
            return None
        return max(abs(residual) for residual in self.residuals)

    @property
    def worst(self) -> int:
        """Index of the point that the line misses by most."""
        return int(np.argmax(np.abs(self.residuals)))

    @property
    def fits(self) -> bool | None:
        """Whether no point is missed by more than 10 %.

        None where that cannot be told: with two points, or where the line lies within the interval
        of the median that it misses by most, so that noise alone may be the reason.
        """
        worst = self.largest_residual
        if worst is None:
            return None
        if worst <= MAX_RESIDUAL:
            return True
        if self.t_intervals is None:
            return False
        low, high = self.t_intervals[self.worst]
        return None if low <= self.at(self.x[self.worst]) <= high else False

    def at(self, x: float) -> float:
        """Return the line's time at x."""
        return self.intercept + self.slope * x

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return {**asdict(self), "largest_residual": self.largest_residual, "fits": self.fits}


def fit_line(x: Sequence[float], rounds_ms: Sequence[Sequence[float]]) -> LineFit:
    """Fit t = a + b x.

    Parameters
    ----------
    x : sequence of P floats
        Positions, at least two different ones.
    rounds_ms : sequence of n sequences of P floats
        Times above 0, a row per round.

    Raises
    ------
    UsageError
        If the shapes do not fit, a time is not above 0, or all positions are the same.
    """
    places = np.asarray(x, np.float64)
    times = np.asarray(rounds_ms, np.float64)
    if times.ndim != 2 or len(times) < 1 or times.shape[1:] != places.shape:
        raise UsageError(f"`rounds_ms` must be rounds of {len(places)} times, got {times.shape}")
    if len(set(places.tolist())) < 2 or not (np.isfinite(times) & (times > 0)).all():
        raise UsageError("a line must have two different `x` and times above 0; measure more")
    medians = np.median(times, axis=0)
    intercept, slope = _least_squares(places, medians[None])[0]
    line = intercept + slope * places
    spread = float(((medians - medians.mean()) ** 2).sum())
    noise = _noise(places, times)
    return LineFit(
        x=tuple(places.tolist()),
        t_ms=tuple(medians.tolist()),
        intercept=float(intercept),
        slope=float(slope),
        intercept_interval=None if noise is None else noise[0],
        slope_interval=None if noise is None else noise[1],
        residuals=tuple(((medians - line) / medians).tolist()),
        t_intervals=None if noise is None else tuple(noise[2:]),
        r2=1 - float(((medians - line) ** 2).sum()) / spread if spread > 0 else None,
        n=len(times),
    )


def fit_amdahl(threads: Sequence[int], rounds_ms: Sequence[Sequence[float]]) -> LineFit:
    """Fit t = s + p / n: the intercept is the serial time s, the slope the parallel time p.

    Raises
    ------
    UsageError
        As `fit_line`, or if a number of threads is below 1.
    """
    if any(n < 1 for n in threads):
        raise UsageError(f"`threads` must be 1 or more, got {list(threads)}")
    return fit_line([1.0 / n for n in threads], rounds_ms)


def serial_share(fit: LineFit) -> float:
    """Return s / (s + p) of a fit of Amdahl's law: the share of one thread's time."""
    return fit.intercept / (fit.intercept + fit.slope)


def verdict(fit: LineFit, what: str, places: Sequence[str]) -> str:
    """Return one sentence: whether the law holds, and where it does not.

    Parameters
    ----------
    fit : LineFit
    what : str
        The law, such as ``the line``.
    places : sequence of str
        What every point is called, such as ``K = 4``.
    """
    worst = fit.largest_residual
    if worst is None:
        return "two points lie on any line, so nothing is left to check it by"
    index = fit.worst
    if worst <= MAX_RESIDUAL:
        return f"{what} holds within {worst:.1%} ({places[index]})"
    side = "more" if fit.residuals[index] > 0 else "less"
    share = abs(fit.t_ms[index] / fit.at(fit.x[index]) - 1)
    missed = f"at {places[index]} it takes {share:.0%} {side} than fitted"
    if fit.fits is None:
        return f"{what} cannot be told from noise: {missed}, and the median is no surer than that"
    return f"{what} does not hold: {missed}, so nothing between or beyond the points may be read"


def _least_squares(x: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intercept and slope [R,2] of lines through times [R,P], weighted with 1 / t."""
    weights = 1 / times**2
    total = weights.sum(axis=1, keepdims=True)
    mean_x = (weights * x).sum(axis=1, keepdims=True) / total
    mean_t = (weights * times).sum(axis=1, keepdims=True) / total
    slope = (weights * (x - mean_x) * (times - mean_t)).sum(axis=1)
    slope /= (weights * (x - mean_x) ** 2).sum(axis=1)
    return np.stack([mean_t[:, 0] - slope * mean_x[:, 0], slope], axis=1)


def _noise(x: NDArray[np.float64], times: NDArray[np.float64]) -> list[tuple[float, float]] | None:
    """Return the intervals of intercept, slope and of every point's median."""
    if len(times) < 2:
        return None
    picks = np.random.default_rng(0).integers(0, len(times), (N_RESAMPLES, len(times)))
    medians = np.median(times[picks], axis=1)
    resampled = np.concatenate([_least_squares(x, medians), medians], axis=1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(resampled, (tail, 100 - tail), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
