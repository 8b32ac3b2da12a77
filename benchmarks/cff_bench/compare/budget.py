"""Whether a report keeps within a budget: a percentile of the total, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from cff_bench.compare.intervals import Interval, percentile_interval
from cff_bench.report.document import Report, Series, format_cell
from cff_runtime.errors import UsageError

TOTAL = "total"
_UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class BudgetVerdict:
    """A sentence for every total, and whether one of them is over budget with confidence."""

    sentences: tuple[str, ...]
    is_exceeded: bool


def judge_budget(
    reports: Sequence[Report], budget_ms: float, percentile: float = 95.0
) -> BudgetVerdict:
    """Hold the totals of reports against a budget.

    Parameters
    ----------
    reports : sequence of Report
        Series with the role ``total`` and a unit of time are looked at.
    budget_ms : float
    percentile : float, default=95

    Returns
    -------
    BudgetVerdict
        Exceeded where the whole 95 % interval of the percentile lies above the budget.

    Raises
    ------
    UsageError
        If no series is such a total.
    """
    totals = [
        series
        for report in reports
        for series in report.series
        if series.role == TOTAL and series.unit in _UNITS_MS
    ]
    if not totals:
        kinds = ", ".join(dict.fromkeys(report.kind for report in reports)) or "none"
        raise UsageError(
            f"`--budget` needs a report with a total time, got {kinds}; `cff-bench latency` has one"
        )
    judged = [_judge(series, budget_ms, percentile) for series in totals]
    return BudgetVerdict(
        tuple(sentence for sentence, _ in judged), any(is_over for _, is_over in judged)
    )


def _judge(series: Series, budget_ms: float, percentile: float) -> tuple[str, bool]:
    scale = _UNITS_MS[series.unit]
    values_ms = [scale * value for value in series.values]
    found = percentile_interval(values_ms, percentile, starts=series.starts)
    is_over = found.low is not None and found.low > budget_ms
    is_within = found.high is not None and found.high <= budget_ms
    if is_over:
        verdict = f"over the budget of {budget_ms:g} ms"
    elif is_within:
        verdict = f"within the budget of {budget_ms:g} ms"
    else:
        side = "below" if found.value <= budget_ms else "above"
        verdict = (
            f"{side} the budget of {budget_ms:g} ms, but not with confidence; "
            "more rounds (-n) would tell"
        )
    figure = f"p{percentile:g} of `{series.name}` is {found.value:.2f} ms"
    return f"{figure} ({_words(found)}, {_count(series)}): {verdict}", is_over


def _count(series: Series) -> str:
    starts = f" in {len(series.starts)} starts" if len(series.starts) > 1 else ""
    return f"n = {len(series.values)}{starts}"


def _words(found: Interval) -> str:
    low, high = format_cell(found.low, ".2f"), format_cell(found.high, ".2f")
    return f"95 % interval {low} to {high} ms"
