"""Enrol a product with a bundle, inspect its test parts, and judge the answers by the masks."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.demo.commands import run_json
from cff_edge.datasets import Dataset, Sample, load_mask
from cff_edge.metrics import image_auroc, pixel_ap, pixel_auroc
from cff_runtime.errors import DatasetError

STAGES = ("preprocess", "encode", "search", "finish")


@dataclass(frozen=True)
class Summary:
    """The outcome of a product, as it stands in ``summary.json``.

    Rates count parts: `false_reject_rate` of the good ones, `false_accept_rate` of the defective.
    `p50_ms` and `stages_ms` are medians of one inspection, without reading the file.
    """

    product: str
    k: int
    n_test_images: int
    image_auroc: float
    pixel_auroc: float
    pixel_ap: float
    threshold: float
    false_reject_rate: float
    false_accept_rate: float
    calibrator: str
    p50_ms: float
    stages_ms: dict[str, float]
    bundle: str
    profile: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Inspection:
    """One test part: what it is, what `cff-run inspect` said, and where its picture lies."""

    sample: Sample
    record: dict[str, Any]
    overlay: Path

    @property
    def is_right(self) -> bool:
        """Whether the verdict fits the label."""
        return self.sample.is_defective == (self.record["verdict"] == "reject")


def choose_references(dataset: Dataset, product: str, k: int, seed: int = 0) -> list[Path]:
    """Draw K good training parts of a product, without replacement.

    Raises
    ------
    DatasetError
        If there are fewer.
    """
    good = dataset.of(product).select(split="train", defective=False)
    if len(good) < k:
        raise DatasetError(f"`{product}` must have {k} good training images, got {len(good)}")
    order = np.random.default_rng(seed).permutation(len(good))[:k]
    return [good[index].path for index in sorted(order)]


def evaluate_product(
    bundle: Path, dataset: Dataset, product: str, k: int, calibrator: str, out: Path, seed: int = 0
) -> tuple[Summary, list[Inspection], dict[str, Any]]:
    """Enrol a product from K good parts and inspect its test parts, through ``cff-run``.

    Parameters
    ----------
    bundle : Path
    dataset : Dataset
    product : str
    k : int
        Number of references.
    calibrator : str
        For the summary.
    out : Path
        Folder for the profile, the pictures and the raw maps.
    seed : int
        Of the draw of references.

    Returns
    -------
    Summary
    list of Inspection
    dict
        What ``cff-run enroll --json`` printed.
    """
    references = choose_references(dataset, product, k, seed)
    profile = out / f"{product}.profile.safetensors"
    enrol = ["cff-run", "enroll", bundle, *references, "--product", product, "--out", profile]
    [enrolled] = run_json(enrol)
    samples = dataset.of(product).select(split="test")
    folder = _link_samples(samples, out / "inspected")
    overlays, maps = out / "overlays", out / "maps"
    outputs = ["--profile", profile, "--overlay", overlays, "--maps", maps]
    records = run_json(["cff-run", "inspect", bundle, folder, *outputs], len(samples))
    by_stem = {Path(record["image"]).stem: record for record in records}
    stems = [_stem(index, sample) for index, sample in enumerate(samples)]
    inspections = [
        Inspection(sample, by_stem[stem], overlays / f"{stem}.png")
        for sample, stem in zip(samples, stems, strict=True)
    ]
    anomaly_maps = np.stack([np.load(maps / f"{stem}.npy") for stem in stems])
    shutil.rmtree(maps)  # a quarter of a megabyte each, and only read here
    summary = _summarize(inspections, anomaly_maps, enrolled, bundle, calibrator)
    return summary, inspections, enrolled


def _summarize(
    inspections: Sequence[Inspection],
    anomaly_maps: NDArray[np.float32],
    enrolled: dict[str, Any],
    bundle: Path,
    calibrator: str,
) -> Summary:
    height, width = anomaly_maps.shape[1:]
    masks = np.stack([load_mask(item.sample, height, width) for item in inspections])
    defective = np.array([item.sample.is_defective for item in inspections])
    rejected = np.array([item.record["verdict"] == "reject" for item in inspections])
    scores = np.array([item.record["score"] for item in inspections])
    stages = {
        name: float(np.median([item.record["stages_ms"][name] for item in inspections]))
        for name in STAGES
    }
    return Summary(
        product=enrolled["product"],
        k=enrolled["n_references"],
        n_test_images=len(inspections),
        image_auroc=image_auroc(defective, scores),
        pixel_auroc=pixel_auroc(masks, anomaly_maps),
        pixel_ap=pixel_ap(masks, anomaly_maps),
        threshold=enrolled["threshold"]["value"],
        false_reject_rate=float(rejected[~defective].mean()),
        false_accept_rate=float((~rejected[defective]).mean()),
        calibrator=calibrator,
        p50_ms=float(np.median([item.record["total_ms"] for item in inspections])),
        stages_ms=stages,
        bundle=str(bundle),
        profile=enrolled["profile"],
    )


def _link_samples(samples: Sequence[Sample], folder: Path) -> Path:
    """Put links to the samples into one folder, under unique names that tell their defect."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, sample in enumerate(samples):
        link = folder / f"{_stem(index, sample)}{sample.path.suffix}"
        link.symlink_to(sample.path.resolve())
    return folder


def _stem(index: int, sample: Sample) -> str:
    return f"{index:04}_{sample.defect}_{sample.path.stem}"
