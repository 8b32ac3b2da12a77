"""The report of `cff-bench table6`: our rows beside the paper's, ratios, and the roofline."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cff_bench.report.document import (
    Check,
    Column,
    Mark,
    Plot,
    PlotSeries,
    Report,
    Series,
    Table,
    format_cell,
)
from cff_bench.table6.candidates import MAX_ABS_DIFF, PAPER_SHAPE, Table6Settings
from cff_bench.table6.heads import OPSET
from cff_bench.table6.measurement import HeadCeilings, ShapeRows, Table6

RUNTIMES = {
    "pytorch": "PyTorch",
    "compiled": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "pytorch cuda": "PyTorch, CUDA",
    "onnxruntime cuda": "ONNX Runtime, CUDA",
    "onnxruntime tensorrt": "ONNX Runtime, TensorRT",
}
_ON_GPU = ("cuda", "tensorrt")
WHY = (
    "An affine calibrator after an affine projector is one affine map: "
    "W(k f + b) + c = (W k) f + (W b + c).",
    "W k has as many rows and columns as k, and W b + c is as long as b, so the folded head is a "
    "matrix and a bias of the shape that the first row has.",
    "The exporter multiplies them once, in float64, and rounds once; on the machine that inspects "
    "there is nothing left of the calibrator but other numbers.",
    "So the folded linear row does the operations of the first row, moves its bytes and takes its "
    "time, whereas unfolded it does them twice, which is the paper's 1.67.",
)


_RATIO_NOTE = (
    "p50: of medians, with an interval of 95 % that resamples rounds; min: of the fastest rounds; "
    "MACs: of operations."
)


def build_report(table6: Table6, settings: Table6Settings, environment: dict[str, Any]) -> Report:
    """Return the report of a measurement."""
    main, *others = table6.shapes
    tables = [
        _table(main, "table6", table6.ceilings),
        _counted_table(main, "counted"),
        _ratio_table(main, "ratios"),
    ]
    grid = others
    if settings.projector_width is not None:
        projector, *grid = others
        tables.append(_table(projector, "projector", table6.ceilings))
        tables.append(_counted_table(projector, "projector_counted"))
        tables.append(_ratio_table(projector, "projector_ratios"))
    if grid:
        tables.append(_grid_table(grid))
    failures = {row["failure"] for part in table6.shapes for row in part.rows if row["failure"]}
    return Report(
        kind="table6",
        title="The paper's Table 6: heads alone, and what folding makes of it",
        command=list(settings.command),
        environment=environment,
        settings={
            "n": settings.n,
            "warmup": settings.warmup,
            "threads": settings.threads,
            "pause_ms": settings.pause_ms,
            "seed": settings.seed,
            "precision": "fp32",
            "batch": 1,
            "inside": "heads of all stages on features in memory; no backbone, no memory bank",
            "max_abs_diff_allowed": MAX_ABS_DIFF,
            "weights": "random, seeded, BatchNorm statistics included; latency work only",
            "onnx": f"opset {OPSET}, one Gemm per linear layer, one graph per head",
            "onnxruntime": "CPUExecutionProvider, session.force_spinning_stop=1, a core each",
        },
        series=_series(table6.shapes),
        tables=tables,
        plots=[_latency_plot(table6)],
        checks=[
            Check.of(ratio["name"], ratio["p50"], ratio["limit"])
            for ratio in main.ratios
            if ratio["limit"] is not None
        ],
        notes=[
            *WHY,
            "The paper's heads are unfolded and ran on its own machine: compare ratios, not "
            "milliseconds.",
            "Ratios across runtimes mix folding with how fast each runtime is on this processor.",
            *sorted(failures),
        ],
        facts={
            "shape": asdict(main.shape),
            "ceilings": asdict(table6.ceilings),
        },
    )


def _series(shapes: Sequence[ShapeRows]) -> list[Series]:
    return [
        Series(
            f"table6/{part.shape.name}/{name}",
            "ms",
            samples.values_ms,
            group=f"table6/{part.shape.name}",
            role="reference" if name == "none folded onnxruntime" else "",
        )
        for part in shapes
        for name, samples in part.samples.items()
    ]


def _table(part: ShapeRows, name: str, ceilings: HeadCeilings) -> Table:
    is_paper = part.shape == PAPER_SHAPE
    columns = [
        Column("head", "head", "left"),
        Column("form", "", "left"),
        Column("runtime_name", "runtime", "left"),
        Column("n", "n"),
        Column("p50_ms", "p50 ms", spec=".1f"),
        Column("p90_ms", "p90", spec=".1f"),
        Column("p99_ms", "p99", spec=".1f"),
        *_paper_columns("paper_inference_ms", ".1f", is_paper),
        Column("throughput", "1/s", spec=".2f"),
        *_paper_columns("paper_throughput", ".2f", is_paper),
        Column("bound_ms", "bound ms", spec=".1f"),
        Column("max_abs_diff", "max diff", spec=".1e"),
    ]
    return Table(
        name,
        f"Heads alone, {part.shape.name}, {part.shape.n_stages} stages",
        columns,
        [_shown(row, ceilings) for row in part.rows],
        f"Bound: operations at the measured {ceilings.gflops:.0f} GFLOP/s, or bytes at "
        f"{ceilings.gbps:.0f} GB/s.",
    )


def _counted_table(part: ShapeRows, name: str) -> Table:
    """Return the columns that are counted, the same in every runtime."""
    is_paper = part.shape == PAPER_SHAPE
    columns = [
        Column("head", "head", "left"),
        Column("form", "", "left"),
        Column("memory_gib", "GiB", spec=".4f"),
        *_paper_columns("paper_memory_gb", ".4f", is_paper),
        Column("params_mi", "Mi params", spec=".2f"),
        *_paper_columns("paper_params_m", ".2f", is_paper),
        Column("macs_g", "G MACs", spec=".3f"),
        *_paper_columns("paper_flops_g", ".3f", is_paper),
    ]
    rows = {(row["head"], row["folded"]): row for row in part.rows}
    shown = [
        {**row, "form": "folded" if is_folded else "as trained"}
        for (head, is_folded), row in rows.items()
        if head != "none" or not is_folded  # nothing to fold
    ]
    return Table(
        name,
        f"Counted, {part.shape.name}",
        columns,
        [{column.name: row[column.name] for column in columns} for row in shown],
        "GiB: input image and stage outputs, as the paper counts; Mi: 2^20; a MAC is a "
        "multiply-accumulate. The paper's heads are unfolded.",
    )


def _paper_columns(name: str, spec: str, is_paper: bool) -> list[Column]:
    return [Column(name, "paper", spec=spec)] if is_paper else []


def _shown(row: dict[str, Any], ceilings: HeadCeilings) -> dict[str, Any]:
    on_gpu = str(row["runtime"]).endswith(_ON_GPU)
    return {
        **row,
        "form": "folded" if row["folded"] else "as trained",
        "runtime_name": RUNTIMES[row["runtime"]],
        "bound_ms": None if on_gpu else ceilings.bound_ms(row["macs_g"], row["moved_bytes"]),
    }


def _ratio_table(part: ShapeRows, name: str) -> Table:
    columns = [
        Column("name", "ratio", "left"),
        Column("p50", "p50", spec=".2f"),
        Column("low", "from", spec=".2f"),
        Column("high", "to", spec=".2f"),
        Column("min", "min", spec=".2f"),
        Column("macs", "MACs", spec=".2f"),
        Column("paper", "paper", spec=".2f"),
        Column("limit", "at most", spec=".2f"),
    ]
    return Table(name, f"Ratios, {part.shape.name}", columns, part.ratios, _RATIO_NOTE)


def _grid_table(parts: Sequence[ShapeRows]) -> Table:
    columns = [
        Column("shape", "shape", "left"),
        Column("n", "n"),
        Column("none", "none", spec=".2f"),
        Column("linear", "linear folded", spec=".2f"),
        Column("linear_unfolded", "as trained", spec=".2f"),
        Column("linear_ratio", "folded / none", spec=".2f"),
        Column("mlp", "MLP folded", spec=".2f"),
        Column("mlp_unfolded", "as trained", spec=".2f"),
        Column("mlp_ratio", "folded / as trained", spec=".2f"),
    ]
    return Table("grid", "Other shapes, ONNX Runtime, ms", columns, [_grid_row(p) for p in parts])


def _grid_row(part: ShapeRows) -> dict[str, Any]:
    p50 = {row["name"]: row["p50_ms"] for row in part.rows}
    none, linear = p50["none folded onnxruntime"], p50["linear folded onnxruntime"]
    mlp, unfolded = p50["mlp folded onnxruntime"], p50["mlp unfolded onnxruntime"]
    return {
        "shape": part.shape.name,
        "n": part.rows[0]["n"],
        "none": none,
        "linear": linear,
        "linear_unfolded": p50["linear unfolded onnxruntime"],
        "mlp": mlp,
        "mlp_unfolded": unfolded,
        "linear_ratio": linear / none,
        "mlp_ratio": mlp / unfolded,
    }


def _latency_plot(table6: Table6) -> Plot:
    """Latency over operations, log-log, beneath it the least time that the ceilings allow."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for part in table6.shapes:
        for row in part.rows:
            if row["p50_ms"] is not None:
                form = "folded" if row["folded"] else "as trained"
                label = f"{RUNTIMES[row['runtime']]}, {form}"
                entry = (2 * row["macs_g"], row["p50_ms"], row["min_ms"], row["p90_ms"])
                points.setdefault(label, []).append(entry)
    flops = [entry[0] for entries in points.values() for entry in entries]
    ends = [min(flops) / 1.5, max(flops) * 1.5]
    roof = [flop / table6.ceilings.gflops * 1e3 for flop in ends]
    series = [PlotSeries("measured roofline", list(ends), roof, style="line")]
    for label, entries in points.items():
        x, y, low, high = (list(column) for column in zip(*sorted(entries), strict=True))
        series.append(PlotSeries(label, x, y, low, high, style="points"))
    paper = {row["head"]: row for row in table6.shapes[0].rows}.values()
    x = [2 * row["paper_flops_g"] for row in paper]
    ms = [row["paper_inference_ms"] for row in paper]
    series.append(PlotSeries("paper, its machine", x, ms, style="points"))
    rows = table6.shapes[0].rows
    first = next(row for row in rows if row["name"] == "none folded onnxruntime")
    bytes_ms = first["moved_bytes"] / table6.ceilings.gbps / 1e6
    return Plot(
        "latency",
        "Latency over operations",
        "scatter",
        "GFLOP (a multiply-add is two)",
        "ms",
        x_log=True,
        y_log=True,
        series=series,
        marks=[Mark("bytes of the first row", y=bytes_ms)],
        note=f"Roofline: {table6.ceilings.gflops:.0f} GFLOP/s measured. Bars: minimum to p90.",
    )


def plot_data(report: Report) -> str:
    """Return the points of the plot as a Markdown table, for a page without pictures."""
    lines = ["| series | GFLOP | ms |", "| --- | --- | --- |"]
    for series in report.plots[0].series:
        for x, y in zip(series.x, series.y, strict=True):
            lines.append(f"| {series.name} | {x:.2f} | {format_cell(y, '.2f')} |")
    return "\n".join(lines)
