"""Tables of time and memory: latency, encoders, libcff, search, peers, evaluation."""

from typing import Any

from cff_bench.document_tables.formats import (
    count_blocks,
    markdown_table,
    or_dash,
    or_nothing,
    report_tables,
)


def latency(report: dict[str, Any]) -> str:
    """One inspection, stage by stage."""
    facts, environment = report["facts"], report["environment"]
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
        f"n = {total['n']} (`cff-bench latency`, `bench/latency.json`). "
        "[All figures of a run](docs/performance.md).\n\n"
        + markdown_table(["stage", "p50", "p90", "p99", "share"], rows)
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
            or_nothing(limits.get(f"{row['name']} / {eager['name']}"), ".2f"),
            or_nothing(row["graph_mb"], ".0f"),
            or_nothing(row["peak_memory_mb"], ".0f"),
            "" if row["precision"] == "fp32" else count_blocks(row["kept_fp32"]),
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
        + markdown_table(header, rows)
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
        + markdown_table(["ms", "libcff", "Python", "ratio"], rows)
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
        "force.\n\n" + markdown_table([*header, "error"], rows)
    )


def evaluate_cost(report: dict[str, Any]) -> str:
    """What the metrics of cff-eval cost, by the number of images."""
    environment = report["environment"]
    return (
        f"**What they cost**: {environment['cpu_model']}, one product's images at once "
        f"(`{' '.join(report['command'])}`).\n\n" + report_tables(report, ("cost",))
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
        f"1, taking turns in one run (`{' '.join(found['command'])}`, `bench/peers.json`)."
    ]
    for table in found["tables"]:
        if table["name"].endswith("/parts"):
            continue
        rows = [
            [row["name"], *(or_dash(row.get(key), spec) for key, spec in specs.items())]
            for row in table["rows"]
        ]
        parts += [f"{table['title']}:", markdown_table(titles, rows)]
    words = {True: "holds", False: "**fails**", None: "not measured"}
    limits = {"lower": "at most", "higher": "at least"}
    checks = [
        f"- {check['name']}: {or_dash(check['value'], '.2f')}, {limits[check['better']]} "
        f"{check['limit']:g}: {words[check['passed']]}"
        for check in found["checks"]
    ]
    notes = [f"- {note}" for note in found["notes"]]
    return "\n\n".join((*parts, "\n".join(checks), "\n".join(notes)))
