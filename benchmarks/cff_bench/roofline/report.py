"""The report of `cff-bench roofline`: ceilings, distances, the heaviest nodes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cff_bench.precision.facts import bundle_facts
from cff_bench.report.document import (
    Check,
    Mark,
    Plot,
    PlotSeries,
    Report,
    Series,
)
from cff_bench.roofline.bandwidth import BEYOND, cache_bytes
from cff_bench.roofline.measurement import Graph, Measured, RooflineSettings
from cff_bench.roofline.tables import (
    gemm_share,
    gemm_table,
    graph_table,
    node_table,
    operator_rows,
    operator_table,
    transfer_table,
)

MIN_SHARE = 0.90  # of the sgemm ceiling, for an fp32 encoder
_HELD_TO = "encoder fp32 / sgemm ceiling"


def build_report(
    measured: Measured, settings: RooflineSettings, environment: dict[str, Any]
) -> Report:
    """Return the report of a measurement."""
    encoders = [graph for graph in measured.graphs if graph.name in measured.nodes]
    checks = [
        Check.of(_HELD_TO, gemm_share(graph, measured), MIN_SHARE, better="higher")
        for graph in encoders
        if graph.precision == "fp32"
    ]
    tables = [
        gemm_table(measured),
        transfer_table(measured),
        graph_table(measured),
    ]
    plots = [_thread_plot(measured)]
    for graph in encoders:
        tables += [operator_table(graph, measured), node_table(graph, measured)]
        plots += [_roofline_plot(graph, measured), _operator_plot(graph, measured)]
    facts = bundle_facts(settings.bundle, measured.manifest)
    return Report(
        kind="roofline",
        title=f"Roofline of {facts['backbone']['name']} at {facts['input_px'][0]} px",
        command=list(settings.command),
        environment=environment,
        settings={
            "threads": settings.threads,
            "n": settings.n,
            "warmup": settings.warmup,
            "profiled": settings.profiled,
            "pause_ms": settings.pause_ms,
            "batch": 1,
            "onnxruntime": "CPUExecutionProvider, session.force_spinning_stop=1, a core each",
        },
        series=_series(measured),
        tables=tables,
        plots=plots,
        checks=checks,
        notes=_notes(measured, encoders),
        facts={"bundle": facts, "cache_bytes": {k: v[0] for k, v in cache_bytes().items()}},
    )


def _series(measured: Measured) -> list[Series]:
    last = max(measured.ceilings)
    encoders = set(measured.nodes)
    return [
        Series(
            f"roofline/{name}",
            "ms",
            samples.values_ms,
            group="roofline",
            role="reference" if name in measured.ceilings[last].fastest.values() else "",
        )
        for name, samples in measured.samples.items()
        if name in encoders or not name.startswith("memory/")
    ]


def _thread_plot(measured: Measured) -> Plot:
    counts = sorted(measured.ceilings)
    series = []
    for precision in ("fp32", "int8"):
        rates = [measured.ceilings[count].gflops.get(precision) for count in counts]
        series.append(PlotSeries(precision, list(counts), rates))
    return Plot(
        "ceilings",
        "Ceiling of products by threads",
        "line",
        "threads",
        "GFLOP/s",
        series=series,
    )


def _roofline_plot(graph: Graph, measured: Measured) -> Plot:
    """Rate over operations per byte: the roof, and every node with a product beneath it."""
    ceilings = measured.ceilings[graph.threads]
    products = [node for node in measured.nodes[graph.name] if node.flops and node.median_us]
    densities = [node.flops / node.moved_bytes for node in products]
    peak = ceilings.gflops[graph.precision]
    low, high = min(densities, default=1.0) / 2, max(densities, default=1.0) * 2
    series = []
    for level, bandwidth in ceilings.gbps.items():
        ridge = peak / bandwidth
        x = [low, ridge, high] if low < ridge < high else [low, high]
        series.append(
            PlotSeries(
                f"roof, {level}",
                x,
                [min(peak, density * bandwidth) for density in x],
                style="line" if level == BEYOND else "dashed",
            )
        )
    by_operator: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for node, density in zip(products, densities, strict=True):
        by_operator[node.operator].append((density, node.flops / node.median_us / 1e3))
    for operator, points in by_operator.items():
        x, y = [p[0] for p in points], [p[1] for p in points]
        series.append(PlotSeries(operator, x, y, style="points"))
    return Plot(
        f"roofline/{graph.name}",
        f"{graph.name.replace('/', ' ')}: every node with a product",
        "scatter",
        "operations per byte",
        "GFLOP/s",
        x_log=True,
        y_log=True,
        series=series,
        marks=[Mark(f"{peak:.0f} GFLOP/s", y=peak)],
    )


def _operator_plot(graph: Graph, measured: Measured) -> Plot:
    rows = operator_rows(measured.nodes[graph.name], measured.ceilings[graph.threads])[:10]
    names = [row["operator"] for row in rows]
    bound = [None if (s := row["bound_share"]) is None else s * row["us"] / 1e3 for row in rows]
    return Plot(
        f"operators/{graph.name}",
        f"{graph.name.replace('/', ' ')}: time by operator",
        "bar",
        "operator",
        "ms",
        series=[
            PlotSeries("measured", names, [row["us"] / 1e3 for row in rows]),
            PlotSeries("bound", names, bound),
        ],
    )


def _notes(measured: Measured, encoders: Sequence[Graph]) -> list[str]:
    notes = [f"{name} is not run: {why}." for name, why in measured.not_run.items()]
    for graph in encoders:
        profiled_ms = sum(node.median_us for node in measured.nodes[graph.name]) / 1e3
        p50_ms = measured.samples[graph.name].summary.p50_ms
        notes.append(
            f"{graph.name.replace('/', ' ')}: nodes add up to {profiled_ms:.2f} ms with the "
            f"profiler on, {p50_ms:.2f} ms is the median without it."
        )
        if measured.unmatched[graph.name]:
            share = measured.unmatched[graph.name] / graph.flops
            notes.append(f"{share:.1%} of the operations of {graph.name} were found in no node.")
    notes.append(
        "A scorer runs on one core with one chunk of a bank, as the runtime shares it out."
    )
    return [*notes, *measured.manifest.notes]
