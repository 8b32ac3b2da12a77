"""The tables of a sweep: the matrix, its two halves, the laws, and what was not timed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cff_bench.report.document import Column, Table
from cff_bench.sweep.axes import BACKENDS, Combination, bank_name, bank_rows
from cff_bench.sweep.fits import MIN_POINTS
from cff_bench.sweep.laws import FORMULAS, UNIT_NAMES, Law
from cff_bench.sweep.measurement import Group, Sweep
from cff_bench.timing import summarize

_WHERE = ("bundle", "backend", "precision", "threads")


def cell_samples_ms(group: Group, cell: Combination) -> tuple[list[float], list[float]]:
    """Return the encoder's share of one image, and the search, both round by round."""
    encode = [value / cell.encode.batch for value in group.samples[cell.encode.key]]
    if cell.search is None:
        return encode, [0.0] * len(encode)
    return encode, group.samples[cell.search.key]


def matrix_rows(group: Group) -> Iterator[dict[str, Any]]:
    """Yield a row per combination of a group; without figures where there is a reason."""
    preprocessing = group.bundle.manifest.preprocessing
    for cell in group.cells:
        row: dict[str, Any] = {
            "bundle": group.label,
            "image_px": f"{preprocessing.height}x{preprocessing.width}",
            "backend": group.backend,
            "precision": cell.encode.precision,
            "threads": cell.encode.threads or None,
            "batch": cell.encode.batch,
            **_bank_facts(cell, group),
            "reason": cell.reason,
        }
        if cell.reason is None:
            encode, search = cell_samples_ms(group, cell)
            both = summarize([a + b for a, b in zip(encode, search, strict=True)])
            row |= {
                "n": both.n,
                "encode_ms": float(np.median(encode)),
                "search_ms": None if cell.search is None else float(np.median(search)),
                "p50_ms": both.p50_ms,
                "p95_ms": both.p95_ms,
                "images_s": 1000 / both.p50_ms,
            }
        yield row


def _bank_facts(cell: Combination, group: Group) -> dict[str, Any]:
    if cell.search is None:
        return dict.fromkeys(("shots", "bank", "rows"))
    return {
        "shots": cell.search.shots,
        "bank": bank_name(cell.search.bank),
        "rows": sum(bank_rows(cell.search, group.bundle)),
    }


def without_constant(
    title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> tuple[str, list[Column]]:
    """Move columns of which all rows say the same into the title: pages are narrow."""
    told, left = [], []
    for column in columns:
        values = {row.get(column.name) for row in rows} if column.name in names else set()
        if len(values) == 1 and None not in values:
            value = values.pop()
            plural = "s" * (value != 1)
            told.append(f"{value} thread{plural}" if column.name == "threads" else str(value))
        else:
            left.append(column)
    return ": ".join((title, ", ".join(told))) if told else title, left


def matrix_table(rows: list[dict[str, Any]]) -> Table:
    """Return the combinations that were timed."""
    columns = [
        *_where_columns(),
        Column("batch", "B"),
        Column("shots", "K"),
        Column("bank", "bank"),
        Column("rows", "rows"),
        Column("encode_ms", "encode ms", spec=".2f"),
        Column("search_ms", "search ms", spec=".2f"),
        Column("p50_ms", "both p50", spec=".2f"),
        Column("p95_ms", "p95", spec=".2f"),
        Column("images_s", "images/s", spec=".3g"),
        Column("n", "n"),
    ]
    note = (
        "Per image: the encoder's batch divided by its images, and one search. Decoding, resizing "
        "and finishing are outside; `cff-bench latency` has them."
    )
    title, columns = without_constant("Every combination", columns, rows, (*_WHERE, "bank"))
    return Table("matrix", title, columns, rows, note)


def _where_columns() -> list[Column]:
    return [
        Column("bundle", "bundle", "left"),
        Column("backend", "backend", "left"),
        Column("precision", "precision", "left"),
        Column("threads", "threads"),
    ]


def pivots(rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Yield the two halves: encoder by batch, search by K where there are memory banks."""
    batches = sorted({row["batch"] for row in rows})
    where = ("bundle", "backend", "precision", "threads")
    encoder = _pivot(rows, where, "batch", "encode_ms")
    columns = [Column(str(batch), f"B = {batch}", spec=".2f") for batch in batches]
    title = "Encoder, ms per image by batch"
    title, columns = without_constant(title, [*_where_columns(), *columns], encoder, _WHERE)
    yield Table("encoder", title, columns, encoder)
    searched = [row for row in rows if row["shots"] is not None]
    if not searched:
        return
    shots = sorted({row["shots"] for row in searched})
    where = ("bundle", "backend", "bank", "threads")
    search = _pivot(searched, where, "shots", "search_ms")
    columns = [Column(str(k), f"K = {k}", spec=".2f") for k in shots]
    places = [c for c in _where_columns() if c.name != "precision"]
    places.insert(2, Column("bank", "bank", "left"))
    title = "Search, ms per image by references"
    title, columns = without_constant(title, [*places, *columns], search, (*_WHERE, "bank"))
    yield Table("search", title, columns, search)


def _pivot(
    rows: Sequence[dict[str, Any]], where: Sequence[str], across: str, value: str
) -> list[dict[str, Any]]:
    """Return a row per place with the value at every position; None where nothing was timed."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        place = tuple(row[name] for name in where)
        entry = found.setdefault(place, dict(zip(where, place, strict=True)))
        if row.get(value) is not None or str(row[across]) not in entry:
            entry[str(row[across])] = row.get(value)
    return list(found.values())


def law_tables(laws: Sequence[Law]) -> list[Table]:
    """Return every law with its intervals and residuals, and the verdicts in words."""
    rows = []
    for law, name in zip(laws, short_names(laws), strict=True):
        fit = law.fit
        a_low, a_high = fit.intercept_interval or (None, None)
        b_low, b_high = fit.slope_interval or (None, None)
        rows.append(
            {
                "of": name,
                "law": FORMULAS[law.kind],
                "points": len(fit.x),
                "n": fit.n,
                "a": fit.intercept,
                "a_low": a_low,
                "a_high": a_high,
                "b": fit.slope,
                "b_low": b_low,
                "b_high": b_high,
                "unit": UNIT_NAMES[law.kind],
                "r2": fit.r2 if len(fit.x) >= MIN_POINTS else None,
                "residual": fit.largest_residual,
                "verdict": law.sentence,
            }
        )
    columns = [
        Column("of", "of", "left"),
        Column("law", "law", "left"),
        Column("residual", "largest residual", spec=".1%"),
        Column("r2", "R2", spec=".4f"),
        *(Column(name, name.replace("_", " "), spec=".3g") for name in ("b", "b_low", "b_high")),
        Column("unit", "b in", "left"),
        *(Column(name, name.replace("_", " "), spec=".3g") for name in ("a", "a_low", "a_high")),
        Column("points", "points"),
        Column("n", "n"),
    ]
    note = (
        "Fitted to medians by least squares of relative residuals; a in ms; low and high are 95 % "
        "intervals over resampled rounds. R2 is of unweighted residuals."
    )
    verdicts = [Column("of", "of", "left"), Column("law", "law", "left")]
    verdicts.append(Column("verdict", "verdict", "left"))
    return [
        Table("laws", "Laws", columns, rows, note),
        Table("verdicts", "Whether they hold", verdicts, rows),
    ]


def short_names(laws: Sequence[Law]) -> list[str]:
    """Return what the laws are about, without the backend or network that all share."""
    names = [law.of for law in laws]
    for part in (f"/{backend}/" for backend in BACKENDS):
        if all(part in name for name in names):
            names = [name.replace(part, "/") for name in names]
    first = {name.partition("/")[0] for name in names}
    return [name.partition("/")[2] for name in names] if len(first) == 1 else names


def not_timed_tables(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Yield why there is a dash, a line for all combinations of one reason."""
    lines: list[dict[str, Any]] = [
        {"bundle": label, "backend": backend, "what": "all", "n_cells": None, "reason": reason}
        for label, backend, reason in sweep.left_out
    ]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["reason"] is not None:
            groups.setdefault((row["bundle"], row["backend"], row["reason"]), []).append(row)
    for (bundle, backend, reason), members in groups.items():
        everything = [row for row in rows if (row["bundle"], row["backend"]) == (bundle, backend)]
        what = _common_values(members, everything)
        line = {"bundle": bundle, "backend": backend, "what": what, "n_cells": len(members)}
        lines.append({**line, "reason": reason})
    if lines:
        columns = [
            *_where_columns()[:2],
            Column("what", "what", "left"),
            Column("n_cells", "combinations"),
            Column("reason", "reason", "left"),
        ]
        yield Table("not_timed", "Not timed", columns, lines)


def _common_values(members: Sequence[dict[str, Any]], everything: Sequence[dict[str, Any]]) -> str:
    """Return the values that single out some combinations, such as ``K 1, bank 1024``."""
    names = {
        "precision": "precision",
        "threads": "threads",
        "batch": "B",
        "shots": "K",
        "bank": "bank",
    }
    told = []
    for name, title in names.items():
        own = list(dict.fromkeys(row[name] for row in members))
        if len(own) < len({row[name] for row in everything}):
            told.append(f"{title} {', '.join(map(str, own))}")
    return "; ".join(told) or "all"
