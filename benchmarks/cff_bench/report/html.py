"""Reports as one HTML file that needs nothing else: on a desk, a phone, on paper, in the dark."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cff_bench.report.document import Check, Plot, Report, Table, format_cell
from cff_bench.report.facts import machine_facts, setting_facts
from cff_bench.report.svg import draw_both, style_sheet
from cff_bench.report.terminal import describe_check

_LONG = 22  # letters that a cell of text may have before it is given more room

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1d20;--line:#8886;--good:#00694d;--bad:#b3261e;--soft:#8881;
--pale:#5b6066}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--pale:#a3a8ae;
--good:#5fd0a7;--bad:#ff8a80}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1040px;margin:1.5rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .6rem}h2{font-size:1.35rem;line-height:1.3;
margin:3rem 0 .6rem;border-top:2px solid var(--line);padding-top:1.2rem}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}a{color:var(--c0)}
code{font:13px/1.4 ui-monospace,monospace;background:var(--soft);padding:.1em .3em;
border-radius:3px}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.6rem 0;
font-size:.92rem}.facts dt{color:var(--pale)}.facts dd{margin:0}
.note{border-left:4px solid var(--c4);padding:.2rem .9rem;margin:.5rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;min-width:50%}
th{font-weight:600;border-bottom:1.5px solid var(--line);vertical-align:bottom}
th,td{padding:.22rem .7rem .22rem 0;text-align:right;overflow-wrap:normal}
td{border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
td.number{white-space:nowrap}
@media screen and (min-width:501px){td.short{white-space:nowrap}}
th.left,td.left{text-align:left}td.long{min-width:13rem}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper)}
figure{margin:1.6rem 0}figcaption{font-weight:600;margin-bottom:.5rem}
.under{font-size:.88rem;color:var(--pale);margin:.3rem 0}
.checks{list-style:none;padding:0}.checks li{padding:.15rem 0 .15rem 5.2rem;text-indent:-5.2rem}
.checks b{display:inline-block;width:5.2rem;text-indent:0}
.holds{color:var(--good)}.fails{color:var(--bad)}
nav ol{padding-left:1.4rem}details{margin:1rem 0}summary{cursor:pointer;color:var(--pale)}
pre{white-space:pre-wrap;font:12px/1.4 ui-monospace,monospace}
@media (max-width:500px){.facts{grid-template-columns:fit-content(34%) 1fr;gap:.1rem .6rem}
.facts dt{hyphens:auto}.checks li{padding-left:4.6rem;text-indent:-4.6rem}.checks b{width:4.6rem}}
@media print{body{max-width:none;margin:0;font-size:10.5pt}h2{break-before:page;border:0}
h2.first{break-before:auto}figure,tr,.checks li{break-inside:avoid}h3,figcaption{break-after:avoid}
details,nav{display:none}.scroll{overflow:visible}table{font-size:8.5pt}
th,td{padding-right:.45rem}td.number{white-space:normal}td.long{min-width:0}}
"""


def format_html(
    reports: Sequence[Report],
    title: str = "",
    remarks: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """Return reports as one page; several get contents and a summary of all checks on top.

    Parameters
    ----------
    reports : sequence of Report
    title : str, optional
        Of the page; the default is that of the only report.
    remarks : sequence of str, optional
        Sentences that stand first, such as which part failed.
    facts : mapping of str to str, optional
        What is told of several reports beside the machine, such as how long they took.
    """
    is_many = len(reports) != 1
    title = title or (reports[0].title if not is_many else "cff-bench")
    body = [f"<h1>{_text(title)}</h1>"]
    body += [f'<p class="note">{_words(remark)}</p>' for remark in remarks]
    if is_many:
        body.append(_summary(reports, facts or {}))
    for index, report in enumerate(reports):
        head = f'<h2 id="{_anchor(index, report)}"{" class=first" if not index else ""}>'
        body.append(f"{head}{_text(report.title)}</h2>" if is_many else "")
        body.append(_report(report, machine_facts(reports[0].environment) if is_many else {}))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title>\n<style>{style_sheet()}{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _summary(reports: Sequence[Report], facts: Mapping[str, str]) -> str:
    """Return the machine, all checks and the contents."""
    checks = [check for report in reports for check in report.checks]
    machine = machine_facts(reports[0].environment) if reports else {}
    parts = [_facts({**machine, **facts})]
    if checks:
        held = sum(check.passed is True for check in checks)
        unknown = sum(check.passed is None for check in checks)
        words = f"{held} of {len(checks)} checks hold"
        words += f", {unknown} not measured" if unknown else ""
        ordered = sorted(checks, key=lambda check: {False: 0, None: 1, True: 2}[check.passed])
        parts.append(f"<h3>{words}</h3>{_checks(ordered)}")
    entries = "".join(
        f'<li><a href="#{_anchor(index, report)}">{_text(report.title)}</a></li>'
        for index, report in enumerate(reports)
    )
    parts.append(f"<nav><h3>Contents</h3><ol>{entries}</ol></nav>")
    return "\n".join(parts)


def _report(report: Report, told: dict[str, str]) -> str:
    """Return one report; what the top of the page has told of the machine is not told again."""
    machine = machine_facts(report.environment)
    machine = {name: words for name, words in machine.items() if told.get(name) != words}
    parts = []
    if report.command:
        parts.append(f"<p><code>{_text(' '.join(report.command))}</code></p>")
    parts.append(_facts({**machine, **setting_facts(report.settings)}))
    parts += [f'<p class="note">{_words(note)}</p>' for note in report.notes]
    if report.checks:
        parts.append(f"<h3>Checks</h3>{_checks(report.checks)}")
    parts += [_table(table) for table in report.tables]
    parts += [_figure(plot) for plot in report.plots]
    further = {"facts": report.facts, "environment": report.environment}
    parts.append(
        "<details><summary>Everything known of the machine and the run</summary>"
        f"<pre>{_text(json.dumps(further, indent=1, ensure_ascii=False, default=str))}</pre>"
        "</details>"
    )
    return "\n".join(part for part in parts if part)


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _checks(checks: Sequence[Check]) -> str:
    words = {True: ("holds", "✓ holds"), False: ("fails", "✗ fails"), None: ("", "– open")}
    rows = []
    for check in checks:
        style, word = words[check.passed]
        rows.append(
            f'<li><b class="{style}">{word}</b>{_text(check.name)}: '
            f"{_text(describe_check(check))}</li>"
        )
    return f'<ul class="checks">{"".join(rows)}</ul>'


def _table(table: Table) -> str:
    header = "".join(
        f'<th class="{column.align}">{_text(column.title)}</th>' for column in table.columns
    )
    rows = "".join(
        "<tr>"
        + "".join(
            _cell(format_cell(row.get(column.name), column.spec), column.align)
            for column in table.columns
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="under">{_words(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{_text(table.title)}</h3><div class="scroll"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(words: str, align: str) -> str:
    style = "number" if align == "right" else "left long" if len(words) > _LONG else "left short"
    return f'<td class="{style}">{_words(words)}</td>'


def _figure(plot: Plot) -> str:
    drawn = draw_both(plot)
    if not drawn:
        return ""
    note = f'<p class="under">{_words(plot.note)}</p>' if plot.note else ""
    return f"<figure><figcaption>{_text(plot.title)}</figcaption>{drawn}{note}</figure>"


def _anchor(index: int, report: Report) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', report.kind.lower())}-{index + 1}"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _words(value: Any) -> str:
    """Return text in which what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _text(value))
