"""The report of `cff-bench roofline`: ceilings, distances, the heaviest nodes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cff_bench.precision.facts import bundle_facts
from cff_bench.report.document import (
    Check,
    Column,
    Mark,
    Plot,
    PlotSeries,
    Report,
    Series,
    Table,
    percentile_columns,
)
from cff_bench.roofline.bandwidth import BEYOND, cache_bytes
from cff_bench.roofline.ceilings import Ceilings
from cff_bench.roofline.measurement import Graph, Measured, RooflineSettings
from cff_bench.roofline.profiling import NodeTime

MIN_SHARE = 0.90  # of the sgemm ceiling, for an fp32 encoder
HEAVIEST = 20
_HELD_TO = "encoder fp32 / sgemm ceiling"


def build_report(
    measured: Measured, settings: RooflineSettings, environment: dict[str, Any]
) -> Report:
    """Return the report of a measurement."""
    encoders = [graph for graph in measured.graphs if graph.name in measured.nodes]
    checks = [
        Check.of(_HELD_TO, _gemm_share(graph, measured), MIN_SHARE, better="higher")
        for graph in encoders
        if graph.precision == "fp32"
    ]
    tables = [
        _gemm_table(measured),
        _transfer_table(measured),
        _graph_table(measured),
    ]
    plots = [_thread_plot(measured)]
    for graph in encoders:
        tables += [_operator_table(graph, measured), _node_table(graph, measured)]
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
            "onnxruntime": "CPUExecutionProvider, session.force_spinning_stop=1",
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


def _gemm_table(measured: Measured) -> Table:
    best = {name for ceilings in measured.ceilings.values() for name in ceilings.fastest.values()}
    rows = []
    for gemm in measured.gemms:
        summary = measured.samples[gemm.name].summary
        m, k, n = gemm.shape
        rows.append(
            {
                "precision": gemm.precision,
                "threads": gemm.threads,
                "library": gemm.library,
                "shape": f"{m} x {k} x {n}",
                "n": summary.n,
                "p50_ms": summary.p50_ms,
                "gflops": gemm.flops / summary.p50_ms / 1e6,
                "gflops_best": gemm.flops / summary.min_ms / 1e6,
                "ceiling": "ceiling" if gemm.name in best else "",
            }
        )
    columns = [
        Column("precision", "precision", "left"),
        Column("threads", "threads"),
        Column("library", "library", "left"),
        Column("shape", "m x k x n"),
        Column("n", "n"),
        Column("p50_ms", "p50 ms", spec=".2f"),
        Column("gflops", "GFLOP/s", spec=".0f"),
        Column("gflops_best", "at best", spec=".0f"),
        Column("ceiling", "", "left"),
    ]
    note = "The ceiling is the largest rate of medians of a precision and number of threads."
    return Table("gemm", "Products", columns, rows, note)


def _transfer_table(measured: Measured) -> Table:
    rows = []
    for transfer in measured.transfers:
        summary = measured.samples[transfer.name].summary
        rows.append(
            {
                "level": transfer.level,
                "threads": transfer.threads,
                "kind": transfer.kind,
                "n": summary.n,
                "p50_ms": summary.p50_ms,
                "gbps": transfer.moved_bytes / summary.p50_ms / 1e6,
            }
        )
    columns = [
        Column("level", "within", "left"),
        Column("threads", "threads"),
        Column("kind", "kind", "left"),
        Column("n", "n"),
        Column("p50_ms", "p50 ms", spec=".2f"),
        Column("gbps", "GB/s", spec=".1f"),
    ]
    return Table(
        "memory", "Memory", columns, rows, "A copy counts two bytes a byte, a triad three."
    )


def _graph_table(measured: Measured) -> Table:
    columns = [
        Column("graph", "graph", "left"),
        Column("threads", "threads"),
        *percentile_columns(),
        Column("gflop", "GFLOP", spec=".3f"),
        Column("gflops", "GFLOP/s", spec=".0f"),
        Column("ceiling", "ceiling", spec=".0f"),
        Column("share", "share", spec=".2f"),
        Column("bound_ms", "bound ms", spec=".2f"),
        Column("bound_share", "bound / p50", spec=".2f"),
        Column("memory_bound", "time in memory-bound nodes", spec=".0%"),
    ]
    note = (
        "Share: GFLOP/s over the ceiling of products at this precision and number of threads, "
        "which attention (always fp32) and every node without a product lower. Bound: the sum "
        "over nodes of the larger of operations at the ceiling and bytes at the bandwidth."
    )
    return Table(
        "graphs",
        "Graphs against the ceilings",
        columns,
        [graph_row(graph, measured) for graph in measured.graphs],
        note,
    )


def graph_row(graph: Graph, measured: Measured) -> dict[str, Any]:
    """Return what is said of one graph; None where it was not profiled."""
    summary = measured.samples[graph.name].summary
    ceilings = measured.ceilings[graph.threads]
    nodes = measured.nodes.get(graph.name)
    bound_ms = memory_bound = None
    if nodes:
        bound_ms = sum(map(ceilings.bound_us, nodes)) / 1e3
        memory_bound = memory_bound_share(nodes, ceilings)
    return {
        "graph": graph.name.replace("/", " "),
        "threads": graph.threads,
        "n": summary.n,
        **{f"{p}_ms": getattr(summary, f"{p}_ms") for p in ("p50", "p90", "p95", "p99", "jitter")},
        "gflop": graph.flops / 1e9,
        "gflops": graph.flops / summary.p50_ms / 1e6,
        "ceiling": ceilings.gflops[graph.precision],
        "share": _gemm_share(graph, measured),
        "bound_ms": bound_ms,
        "bound_share": None if bound_ms is None else bound_ms / summary.p50_ms,
        "memory_bound": memory_bound,
    }


def memory_bound_share(nodes: Sequence[NodeTime], ceilings: Ceilings) -> float:
    """Return the share of the profiled time that memory-bound nodes take."""
    total = sum(node.median_us for node in nodes)
    bound = sum(node.median_us for node in nodes if ceilings.is_memory_bound(node))
    return bound / total if total else 0.0


def _gemm_share(graph: Graph, measured: Measured) -> float:
    rate = graph.flops / measured.samples[graph.name].summary.p50_ms / 1e6
    return rate / measured.ceilings[graph.threads].gflops[graph.precision]


def operator_rows(nodes: Sequence[NodeTime], ceilings: Ceilings) -> list[dict[str, Any]]:
    """Return time, operations and bound by operator, the heaviest first."""
    groups: dict[str, list[NodeTime]] = defaultdict(list)
    for node in nodes:
        groups[node.operator].append(node)
    total = sum(node.median_us for node in nodes)
    rows = []
    for operator, group in groups.items():
        took = sum(node.median_us for node in group)
        bound = sum(map(ceilings.bound_us, group))
        rows.append(
            {
                "operator": operator,
                "nodes": len(group),
                "us": took,
                "time_share": took / total if total else None,
                **_rates(sum(n.flops for n in group), took, bound),
                "memory_bound": memory_bound_share(group, ceilings),
            }
        )
    return sorted(rows, key=lambda row: -row["us"])


def _rates(flops: int, took_us: float, bound_us: float) -> dict[str, float | None]:
    return {
        "gflop": flops / 1e9 if flops else None,
        "gflops": flops / took_us / 1e3 if flops and took_us else None,
        "bound_share": bound_us / took_us if took_us else None,
    }


def _operator_table(graph: Graph, measured: Measured) -> Table:
    ceilings = measured.ceilings[graph.threads]
    columns = [
        Column("operator", "operator", "left"),
        Column("nodes", "nodes"),
        Column("us", "us", spec=".0f"),
        Column("time_share", "of the time", spec=".1%"),
        *_RATE_COLUMNS,
        Column("memory_bound", "memory-bound", spec=".0%"),
    ]
    rows = operator_rows(measured.nodes[graph.name], ceilings)
    title = f"{graph.name.replace('/', ' ')}: time by operator"
    return Table(f"operators/{graph.name}", title, columns, rows)


_RATE_COLUMNS = [
    Column("gflop", "GFLOP", spec=".3f"),
    Column("gflops", "GFLOP/s", spec=".0f"),
    Column("bound_share", "bound / time", spec=".2f"),
]


def _node_table(graph: Graph, measured: Measured) -> Table:
    nodes = measured.nodes[graph.name]
    ceilings = measured.ceilings[graph.threads]
    total = sum(node.median_us for node in nodes)
    rows = [
        {
            "node": node.name,
            "operator": node.operator,
            "shapes": node.shapes,
            "us": node.median_us,
            "time_share": node.median_us / total if total else None,
            **_rates(node.flops, node.median_us, ceilings.bound_us(node)),
            "mb": node.moved_bytes / 1e6,
            "bound_by": "memory" if ceilings.is_memory_bound(node) else "operations",
        }
        for node in nodes[:HEAVIEST]
    ]
    columns = [
        Column("node", "node", "left"),
        Column("operator", "operator", "left"),
        Column("shapes", "shapes", "left"),
        Column("us", "us", spec=".0f"),
        Column("time_share", "of the time", spec=".1%"),
        *_RATE_COLUMNS,
        Column("mb", "MB", spec=".2f"),
        Column("bound_by", "bound by", "left"),
    ]
    title = f"{graph.name.replace('/', ' ')}: the {len(rows)} heaviest of {len(nodes)} nodes"
    return Table(f"nodes/{graph.name}", title, columns, rows)


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
