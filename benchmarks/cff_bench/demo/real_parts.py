"""`cff-bench real-parts`: the main job on real defects, for three heads side by side.

Trained on `piped`, `fabric_hsst` and `ballscrew`, inspected on the four products of `mvtec_mini`,
which are never trained on (research use only). `raw` is an untrained orthonormal projector with
the text map off and distances summed as they are: an isometry keeps every cosine, so it scores raw
features.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cff_bench.demo.commands import run
from cff_bench.demo.evaluation import evaluate_product
from cff_bench.real_data import data_folder
from cff_edge.datasets import read_dataset
from cff_runtime.storage import atomic_write

TRAINING_SETS = ("piped", "fabric_hsst", "ballscrew")
TEST_SET = "mvtec_mini"
# at most so many labelled images of each of the 14 products: an even diet, and minutes not hours
MAX_PER_PRODUCT = 24
HEADS: dict[str, tuple[str, ...]] = {
    "raw": (
        "head.calibrator=none",
        "head.text_weight=0.0",
        "head.distance=cosine",
        "train.projector_epochs=0",
    ),
    "none": ("head.calibrator=none",),
    "affine": ("head.calibrator=affine",),
}
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "false_reject_rate", "false_accept_rate")


def run_real_parts(
    out: Path, k: int = 4, heads: Sequence[str] = tuple(HEADS), overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Train, export and judge every head; write ``summary.json``.

    Parameters
    ----------
    out : Path
        Folder for everything.
    k : int
        Number of references.
    heads : sequence of str
        Among ``raw``, ``none`` and ``affine``.
    overrides : sequence of str
        Of every head's training configuration, as ``cff-train --set``.

    Returns
    -------
    dict
        ``products``: a list with one entry per head and product; ``means``: per head.
    """
    data = data_folder((*TRAINING_SETS, TEST_SET))
    dataset = read_dataset(data / TEST_SET)
    roots = [data / name for name in TRAINING_SETS]
    products = []
    for head in heads:
        bundle = _make_bundle(head, roots, out, overrides)
        for product in dataset.products:
            folder = out / head / product
            summary, _, _ = evaluate_product(bundle, dataset, product, k, head, folder)
            products.append(summary.to_dict())
    means = {
        head: {
            metric: float(np.mean([p[metric] for p in products if p["calibrator"] == head]))
            for metric in METRICS
        }
        for head in heads
    }
    result = {"trained_on": list(TRAINING_SETS), "k": k, "means": means, "products": products}
    atomic_write(out / "summary.json", (json.dumps(result, indent=2) + "\n").encode())
    print(_table(means))
    return result


def _make_bundle(head: str, roots: Sequence[Path], out: Path, extra: Sequence[str]) -> Path:
    overrides = (*HEADS[head], f"data.max_per_product={MAX_PER_PRODUCT}", *extra)
    settings = [word for override in overrides for word in ("--set", override)]
    run_folder, bundle = out / head / "run", out / head / "bundle"
    cache = ["--cache", out / "cache"]
    resume = ["--resume"] if (run_folder / "config.toml").exists() else []
    run(["cff-train", "--data", *roots, "--out", run_folder, *cache, *settings, *resume])
    run(["cff-export", run_folder, "--out", bundle, "--replace"])
    return bundle


def _table(means: dict[str, dict[str, float]]) -> str:
    lines = [f"\nmean of {TEST_SET}   " + "  ".join(f"{name:>17}" for name in METRICS)]
    for head, values in means.items():
        lines.append(f"{head:20}" + "  ".join(f"{values[name]:17.3f}" for name in METRICS))
    return "\n".join(lines)
