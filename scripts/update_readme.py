#!/usr/bin/env python3
"""Write the README's tables from the JSON that `cff-bench` wrote to `benchmarks/results`.

`--check` changes nothing and fails if a table differs from its JSON.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def real_parts(report: dict[str, Any]) -> str:
    """Accuracy on the real parts, one row per head."""
    metrics = {
        "image AUROC": ("image_auroc", ".3f"),
        "pixel AUROC": ("pixel_auroc", ".3f"),
        "pixel AP": ("pixel_ap", ".3f"),
        "false rejects": ("false_reject_rate", ".1%"),
        "false accepts": ("false_accept_rate", ".1%"),
    }
    rows = [
        [head, *(format(values[key], spec) for key, spec in metrics.values())]
        for head, values in report["means"].items()
    ]
    products = sorted({entry["product"] for entry in report["products"]})
    n_images = sum(entry["n_test_images"] for entry in report["products"]) // len(rows)
    return (
        f"**Accuracy.** Means over {len(products)} products of MVTec AD ({', '.join(products)}; "
        f"{n_images} test images of a small subset, not comparable with published figures), "
        f"K = {report['k']}, `efficientnet-lite0`, adapters trained on "
        f"{', '.join(report['trained_on'])} (`make real-parts`, `real_parts.json`). `raw` is the "
        "backbone alone, `none` adds projectors, `affine` calibrators as well (the default).\n\n"
        + _table(["head", *metrics], rows)
    )


def latency(report: dict[str, Any]) -> str:
    """One inspection, stage by stage."""
    environment, subject = report["environment"], report["bundle"]
    rows = [
        [
            stage["name"],
            *(f"{stage[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{stage['share']:.0%}",
        ]
        for stage in report["stages"]
    ]
    total = report["total"]
    rows.append(["total", *(f"{total[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")), ""])
    return (
        f"**Latency.** One inspection, ms, {environment['cpu_model']} "
        f"({environment['cores_available']} cores, no GPU), {subject['precision']}, "
        f"{subject['input_px'][0]} px, K = {report['profile']['n_references']}, batch 1, "
        f"n = {total['n']} (`cff-bench latency`, `latency.json`).\n\n"
        + _table(["stage", "p50", "p90", "p99", "share"], rows)
    )


def table6(report: dict[str, Any]) -> str:
    """The paper's Table 6 beside ours."""
    rows = [
        [
            row["head"],
            "folded" if row["folded"] else "as trained",
            {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}[row["runtime"]],
            f"{row['p50_ms']:.1f}",
            "" if row["folded"] else f"{row['paper']['inference_ms']:.1f}",
            f"{row['params_mi']:.2f}",
            f"{row['macs_g']:.3f}",
        ]
        for row in report["rows"]
    ]
    held = [f"{ratio['name']}: {ratio['p50']:.2f}" for ratio in report["ratios"] if ratio["limit"]]
    paper = next(r["paper"] for r in report["ratios"] if r["name"].startswith("linear unfolded"))
    return (
        "**The paper's Table 6**: heads alone, ViT-L/14 at 518 px, batch 1, fp32, "
        f"n = {report['settings']['n']}, {report['settings']['threads']} threads "
        "(`cff-bench table6`, `table6.json`). The paper's milliseconds come from its own machine "
        f"(linear / none {paper:.2f}); folded here: {'; '.join(held)}.\n\n"
        + _table(["head", "", "runtime", "p50 ms", "paper ms", "Mi params", "G MACs"], rows)
    )


TABLES = {"real_parts": real_parts, "latency": latency, "table6": table6}


def render(readme: str) -> str:
    """Return the README with every table that has a JSON file written anew."""
    for name, write in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            text = write(json.loads(path.read_text(encoding="utf-8")))
            pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
            block = re.compile(pattern, re.DOTALL)
            readme = block.sub(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", readme)
    return readme


def main(argv: Sequence[str]) -> int:
    """Write or check the README; return the exit code."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = render(before)
    if "--check" in argv:
        if before != after:
            sys.stderr.write("README.md differs from benchmarks/results; run this script\n")
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
