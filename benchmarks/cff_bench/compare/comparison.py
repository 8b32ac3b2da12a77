"""Two reports of one command: every series that both have, with an interval and a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cff_bench.compare.differences import machine_differences, run_differences
from cff_bench.compare.intervals import (
    CONFIDENCE,
    Interval,
    MedianScatter,
    median_scatter,
    ratio_interval,
)
from cff_bench.report.document import Report, Series
from cff_runtime.errors import UsageError

FEWEST = 8
# what takes less is told but not judged: a call of nothing differs by a quarter from one start of
# a process to the next
SHORTEST_MS = 0.05
RATIO = "ratio of "  # before the unit of series whose ratios are compared
_TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Verdict:
    """One series in two reports.

    Attributes
    ----------
    name, unit : str
    n_a, n_b : int
    a, b : float
        Medians, or ratios to a reference.
    ratio : Interval
        B / A, 95 %.
    is_worse : bool
        Whether it is slower by more than the limit, with 95 % confidence over all series together.
    sentence : str
    starts_a, starts_b : int
        Starts of a process that the samples came from.
    """

    name: str
    unit: str
    n_a: int
    n_b: int
    a: float
    b: float
    ratio: Interval
    is_worse: bool
    sentence: str
    starts_a: int = 1
    starts_b: int = 1


@dataclass(frozen=True)
class Comparison:
    """All verdicts, what differs besides, and what could not be compared."""

    verdicts: tuple[Verdict, ...]
    differences: tuple[str, ...]
    left_out: tuple[str, ...]
    limit: float

    @property
    def worse(self) -> list[Verdict]:
        """Series that are slower by more than the limit, with confidence."""
        return [verdict for verdict in self.verdicts if verdict.is_worse]

    @property
    def sentence(self) -> str:
        """The verdict over everything."""
        if self.worse:
            worst = max(self.worse, key=lambda verdict: _cost(verdict.unit, verdict.ratio).value)
            return (
                f"{len(self.worse)} of {len(self.verdicts)} slower by more than "
                f"{100 * self.limit:g} %, most of all `{worst.name}`: {worst.sentence}"
            )
        times = [verdict for verdict in self.verdicts if _is_speed(verdict.unit)]
        return f"none of {len(times)} is slower by more than {100 * self.limit:g} % with confidence"


def compare_reports(
    a: Sequence[Report], b: Sequence[Report], limit: float, anyway: bool = False
) -> Comparison:
    """Compare the series that two files share.

    Raises
    ------
    UsageError
        If they have no kind or no series in common, or come from different machines and `anyway`
        is not set.
    """
    pairs = _pair_reports(a, b, anyway)
    differences: list[str] = []
    shared: list[tuple[Series, Series]] = []
    left_out: list[str] = []
    for first, second in pairs:
        machines = machine_differences(first, second)
        if machines and not anyway:
            raise UsageError(
                f"both reports must come from one machine, got {'; '.join(machines)}; measure "
                "again, or compare ratios with --baseline, or add --anyway"
            )
        differences += [*machines, *run_differences(first, second)]
        matched, unmatched = _match(first, second)
        shared += matched
        left_out += unmatched
    if not shared:
        raise UsageError(
            "both reports must have series in common, got none with the same name and unit and "
            f"{FEWEST} samples or more; measure both with the same command and -n"
        )
    compared = [
        (
            x.name,
            x.unit,
            len(x.values),
            len(y.values),
            median_scatter(x.values, x.starts),
            median_scatter(y.values, y.starts),
        )
        for x, y in shared
    ]
    n_speeds = sum(_is_speed(unit) for _, unit, *_ in compared)
    verdicts = tuple(judge(*entry, limit=limit, n_judged=n_speeds) for entry in compared)
    return Comparison(verdicts, tuple(dict.fromkeys(differences)), tuple(left_out), limit)


def judge(
    name: str,
    unit: str,
    n_a: int,
    n_b: int,
    a: MedianScatter,
    b: MedianScatter,
    limit: float,
    n_judged: int,
) -> Verdict:
    """Return the verdict over one series; `n_judged` series share the risk of a false alarm."""
    ratio = ratio_interval(a, b)
    careful = _cost(unit, ratio_interval(a, b, 1 - (1 - CONFIDENCE) / max(n_judged, 1)))
    is_judged = _is_speed(unit) and not is_short(unit, math.exp(max(a.log_median, b.log_median)))
    is_worse = is_judged and careful.low is not None and careful.low > 1 + limit
    sentence = describe(unit, ratio)
    if _is_speed(unit) and not is_judged:
        sentence += f" (below {SHORTEST_MS} ms, not judged)"
    return Verdict(
        name,
        unit,
        n_a,
        n_b,
        float(np.exp(a.log_median)),
        float(np.exp(b.log_median)),
        ratio,
        is_worse,
        sentence,
        a.n_starts,
        b.n_starts,
    )


def describe(unit: str, ratio: Interval) -> str:
    """Return a ratio as a sentence, such as ``slower by 4.0 % +- 1.0 %``."""
    found = _cost(unit, ratio)
    low, high = found.low or 0.0, found.high or 0.0
    if low <= 1 <= high:
        return f"no difference seen, within +-{100 * max(1 - low, high - 1):.1f} %"
    more, less = ("slower", "faster") if _is_speed(unit) else ("larger", "smaller")
    word = more if found.value > 1 else less
    return f"{word} by {100 * abs(found.value - 1):.1f} % +- {100 * (high - low) / 2:.1f} %"


def _pair_reports(
    a: Sequence[Report], b: Sequence[Report], anyway: bool
) -> list[tuple[Report, Report]]:
    kinds = {report.kind: report for report in b}
    pairs = [(report, kinds[report.kind]) for report in a if report.kind in kinds]
    if not pairs and anyway:
        pairs = [(first, second) for first in a for second in b]
    if not pairs:
        first, second = (", ".join(dict.fromkeys(r.kind for r in found)) for found in (a, b))
        raise UsageError(
            f"both reports must be of one kind, got {first} and {second}; "
            "measure both with the same command, or add --anyway"
        )
    return pairs


def _match(a: Report, b: Report) -> tuple[list[tuple[Series, Series]], list[str]]:
    """Return series with the same name and unit, and why others are not compared."""
    others = {series.name: series for series in b.series}
    matched, left_out = [], []
    for series in a.series:
        other = others.pop(series.name, None)
        if other is None:
            left_out.append(f"{series.name} (only in A)")
        elif other.unit != series.unit:
            left_out.append(f"{series.name} ({series.unit} and {other.unit})")
        elif min(len(series.values), len(other.values)) < FEWEST:
            left_out.append(f"{series.name} (fewer than {FEWEST} samples)")
        elif min(min(series.values), min(other.values)) <= 0:
            left_out.append(f"{series.name} (holds values of 0 or less)")
        else:
            matched.append((series, other))
    return matched, left_out + [f"{name} (only in B)" for name in others]


def _is_speed(unit: str) -> bool:
    return unit.removeprefix(RATIO) in _TIMES or unit.endswith("/s")


def is_short(unit: str, median: float) -> bool:
    """Return whether a median is a time too short to judge."""
    return unit in _TIMES and median * _TIMES[unit] < SHORTEST_MS


def _cost(unit: str, ratio: Interval) -> Interval:
    """Return the ratio of costs: of times as it is, of things per second its inverse."""
    if not unit.endswith("/s"):
        return ratio
    low, high = ratio.low, ratio.high
    return Interval(
        1 / ratio.value, None if high is None else 1 / high, None if low is None else 1 / low
    )
