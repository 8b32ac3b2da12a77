"""A report as Markdown: the same tables as elsewhere, plots left to the HTML page."""

from collections.abc import Mapping, Sequence

from cff_bench.report.document import Report, Table, format_cell
from cff_bench.report.facts import machine_facts, setting_facts
from cff_bench.report.terminal import describe_check


def format_markdown(reports: Sequence[Report], level: int = 1) -> str:
    """Return reports as Markdown, their titles as headings of `level`.

    What the first has told of the machine is not told again.
    """
    told = machine_facts(reports[0].environment) if reports else {}
    parts = [_format_report(r, level, told if index else {}) for index, r in enumerate(reports)]
    return "\n\n".join(parts) + "\n"


def format_markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    rules = ["---" if column.align == "left" else "---:" for column in table.columns]
    rows = [
        [_cell(format_cell(row.get(column.name), column.spec)) for column in table.columns]
        for row in table.rows
    ]
    lines = [[_cell(column.title) for column in table.columns], rules, *rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{text}\n\n{table.note}" if table.note else text


def format_markdown_checks(report: Report) -> str:
    """Return the checks of a report as a list."""
    words = {True: "holds", False: "**fails**", None: "not measured"}
    return "\n".join(
        f"- {words[check.passed]}: {check.name}: {describe_check(check)}" for check in report.checks
    )


def _format_report(report: Report, level: int, told: Mapping[str, str]) -> str:
    machine = machine_facts(report.environment)
    facts = {name: words for name, words in machine.items() if told.get(name) != words}
    settings = setting_facts(report.settings)
    if settings:
        facts["settings"] = "; ".join(f"{name} {words}" for name, words in settings.items())
    parts = [f"{'#' * level} {report.title}"]
    if report.command:
        parts.append(f"`{' '.join(report.command)}`")
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    parts.append("\n>\n".join(f"> {note}" for note in report.notes))
    for table in report.tables:
        parts.append(f"{'#' * (level + 1)} {table.title}")
        parts.append(format_markdown_table(table))
    if report.checks:
        parts += [f"{'#' * (level + 1)} Checks", format_markdown_checks(report)]
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
