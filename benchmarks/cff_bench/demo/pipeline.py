"""`cff-bench demo`: the main job from labelled images to verdicts, with a report to look at."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cff_bench.demo.commands import run
from cff_bench.demo.evaluation import Summary, evaluate_product
from cff_bench.demo.report import write_report
from cff_bench.demo.synthetic import PRODUCTS, write_synthetic_dataset
from cff_edge.datasets import read_dataset
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write

DEFAULT_PRODUCT = PRODUCTS[-1]


def run_demo(
    out: Path,
    data: Path | None = None,
    train: Sequence[str] = (),
    product: str | None = None,
    k: int = 4,
    overrides: Sequence[str] = (),
) -> Summary:
    """Train on some products, export, enrol another one, inspect its test parts, report.

    Parameters
    ----------
    out : Path
        Folder for everything, ``build/demo``; what an earlier demo left there is replaced.
    data : Path, optional
        Data set in MVTec AD or VisA layout; a synthetic one is drawn if None.
    train : sequence of str
        Products to train on; all but `product` if empty.
    product : str, optional
        Product to enrol and inspect.
    k : int
        Number of references.
    overrides : sequence of str
        Of the training configuration, as ``cff-train --set``.

    Raises
    ------
    UsageError
        If `product` is missing for a data set of one's own, or is trained on.
    CffError
        If a step fails.
    """
    started = time.monotonic()
    if data is not None and product is None:
        raise UsageError("`PRODUCT` must name the product to inspect when `DATA` is given")
    product = product or DEFAULT_PRODUCT
    if product in train:
        raise UsageError(f"`{product}` must not be among the products trained on: it is inspected")
    for name in ("data", "run", "bundle", "inspected", "overlays", "maps"):
        shutil.rmtree(out / name, ignore_errors=True)
    is_synthetic = data is None
    if data is None:
        data = out / "data"
        print(f"drawing a synthetic data set into {data}", file=sys.stderr)
        write_synthetic_dataset(data)
    dataset = read_dataset(data)
    if product not in dataset.products:
        names = ", ".join(dataset.products)
        raise UsageError(f"`PRODUCT` must be one of {names}, got {product!r}")
    chosen = ["--products", ",".join(train)] if train else ["--exclude", product]
    settings = [word for override in overrides for word in ("--set", override)]
    run(["cff-train", "--data", data, *chosen, "--out", out / "run", *settings])
    run(["cff-export", out / "run", "--out", out / "bundle", "--text-names", product])
    manifest = Bundle.open(out / "bundle").manifest
    calibrator = str(manifest.head["calibrator"])
    summary, inspections, enrolled = evaluate_product(
        out / "bundle", dataset, product, k, calibrator, out
    )
    atomic_write(out / "summary.json", (json.dumps(summary.to_dict(), indent=2) + "\n").encode())
    write_report(out / "report.html", summary, inspections, enrolled, manifest, is_synthetic)
    print(_text(summary, out, time.monotonic() - started))
    return summary


def _text(summary: Summary, out: Path, seconds: float) -> str:
    rows = [
        ("product", f"{summary.product}, K = {summary.k}, {summary.n_test_images} test images"),
        ("image AUROC", f"{summary.image_auroc:.3f}"),
        ("pixel AUROC", f"{summary.pixel_auroc:.3f}"),
        ("pixel AP", f"{summary.pixel_ap:.3f}"),
        ("threshold", f"{summary.threshold:.4f}"),
        ("false rejects", f"{summary.false_reject_rate:.1%} of the good parts"),
        ("false accepts", f"{summary.false_accept_rate:.1%} of the defective parts"),
        ("p50", f"{summary.p50_ms:.1f} ms per image on this machine's CPU"),
        ("report", str(out / "report.html")),
        ("time", f"{seconds:.0f} s"),
    ]
    return "\n" + "\n".join(f"{name:14} {value}" for name, value in rows)
