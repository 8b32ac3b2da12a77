"""A sweep as a report: the matrix, its two halves, the laws and their plots."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cff_bench.report.document import (
    Check,
    Column,
    Plot,
    PlotSeries,
    Report,
    Series,
    Table,
)
from cff_bench.sweep.axes import Combination, bank_name, bank_rows, parts_of
from cff_bench.sweep.fits import MAX_RESIDUAL
from cff_bench.sweep.laws import (
    BATCH,
    FORMULAS,
    SCORING,
    SIZE,
    THREADS,
    UNIT_NAMES,
    Law,
    find_laws,
)
from cff_bench.sweep.measurement import Group, Sweep, SweepSettings, measure_sweep
from cff_bench.timing import summarize

KIND = "sweep"
_LAW_PLOTS = {
    SCORING: ("Searching the memory bank", "rows of the bank, all stages", True),
    BATCH: ("Encoder by batch", "images in a batch", True),
    THREADS: ("One thread and more", "threads", True),
    SIZE: ("Encoder by image size", "pixels", True),
}
_MAX_PLOTTED = 8  # series in one plot, more cannot be told apart


def run(settings: SweepSettings) -> Report:
    """Measure, and return the report.

    Raises
    ------
    CffError
        As `measure_sweep`.
    """
    return sweep_report(settings, measure_sweep(settings))


def sweep_report(settings: SweepSettings, sweep: Sweep) -> Report:
    """Return what was measured as a report."""
    laws = find_laws(sweep)
    rows = [row for group in sweep.groups for row in _matrix_rows(group)]
    return Report(
        kind=KIND,
        title="Batch, bank, K, precision, threads, image size, backend",
        command=list(settings.command),
        environment=sweep.environment,
        settings=_settings_facts(settings),
        series=[series for group in sweep.groups for series in _series(group)],
        tables=[
            *_pivots(rows),
            _law_table(laws),
            *_not_timed_tables(sweep, rows),
            _matrix_table([row for row in rows if row["reason"] is None]),
        ],
        plots=[*_law_plots(laws), *_heatmaps(rows)],
        checks=_checks(laws),
        notes=_notes(sweep),
        facts={
            "bundles": {
                group.label: {
                    "id": group.bundle.manifest.id,
                    "notes": list(group.bundle.manifest.notes),
                }
                for group in sweep.groups
            },
            "laws": [
                {"kind": law.kind, "of": law.of, "verdict": law.sentence, **law.fit.to_dict()}
                for law in laws
            ],
        },
    )


def cell_samples_ms(group: Group, cell: Combination) -> tuple[list[float], list[float]]:
    """Return the encoder's share of one image, and the search, both round by round."""
    encode = [value / cell.encode.batch for value in group.samples[cell.encode.key]]
    return encode, group.samples[cell.search.key]


def _matrix_rows(group: Group) -> Iterator[dict[str, Any]]:
    preprocessing = group.bundle.manifest.preprocessing
    for cell in group.cells:
        row: dict[str, Any] = {
            "bundle": group.label,
            "image_px": f"{preprocessing.height}x{preprocessing.width}",
            "backend": group.backend,
            "precision": cell.encode.precision,
            "threads": cell.encode.threads or None,
            "batch": cell.encode.batch,
            "shots": cell.search.shots,
            "bank": bank_name(cell.search.bank),
            "rows": sum(bank_rows(cell.search, group.bundle)),
            "reason": cell.reason,
        }
        if cell.reason is None:
            encode, search = cell_samples_ms(group, cell)
            both = summarize([a + b for a, b in zip(encode, search, strict=True)])
            row |= {
                "n": both.n,
                "encode_ms": float(np.median(encode)),
                "search_ms": float(np.median(search)),
                "p50_ms": both.p50_ms,
                "p95_ms": both.p95_ms,
                "images_s": 1000 / both.p50_ms,
            }
        yield row


def _matrix_table(rows: list[dict[str, Any]]) -> Table:
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
        Column("images_s", "images/s", spec=".1f"),
        Column("n", "n"),
    ]
    note = (
        "Per image: the encoder's batch divided by its images, and one search. Decoding, resizing "
        "and finishing are outside; `cff-bench latency` has them."
    )
    return Table("matrix", "Every combination", columns, rows, note)


def _where_columns() -> list[Column]:
    return [
        Column("bundle", "bundle", "left"),
        Column("backend", "backend", "left"),
        Column("precision", "precision", "left"),
        Column("threads", "threads"),
    ]


def _pivots(rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """The two halves: encoder by batch, search by K."""
    batches = sorted({row["batch"] for row in rows})
    shots = sorted({row["shots"] for row in rows})
    where = ("bundle", "backend", "precision", "threads")
    encoder = _pivot(rows, where, "batch", "encode_ms")
    columns = [Column(str(batch), f"B = {batch}", spec=".2f") for batch in batches]
    title = "Encoder, ms per image by batch"
    yield Table("encoder", title, [*_where_columns(), *columns], encoder)
    where = ("bundle", "backend", "bank", "threads")
    search = _pivot(rows, where, "shots", "search_ms")
    columns = [Column(str(k), f"K = {k}", spec=".2f") for k in shots]
    places = [c for c in _where_columns() if c.name != "precision"]
    places.insert(2, Column("bank", "bank", "left"))
    yield Table("search", "Search, ms per image by references", [*places, *columns], search)


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


def _law_table(laws: Sequence[Law]) -> Table:
    rows = []
    for law in laws:
        fit = law.fit
        a_low, a_high = fit.intercept_interval or (None, None)
        b_low, b_high = fit.slope_interval or (None, None)
        rows.append(
            {
                "of": law.of,
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
                "r2": fit.r2,
                "residual": fit.largest_residual,
                "verdict": law.sentence,
            }
        )
    columns = [
        Column("of", "of", "left"),
        Column("law", "law", "left"),
        Column("points", "points"),
        Column("n", "n"),
        *(Column(name, name.replace("_", " "), spec=".4g") for name in ("a", "a_low", "a_high")),
        *(Column(name, name.replace("_", " "), spec=".4g") for name in ("b", "b_low", "b_high")),
        Column("unit", "b in", "left"),
        Column("r2", "R2", spec=".4f"),
        Column("residual", "largest residual", spec=".1%"),
        Column("verdict", "verdict", "left"),
    ]
    note = (
        "Fitted to medians by least squares of relative residuals; a in ms; low and high are 95 % "
        "intervals over resampled rounds. R2 is of unweighted residuals."
    )
    return Table("laws", "Laws", columns, rows, note)


def _not_timed_tables(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Why there is a dash, a line for all combinations of one reason."""
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


def _law_plots(laws: Sequence[Law]) -> Iterator[Plot]:
    for kind, (title, x_label, is_log) in _LAW_PLOTS.items():
        chosen = [law for law in laws if law.kind == kind]
        if not chosen:
            continue
        shown = chosen[:_MAX_PLOTTED]
        series = [part for law in shown for part in _law_series(law)]
        left = len(chosen) - len(shown)
        note = "Points are medians with 95 % intervals, dashed lines the fits."
        note += f" {left} more stand in the table." if left else ""
        yield Plot(f"law_{kind}", title, "line", x_label, "ms", is_log, is_log, series, note=note)


def _law_series(law: Law) -> Iterator[PlotSeries]:
    order = np.argsort(law.x).tolist()
    x = [law.x[index] for index in order]
    ends = law.fit.t_intervals
    yield PlotSeries(
        law.of,
        x,
        [law.fit.t_ms[index] for index in order],
        None if ends is None else [ends[index][0] for index in order],
        None if ends is None else [ends[index][1] for index in order],
        "points",
    )
    line = [law.fit.at(law.fit.x[index]) for index in order]
    positive = [value if value > 0 else None for value in line]  # the axis is logarithmic
    yield PlotSeries(f"{law.of}, fitted", x, positive, style="dashed")


def _heatmaps(rows: Sequence[dict[str, Any]]) -> Iterator[Plot]:
    """Images per second of one bundle on one backend: all other axes at a glance."""
    for place in dict.fromkeys((row["bundle"], row["backend"]) for row in rows):
        chosen = [row for row in rows if (row["bundle"], row["backend"]) == place]
        lines: dict[str, dict[str, float | None]] = {}
        for row in chosen:
            threads = "" if row["threads"] is None else f", {row['threads']} threads"
            bank = "" if row["bank"] == "whole" else f", bank {row['bank']}"
            line = lines.setdefault(f"{row['precision']}{threads}{bank}", {})
            line[f"B{row['batch']} K{row['shots']}"] = row.get("images_s")
        series = [PlotSeries(name, list(line), list(line.values())) for name, line in lines.items()]
        name = f"matrix_{place[0]}_{place[1].replace('/', '_')}"
        title = f"Images per second, {place[0]}, {place[1]}"
        if any(value is not None for line in lines.values() for value in line.values()):
            yield Plot(name, title, "heatmap", "batch and references", series=series, spec=".1f")


def _checks(laws: Sequence[Law]) -> list[Check]:
    return [
        Check.of(
            f"{law.of}: scoring grows linearly, largest residual",
            law.fit.largest_residual if law.fit.fits is not None else None,  # noise decides nothing
            MAX_RESIDUAL,
        )
        for law in laws
        if law.kind == SCORING and law.fit.largest_residual is not None
    ]


def _series(group: Group) -> list[Series]:
    return [
        Series(f"{KIND}/{group.name}/{part.key}", "ms", group.samples[part.key], group.name)
        for part in parts_of(group.cells)
    ]


def _settings_facts(settings: SweepSettings) -> dict[str, Any]:
    axes = settings.axes
    return {
        "bundles": [str(path) for path in settings.bundles],
        "batches": list(axes.batches),
        "shots": list(axes.shots),
        "banks": [bank_name(bank) for bank in axes.banks],
        "precisions": list(axes.precisions),
        "threads": list(axes.threads),
        "backends": list(axes.backends),
        "n": settings.n,
        "warmup": settings.warmup,
        "image": "seeded noise of the network's size",
    }


def _notes(sweep: Sweep) -> list[str]:
    notes = [
        "All parts of a bundle on a backend take turns in one loop, so their ratios hold where "
        "absolute times do not; bundles follow one another."
    ]
    for group in sweep.groups:
        notes += [f"{group.label}: {note}" for note in group.bundle.manifest.notes]
        if group.n_resumed:
            notes.append(
                f"{group.name}: {group.n_resumed} rounds are of an interrupted run before this one"
            )
    return list(dict.fromkeys(notes))
