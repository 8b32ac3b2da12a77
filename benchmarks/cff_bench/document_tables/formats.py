"""Figures and tables in Markdown."""

from collections.abc import Sequence
from typing import Any

from cff_bench.report.markdown import format_markdown_table
from cff_bench.report.reading import report_from_dict


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def or_dash(value: float | None, spec: str) -> str:
    """Return a formatted number, or a dash."""
    return "–" if value is None else format(value, spec)


def or_nothing(value: float | None, spec: str) -> str:
    """Return a formatted number, or nothing."""
    return "" if value is None else format(value, spec)


def signed(points: float) -> str:
    """Return points with their sign, never -0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"  # never -0.00


def count_blocks(blocks: Sequence[str]) -> str:
    """Return how many blocks."""
    return f"{len(blocks)} block{'s' if len(blocks) > 1 else ''}" if blocks else "none"


def percent(value: float) -> str:
    """Return a fraction in per cent."""
    return f"{100 * value:.1f}"


def spread(figure: dict[str, float]) -> str:
    """Return a mean and its deviation in per cent."""
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"


def gain(differences: Sequence[dict[str, Any]], k: int | None, metric: str) -> str:
    """Return a paired difference with its interval; empty for the baseline itself."""
    for d in differences:
        if d["metric"] == metric and k in (None, d["k"]):
            return f"{100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"
    return ""


def rows_of(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the raw rows of a report's table."""
    rows: list[dict[str, Any]] = next(t["rows"] for t in report["tables"] if t["name"] == name)
    return rows


def report_tables(report: dict[str, Any], names: Sequence[str]) -> str:
    """Return those tables of a report that it has, in Markdown, each below its title."""
    found = {table.name: table for table in report_from_dict(report).tables}
    tables = [found[name] for name in names if name in found]
    return "\n\n".join(f"{table.title}:\n\n{format_markdown_table(table)}" for table in tables)
