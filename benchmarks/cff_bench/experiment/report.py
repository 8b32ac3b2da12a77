"""Figures of an experiment, gathered from its cells into one JSON and a plot.

Nothing is computed here that `cff-eval` does not print: means over products, their spread over
draws of references, bootstrap intervals, and paired differences on the same draws and images.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
from cff_edge.evaluation.plots import legend, plot_metric
from cff_edge.evaluation.summary import Row, summarise
from cff_edge.metrics import METRIC_NAMES
from cff_runtime.storage import atomic_write

SCHEMA_VERSION = 1
COMPARED = ("pixel_ap", "pixel_auroc", "image_auroc")
RESULT_NAME = "experiment.json"
PLOT_NAME = "experiment.svg"
# of the plot; the other rows stand in the tables
_PLOTTED = (BASELINE, "raw-log", PROJECTORS, DEFAULT, "mlp", "affine-episodes")
_LEGEND_COLUMNS = 2
_LEGEND_ROW_PX = 16


def write_report(experiment: Experiment, folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """Write ``experiment.json`` and ``experiment.svg``.

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
    everywhere = [
        result
        for cells in results.values()
        for result in cells
        if result.method in EVERYWHERE and result.k == SHOTS[-1]
    ]
    rows = {name: _summarised(cells) for name, cells in results.items()}
    report = {
        "schema": SCHEMA_VERSION,
        "command": shlex.join(command),
        "environment": collect_environment().to_dict(),
        "protocol": _protocol(results),
        "main": [_row(row.name, main, rows[MAIN_SET]) for row in ROWS],
        "test": {
            name: [_row(row, cells, rows[name]) for row in EVERYWHERE]
            for name, cells in results.items()
        },
        "overall": {name: _differences(everywhere, name, BASELINE) for name in EVERYWHERE[1:]},
        "development": _development(experiment),
        "on_references": _on_references(results[MAIN_SET]),
        "training": _training(experiment),
        "cells": [_cell(result) for cells in results.values() for result in cells],
    }
    atomic_write(folder / RESULT_NAME, (json.dumps(report, indent=1) + "\n").encode())
    atomic_write(folder / PLOT_NAME, _plot(rows[MAIN_SET]).encode())
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


def _summarised(results: Sequence[CellResult]) -> list[Row]:
    """Return the rows of means over products, of every method that stands in the tables."""
    shown = [result for result in results if result.method != ON_REFERENCES.name]
    # one resample: tables and plot show the spread over draws, intervals are of differences
    return [row for summary in summarise(shown, n_resamples=1) for row in summary.rows]


def _row(name: str, results: Sequence[CellResult], rows: Sequence[Row]) -> dict[str, Any]:
    """Return a row's figures per K, and its paired difference to the baseline at the largest."""
    figures = {
        row.k: {
            metric: {"mean": figure.mean, "std": figure.std}
            for metric, figure in row.figures.items()
        }
        for row in rows
        if row.method == name
    }
    last = [result for result in results if result.k == SHOTS[-1]]
    minus = {} if name == BASELINE else {BASELINE: _differences(last, name, BASELINE)}
    return {"name": name, "k": figures, "minus": minus}


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
        for c in compare(pair, a, b, metrics=COMPARED)
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
    """Return every run's configuration and losses; a run without epochs has no log."""
    runs = experiment.out / "runs"
    found: dict[str, Any] = {}
    for config in sorted(runs.rglob(CONFIG_NAME)):
        log = config.parent / LOG_NAME
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        found[config.parent.relative_to(runs).as_posix()] = {
            "config": _without_roots(config.read_text(encoding="utf-8")),
            "epochs": [json.loads(line) for line in lines],
        }
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


def _plot(rows: Sequence[Row]) -> str:
    """Draw pixel AP against K as a picture of its own, with a legend below."""
    methods = [name for name in _PLOTTED if any(row.method == name for row in rows)]
    shown = [row for row in rows if row.method in methods]
    (plot,) = ElementTree.fromstring(plot_metric("pixel AP, %", "pixel_ap", shown, methods))
    width, height = (int(word) for word in plot.attrib["viewBox"].split()[2:])
    plot.attrib.update(width=str(width), height=str(height))
    n_rows = -(-len(methods) // _LEGEND_COLUMNS)
    picture = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg")
    picture.attrib["viewBox"] = f"0 0 {width} {height + n_rows * _LEGEND_ROW_PX + 6}"
    picture.attrib.update({"font-family": "sans-serif", "font-size": "11"})
    picture.append(plot)
    for number, (entry, name) in enumerate(
        zip(ElementTree.fromstring(legend(methods)), methods, strict=True)
    ):
        x = 46 + (width - 46) // _LEGEND_COLUMNS * (number % _LEGEND_COLUMNS)
        y = height + 4 + _LEGEND_ROW_PX * (number // _LEGEND_COLUMNS)
        line, text = entry[0], ElementTree.Element("text", x=str(x + 36), y=str(y + 10))
        line.attrib.update(x=str(x), y=str(y), width="30", height="12")
        line.tail, text.text = None, name
        picture.extend((line, text))
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


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
