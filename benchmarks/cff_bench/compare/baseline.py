"""A baseline for continuous integration: ratios within one run, never absolute times.

A machine of a farm is slower today than yesterday, and so is everything on it. What stays is how
long one thing takes beside another that was measured in the same rounds. A baseline therefore holds
each series over a reference series, with the scatter of that ratio, and a report is held against it
by the ratio of ratios.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cff_bench.compare.comparison import FEWEST, RATIO, Comparison, is_short, judge
from cff_bench.compare.intervals import (
    MedianScatter,
    median_scatter,
    paired_ratio_scatter,
    ratio_interval,
)
from cff_bench.report.document import Report, Series
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write, read_limited

SCHEMA_VERSION = 1
REFERENCE = "reference"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class BaselineRatio:
    """One series over its reference.

    Attributes
    ----------
    kind : str
        Of the report.
    name, reference : str
        Of the series.
    ratio, low, high : float
        Ratio of medians and its 95 % interval.
    log_error, freedom : float
        Scatter of the log of the ratio, what a comparison needs.
    n : int
    n_starts : int
        Starts of a process that the samples came from.
    """

    kind: str
    name: str
    reference: str
    ratio: float
    low: float
    high: float
    log_error: float
    freedom: float
    n: int
    n_starts: int = 1


def make_baseline(reports: Sequence[Report], reference: str | None = None) -> list[BaselineRatio]:
    """Return the ratios of reports.

    Parameters
    ----------
    reports : sequence of Report
    reference : str, optional
        Name of the series to take ratios against; the default is, for each series, the one of its
        group with the role ``reference``, else that of its report.

    Raises
    ------
    UsageError
        If there is no reference, or nothing to hold against it.
    """
    ratios = []
    for report in reports:
        for series in report.series:
            base = _reference_of(report, series, reference)
            if base is not None and base.name != series.name:
                ratios.append(_ratio(report.kind, base, series))
    if not ratios:
        names = ", ".join(series.name for report in reports for series in report.series) or "none"
        raise UsageError(
            f"a baseline needs a reference series and others of {FEWEST} samples or more beside "
            f"it, got {names}; name one with --reference"
        )
    return ratios


def compare_to_baseline(
    baseline: Sequence[BaselineRatio], reports: Sequence[Report], limit: float
) -> Comparison:
    """Hold the ratios of reports against a baseline.

    Raises
    ------
    UsageError
        If they have no ratio in common.
    """
    by_kind = {report.kind: report for report in reports}
    entries, left_out = [], []
    for old in baseline:
        report = by_kind.get(old.kind)
        found = {series.name: series for series in report.series} if report else {}
        if old.name not in found or old.reference not in found:
            left_out.append(f"{old.name} / {old.reference} (not in the report)")
            continue
        base, series = found[old.reference], found[old.name]
        if not _are_usable(base, series):
            left_out.append(
                f"{old.name} / {old.reference} (fewer than {FEWEST} samples, or too short)"
            )
            continue
        new = _scatter(base, series)
        entries.append((old, new, series.unit, len(series.values)))
    if not entries:
        raise UsageError(
            "report and baseline must have ratios in common, got none; write it anew with "
            "--write-baseline"
        )
    verdicts = tuple(
        judge(
            f"{old.name} / {old.reference}",
            RATIO + unit,
            old.n,
            n,
            MedianScatter(math.log(old.ratio), old.log_error, old.freedom, old.n_starts),
            new,
            limit=limit,
            n_judged=len(entries),
        )
        for old, new, unit, n in entries
    )
    return Comparison(verdicts, (), tuple(left_out), limit)


def save_baseline(path: Path, ratios: Sequence[BaselineRatio], command: Sequence[str]) -> None:
    """Write a baseline as JSON, to be committed."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "command": list(command),
        "ratios": [asdict(ratio) for ratio in ratios],
    }
    atomic_write(path, (json.dumps(data, indent=2) + "\n").encode())


def load_baseline(path: Path) -> list[BaselineRatio]:
    """Return the ratios of a baseline.

    Raises
    ------
    UsageError
        If it cannot be read or is none.
    """
    try:
        data = json.loads(read_limited(path, _MAX_BYTES))
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"it must have `schema_version` {SCHEMA_VERSION}")
        return [_checked(BaselineRatio(**entry)) for entry in data["ratios"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"`{path}` must be a baseline, got: {error}; write it with --write-baseline"
        ) from error


def _checked(ratio: BaselineRatio) -> BaselineRatio:
    numbers: list[Any] = [ratio.ratio, ratio.low, ratio.high, ratio.log_error, ratio.freedom]
    if not all(isinstance(value, (int, float)) and value >= 0 for value in numbers):
        raise ValueError(f"the figures of `{ratio.name}` must be numbers of 0 or more")
    if ratio.ratio <= 0:
        raise ValueError(f"the ratio of `{ratio.name}` must be positive")
    return ratio


def _reference_of(report: Report, series: Series, name: str | None) -> Series | None:
    """Return the usable reference of a series, or None."""
    candidates = [
        other
        for other in report.series
        if (other.name == name if name is not None else other.role == REFERENCE)
    ]
    near = [other for other in candidates if other.group == series.group]
    found = next(iter(near or candidates), None)
    return found if found is not None and _are_usable(found, series) else None


def _are_usable(base: Series, series: Series) -> bool:
    return (
        base.unit == series.unit
        and min(len(base.values), len(series.values)) >= FEWEST
        and min(min(base.values), min(series.values)) > 0
        and not any(is_short(part.unit, statistics.median(part.values)) for part in (base, series))
    )


def _ratio(kind: str, base: Series, series: Series) -> BaselineRatio:
    scatter = _scatter(base, series)
    interval = ratio_interval(MedianScatter(0.0, 0.0, 1.0), scatter)
    return BaselineRatio(
        kind,
        series.name,
        base.name,
        interval.value,
        interval.low or 0.0,
        interval.high or 0.0,
        scatter.error,
        scatter.freedom,
        len(series.values),
        scatter.n_starts,
    )


def _scatter(base: Series, series: Series) -> MedianScatter:
    """Return the log ratio: in rounds where both were measured side by side, else apart."""
    if base.group == series.group and len(base.values) == len(series.values):
        starts = base.starts if base.starts == series.starts else []
        return paired_ratio_scatter(base.values, series.values, starts)
    first, second = (median_scatter(part.values, part.starts) for part in (base, series))
    error = (first.error**2 + second.error**2) ** 0.5
    freedom = min(first.freedom, second.freedom)
    n_starts = min(first.n_starts, second.n_starts)
    return MedianScatter(second.log_median - first.log_median, error, freedom, n_starts)
