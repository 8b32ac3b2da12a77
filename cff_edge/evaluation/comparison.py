"""Paired comparison of two methods on the cells that both have."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cff_edge.evaluation.cells import CellResult
from cff_edge.evaluation.not_run import NotRun
from cff_edge.metrics import BOOTSTRAP_METRICS, Difference, paired_difference
from cff_runtime.errors import UsageError


@dataclass(frozen=True)
class Comparison:
    """How much better method `a` is than `b` with K references, in one metric.

    Attributes
    ----------
    a, b : str
        Methods.
    k : int
    metric : str
    n_cells : int
        Cells of each method.
    difference : Difference
        a - b, fractions.
    """

    a: str
    b: str
    k: int
    metric: str
    n_cells: int
    difference: Difference

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, the difference's among them."""
        fields = asdict(self)
        return {**fields, **fields.pop("difference")}


def compare(
    results: Sequence[CellResult],
    a: str,
    b: str,
    not_run: Sequence[NotRun] = (),
    metrics: Sequence[str] = BOOTSTRAP_METRICS,
) -> list[Comparison]:
    """Compare two methods for every K and metric, on the same products, draws and images.

    Parameters
    ----------
    results : sequence of CellResult
    a, b : str
        Methods.
    not_run : sequence of NotRun
        Every K at which one of the two did not run on some data set is left out.
    metrics : sequence of str
        Of `cff_edge.metrics.BOOTSTRAP_METRICS`.

    Returns
    -------
    list of Comparison
        None only if the methods could not run at any K.

    Raises
    ------
    UsageError
        If there is no K that both have, or their cells differ.
    """
    comparisons = []
    left_out = {entry.k for entry in not_run if entry.method in (a, b)}
    for k in sorted({result.k for result in results} - left_out):
        of_a, of_b = ([r.evidence for r in results if (r.method, r.k) == (m, k)] for m in (a, b))
        if not of_a or not of_b:
            continue  # zero-shot, which only one of them can do
        comparisons += [
            Comparison(a, b, k, metric, len(of_a), paired_difference(of_a, of_b, metric))
            for metric in metrics
        ]
    if not comparisons and not left_out:
        raise UsageError(f"`--compare` must name methods with a common K, {a} and {b} have none")
    return comparisons


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Return a table in hundredths: difference, its 95 % interval and p-value."""
    first = comparisons[0]
    lines = [
        f"{first.a} minus {first.b}, in hundredths, with the 95 % interval over draws and images:",
        f"{'K':>2}  {'metric':14} {'difference':>10}   {'interval':15} {'p':>6}",
    ]
    for row in comparisons:
        d = row.difference
        interval = f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"
        lines.append(
            f"{row.k:2}  {row.metric:14} {100 * d.mean:+10.1f}   {interval:15} {d.p_value:6.3f}"
        )
    return "\n".join(lines)
