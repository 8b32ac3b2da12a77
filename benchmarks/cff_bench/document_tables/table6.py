"""The paper's Table 6 in the README and on its own page."""

from typing import Any

from cff_bench.document_tables.formats import markdown_table, or_dash, report_tables, rows_of

_IN_SHORT = ("pytorch", "onnxruntime")


def table6(report: dict[str, Any]) -> str:
    """The paper's Table 6 beside ours, in short: two runtimes, three columns."""
    rows = [
        [
            row["head"],
            row["form"],
            row["runtime_name"],
            or_dash(row["p50_ms"], ".1f"),
            "" if row["folded"] else f"{row['paper_inference_ms']:.1f}",
            f"{row['params_mi']:.2f}",
            f"{row['macs_g']:.3f}",
        ]
        for row in rows_of(report, "table6")
        if row["runtime"] in _IN_SHORT
    ]
    ratios = rows_of(report, "ratios")
    held = [f"{ratio['name']}: {ratio['p50']:.2f}" for ratio in ratios if ratio["limit"]]
    paper = next(r["paper"] for r in ratios if r["name"].startswith("linear unfolded"))
    return (
        "**The paper's Table 6**: heads alone, ViT-L/14 at 518 px, batch 1, fp32, "
        f"n = {report['settings']['n']}, {report['settings']['threads']} threads "
        "(`cff-bench table6`, `bench/table6.json`). The paper's milliseconds come from its own "
        f"machine (linear / none {paper:.2f}); folded here: {'; '.join(held)}. "
        "[All columns, other shapes, and why folding is free](docs/table6.md).\n\n"
        + markdown_table(["head", "", "runtime", "p50 ms", "paper ms", "Mi params", "G MACs"], rows)
    )


def table6_full(report: dict[str, Any]) -> str:
    """All five columns, then the ratios."""
    environment, settings = report["environment"], report["settings"]
    return (
        f"{environment['cpu_model']}, threads: {settings['threads']}, batch 1, fp32, n = "
        f"{settings['n']}, {environment['date_utc']} (`{' '.join(report['command'])}`).\n\n"
        + report_tables(report, ("table6", "counted", "ratios"))
    )


def table6_shapes(report: dict[str, Any]) -> str:
    """The real projector, and the grid where it was measured."""
    return report_tables(report, ("projector", "projector_counted", "projector_ratios", "grid"))


def table6_plot(report: dict[str, Any]) -> str:
    """The points of the plot of latency over operations."""
    rows = [
        [series["name"], f"{x:.2f}", or_dash(y, ".2f")]
        for series in report["plots"][0]["series"]
        for x, y in zip(series["x"], series["y"], strict=True)
    ]
    return markdown_table(["series", "GFLOP", "ms"], rows)
