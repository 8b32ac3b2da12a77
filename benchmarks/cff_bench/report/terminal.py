"""A report as text for a terminal: facts, tables, checks, notes."""

from collections.abc import Sequence

from cff_bench.report.document import Check, Report, Table, format_cell
from cff_bench.report.facts import machine_facts, setting_facts


def format_terminal(reports: Sequence[Report]) -> str:
    """Return reports as plain text, readable without colour."""
    return "\n\n\n".join(_format_report(report) for report in reports)


def format_text_table(table: Table) -> str:
    """Return a table as text, numbers formatted."""
    header = [column.title for column in table.columns]
    rows = [
        [format_cell(row.get(column.name), column.spec) for column in table.columns]
        for row in table.rows
    ]
    lines = [header, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    text = "\n".join(
        "  ".join(
            cell.ljust(width) if column.align == "left" else cell.rjust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )
    return f"{text}\n{table.note}" if table.note else text


def format_check(check: Check) -> str:
    """Return a check as one line, such as ``holds  linear / none: 1.02, at most 1.05``."""
    word = {True: "holds", False: "FAILS", None: "  –  "}[check.passed]
    return f"{word}  {check.name}: {describe_check(check)}"


def describe_check(check: Check) -> str:
    """Return the figure of a check and its limit in words."""
    bound = "at most" if check.better == "lower" else "at least"
    unit = f" {check.unit}" if check.unit else ""
    if check.value is None:
        return f"not measured; {bound} {check.limit:.4g}{unit}"
    return f"{check.value:.4g}{unit}, {bound} {check.limit:.4g}{unit}"


def _format_report(report: Report) -> str:
    facts = {**machine_facts(report.environment), **setting_facts(report.settings)}
    width = max((len(name) for name in facts), default=0)
    lines = [f"{name.ljust(width)}  {value}" for name, value in facts.items()]
    lines += [f"{'note'.ljust(width)}  {note}" for note in report.notes]
    parts = [report.title + "\n" + "=" * len(report.title), "\n".join(lines)]
    parts += [f"{table.title}\n\n{format_text_table(table)}" for table in report.tables]
    if report.checks:
        parts.append("\n".join(format_check(check) for check in report.checks))
    return "\n\n".join(part for part in parts if part)
