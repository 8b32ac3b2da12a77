"""Figures of an experiment, gathered from its cells into one JSON and a plot.

Nothing is computed here that `cff-eval` does not print: means over products, their spread over
draws of references, bootstrap intervals, and paired differences on the same draws and images.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cff_bench.environment import collect_environment
from cff_bench.experiment.pipeline import Experiment
from cff_bench.experiment.protocol import (
    BASELINE,
    DEFAULT,
    DEVELOPMENT_SEEDS,
    DEVELOPMENT_SETS,
    EVERYWHERE,
    MAIN_SET,
    MAX_PER_PRODUCT,
    N_SEEDS,
    ON_REFERENCES,
    POOL,
    PROJECTORS,
    ROWS,
    SHOTS,
    TEST_SETS,
    TRAINING_SETS,
)
from cff_edge.checkpoint import CONFIG_NAME, LOG_NAME
from cff_edge.evaluation.cells import CellResult, load_results
from cff_edge.evaluation.comparison import compare
from cff_edge.evaluation.plots import plot_metric
from cff_edge.evaluation.summary import summarise
from cff_edge.evaluation.tables import write_all
from cff_edge.metrics import METRIC_NAMES
from cff_runtime.storage import atomic_write

SCHEMA_VERSION = 1
RESULT_NAME = "experiment.json"
PLOT_NAME = "experiment.svg"
# of the plot; the other rows stand in the tables
_PLOTTED = (BASELINE, "raw-log", PROJECTORS, DEFAULT, "mlp", "affine-episodes")


def write_report(experiment: Experiment, folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Write ``experiment.json`` and ``experiment.svg``; a page of all rows stays with the cells.

    Parameters
    ----------
    experiment : Experiment
        Finished.
    folder : Path
        Where to write.
    command : sequence of str
        For the JSON.
    """
    results = {name: load_results(experiment.results / name) for name in TEST_SETS}
    main = [result for result in results[MAIN_SET] if result.method != ON_REFERENCES.name]
    write_all(main, experiment.results / MAIN_SET)
    everywhere = [
        result
        for cells in results.values()
        for result in cells
        if result.method in EVERYWHERE and result.k == SHOTS[-1]
    ]
    report = {
        "schema": SCHEMA_VERSION,
        "command": shlex.join(command),
        "environment": collect_environment().to_dict(),
        "protocol": _protocol(results),
        "main": [_row(row.name, main) for row in ROWS],
        "test": {name: [_row(row, results[name]) for row in EVERYWHERE] for name in TEST_SETS},
        "overall": {name: _differences(everywhere, name, BASELINE) for name in EVERYWHERE[1:]},
        "development": _development(experiment),
        "on_references": _on_references(results[MAIN_SET]),
        "training": _training(experiment),
        "cells": [_cell(result) for cells in results.values() for result in cells],
    }
    atomic_write(folder / RESULT_NAME, (json.dumps(report, indent=1) + "\n").encode())
    atomic_write(folder / PLOT_NAME, _plot(main).encode())
    return json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))


def _protocol(results: Mapping[str, Sequence[CellResult]]) -> dict[str, Any]:
    return {
        "training_sets": list(TRAINING_SETS),
        "max_per_product": MAX_PER_PRODUCT,
        "main_set": MAIN_SET,
        "test_sets": {
            name: {
                "products": sorted({r.product for r in cells}),
                "n_images": len({(r.product, image) for r in cells for image in r.images}),
            }
            for name, cells in results.items()
        },
        "shots": list(SHOTS),
        "n_seeds": N_SEEDS,
        "pool": POOL,
        "development_seeds": DEVELOPMENT_SEEDS,
        "rows": {
            row.name: {
                "label": row.label,
                "training": row.training,
                "run": row.run,
                "evaluation": row.evaluation,
            }
            for row in (*ROWS, ON_REFERENCES)
        },
    }


def _row(name: str, results: Sequence[CellResult]) -> dict[str, Any]:
    """Return a row's figures per K, and its paired differences to baseline and default."""
    own = [result for result in results if result.method == name]
    figures = {
        row.k: {
            metric: {"mean": f.mean, "std": f.std, "low": f.low, "high": f.high}
            for metric, f in row.figures.items()
        }
        for summary in summarise(own)
        for row in summary.rows
    }
    differences = {
        other: _differences(results, name, other) for other in (BASELINE, DEFAULT) if other != name
    }
    return {"name": name, "k": figures, "minus": differences}


def _differences(results: Sequence[CellResult], a: str, b: str) -> list[dict[str, Any]]:
    pair = [result for result in results if result.method in (a, b)]
    return [
        {
            "k": c.k,
            "metric": c.metric,
            "mean": c.difference.mean,
            "low": c.difference.low,
            "high": c.difference.high,
            "p_value": c.difference.p_value,
        }
        for c in compare(pair, a, b)
    ]


def _development(experiment: Experiment) -> dict[str, Any]:
    """Return means per development set and method: over products, then over draws."""
    found: dict[str, Any] = {}
    for name in DEVELOPMENT_SETS:
        results = load_results(experiment.development / name)
        methods = sorted({result.method for result in results})
        found[name] = {
            method: _means([r for r in results if r.method == method]) for method in methods
        }
    return found


def _means(results: Sequence[CellResult]) -> dict[str, float]:
    return {
        metric: float(np.mean([result.metrics[metric] for result in results]))
        for metric in METRIC_NAMES
    }


def _on_references(results: Sequence[CellResult]) -> dict[str, Any]:
    """Return alignment on the K references beside the default, on the same cells."""
    aligned = [result for result in results if result.method == ON_REFERENCES.name]
    cells = {(result.product, result.k, result.seed) for result in aligned}
    twins = [
        result
        for result in results
        if result.method == DEFAULT and (result.product, result.k, result.seed) in cells
    ]
    return {
        "on_references": _means(aligned),
        "on_batch": _means(twins),
        "minus": _differences([*aligned, *twins], ON_REFERENCES.name, DEFAULT),
    }


def _training(experiment: Experiment) -> dict[str, Any]:
    """Return every run's configuration and losses."""
    runs = experiment.out / "runs"
    found: dict[str, Any] = {}
    for log in sorted(runs.rglob(LOG_NAME)):
        name = log.parent.relative_to(runs).as_posix()
        epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        config = (log.parent / CONFIG_NAME).read_text(encoding="utf-8")
        found[name] = {"config": _without_roots(config), "epochs": epochs}
    return found


def _without_roots(config: str) -> str:
    """Leave out where the data sets lie on this machine; `protocol` names them."""
    lines, skipping = [], False
    for line in config.splitlines():
        if line.startswith(("roots = [", "align_references = [")):
            skipping = not line.endswith("]")
            continue
        if not skipping:
            lines.append(line)
        elif line == "]":
            skipping = False
    return "\n".join(lines)


def _cell(result: CellResult) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "method": result.method,
        "product": result.product,
        "k": result.k,
        "seed": result.seed,
        "metrics": {name: round(value, 6) for name, value in result.metrics.items()},
        "references": result.references,
    }


def _plot(results: Sequence[CellResult]) -> str:
    """Draw pixel AP against K as a picture of its own."""
    methods = [name for name in _PLOTTED if any(r.method == name for r in results)]
    shown = [result for result in results if result.method in methods]
    rows = [row for summary in summarise(shown) for row in summary.rows]
    figure = plot_metric("pixel AP, %", "pixel_ap", rows, methods)
    svg = figure.removeprefix("<figure>").removesuffix("</figure>")
    attributes = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" '
    return svg.replace("<svg ", f"<svg {attributes}", 1) + "\n"


def format_report(report: Mapping[str, Any]) -> str:
    """Return the rows of the main set at the largest K, and the default's gain on all sets."""
    k = str(report["protocol"]["shots"][-1])
    names = ("image_auroc", "pixel_auroc", "pixel_ap", "pro")
    lines = [f"K = {k}".ljust(20) + "".join(name.rjust(13) for name in names)]
    for row in report["main"]:
        cells = (f"{100 * row['k'][k][name]['mean']:.1f}".rjust(13) for name in names)
        lines.append(row["name"].ljust(20) + "".join(cells))
    lines.append("")
    for name, differences in report["overall"].items():
        for d in differences:
            interval = f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}"
            lines.append(
                f"{name} - {BASELINE}, all sets, {d['metric']}: {100 * d['mean']:+.1f} ({interval})"
            )
    return "\n".join(lines)
