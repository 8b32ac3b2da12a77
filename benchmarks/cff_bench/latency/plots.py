"""Plots of the latency report: where the time goes, how it spreads, and how it went on."""

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from cff_bench.latency.cold_start import STEPS
from cff_bench.latency.configurations import STAGES
from cff_bench.report.document import Mark, Plot, PlotSeries

if TYPE_CHECKING:
    from cff_bench.latency.measurement import Measured

_MAX_POINTS = 400
_MAX_MARKS = 10  # each label has a line of its own


def build_plots(measured: "Measured") -> list[Plot]:
    """Return every plot."""
    plots = [_stages(measured), _spread(measured), _over_time(measured)]
    return [*plots, _cold(measured)] if any(measured.cold.values()) else plots


def _stages(measured: "Measured") -> Plot:
    names = [facts["name"] for facts in measured.facts]
    told = [{s["name"]: s["mean_ms"] for s in facts["stages"]} for facts in measured.facts]
    stages = [name for name in STAGES if any(name in one for one in told)]
    return Plot(
        "stages",
        "Where the time goes",
        "stacked",
        y_label="mean ms",
        series=[PlotSeries(name, names, [one.get(name) for one in told]) for name in stages],
        spec=".2f",
    )


def _spread(measured: "Measured") -> Plot:
    series = []
    for one in measured.configurations:
        totals = np.array([timing["total"] for timing in one.timings])
        shares = np.linspace(0, 100, min(_MAX_POINTS, len(totals)))
        x = np.percentile(totals, shares)
        series.append(PlotSeries(one.name, x.tolist(), shares.tolist(), style="line"))
    marks = []
    if len(series) == 1:
        total = measured.facts[0]["total"]
        marks = [Mark(p, x=total[f"{p}_ms"]) for p in ("p50", "p95", "p99")]
    return Plot(
        "spread",
        "How long an inspection takes",
        "line",
        x_label="total, ms",
        y_label="% of inspections that take at most so long",
        series=series,
        marks=marks,
    )


def _over_time(measured: "Measured") -> Plot:
    begins = list(accumulate(measured.settings.rounds_of_starts))[:-1]
    marks = [Mark(f"start {i}", x=begin + 1) for i, begin in enumerate(begins, 2)]
    marks = marks if len(marks) < _MAX_MARKS else []
    series = []
    for one in measured.configurations:
        n = len(one.timings)
        kept = sorted({round(i) for i in np.linspace(0, n - 1, min(n, _MAX_POINTS)).tolist()})
        y = [one.timings[index]["total"] for index in kept]
        series.append(PlotSeries(one.name, [index + 1 for index in kept], y, style="points"))
    return Plot(
        "over_time",
        "Round by round",
        "line",
        x_label="round",
        y_label="total, ms",
        series=series,
        marks=marks,
        note="A slope is drift, a band that splits is two clocks or two images.",
    )


def _cold(measured: "Measured") -> Plot:
    names = [name for name, starts in measured.cold.items() if starts]
    series = [
        PlotSeries(
            step,
            names,
            [float(np.median([s.steps_ms[step] for s in measured.cold[name]])) for name in names],
        )
        for step in STEPS
    ]
    return Plot("cold", "Cold start", "stacked", y_label="median ms", series=series, spec=".0f")
