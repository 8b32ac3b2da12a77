"""Accuracy and latency as a report: one table, and the rows that nothing else beats."""

from collections.abc import Iterator, Sequence
from typing import Any

from cff_bench.accuracy_latency.measurement import (
    AccuracyLatencySettings,
    Judged,
    Outcome,
    measure,
)
from cff_bench.accuracy_latency.pareto import pareto_front
from cff_bench.report.document import Column, Plot, PlotSeries, Report, Series, Table
from cff_bench.sweep.tables import without_constant

KIND = "accuracy-latency"
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
}
_WHERE = ("dataset", "bundle", "precision")
FRONTS = ("image_auroc", "pixel_ap")  # what a line decides by, and what a person looks at


def run(settings: AccuracyLatencySettings) -> Report:
    """Measure, and return the report.

    Raises
    ------
    CffError
        As `measure`.
    """
    return accuracy_latency_report(settings, measure(settings))


def accuracy_latency_report(settings: AccuracyLatencySettings, outcome: Outcome) -> Report:
    """Return what was measured as a report."""
    rows = list(_rows(outcome.rows))
    fronts = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [index for index, row in enumerate(rows) if row["dataset"] == dataset]
        for metric in FRONTS:
            costs = [rows[index]["p50_ms"] for index in own]
            worths = [rows[index][metric] for index in own]
            fronts[dataset, metric] = [own[index] for index in pareto_front(costs, worths)]
    for index, row in enumerate(rows):
        row["front"] = [METRICS[m] for (_, m), front in fronts.items() if index in front] or None
    return Report(
        kind=KIND,
        title="Accuracy and latency of the same artefacts",
        command=list(settings.command),
        environment=outcome.environment,
        settings=_settings_facts(settings, outcome),
        series=list(_series(outcome.rows)),
        tables=[_main_table(rows), _interval_table(outcome.rows), *_not_timed_tables(rows)],
        plots=[
            _front_plot(rows, front, dataset, metric)
            for (dataset, metric), front in fronts.items()
            if front
        ],
        notes=_notes(outcome),
        facts={
            "bundles": {j.artefact.label: j.artefact.bundle.manifest.id for j in outcome.rows},
            "references": {
                name: {product: list(outcome.context.references.of(name, product, seed))}
                for name, dataset in outcome.context.datasets.items()
                for product in dataset.products
                for seed in outcome.context.seeds[:1]
            },
        },
    )


def _rows(judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    for one in judged:
        preprocessing = one.artefact.bundle.manifest.preprocessing
        summary = one.samples.summary if one.samples is not None else None
        figures = one.row.figures
        yield {
            "dataset": one.row.dataset,
            "bundle": one.artefact.label,
            "image_px": f"{preprocessing.height}x{preprocessing.width}",
            "precision": one.artefact.precision,
            "shots": one.row.k,
            **{name: figures[name].mean if name in figures else None for name in METRICS},
            "p50_ms": summary.p50_ms if summary else None,
            "p95_ms": summary.p95_ms if summary else None,
            "images_s": summary.throughput if summary else None,
            "n": summary.n if summary else None,
            "computed": one.computed,
            "reason": one.artefact.not_timed,
        }


def _main_table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        *_where_columns(),
        *(Column(name, title, spec=".3f") for name, title in METRICS.items()),
        Column("p50_ms", "p50 ms", spec=".2f"),
        Column("p95_ms", "p95", spec=".2f"),
        Column("images_s", "images/s", spec=".3g"),
        Column("n", "n"),
        Column("front", "on the front of", "left"),
    ]
    note = (
        "Means over products within a draw of references, then over draws, as cff-eval's. "
        "Latency: one image in memory to score, map and regions. On the front: nothing here is "
        "both as fast and as good, and better in one of the two."
    )
    title, columns = without_constant("Accuracy and latency", columns, rows, _WHERE)
    return Table("accuracy_latency", title, columns, rows, note)


def _interval_table(judged: Sequence[Judged]) -> Table:
    rows = [
        {
            "dataset": one.row.dataset,
            "bundle": one.artefact.label,
            "precision": one.artefact.precision,
            "shots": one.row.k,
            "metric": title,
            "mean": one.row.figures[name].mean,
            "std": one.row.figures[name].std,
            "low": one.row.figures[name].low,
            "high": one.row.figures[name].high,
        }
        for one in judged
        for name, title in METRICS.items()
        if name in one.row.figures
    ]
    columns = [
        *_where_columns(),
        Column("metric", "metric", "left"),
        *(Column(name, name, spec=".3f") for name in ("mean", "low", "high", "std")),
    ]
    note = (
        "low and high: 95 % interval over resampled draws and test images; std: of the draws' "
        "means."
    )
    title, columns = without_constant("How sure the accuracy is", columns, rows, _WHERE)
    return Table("intervals", title, columns, rows, note)


def _not_timed_tables(rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    lines = {
        (row["bundle"], row["precision"]): {
            "bundle": row["bundle"],
            "precision": row["precision"],
            "reason": row["reason"],
            "computed": row["computed"],
        }
        for row in rows
        if row["reason"] is not None
    }
    if lines:
        titles = {"reason": "why not timed", "computed": "its accuracy"}
        columns = [
            Column(name, titles.get(name, name), "left")
            for name in ("bundle", "precision", "reason", "computed")
        ]
        yield Table("not_timed", "Not timed", columns, list(lines.values()))


def _where_columns() -> list[Column]:
    return [
        Column("dataset", "data set", "left"),
        Column("bundle", "bundle", "left"),
        Column("precision", "precision", "left"),
        Column("shots", "K"),
    ]


def _front_plot(
    rows: Sequence[dict[str, Any]], front: Sequence[int], dataset: str, metric: str
) -> Plot:
    timed = [row for row in rows if row["dataset"] == dataset and row["p50_ms"] is not None]
    kinds = dict.fromkeys((row["bundle"], row["precision"]) for row in timed)
    series = []
    for bundle, precision in kinds:
        own = [row for row in timed if (row["bundle"], row["precision"]) == (bundle, precision)]
        x, y = [row["p50_ms"] for row in own], [row[metric] for row in own]
        shots = ", ".join(str(row["shots"]) for row in own)
        series.append(PlotSeries(f"{bundle} {precision}, K = {shots}", x, y, style="points"))
    x, y = [rows[index]["p50_ms"] for index in front], [rows[index][metric] for index in front]
    series.append(PlotSeries("front", x, y, style="dashed"))
    return Plot(
        f"front_{dataset}_{metric}",
        f"{METRICS[metric]} over latency, {dataset}",
        "scatter",
        "one inspection, p50, ms",
        METRICS[metric],
        x_log=True,
        series=series,
        note="Upper left is better; rows on the dashed line are beaten by none.",
    )


def _series(judged: Sequence[Judged]) -> Iterator[Series]:
    """One series per artefact and K, whatever the number of data sets."""
    known = set()
    for one in judged:
        name = f"{KIND}/{one.artefact.name}/k{one.row.k}"
        if one.samples is not None and name not in known:
            known.add(name)
            yield Series(name, "ms", one.samples.values_ms, KIND)


def _settings_facts(settings: AccuracyLatencySettings, outcome: Outcome) -> dict[str, Any]:
    context = outcome.context
    return {
        "bundles": [str(path) for path in settings.bundles],
        "data": {
            name: f"{', '.join(dataset.products)} ({outcome.n_images[name]} test images)"
            for name, dataset in context.datasets.items()
        },
        "shots": list(settings.shots),
        "seeds": list(context.seeds),
        "n": settings.n,
        "warmup": settings.warmup,
        "threads": settings.threads,
        "backend": "onnxruntime, CPUExecutionProvider",
    }


def _notes(outcome: Outcome) -> list[str]:
    notes = ["All artefacts and all K take turns in one loop on the same images."]
    notes += outcome.warnings
    for one in outcome.rows:
        if one.row.seeds_left_out:
            notes.append(f"{one.artefact.name}: draws without every product are in no mean")
        notes += [f"{one.artefact.label}: {n}" for n in one.artefact.bundle.manifest.notes]
    return list(dict.fromkeys(notes))
