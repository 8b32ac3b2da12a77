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

from cff_bench.document_tables import (
    accuracy,
    experiment,
    latency,
    table6,
    tfa_net,
    thresholds,
)

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "docs/bench_peers.md",
    "docs/evaluation.md",
    "docs/experiment.md",
    "docs/libcff_build.md",
    "docs/precision.md",
    "docs/profiles.md",
    "docs/table6.md",
    "docs/thresholds.md",
)
BENCH = "benchmarks/results/bench"
TABLE6 = f"{BENCH}/table6.json"
EXPERIMENT = "docs/results/experiment.json"
TFA_NET = "docs/results/tfa_net.json"
THRESHOLDS = "benchmarks/results/thresholds.json"

# name of the table -> its JSON and the function that writes it
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "real_parts": ("benchmarks/results/real_parts.json", accuracy.real_parts),
    "latency": (f"{BENCH}/latency.json", latency.latency),
    "table6": (TABLE6, table6.table6),
    "table6_full": (TABLE6, table6.table6_full),
    "table6_shapes": (TABLE6, table6.table6_shapes),
    "table6_plot": (TABLE6, table6.table6_plot),
    "precision_speed": ("benchmarks/results/precision_speed.json", latency.precision_speed),
    "precision_drift": ("benchmarks/results/precision_drift.json", accuracy.precision_drift),
    "footprint": ("benchmarks/results/footprint.json", latency.footprint),
    "peers": (f"{BENCH}/peers.json", latency.peers),
    "c_library": ("benchmarks/results/c_library.json", latency.c_library),
    "evaluate_cost": (f"{BENCH}/evaluate-cost.json", latency.evaluate_cost),
    "thresholds_bounds": (THRESHOLDS, thresholds.thresholds_bounds),
    "thresholds_left_out": (THRESHOLDS, thresholds.thresholds_left_out),
    "thresholds_real": (THRESHOLDS, thresholds.thresholds_real),
    "thresholds_rule": (THRESHOLDS, thresholds.thresholds_rule),
    "search_embedded": ("docs/results/search-embedded.json", latency.search),
    "search_vitl": ("docs/results/search-vitl.json", latency.search),
    "experiment_main": (EXPERIMENT, experiment.experiment_main),
    "experiment_labels": (EXPERIMENT, experiment.experiment_labels),
    "experiment_sets": (EXPERIMENT, experiment.experiment_sets),
    "experiment_overall": (EXPERIMENT, experiment.experiment_overall),
    "experiment_development": (EXPERIMENT, experiment.experiment_development),
    "experiment_references": (EXPERIMENT, experiment.experiment_references),
    "tfa_net": (TFA_NET, tfa_net.tfa_net),
    "tfa_net_latency": (TFA_NET, tfa_net.tfa_net_latency),
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
