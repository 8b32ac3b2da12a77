"""The report of `cff-bench drift`, as text and as the tables of `docs/drift.md`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_bench.timing import format_table
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write

_TABLES = re.compile(r"(<!-- tables:drift -->\n).*?(<!-- /tables:drift -->)", re.DOTALL)


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report as text: a line per product and drift, then quiet runs and other rules."""
    rows = [
        [
            row["product"],
            label,
            f"{found['within_50']}/{found['n']}",
            _delay(found["median"]),
            _delay(found["p90"]),
            "" if found["far_at_start"] is None else f"{found['far_at_start']}/{found['n']}",
        ]
        for row in report["products"]
        for label, found in row["drifts"].items()
    ]
    quiet = [
        [
            row["product"],
            "trained on" if row["trained_on"] else "unseen",
            str(row["n_held_out"]),
            f"{row['quiet']['alarmed']}/{row['quiet']['draws']}",
            f"{row['quiet']['far']}/{row['quiet']['draws']}",
        ]
        for row in report["products"]
    ]
    laws = [[row["law"], f"{row['alarmed']:.4f}", str(row["runs"])] for row in report["simulation"]]
    alone, n_quiet = report["references_alone"], report["settings"]["quiet"]
    return "\n\n".join(
        (
            format_table(("product", "drift", "within 50", "median", "p90", "at start"), rows),
            format_table(
                ("product", "adapters", "held out", f"alarm in {n_quiet}", "far at start"), quiet
            ),
            f"references alone as the baseline: {alone['alarmed']} of {alone['draws']} quiet runs "
            "alarm",
            format_table(("drift", "ours", *report["rivals"]), _power(report)),
            format_table(("law of the signals", f"alarm in {n_quiet}", "runs"), laws),
        )
    )


def _power(report: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of how many draws of all products were reported within 50 pictures, by rule."""
    rows = []
    labels = dict.fromkeys(label for row in report["products"] for label in row["drifts"])
    for label in labels:
        mine = [row["drifts"][label] for row in report["products"] if label in row["drifts"]]
        cells = [_share(sum(one["within_50"] for one in mine), sum(one["n"] for one in mine))]
        for rival in report["rivals"].values():
            cells.append(_share(rival["drifts"][label]["within_50"], rival["drifts"][label]["n"]))
        rows.append([label, *cells])
    return rows


def _share(count: int, n: int) -> str:
    return f"{count / n:.0%}"


def _delay(pictures: int | None) -> str:
    return "-" if pictures is None else str(pictures)


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the tables: quiet runs by product, delays by drift and product, power by rule."""
    products, n_quiet = report["products"], report["settings"]["quiet"]
    quiet = [
        [
            f"`{row['product']}`",
            "trained on" if row["trained_on"] else "unseen",
            str(row["n_held_out"]),
            f"{row['quiet']['alarmed']} of {row['quiet']['draws']}",
            f"{row['quiet']['far']} of {row['quiet']['draws']}",
        ]
        for row in products
    ]
    labels = dict.fromkeys(label for row in products for label in row["drifts"])
    delays = [[label, *(_cell(row["drifts"].get(label)) for row in products)] for label in labels]
    heads = [row["product"].replace("/", "/<br>") for row in products]
    alone = report["references_alone"]
    lasting = ", ".join(f"{row['law']} {row['alarmed']:.2%}" for row in report["simulation"])
    runs = report["simulation"][0]["runs"]
    return "\n\n".join(
        (
            _table(
                ("product", "adapters", "held out", f"alarm in {n_quiet}", "far at start"), quiet
            ),
            f"With the references alone as the baseline, {alone['alarmed']} of {alone['draws']} "
            f"such runs alarm. Without any parts, {runs} runs of {n_quiet} pictures with nine "
            f"independent signals of a known law, the share with an alarm: {lasting}.",
            "Draws reported within 50 pictures, then the delay's median / 90th percentile:",
            _table(("drift", *heads), delays),
            "All products together, reported within 50 pictures:",
            _table(("drift", "this monitor", *report["rivals"]), _power(report)),
        )
    )


def fill_page(page: Path, report: Mapping[str, Any]) -> None:
    """Put the tables between the marks of a page.

    Raises
    ------
    UsageError
        If the page cannot be read or has no marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"`{page}` must be a readable page: {error}") from error
    tables = to_markdown(report)
    filled, n_found = _TABLES.subn(lambda match: f"{match[1]}{tables}\n{match[2]}", text)
    if n_found != 1:
        raise UsageError(f"`{page}` must hold the marks of the tables once, got {n_found}")
    atomic_write(page, filled.encode())


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    count = f"{found['within_50']}/{found['n']}"
    if found["median"] is None:
        return count
    return f"{count}: {_delay(found['median'])} / {_delay(found['p90'])}"


def _table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
