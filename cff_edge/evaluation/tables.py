"""Write results as text, Markdown, CSV, JSON and a page.

Text, Markdown and the page print per cent with one decimal; CSV and JSON keep fractions in full.
Published rows stand beside ours only where ours cover every test image of MVTec AD or VisA.
"""

import csv
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cff_edge.evaluation.cells import CellResult
from cff_edge.evaluation.not_run import NotRun
from cff_edge.evaluation.page import write_page
from cff_edge.evaluation.printed_tables import Table, format_table, printed_tables, short_tables
from cff_edge.evaluation.published import PublishedRow, published_rows
from cff_edge.evaluation.summary import (
    LEVEL,
    N_RESAMPLES,
    DatasetSummary,
    Figure,
    Row,
    summarise,
)
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write

SCHEMA_VERSION = 1
_CSV_HEADER = (
    *("kind", "dataset", "product", "method", "k", "image_score", "seeds", "metric"),
    *("mean", "std", "low", "high", "source"),
)


def format_short(datasets: Iterable[DatasetSummary]) -> str:
    """Return one short table per data set as plain text, as `cff-eval` prints it."""
    return "\n".join(format_table(table) for table in short_tables(tuple(datasets)))


def write_all(
    results: Sequence[CellResult],
    out: Path,
    n_resamples: int = N_RESAMPLES,
    not_run: Sequence[NotRun] = (),
) -> tuple[DatasetSummary, ...]:
    """Write ``tables.txt``, ``.md``, ``.csv``, ``.json`` and ``index.html``.

    Parameters
    ----------
    results : sequence of CellResult
        At least one, unless peers say why there is none.
    out : Path
        Folder of results; the page shows the pictures that lie in it.
    n_resamples : int
        Of the bootstrap.
    not_run : sequence of NotRun
        What peers could not run. It stands in every file but ``tables.csv``, which holds figures.

    Returns
    -------
    tuple of DatasetSummary
        What the files are about, for `format_short`.

    Raises
    ------
    UsageError
        If there is nothing to write.
    StorageError
        If a file cannot be written.
    """
    datasets = _summarise(results, n_resamples, not_run)
    tables = printed_tables(datasets, n_resamples)
    facts = _to_dict(datasets, results, n_resamples)
    text = "\n".join(format_table(table) for table in tables)
    atomic_write(out / "tables.txt", text.encode())
    atomic_write(out / "tables.md", _markdown(tables, facts).encode())
    atomic_write(out / "tables.csv", _csv(datasets).encode())
    data = json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    atomic_write(out / "tables.json", data.encode())
    write_page(out / "index.html", datasets, tables, facts["provenance"])
    return datasets


def _summarise(
    results: Sequence[CellResult], n_resamples: int, not_run: Sequence[NotRun] = ()
) -> tuple[DatasetSummary, ...]:
    if not results and not not_run:
        raise UsageError("`results` must hold at least one cell, got none; run `cff-eval` first")
    return summarise(results, n_resamples, not_run)


def _markdown(tables: Iterable[Table], facts: dict[str, Any]) -> str:
    commands = [f"    {shlex.join(command)}" for command in facts["provenance"]["commands"]]
    parts = [format_table(table, markdown=True) for table in tables]
    made = "## How these were made\n\n" + "\n".join(commands)
    return "\n".join(["# Evaluation\n", *parts, f"{made}\n"])


def _to_dict(
    datasets: Sequence[DatasetSummary], results: Sequence[CellResult], n_resamples: int
) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "unit": "fraction",
        "std": "over seeds, ddof 1",
        "interval": {"level": LEVEL, "over": "seeds and test images", "resamples": n_resamples},
        "datasets": [asdict(dataset) for dataset in datasets],
        "published": {
            "unit": "per cent",
            "comparable_with": [d.name for d in datasets if d.published_as is not None],
            "rows": [asdict(row) for row in published_rows()],
        },
        "provenance": _provenance(results),
    }


def _provenance(results: Sequence[CellResult]) -> dict[str, Any]:
    """Gather what the cells say of their making, each distinct answer once."""
    methods: dict[str, list[Any]] = {}
    for result in results:
        known = methods.setdefault(result.method, [])
        if (facts := result.provenance["method"]) not in known:
            known.append(facts)
    return {
        "commands": _distinct(result.provenance["command"] for result in results),
        "versions": _distinct(result.provenance["versions"] for result in results),
        "methods": methods,
        "warnings": _distinct(
            warning for result in results for warning in result.provenance["warnings"]
        ),
        "seeds": sorted({result.seed for result in results}),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _csv(datasets: Iterable[DatasetSummary]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for dataset in datasets:
        for row in (*dataset.rows, *dataset.product_rows):
            writer.writerows(_csv_lines(row))
    for published in published_rows():
        writer.writerows(_csv_published_lines(published))
    return file.getvalue()


def _csv_lines(row: Row) -> Iterable[tuple[object, ...]]:
    kind = "mean" if row.product is None else "product"
    seeds = " ".join(map(str, row.seeds))
    names = (kind, row.dataset, row.product, row.method, row.k, row.image_score, seeds)
    for metric, figure in row.figures.items():
        yield (*names, metric, *_values(figure), None)


def _csv_published_lines(row: PublishedRow) -> Iterable[tuple[object, ...]]:
    names = (f"published, {row.table}", row.dataset, None, row.method, row.k, None, None)
    for metric, percent in row.percent.items():
        deviation = row.deviation.get(metric)
        std = None if deviation is None else round(deviation / 100, 5)
        yield (*names, metric, round(percent / 100, 5), std, None, None, row.source)


def _values(figure: Figure) -> tuple[float | None, ...]:
    return figure.mean, figure.std, figure.low, figure.high
