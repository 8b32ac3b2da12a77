"""Timing inspections on this box, with memory banks of several sizes, and the line through them.

One inspection takes

t(r) = fixed + a + b W(r),    W(r) = sum over s of N_s C_s min(r, M_s)

for at most r rows a stage: the bank search is linear in its multiply-adds W. Fixed are the resize,
the encoder and the map. All parts are medians; the tail, by which the wanted percentile lies above,
is that of all timings around the median of their size. Sizes take turns, so that what else the box
does hits all alike, and each search runs after an encoder that has emptied the caches, as in life.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cff_runtime.manifest import Stage
from cff_runtime.profile import Profile
from cff_runtime.result import Result

SHARES = (1.0, 0.5, 0.25)  # of the whole bank's rows
MIN_ROUNDS, MAX_ROUNDS = 3, 400


class Inspects(Protocol):
    """What the planner needs of an `Inspector`."""

    def inspect(self, image: NDArray[np.uint8], profile: Profile) -> Result:
        """Inspect one image [h,w,3], uint8; the result says what each step took."""
        ...


@dataclass(frozen=True)
class Timings:
    """Repeated inspections with one bank, in milliseconds.

    Attributes
    ----------
    n : int
    median_ms, percentile_ms : float
        Of the whole inspection; with few timings a high percentile is the largest of them.
    stages_ms : dict of str to float
        Medians of preprocess, encode, search and finish.
    """

    n: int
    median_ms: float
    percentile_ms: float
    stages_ms: dict[str, float]


@dataclass(frozen=True)
class TimeModel:
    """What an inspection takes by the rows of its bank; see the module.

    Attributes
    ----------
    fixed_ms : float
        Without the search, and with the search's part that does not depend on the rows.
    per_multiply_add_ms : float
        b.
    tail_ms : float
        From the median to the percentile.
    stages : tuple of Stage
    n_full : tuple of int
        M_s, rows of the whole bank.
    """

    fixed_ms: float
    per_multiply_add_ms: float
    tail_ms: float
    stages: tuple[Stage, ...]
    n_full: tuple[int, ...]

    def predict_ms(self, max_rows: int) -> float:
        """Return the percentile of an inspection with at most so many rows a stage."""
        work = multiply_adds(self.stages, self.n_full, max_rows)
        return self.fixed_ms + self.per_multiply_add_ms * work + self.tail_ms


def multiply_adds(stages: Sequence[Stage], n_full: Sequence[int], max_rows: int) -> float:
    """Return W(r) of the module."""
    pairs = zip(stages, n_full, strict=True)
    return float(sum(s.n_tokens * s.width * min(max_rows, rows) for s, rows in pairs))


def thin(profile: Profile, max_rows: int) -> Profile:
    """Return a profile with evenly spaced rows of its banks: for timing, not for verdicts."""
    banks = []
    for bank in profile.banks:
        n_rows = min(max_rows, len(bank))
        banks.append(np.ascontiguousarray(bank[np.arange(n_rows) * len(bank) // n_rows]))
    return replace(profile, banks=tuple(banks))


def time_inspections(
    inspector: Inspects,
    profiles: Sequence[Profile],
    images: Sequence[NDArray[np.uint8]],
    seconds: float,
    warmup: int = 1,
) -> list[list[dict[str, float]]]:
    """Inspect in turns, at least three rounds and until so many seconds were measured.

    Returns
    -------
    list of lists of dict
        For every profile, what the steps of each inspection took.
    """
    taken: list[list[dict[str, float]]] = [[] for _ in profiles]
    spent_ms = 0.0
    for number in range(MAX_ROUNDS + warmup):
        if number >= MIN_ROUNDS + warmup and spent_ms >= 1e3 * seconds:
            break
        for own, profile in zip(taken, profiles, strict=True):
            result = inspector.inspect(images[number % len(images)], profile)
            if number >= warmup:
                own.append(dict(result.stages_ms))
                spent_ms += result.total_ms
    return taken


def summarize(taken: Sequence[dict[str, float]], percentile: float) -> Timings:
    """Summarise inspections with one bank."""
    totals = [sum(steps.values()) for steps in taken]
    return Timings(
        n=len(totals),
        median_ms=float(np.median(totals)),
        percentile_ms=float(np.percentile(totals, percentile, method="higher")),
        stages_ms={name: float(np.median([s[name] for s in taken])) for name in taken[0]},
    )


def fit_time(
    taken: Sequence[Sequence[dict[str, float]]],
    max_rows: Sequence[int],
    stages: Sequence[Stage],
    n_full: Sequence[int],
    percentile: float,
) -> TimeModel:
    """Fit the module's line to inspections with banks of several sizes.

    Parameters
    ----------
    taken : sequence of sequences of dict
        As `time_inspections` gives them, one entry a size.
    max_rows : sequence of int
        Rows a stage of each size.
    stages, n_full
        See `TimeModel`.
    percentile : float
    """
    searches = [float(np.median([steps["search"] for steps in own])) for own in taken]
    work = [multiply_adds(stages, n_full, rows) for rows in max_rows]
    slope, offset = _line(work, searches)
    rest = [sum(steps.values()) - steps["search"] for own in taken for steps in own]
    residuals: list[float] = []
    for own in taken:
        totals = np.array([sum(steps.values()) for steps in own])
        residuals += (totals - np.median(totals)).tolist()
    tail = float(np.percentile(residuals, percentile, method="higher"))
    fixed = float(np.median(rest)) + offset
    return TimeModel(fixed, slope, max(tail, 0.0), tuple(stages), tuple(n_full))


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares, with neither a negative slope nor a negative offset, which noise can give."""
    if len(set(x)) < 2:
        return 0.0, float(np.mean(y))
    slope, offset = np.polyfit(x, y, 1)
    if offset < 0.0:
        return float(np.dot(x, y) / np.dot(x, x)), 0.0
    return (float(slope), float(offset)) if slope > 0.0 else (0.0, float(np.mean(y)))


def largest_rows(fits: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the largest number of rows that fits, None if the least does not; by bisection."""
    if not fits(least):
        return None
    low, high = least, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
