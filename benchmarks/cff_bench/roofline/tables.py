"""The tables of `cff-bench roofline`: ceilings, graphs, operators, the heaviest nodes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cff_bench.report.document import Column, Table, percentile_columns
from cff_bench.roofline.ceilings import Ceilings
from cff_bench.roofline.measurement import Graph, Measured
from cff_bench.roofline.profiling import NodeTime

HEAVIEST = 20


def gemm_table(measured: Measured) -> Table:
    """Return the products, library by library."""
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


def transfer_table(measured: Measured) -> Table:
    """Return the bandwidths."""
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


def graph_table(measured: Measured) -> Table:
    """Return every graph and its distance from the ceilings."""
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
        Column("memory_bound", "memory-bound", spec=".0%"),
    ]
    note = (
        "Share: GFLOP/s over the ceiling of products at this precision and number of threads, "
        "which attention (always fp32) and every node without a product lower. Bound: the sum "
        "over nodes of the larger of operations at the ceiling and bytes at the bandwidth. "
        "Memory-bound: the nodes of which the bytes take longer, by their time."
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
        "share": gemm_share(graph, measured),
        "bound_ms": bound_ms,
        "bound_share": None if bound_ms is None else bound_ms / summary.p50_ms,
        "memory_bound": memory_bound,
    }


def memory_bound_share(nodes: Sequence[NodeTime], ceilings: Ceilings) -> float:
    """Return the share of the profiled time that memory-bound nodes take."""
    total = sum(node.median_us for node in nodes)
    bound = sum(node.median_us for node in nodes if ceilings.is_memory_bound(node))
    return bound / total if total else 0.0


def gemm_share(graph: Graph, measured: Measured) -> float:
    """Return a graph's rate over the ceiling of products."""
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


def operator_table(graph: Graph, measured: Measured) -> Table:
    """Return the time of an encoder by operator."""
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


def node_table(graph: Graph, measured: Measured) -> Table:
    """Return the heaviest nodes of an encoder."""
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
