"""`cff-bench demo`: the main job from labelled images to verdicts, with a report to look at."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cff_bench.demo.commands import run
from cff_bench.demo.evaluation import Summary, choose_references, evaluate_product
from cff_bench.demo.report import write_report
from cff_bench.demo.synthetic import PRODUCTS, write_synthetic_dataset
from cff_edge.datasets import Dataset, read_dataset, require_product
from cff_runtime.bundle import Bundle
from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.storage import atomic_write

DEFAULT_PRODUCT = PRODUCTS[-1]
_SYNTHETIC = "synthetic"
_REPLACED = ("run", "bundle", "inspected", "overlays", "maps")
_MARK = ".cff-demo"  # an `out` without it is not ours to clear


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
        If `product` is missing for a data set of one's own, is unknown or is trained on, or `out`
        holds folders that no demo wrote.
    DatasetError
        If the data set is damaged or has too few images for the job.
    CffError
        If a step fails.
    """
    started = time.monotonic()
    if data is not None and product is None:
        raise UsageError("`--product` (make: PRODUCT) must name the product to inspect in `--data`")
    product = product or DEFAULT_PRODUCT
    if product in train:
        raise UsageError(f"`{product}` must not be among the products trained on: it is inspected")
    is_synthetic = data is None
    if data is not None:  # refuse before anything is replaced
        dataset = _read(data, train, product, k)
    else:
        _require_products((product, *train), PRODUCTS)
    _clear(out, (*_REPLACED, _SYNTHETIC) if is_synthetic else _REPLACED)
    if data is None:
        data = out / _SYNTHETIC
        print(f"drawing a synthetic data set into {data}", file=sys.stderr)
        write_synthetic_dataset(data)
        dataset = _read(data, train, product, k)
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


def _read(data: Path, train: Sequence[str], product: str, k: int) -> Dataset:
    """Read the product to inspect; refuse now what would fail after the training."""
    everything = read_dataset(data, require_masks=False)
    _require_products((product, *train), everything.products)
    if everything.products == (product,):
        raise DatasetError(f"`{data}` must hold another product than `{product}` to train on")
    dataset = read_dataset(data, everything.layout, [product])
    choose_references(dataset, product, k)
    if len({sample.is_defective for sample in dataset.select(split="test")}) < 2:
        raise DatasetError(f"`{product}` must have good and defective test images")
    return dataset


def _require_products(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        require_product(name, known)


def _clear(out: Path, names: Sequence[str]) -> None:
    """Remove what an earlier demo left; refuse folders of these names that are not its own."""
    found = [out / name for name in names if (out / name).exists()]
    if found and not (out / _MARK).exists():
        raise UsageError(f"`{found[0]}` would be replaced, but no demo wrote it; use another --out")
    atomic_write(out / _MARK, b"cff-bench demo wrote this folder and may replace it\n")
    for path in found:
        shutil.rmtree(path)


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
