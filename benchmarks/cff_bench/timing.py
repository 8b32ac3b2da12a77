"""Timing callables side by side, and the percentiles that a report states.

Callables that are compared are timed round-robin in one loop: whatever else the machine does at
that moment hits all of them alike, so their ratios hold where absolute milliseconds do not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cff_runtime.errors import UsageError


@dataclass(frozen=True)
class Summary:
    """Percentiles of repeated timings of one thing.

    Attributes
    ----------
    n : int
        Number of timings.
    p50_ms, p90_ms, p99_ms : float
        Percentiles, linearly interpolated; with n below 100 the last one is close to the maximum.
    mean_ms, min_ms : float
        Mean and smallest timing.
    """

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float

    @property
    def throughput(self) -> float:
        """Calls per second, one after the other: 1000 / p50."""
        return 1000.0 / self.p50_ms


def summarize(values_ms: Sequence[float]) -> Summary:
    """Summarise timings in milliseconds.

    Raises
    ------
    UsageError
        If there is none.
    """
    if not values_ms:
        raise UsageError("`values_ms` must hold at least one timing, got none; measure with n >= 1")
    p50, p90, p99 = (float(value) for value in np.percentile(values_ms, (50, 90, 99)))
    return Summary(
        n=len(values_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(np.mean(values_ms)),
        min_ms=float(min(values_ms)),
    )


def measure_interleaved(
    functions: Mapping[str, Callable[[], object]],
    n: int,
    warmup: int,
    pause_ms: float = 0.0,
) -> dict[str, Summary]:
    """Time several callables round-robin.

    A callable that starts work on a device must wait for it before it returns.

    Parameters
    ----------
    functions : mapping of str to callable
        What to time, in this order in every round.
    n : int
        Timed rounds, at least 1.
    warmup : int
        Rounds before them that are not timed.
    pause_ms : float, default=0.0
        Sleep before each call, outside its timing. Thread pools spin for milliseconds after their
        work is done, on cores that the next callable needs; a pause lets them fall asleep.

    Returns
    -------
    dict of str to Summary
        One per callable, in the order of `functions`.

    Raises
    ------
    UsageError
        If there is nothing to time, or a count or the pause is out of range.
    """
    if not functions:
        raise UsageError("`functions` must hold at least one callable, got none")
    if n < 1 or warmup < 0 or pause_ms < 0:
        raise UsageError(
            "`n` must be at least 1, `warmup` and `pause_ms` at least 0, "
            f"got {n}, {warmup}, {pause_ms}"
        )
    timings_ms: dict[str, list[float]] = {name: [] for name in functions}
    for round_index in range(warmup + n):
        for name, function in functions.items():
            if pause_ms:
                time.sleep(pause_ms / 1e3)
            start_ns = time.perf_counter_ns()
            result = function()
            elapsed_ns = time.perf_counter_ns() - start_ns
            del result  # freed here: otherwise inside the next callable's timing
            if round_index >= warmup:
                timings_ms[name].append(elapsed_ns / 1e6)
    return {name: summarize(values) for name, values in timings_ms.items()}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table: the first column left-aligned, the others right-aligned."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
