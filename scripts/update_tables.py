#!/usr/bin/env python3
"""Write the documents' tables from the JSON that `cff-bench` wrote.

`--check` changes nothing and fails if a table differs from its JSON.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "docs/bench_peers.md",
    "docs/experiment.md",
    "docs/libcff_build.md",
    "docs/precision.md",
    "docs/profiles.md",
    "docs/thresholds.md",
)
EXPERIMENT = "docs/results/experiment.json"
THRESHOLDS = "benchmarks/results/thresholds.json"

_METRICS = {
    "pixel_ap": "pixel AP",
    "pixel_auroc": "pixel AUROC",
    "pro": "PRO",
    "image_auroc": "image AUROC",
}
_COMPARED = ("pixel_ap", "pixel_auroc", "image_auroc")


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
        "backbone alone, its distances summed as published; `none` adds projectors and the log "
        "distance, `affine` calibrators as well (the default). More rows, draws and intervals: "
        "[docs/experiment.md](docs/experiment.md).\n\n" + _table(["head", *metrics], rows)
    )


def latency(report: dict[str, Any]) -> str:
    """One inspection, stage by stage."""
    facts, environment = report.get("facts", report), report["environment"]
    subject = facts["bundle"]
    rows = [
        [
            stage["name"],
            *(f"{stage[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{stage['share']:.0%}",
        ]
        for stage in facts["stages"]
    ]
    total = facts["total"]
    rows.append(["total", *(f"{total[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")), ""])
    return (
        f"**Latency.** One inspection, ms, {environment['cpu_model']} "
        f"({environment['cores_available']} cores, no GPU), {subject['precision']}, "
        f"{subject['input_px'][0]} px, K = {facts['profile']['n_references']}, batch 1, "
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


def precision_speed(report: dict[str, Any]) -> str:
    """One network in PyTorch and in ONNX Runtime, by precision."""
    settings, environment, bundle = report["settings"], report["environment"], report["bundle"]
    eager = report["rows"][0]
    limits = {ratio["name"]: ratio["limit"] for ratio in report["ratios"]}
    rows = [
        [
            row["name"].replace("pytorch", "PyTorch").replace("onnxruntime", "ONNX Runtime"),
            f"{row['p50_ms']:.1f}",
            f"{row['p50_ms'] / eager['p50_ms']:.2f}",
            _optional(limits.get(f"{row['name']} / {eager['name']}"), ".2f"),
            _optional(row["graph_mb"], ".0f"),
            _optional(row["peak_memory_mb"], ".0f"),
            "" if row["precision"] == "fp32" else _count(row["kept_fp32"]),
        ]
        for row in report["rows"]
    ]
    header = ["encoder", "p50 ms", "of PyTorch", "at most", "graph MB", "memory MB", "kept in fp32"]
    missing = [f"{name} is not timed: {why}." for name, why in report["not_timed"].items()]
    return (
        f"**Precision, speed.** Encoder of `{bundle['backbone']['name']}` "
        f"({bundle['backbone']['weights']} weights) at {bundle['input_px'][0]} px, "
        f"{environment['cpu_model']}, threads: {settings['threads']}, batch 1, n = "
        f"{settings['repeats']}, taking turns in one run (`cff-bench precision speed`, "
        "`precision_speed.json`). Memory is the peak of a process that holds this encoder alone, "
        f"libraries included. {' '.join(missing)}".rstrip()
        + "\n\n"
        + _table(header, rows)
    )


def precision_drift(report: dict[str, Any]) -> str:
    """What a precision changes on real images."""
    data, bundle = report["data"], report["bundle"]
    rows = []
    for entry in report["precisions"]:
        minus = entry["minus_fp32"]
        is_fp32 = entry is report["precisions"][0]
        rows.append(
            [
                entry["precision"],
                f"{entry['means']['image_auroc']:.4f}",
                "" if is_fp32 else _signed(minus["image_auroc_points"]),
                f"{entry['means']['pixel_auroc']:.4f}",
                "" if is_fp32 else _signed(minus["pixel_auroc_points"]),
                "" if is_fp32 else str(len(entry["flips"])),
                "" if is_fp32 else _optional(entry["score_shift"], ".1%"),
                "" if is_fp32 else _count(entry["kept_fp32"]),
            ]
        )
    header = ["precision", "image AUROC", "points", "pixel AUROC", "points"]
    header += ["verdict flips", "largest score shift", "kept in fp32"]
    emulated = [e["precision"] for e in report["precisions"] if e["computed"].startswith("emul")]
    how = f" {' and '.join(emulated)} emulated on a CPU, roundings included." if emulated else ""
    points = [product["points_per_pair"] for product in report["precisions"][0]["products"]]
    return (
        f"**Precision, drift.** Means over {len(data['products'])} products of {data['name']} "
        f"({data['n_test_images']} test images), K = {report['settings']['shots']}, "
        f"`{bundle['backbone']['name']}` at {bundle['input_px'][0]} px; every precision enrols and "
        "inspects by itself (`cff-bench precision drift`, `precision_drift.json`). Points are "
        f"100 x AUROC minus that of fp32; one pair of images that changes places is worth "
        f"{min(points) / len(points):.2f} to {max(points) / len(points):.2f} of them. A score's "
        f"shift is a share of the way from a good part to the threshold.{how}\n\n"
        + _table(header, rows)
    )


def c_library(report: dict[str, Any]) -> str:
    """Libcff beside the Python runtime."""
    environment, settings = report["environment"], report["settings"]
    memory, endurance = report["memory"], report["endurance"]
    rows = [
        [
            row["name"],
            f"{row['libcff_p50_ms']:.2f}",
            f"{row['python_p50_ms']:.2f}",
            f"{row['p50_ratio']:.2f}",
        ]
        for row in report["rows"]
    ]
    return (
        f"One inspection, {report['image']['width_px']} x {report['image']['height_px']} px to "
        f"{memory['input_px'][1]} px, K = {memory['n_references']}, `{memory['backbone']}`, "
        f"{environment['cpu_model']}, {settings['threads']} threads, medians of {settings['n']} "
        f"each, in turns of {settings['per_turn']} in one run (`cff-bench c-library BUNDLE "
        "--profile P --endurance 10000`, `c_library.json`). libcff takes at its peak "
        f"{memory['libcff']['peak']:.0f} MB, Python {memory['python']['peak']:.0f}; graphs and "
        f"memory bank are {memory['files_mb']:.0f} MB of it, what libcff needs beyond them is held "
        f"to {memory['extra_at_most_mb']:.0f}. Over {endurance['n']} further inspections its "
        f"memory grew by {endurance['growth']:.2%}.\n\n"
        + _table(["ms", "libcff", "Python", "ratio"], rows)
    )


def footprint(report: dict[str, Any]) -> str:
    """What the box's installation takes, in a sentence."""
    largest = ", ".join(f"{p['name']} {p['mib']:.0f}" for p in report["packages"][:3])
    return (
        f"`cff-edge[{report['extra']}]` takes {report['size_mib']:.0f} MiB on disk ({largest}; "
        f"held to {report['size_at_most_mib']:.0f}); `import cff_runtime` takes "
        f"{report['import_ms']['p50_ms']:.0f} ms beyond NumPy's own import (held to "
        f"{report['import_at_most_ms']:.0f}; median of {report['import_ms']['n']}, "
        "`cff-bench footprint`, `footprint.json`)."
    )


def search(report: dict[str, Any]) -> str:
    """What the search of memory banks takes, by their size."""
    environment, bundle, settings = report["environment"], report["bundle"], report["settings"]
    rows = [
        [
            str(entry["shots"]),
            entry["name"],
            str(sum(entry["bank_rows"])),
            f"{entry['search']['p50_ms']:.2f}",
            f"{entry['share']:.1%}",
            f"{entry['share_of_decoded']:.1%}",
            f"{entry['ratio_to_plain']:.2f}",
            f"{entry['max_difference_to_float64']:.0e}",
        ]
        for entry in report["banks"]
    ]
    header = ["K", "bank", "rows", "search ms", "share", "without decoding", "of the plain graph"]
    return (
        f"`{bundle['backbone']['name']}` at {bundle['input_px'][0]} px, "
        f"{environment['cpu_model']}, {settings['threads']} threads, medians of {settings['n']} "
        "in one run. Share: of an inspection from the file on. Error: against a float64 brute "
        "force.\n\n" + _table([*header, "error"], rows)
    )


def experiment_main(report: dict[str, Any]) -> str:
    """Every row on the main set: pixel AP per K, all metrics and the gain at the largest K."""
    shots = [str(k) for k in report["protocol"]["shots"]]
    last = shots[-1]
    rows = []
    for row in report["main"]:
        figures = row["k"]
        rows.append(
            [
                f"`{row['name']}`",
                *(_spread(figures[k]["pixel_ap"]) for k in shots),
                *(_percent(figures[last][m]["mean"]) for m in list(_METRICS)[1:]),
                _gain(row["minus"].get("raw", ()), int(last), "pixel_ap"),
            ]
        )
    header = [
        "row",
        *(f"pixel AP, K = {k}" for k in shots),
        *(f"{label}, K = {last}" for label in list(_METRICS.values())[1:]),
        f"pixel AP minus `raw`, K = {last}",
    ]
    return _table(header, rows)


def experiment_labels(report: dict[str, Any]) -> str:
    """What every row is, and the settings that differ from the default."""
    rows = [
        [
            f"`{name}`",
            row["label"],
            ", ".join(f"`{setting}`" for setting in row["training"])
            or (f"run of `{row['run']}`" if row["run"] else "none"),
            ", ".join(f"`{setting}`" for setting in row["evaluation"]),
        ]
        for name, row in report["protocol"]["rows"].items()
    ]
    return _table(["row", "what it is", "trained with", "evaluated with"], rows)


def experiment_sets(report: dict[str, Any]) -> str:
    """The main rows on every test set at the largest K."""
    k = str(report["protocol"]["shots"][-1])
    rows = []
    for name, entries in report["test"].items():
        about = report["protocol"]["test_sets"][name]
        for entry in entries:
            figures = entry["k"][k]
            rows.append(
                [
                    f"{name} ({len(about['products'])} products, {about['n_images']} images)",
                    f"`{entry['name']}`",
                    *(_spread(figures[metric]) for metric in _METRICS),
                ]
            )
    return _table(["test set", "row", *_METRICS.values()], rows)


def experiment_overall(report: dict[str, Any]) -> str:
    """Paired differences to raw features over all test products."""
    rows = [
        [f"`{name}`", *(_gain(differences, None, metric) for metric in _COMPARED)]
        for name, differences in report["overall"].items()
    ]
    return _table(["row", *(f"{_METRICS[m]} minus `raw`" for m in _COMPARED)], rows)


def experiment_development(report: dict[str, Any]) -> str:
    """Pixel AP on the development sets, by row and text weight."""
    sets = list(report["development"])
    methods = sorted({m for found in report["development"].values() for m in found})
    rows = []
    for method in sorted(methods, key=lambda name: (not name.startswith("raw"), name)):
        found = [report["development"][name][method] for name in sets]
        means = [sum(f[m] for f in found) / len(found) for m in _COMPARED]
        rows.append(
            [
                f"`{method}`",
                *(_percent(f["pixel_ap"]) for f in found),
                *(_percent(mean) for mean in means),
            ]
        )
    header = ["row", *sets, *(f"mean {_METRICS[m]}" for m in _COMPARED)]
    return _table(header, rows)


def experiment_references(report: dict[str, Any]) -> str:
    """Alignment on the K references beside alignment on the batch."""
    found = report["on_references"]
    rows = [
        [
            _METRICS[metric],
            _percent(found["on_batch"][metric]),
            _percent(found["on_references"][metric]),
            _gain(found["minus"], None, metric),
        ]
        for metric in _COMPARED
    ]
    return _table(["metric", "on the batch", "on the references", "difference"], rows)


def thresholds_bounds(report: dict[str, Any]) -> str:
    """Share of simulated draws in which the stated bound holds, by distribution."""
    rows = report["simulation"]["further"]
    laws = list(dict.fromkeys(row["law"] for row in rows))
    cells: dict[tuple[int, float], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["n"], row["stated"]), {})[row["law"]] = f"{row['held']:.2%}"
    table = [
        [str(n), f"{100 * bound:g} %", *(held[law] for law in laws)]
        for (n, bound), held in cells.items()
    ]
    by_hand = report["simulation"]["by_hand"]
    table.append(
        [
            f"{by_hand[0]['n']}",
            "any, by hand",
            *(f"{row['held']:.2%}" for law in laws for row in by_hand if row["law"] == law),
        ]
    )
    settings = report["settings"]
    return (
        f"**Simulated.** Share of {settings['draws']} draws in which the true share of false "
        f"rejects is within the bound that is stated with {settings['confidence']:.0%} confidence "
        "(`cff-bench thresholds BUNDLE --json benchmarks/results/thresholds.json`). *By hand*: all "
        "statements of a draw at once.\n\n" + _table(["n", "false rejects <=", *laws], table)
    )


def thresholds_left_out(report: dict[str, Any]) -> str:
    """Rate at which the next part exceeds the references, beside its bound."""
    table = [
        [
            row["law"],
            str(row["n_references"]),
            *(
                f"{row[key]:.1%}"
                for key in ("stated", "rate", "text_stated", "text_rate", "text_largest")
            ),
        ]
        for row in report["simulation"]["left_out"]
    ]
    header = ["parts", "K", "<=", "false rejects", "text tower <=", "false rejects", "unprotected"]
    return (
        "**References alone**, simulated with nearest-neighbour scores in three dimensions, at the "
        "lowest threshold that the rule may take. *Unprotected*: what a text tower would give with "
        "the largest score as threshold, beyond 1 / (K + 1) in places.\n\n" + _table(header, table)
    )


def thresholds_real(report: dict[str, Any]) -> str:
    """Share of draws of held-out parts in which the bound holds."""
    real = report["real"]
    ordered = {(row["set"], row["product"]): row for row in real["in_order"]}
    table = []
    for (name, product), row in ordered.items():
        drawn = [r for r in real["further"] if (r["set"], r["product"]) == (name, product)]
        table.append(
            [
                f"{name}/{product}",
                str(drawn[0]["n_parts"]),
                *(f"{r['held']:.1%}" for r in drawn),
                f"{row['n']}: {100 * row['stated']:g} %",
                f"{row['n_rejected']} of {row['n_next']}",
            ]
        )
    header = [
        "product",
        "held-out parts",
        *(f"n = {r['n']}, <= {100 * r['stated']:g} %" for r in real["further"][:2]),
        "all training parts left: <=",
        "test parts rejected",
    ]
    rejected = sum(row["n_rejected"] for row in ordered.values())
    n_next = sum(row["n_next"] for row in ordered.values())
    expected = sum(row["n_next"] * row["expected_stated"] for row in ordered.values())
    return (
        "**Good parts that no bank has seen** (embedded encoder, K = 4). Share of draws, with "
        "replacement from the held-out parts, in which the bound holds; then, with no draw of "
        f"ours, training parts set the threshold and test parts follow: {rejected} of {n_next} are "
        f"rejected, where at most {expected:.1f} are expected.\n\n" + _table(header, table)
    )


def thresholds_rule(report: dict[str, Any]) -> str:
    """The rule of thumb before and after."""
    table = [
        [
            "`mvtec_mini`, held out" if row["held_out"] else "sets it was chosen on",
            str(row["k"]),
            *(f"{share:.1%}" for share in (*row["former"], *row["rule"])),
            f"{sum(row['former']) / 2:.1%}",
            f"{sum(row['rule']) / 2:.1%}",
        ]
        for row in report["real"]["rule_means"]
    ]
    header = [
        "parts",
        "K",
        "false rejects before",
        "false accepts before",
        "false rejects",
        "false accepts",
        "mean before",
        "mean",
    ]
    return (
        "Means over products (4 held out; 6 of the others) and "
        f"{report['settings']['reference_draws']} draws of references, `efficientnet-lite0` at "
        "256 px, log distances.\n\n" + _table(header, table)
    )


def peers(report: dict[str, Any]) -> str:
    """Whole inspections of everyone, network by network, and the checks."""
    found = report["reports"][0] if "reports" in report else report
    environment, settings = found["environment"], found["settings"]
    specs = {
        "n": "d",
        "p50_ms": ".1f",
        "p90_ms": ".1f",
        "ratio": ".2f",
        "peak_memory_mb": ".0f",
        "map_difference": ".1e",
    }
    titles = ["contestant", "n", "p50 ms", "p90", "of ours fp32", "memory MB", "map differs by"]
    parts = [
        f"**Whole inspections**, {environment['cpu_model']}, {settings['threads']} threads, batch "
        f"1, taking turns in one run (`{' '.join(found['command'])}`, `peers.json`)."
    ]
    for table in found["tables"]:
        if table["name"].endswith("/parts"):
            continue
        rows = [
            [row["name"], *(_dash(row.get(key), spec) for key, spec in specs.items())]
            for row in table["rows"]
        ]
        parts += [f"{table['title']}:", _table(titles, rows)]
    words = {True: "holds", False: "**fails**", None: "not measured"}
    limits = {"lower": "at most", "higher": "at least"}
    checks = [
        f"- {check['name']}: {_dash(check['value'], '.2f')}, {limits[check['better']]} "
        f"{check['limit']:g}: {words[check['passed']]}"
        for check in found["checks"]
    ]
    notes = [f"- {note}" for note in found["notes"]]
    return "\n\n".join((*parts, "\n".join(checks), "\n".join(notes)))


def _dash(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def _optional(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # never -0.00


def _count(blocks: Sequence[str]) -> str:
    return f"{len(blocks)} block{'s' if len(blocks) > 1 else ''}" if blocks else "none"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _spread(figure: dict[str, float]) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"


def _gain(differences: Sequence[dict[str, Any]], k: int | None, metric: str) -> str:
    """Return a paired difference with its interval; empty for the baseline itself."""
    for d in differences:
        if d["metric"] == metric and k in (None, d["k"]):
            return f"{100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"
    return ""


# name of the table -> its JSON and the function that writes it
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "real_parts": ("benchmarks/results/real_parts.json", real_parts),
    "latency": ("benchmarks/results/latency.json", latency),
    "table6": ("benchmarks/results/table6.json", table6),
    "precision_speed": ("benchmarks/results/precision_speed.json", precision_speed),
    "precision_drift": ("benchmarks/results/precision_drift.json", precision_drift),
    "footprint": ("benchmarks/results/footprint.json", footprint),
    "peers": ("benchmarks/results/peers.json", peers),
    "c_library": ("benchmarks/results/c_library.json", c_library),
    "thresholds_bounds": (THRESHOLDS, thresholds_bounds),
    "thresholds_left_out": (THRESHOLDS, thresholds_left_out),
    "thresholds_real": (THRESHOLDS, thresholds_real),
    "thresholds_rule": (THRESHOLDS, thresholds_rule),
    "search_embedded": ("docs/results/search-embedded.json", search),
    "search_vitl": ("docs/results/search-vitl.json", search),
    "experiment_main": (EXPERIMENT, experiment_main),
    "experiment_labels": (EXPERIMENT, experiment_labels),
    "experiment_sets": (EXPERIMENT, experiment_sets),
    "experiment_overall": (EXPERIMENT, experiment_overall),
    "experiment_development": (EXPERIMENT, experiment_development),
    "experiment_references": (EXPERIMENT, experiment_references),
}


def render(document: str) -> str:
    """Return a document with every table that has a JSON file written anew."""
    for name, (file, write) in TABLES.items():
        block = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.DOTALL)
        path = ROOT / file
        if path.is_file() and block.search(document):
            text = write(json.loads(path.read_text(encoding="utf-8")))
            document = block.sub(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", document)
    return document


def main(argv: Sequence[str]) -> int:
    """Write or check the documents; return the exit code."""
    differing = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if before != after:
            differing.append(name)
            if "--check" not in argv:
                path.write_text(after, encoding="utf-8")
    if "--check" in argv and differing:
        sys.stderr.write(f"{', '.join(differing)} differ from the JSON; run this script\n")
        return 1
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
