"""The networks and the CFF bundle on the same test images, with the same references.

Cells are `cff-eval`'s, and so are means and intervals.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cff_bench.demo.commands import run
from cff_bench.tfa_net.settings import (
    CFF,
    COMPARED,
    LABELS,
    METRICS,
    NETWORKS,
    POOL,
    TRAINED,
    TfaNetSettings,
)
from cff_edge.datasets import read_dataset
from cff_edge.evaluation.cells import CellResult, load_results
from cff_edge.evaluation.comparison import compare
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.manifest import MANIFEST_NAME

METHODS = (CFF, *(network.name for network in NETWORKS))
# also judged with all the normals that the network was trained on for references, a single draw
WITH_ALL = (CFF, TRAINED)


def judge_networks(settings: TfaNetSettings) -> dict[str, Any]:
    """Evaluate the bundles of every product; finished cells are kept.

    Raises
    ------
    UsageError
        If a bundle is missing.
    CffError
        If a command fails; it has said why.
    """
    cff = Bundle.open(settings.cff).manifest
    results: list[CellResult] = []
    for product in settings.products:
        for network in NETWORKS:
            require_bundle(settings, product, network.name)
        results += _evaluate(settings, product)
    return {
        "dataset": settings.dataset,
        "pool": POOL,
        "cff": {
            "bundle": str(settings.cff),
            "id": cff.id,
            "backbone": cff.backbone["name"],
            "calibrator": cff.head.get("calibrator"),
            "trained_on": list(cff.head.get("trained_on", [])),
            "notes": list(cff.notes),
        },
        "products": [_product(results, product) for product in settings.products],
        "rows": list(rows_of(results, settings.products)),
        "differences": list(_differences(results, settings.products)),
        "cells": [_cell(result) for result in results],
    }


def require_bundle(settings: TfaNetSettings, product: str, network: str) -> None:
    """Refuse to go on without a network's bundle.

    Raises
    ------
    UsageError
        If it is not there.
    """
    path = settings.bundle(product, network)
    if not (path / MANIFEST_NAME).is_file():
        raise UsageError(
            f"`{path}` must be a bundle of the part `training`, it is missing; "
            "leave `--only` out, or name that part as well"
        )


def rows_of(results: Sequence[CellResult], products: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row per product, K and method: mean, deviation and worst over draws."""
    for product in products:
        for k in sorted({result.k for result in results}):
            for method in METHODS:
                cells = [r for r in results if (r.product, r.k, r.method) == (product, k, method)]
                if cells:
                    figures = {
                        metric: _figure([c.metrics[metric] for c in cells]) for metric in METRICS
                    }
                    yield {
                        "product": product,
                        "k": k,
                        "method": method,
                        "label": LABELS[method],
                        "n_draws": len(cells),
                        "image_score": cells[0].image_score,
                        **figures,
                    }


def _evaluate(settings: TfaNetSettings, product: str) -> list[CellResult]:
    """Judge all on every draw, then the two that are worth it with all normals at hand."""
    shots = ",".join(str(k) for k in settings.shots)
    _judge(settings, product, METHODS, shots, settings.seeds)
    dataset = read_dataset(settings.data, products=[product], require_masks=False)
    n_normals = len(dataset.select(POOL, False))
    wanted = {
        (m, k, seed) for m in METHODS for k in settings.shots for seed in range(settings.seeds)
    }
    if n_normals > max(settings.shots):
        _judge(settings, product, WITH_ALL, str(n_normals), 1)
        wanted |= {(method, n_normals, 0) for method in WITH_ALL}
    found = load_results(settings.evaluation(product))
    return [result for result in found if (result.method, result.k, result.seed) in wanted]


def _judge(
    settings: TfaNetSettings, product: str, methods: Sequence[str], shots: str, seeds: int
) -> None:
    places = {CFF: settings.cff}
    places |= {one.name: settings.bundle(product, one.name) for one in NETWORKS}
    named = [word for name in methods for word in ("--method", f"{name}={places[name]}")]
    drawn = ["--shots", shots, "--seeds", seeds, "--pool", POOL]
    out = settings.evaluation(product)
    data = ["--data", settings.data, "--products", product, "--out", out]
    run(["cff-eval", *data, *named, *drawn], one_thread=settings.threads == 1)


def _figure(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "worst": float(min(values)),
    }


def _differences(
    results: Sequence[CellResult], products: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the trained network minus every other, paired, per product."""
    for product in products:
        own = [result for result in results if result.product == product]
        for other in METHODS:
            if other == TRAINED:
                continue
            pair = [result for result in own if result.method in (TRAINED, other)]
            for found in compare(pair, TRAINED, other, metrics=COMPARED):
                yield {
                    "product": product,
                    "k": found.k,
                    "minus": other,
                    "metric": found.metric,
                    "n_cells": found.n_cells,
                    "mean": found.difference.mean,
                    "low": found.difference.low,
                    "high": found.difference.high,
                    "p_value": found.difference.p_value,
                }


def _product(results: Sequence[CellResult], product: str) -> dict[str, Any]:
    own = [result for result in results if result.product == product]
    labels = {image: label for r in own for image, label in zip(r.images, r.labels, strict=True)}
    return {
        "product": product,
        "n_images": len(labels),
        "n_defective": sum(labels.values()),
    }


def _cell(result: CellResult) -> dict[str, Any]:
    return {
        "method": result.method,
        "product": result.product,
        "k": result.k,
        "seed": result.seed,
        "metrics": {metric: round(result.metrics[metric], 6) for metric in METRICS},
        "references": list(result.references),
    }
