"""A sweep as a report: tables, plots, checks and notes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cff_bench.report.document import (
    Check,
    Plot,
    PlotSeries,
    Report,
    Series,
)
from cff_bench.sweep.axes import bank_name, parts_of
from cff_bench.sweep.fits import MAX_RESIDUAL
from cff_bench.sweep.laws import (
    BATCH,
    SCORING,
    SIZE,
    THREADS,
    Law,
    find_laws,
)
from cff_bench.sweep.measurement import Group, Sweep, SweepSettings, measure_sweep
from cff_bench.sweep.tables import (
    law_tables,
    matrix_rows,
    matrix_table,
    not_timed_tables,
    pivots,
    short_names,
)

KIND = "sweep"
_LAW_PLOTS = {
    SCORING: ("Searching the memory bank", "rows of the bank, all stages", True),
    BATCH: ("Encoder by batch", "images in a batch", True),
    THREADS: ("One thread and more", "threads", True),
    SIZE: ("Encoder by image size", "pixels", True),
}
_LINE_POINTS = 40
_MAX_PLOTTED = 4  # series in one plot, more cannot be told apart


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
    rows = [row for group in sweep.groups for row in matrix_rows(group)]
    return Report(
        kind=KIND,
        title="Batch, bank, K, precision, threads, image size, backend",
        command=list(settings.command),
        environment=sweep.environment,
        settings=_settings_facts(settings),
        series=[series for group in sweep.groups for series in _series(group)],
        tables=[
            *pivots(rows),
            *law_tables(laws),
            *not_timed_tables(sweep, rows),
            matrix_table([row for row in rows if row["reason"] is None]),
        ],
        plots=[*_law_plots(laws), *_heatmaps(rows)],
        checks=_checks(laws),
        notes=_notes(sweep, laws),
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


def _law_plots(laws: Sequence[Law]) -> Iterator[Plot]:
    for kind, (title, x_label, is_log) in _LAW_PLOTS.items():
        chosen = [law for law in laws if law.kind == kind]
        if not chosen:
            continue
        shown = chosen[:_MAX_PLOTTED]
        names = short_names(shown)
        series = [
            part for law, name in zip(shown, names, strict=True) for part in _law_series(law, name)
        ]
        left = len(chosen) - len(shown)
        note = "Points are medians with 95 % intervals, dashed lines the fits."
        note += f" {left} more stand in the table." if left else ""
        yield Plot(f"law_{kind}", title, "line", x_label, "ms", is_log, is_log, series, note=note)


def _law_series(law: Law, name: str) -> Iterator[PlotSeries]:
    order = np.argsort(law.x).tolist()
    x = [law.x[index] for index in order]
    ends = law.fit.t_intervals
    yield PlotSeries(
        name,
        x,
        [law.fit.t_ms[index] for index in order],
        None if ends is None else [ends[index][0] for index in order],
        None if ends is None else [ends[index][1] for index in order],
        "points",
    )
    dense = np.geomspace(min(x), max(x), _LINE_POINTS)  # a line is none on logarithmic axes
    unit = law.x[0] / law.fit.x[0]  # such as 1000 rows
    places = 1 / dense if law.kind == THREADS else dense / unit
    line = [law.fit.at(float(place)) for place in places]
    positive = [value if value > 0 else None for value in line]
    yield PlotSeries(f"{name}, fitted", dense.tolist(), positive, style="dashed")


def _heatmaps(rows: Sequence[dict[str, Any]]) -> Iterator[Plot]:
    """Images per second of one bundle on one backend: all other axes at a glance."""
    for place in dict.fromkeys((row["bundle"], row["backend"]) for row in rows):
        chosen = [row for row in rows if (row["bundle"], row["backend"]) == place]
        lines: dict[str, dict[str, float | None]] = {}
        for row in chosen:
            n = row["threads"]
            threads = "" if n is None else f", {n} thread{'s' * (n > 1)}"
            bank = "" if row["bank"] in ("whole", None) else f", bank {row['bank']}"
            line = lines.setdefault(f"{row['precision']}{threads}{bank}", {})
            shots = "" if row["shots"] is None else f" K{row['shots']}"
            line[f"B{row['batch']}{shots}"] = row.get("images_s")
        series = [PlotSeries(name, list(line), list(line.values())) for name, line in lines.items()]
        name = f"matrix_{place[0]}_{place[1].replace('/', '_')}"
        title = f"Images per second, {place[0]}, {place[1]}"
        if any(value is not None for line in lines.values() for value in line.values()):
            yield Plot(name, title, "heatmap", "batch and references", series=series, spec=".3g")


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


def _notes(sweep: Sweep, laws: Sequence[Law]) -> list[str]:
    notes = [
        "All parts of a bundle on a backend take turns in one loop, so their ratios hold where "
        "absolute times do not; bundles follow one another."
    ]
    for group in sweep.groups:
        notes += [f"{group.label}: {note}" for note in group.bundle.manifest.notes]
        if not group.bundle.manifest.searched:
            notes.append(f"{group.label}: nothing is searched, so it has no K and no bank.")
        if group.n_resumed:
            notes.append(
                f"{group.name}: {group.n_resumed} rounds are of an interrupted run before this one"
            )
    if any(
        law.kind == SCORING and law.fit.largest_residual and law.fit.fits is None for law in laws
    ):
        notes.append(
            "A check that is open: the line misses a point by more than the limit, and the point's "
            "median is no surer than that; measure more rounds, or on a quieter machine."
        )
    return list(dict.fromkeys(notes))
