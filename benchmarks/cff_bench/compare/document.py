"""A comparison as a report of its own, and how its intervals were made."""

from collections.abc import Sequence

from cff_bench.compare.comparison import Comparison, Verdict
from cff_bench.compare.intervals import N_RESAMPLES, SEED
from cff_bench.report.document import Column, Mark, Plot, PlotSeries, Report, Table

_BLOCKS = (
    "Ratio of medians; 95 % intervals from a bootstrap over blocks of consecutive samples "
    f"({N_RESAMPLES} resamples, seed {SEED}), Student's t."
)
_STARTS = (
    "Ratio of medians, each the geometric mean of the medians of its starts; 95 % intervals from "
    "the scatter of these (where a bootstrap over blocks of consecutive samples gives more, from "
    "that), Student's t. What differs between two starts of one build is in them; the limit leaves "
    "room for what differs between two days."
)
_NOT_IN = (
    "What differs between two starts of one build is not in them; the limit leaves room for it."
)


def method_note(verdicts: Sequence[Verdict]) -> str:
    """Return how the intervals were made, and whether they hold what differs between starts."""
    without = [one.name for one in verdicts if min(one.starts_a, one.starts_b) < 2]
    if len(without) == len(verdicts):
        return f"{_BLOCKS} {_NOT_IN}"
    if not without:
        return _STARTS
    return f"{_STARTS} Of one start alone, so that it is not in them: {', '.join(without)}."


def comparison_report(
    comparison: Comparison,
    command: Sequence[str],
    files: Sequence[str],
    environment: dict[str, object],
) -> Report:
    """Return a comparison as a report of its own."""
    columns = [
        Column("name", "series", "left"),
        Column("unit", "unit", "left"),
        Column("a", "A", spec=".4g"),
        Column("b", "B", spec=".4g"),
        Column("ratio", "B / A", spec=".3f"),
        Column("low", "from", spec=".3f"),
        Column("high", "to", spec=".3f"),
        Column("n", "n"),
        Column("starts", "starts"),
        Column("verdict", "verdict", "left"),
    ]
    rows = [
        {
            "name": verdict.name,
            "unit": verdict.unit,
            "a": verdict.a,
            "b": verdict.b,
            "ratio": verdict.ratio.value,
            "low": verdict.ratio.low,
            "high": verdict.ratio.high,
            "n": f"{verdict.n_a} / {verdict.n_b}",
            "starts": f"{verdict.starts_a} / {verdict.starts_b}",
            "verdict": verdict.sentence,
        }
        for verdict in comparison.verdicts
    ]
    notes = [comparison.sentence, method_note(comparison.verdicts)]
    notes += [f"Differs: {difference}" for difference in comparison.differences]
    if comparison.left_out:
        notes.append(f"Not compared: {', '.join(comparison.left_out)}")
    return Report(
        kind="compare",
        title=f"{files[1]} against {files[0]}",
        command=list(command),
        environment=dict(environment),
        settings={"A": files[0], "B": files[1], "limit": comparison.limit},
        tables=[Table("series", "Medians and their ratio", columns, rows)],
        plots=[_plot(comparison)],
        notes=notes,
        facts={"worse": [verdict.name for verdict in comparison.worse]},
    )


def _plot(comparison: Comparison) -> Plot:
    names = [verdict.name for verdict in comparison.verdicts]
    ratios = [verdict.ratio for verdict in comparison.verdicts]
    series = PlotSeries(
        "B / A",
        list(names),
        [ratio.value for ratio in ratios],
        [ratio.low for ratio in ratios],
        [ratio.high for ratio in ratios],
        style="points",
    )
    marks = [Mark("same", y=1.0), Mark("limit", y=1 + comparison.limit)]
    return Plot(
        "ratios",
        "B / A with 95 % intervals",
        "bar",
        "",
        "B / A",
        series=[series],
        marks=marks,
        spec=".3f",
    )
