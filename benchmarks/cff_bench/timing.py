"""Timing callables side by side, and the percentiles that a report states.

Callables that are compared are timed round-robin in one loop: whatever else the machine does at
that moment hits all of them alike, so their ratios hold where absolute milliseconds do not.

Warm-up is a number of rounds, or lasts until the timings are stable, see `UntilStable`.
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
    p95_ms : float
        Percentile, as above.
    jitter_ms : float
        Mean absolute difference between one timing and the next; 0 for a single one. A slow drift
        does not count, a line that is served unevenly does.
    """

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    p95_ms: float
    jitter_ms: float

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
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values_ms, (50, 90, 95, 99)))
    return Summary(
        n=len(values_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(np.mean(values_ms)),
        min_ms=float(min(values_ms)),
        p95_ms=p95,
        jitter_ms=float(np.mean(np.abs(np.diff(values_ms)))) if len(values_ms) > 1 else 0.0,
    )


@dataclass(frozen=True)
class UntilStable:
    """When warm-up is over.

    After every round the last `2 * window` rounds are looked at. Warm-up is over as soon as, for
    every callable, the median of the later half differs from that of the earlier half by at most
    `tolerance`, or by no more than the halves scatter: twice their larger median absolute
    deviation, divided by the square root of `window`. It ends in any case after `max_rounds`
    rounds or `max_s` seconds, whichever is first, and the samples then say that it was not stable.

    Attributes
    ----------
    window : int
        Rounds in each half, so that warm-up takes at least twice as many.
    tolerance : float
        Of the earlier median.
    max_rounds : int
    max_s : float
    """

    window: int = 5
    tolerance: float = 0.02
    max_rounds: int = 200
    max_s: float = 60.0

    def __post_init__(self) -> None:
        if self.window < 2 or self.max_rounds < 1 or self.tolerance < 0 or self.max_s < 0:
            raise UsageError(
                "`window` must be at least 2, `max_rounds` at least 1, `tolerance` and `max_s` "
                f"at least 0, got {self.window}, {self.max_rounds}, {self.tolerance}, {self.max_s}"
            )

    def is_stable(self, values_ms: Sequence[float]) -> bool:
        """Return whether the latest timings of one callable differ no more from those before."""
        window = self.window
        if len(values_ms) < 2 * window:
            return False
        earlier = np.asarray(values_ms[-2 * window : -window])
        later = np.asarray(values_ms[-window:])
        medians = float(np.median(earlier)), float(np.median(later))
        scatter = max(
            float(np.median(np.abs(half - median)))
            for half, median in zip((earlier, later), medians, strict=True)
        )
        allowed = max(self.tolerance * medians[0], 2 * scatter / window**0.5)
        return abs(medians[1] - medians[0]) <= allowed


@dataclass(frozen=True)
class Samples:
    """Raw timings of one callable.

    Attributes
    ----------
    values_ms : list of float
        In the order measured, warm-up left out.
    warmup_rounds : int
        Rounds before them.
    is_stable : bool or None
        Whether warm-up ended because the timings were stable; None where a number was asked for.
    """

    values_ms: list[float]
    warmup_rounds: int
    is_stable: bool | None

    @property
    def summary(self) -> Summary:
        """Percentiles of the timings."""
        return summarize(self.values_ms)


def measure_interleaved(
    functions: Mapping[str, Callable[[], object]],
    n: int,
    warmup: int | UntilStable,
    pause_ms: float = 0.0,
) -> dict[str, Summary]:
    """Time several callables round-robin and summarise each; arguments as `sample_interleaved`."""
    samples = sample_interleaved(functions, n, warmup, pause_ms)
    return {name: sample.summary for name, sample in samples.items()}


def sample_interleaved(
    functions: Mapping[str, Callable[[], object]],
    n: int,
    warmup: int | UntilStable,
    pause_ms: float = 0.0,
) -> dict[str, Samples]:
    """Time several callables round-robin and keep every timing.

    A callable that starts work on a device must wait for it before it returns.

    Parameters
    ----------
    functions : mapping of str to callable
        What to time, in this order in every round.
    n : int
        Timed rounds, at least 1.
    warmup : int or UntilStable
        Rounds before them that do not count, or the rule that ends them.
    pause_ms : float, default=0.0
        Sleep before each call, outside its timing. Thread pools spin for milliseconds after their
        work is done, on cores that the next callable needs; a pause lets them fall asleep.

    Returns
    -------
    dict of str to Samples
        One per callable, in the order of `functions`.

    Raises
    ------
    UsageError
        If there is nothing to time, or a count or the pause is out of range.
    """
    if not functions:
        raise UsageError("`functions` must hold at least one callable, got none")
    n_warmup = warmup if isinstance(warmup, int) else 0
    if n < 1 or n_warmup < 0 or pause_ms < 0:
        raise UsageError(
            "`n` must be at least 1, `warmup` and `pause_ms` at least 0, "
            f"got {n}, {n_warmup}, {pause_ms}"
        )
    rounds, is_stable = n_warmup, None
    if isinstance(warmup, UntilStable):
        rounds, is_stable = _warm_up(functions, warmup, pause_ms)
    else:
        for _ in range(n_warmup):
            _round_ms(functions, pause_ms)
    timings_ms: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(n):
        for name, elapsed_ms in _round_ms(functions, pause_ms).items():
            timings_ms[name].append(elapsed_ms)
    return {name: Samples(values, rounds, is_stable) for name, values in timings_ms.items()}


def _warm_up(
    functions: Mapping[str, Callable[[], object]], rule: UntilStable, pause_ms: float
) -> tuple[int, bool]:
    """Return the number of rounds it took, and whether the timings were stable at the end."""
    start_ns = time.perf_counter_ns()
    timings_ms: dict[str, list[float]] = {name: [] for name in functions}
    for rounds in range(1, rule.max_rounds + 1):
        for name, elapsed_ms in _round_ms(functions, pause_ms).items():
            timings_ms[name].append(elapsed_ms)
        if all(rule.is_stable(values) for values in timings_ms.values()):
            return rounds, True
        if time.perf_counter_ns() - start_ns >= rule.max_s * 1e9:
            return rounds, False
    return rule.max_rounds, False


def _round_ms(functions: Mapping[str, Callable[[], object]], pause_ms: float) -> dict[str, float]:
    """Call each once and return its milliseconds."""
    elapsed_ms = {}
    for name, function in functions.items():
        if pause_ms:
            time.sleep(pause_ms / 1e3)
        start_ns = time.perf_counter_ns()
        result = function()
        elapsed_ns = time.perf_counter_ns() - start_ns
        del result  # freed here: otherwise inside the next callable's timing
        elapsed_ms[name] = elapsed_ns / 1e6
    return elapsed_ms


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
