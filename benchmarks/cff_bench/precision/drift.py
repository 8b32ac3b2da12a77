"""What a precision changes on real images: AUROC, verdicts and scores against fp32.

Every precision of a bundle does the whole job as on a box: it enrols the same K references, sets
its own threshold and inspects the same test images. What it computes is what it says
(`cff_bench.precision.runnable`). With AUROC in points, 100 times the fraction:

    difference = mean over products (AUROC of the precision) - mean over products (AUROC of fp32)
    score shift = max |score - score of fp32| / (threshold of fp32 - median of good scores of fp32)

A verdict flips where the precision, with its own threshold, passes what fp32 rejects or the other
way round.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.demo.evaluation import choose_references
from cff_bench.environment import collect_environment
from cff_bench.precision.facts import bundle_facts, bundle_lines, variant_facts
from cff_bench.precision.runnable import runnable
from cff_bench.timing import format_table
from cff_edge.datasets import Dataset, Sample, load_mask, read_dataset
from cff_edge.metrics import image_auroc, pixel_auroc
from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.inspector import Inspector
from cff_runtime.result import Result

METRICS = ("image_auroc", "pixel_auroc")
MAX_AUROC_POINTS = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DriftSettings:
    """What to measure.

    Attributes
    ----------
    bundle : Path
        Made by `cff-export` with further precisions.
    data : Path
        Data set in a layout of `cff_edge.datasets`.
    products : tuple of str
        Empty takes all.
    shots : int
        References, K.
    max_auroc_points : float
        Largest difference of a mean AUROC that passes.
    command : tuple of str
        The command line, for the report.
    """

    bundle: Path
    data: Path
    products: tuple[str, ...] = ()
    shots: int = 4
    max_auroc_points: float = MAX_AUROC_POINTS
    command: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """One product in one precision: answers per test image, in order, and what they are worth."""

    scores: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    threshold: float
    to_threshold: float
    metrics: Mapping[str, float]


def run_drift(settings: DriftSettings) -> dict[str, Any]:
    """Judge a bundle's precisions on real images.

    Returns
    -------
    dict
        ``precisions`` (in the bundle's order, fp32 first), ``passed``, ``data``, ``bundle``,
        ``environment``, ``settings`` and ``command``, ready for JSON.

    Raises
    ------
    UsageError
        If the bundle has no precision besides fp32, or a setting is out of range.
    DatasetError
        If the data set is damaged, or a product has too few references, no good or no defective
        test image.
    CffError
        Whatever opening, enrolling and inspecting raise.
    """
    if settings.shots < 1 or not settings.max_auroc_points >= 0:  # NaN fails too
        raise UsageError(
            "`--shots` must be at least 1 and `--max-auroc-points` 0 or more, got "
            f"{settings.shots} and {settings.max_auroc_points}"
        )
    bundle = Bundle.open(settings.bundle)
    if not bundle.manifest.variants:
        raise UsageError(
            f"`{settings.bundle}` must hold a precision besides fp32 to compare; add one with "
            f"`cff-export {settings.bundle} --precision fp16,int8`"
        )
    dataset = read_dataset(settings.data, products=settings.products or None)
    references = _references(dataset, settings.shots)
    environment = collect_environment()
    fp32: dict[str, Outcome] = {}
    entries = []
    for precision in bundle.manifest.precisions:
        log.info("%s on %d products", precision, len(references))
        outcomes, computed = _judge(bundle.view(precision), dataset, references)
        fp32 = fp32 or outcomes
        facts = variant_facts(bundle.manifest, precision)
        compared = _compare(dataset, outcomes, fp32)
        entries.append({"precision": precision, **facts, "computed": computed, **compared})
    return {
        "precisions": entries,
        "passed": not _failures(entries, settings.max_auroc_points),
        "data": _data_facts(dataset, references),
        "bundle": bundle_facts(settings.bundle, bundle.manifest),
        "environment": environment.to_dict(),
        "settings": {
            "shots": settings.shots,
            "max_auroc_points": settings.max_auroc_points,
            "backend": "onnxruntime, CPUExecutionProvider",
        },
        "command": list(settings.command),
    }


def format_drift(report: Mapping[str, Any]) -> str:
    """Return the report as text; what fails stands at its end."""
    data, settings = report["data"], report["settings"]
    facts = [
        *bundle_lines(report["bundle"]),
        f"data     {data['name']}: {', '.join(data['products'])}; {data['n_test_images']} test "
        f"images, K = {settings['shots']}",
    ]
    for entry in report["precisions"]:
        facts.append(f"{entry['precision']:8} {entry['graph']}: {entry['computed']}")
        if entry["kept_fp32"]:
            facts.append(f"         keeps in fp32: {', '.join(entry['kept_fp32'])}")
    rows = [_text_row(entry) for entry in report["precisions"]]
    header = ("precision", "image AUROC", "points", "pixel AUROC", "points", "flips", "shift")
    flips = [
        f"{entry['precision']}: {flip['verdict']}, fp32: {flip['verdict_fp32']}: {flip['image']}"
        for entry in report["precisions"]
        for flip in entry["flips"]
    ]
    failures = _failures(report["precisions"], settings["max_auroc_points"])
    return "\n".join((*facts, "", format_table(header, rows), *flips, *failures))


def _references(dataset: Dataset, k: int) -> dict[str, list[Path]]:
    """Draw every product's references; refuse now what would fail after minutes."""
    for product in dataset.products:
        kinds = {s.is_defective for s in dataset.of(product).select(split="test")}
        if kinds != {True, False}:
            raise DatasetError(f"`{product}` must have good and defective test images")
    return {product: choose_references(dataset, product, k) for product in dataset.products}


def _judge(
    view: Bundle, dataset: Dataset, references: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, Outcome], str]:
    """Enrol and inspect every product in one precision; return also how it was computed."""
    with runnable(view) as (bundle, computed):
        inspector = Inspector(bundle, open_backend("onnxruntime", bundle, {}))
        outcomes = {
            product: _judge_product(inspector, dataset, product, paths)
            for product, paths in references.items()
        }
    return outcomes, computed


def _judge_product(
    inspector: Inspector, dataset: Dataset, product: str, references: Sequence[Path]
) -> Outcome:
    profile = inspector.enroll(references, product)
    samples = dataset.of(product).select(split="test")
    results = [inspector.inspect(sample.path, profile) for sample in samples]
    scores = np.array([result.score for result in results])
    threshold = profile.threshold
    return Outcome(
        scores=scores,
        rejected=np.array([result.verdict == "reject" for result in results]),
        threshold=threshold.value,
        to_threshold=threshold.value - float(np.median(threshold.scores)),
        metrics=_metrics(samples, scores, results),
    )


def _metrics(
    samples: Sequence[Sample], scores: NDArray[np.float64], results: Sequence[Result]
) -> dict[str, float]:
    maps = np.stack([result.anomaly_map for result in results])
    masks = np.stack([load_mask(sample, *maps.shape[1:]) for sample in samples])
    defective = np.array([sample.is_defective for sample in samples])
    return {"image_auroc": image_auroc(defective, scores), "pixel_auroc": pixel_auroc(masks, maps)}


def _compare(
    dataset: Dataset, outcomes: Mapping[str, Outcome], fp32: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Return one precision's figures, per product and over all, beside those of fp32."""
    products: list[dict[str, Any]] = []
    flips: list[dict[str, Any]] = []
    for product, outcome in outcomes.items():
        base = fp32[product]
        diff = float(np.abs(outcome.scores - base.scores).max())
        flips += list(_flips(dataset, product, outcome, base))
        products.append(
            {
                "product": product,
                "n_images": len(outcome.scores),
                "points_per_pair": 100 / _n_pairs(dataset, product),
                **outcome.metrics,
                **{_points(m): 100 * (outcome.metrics[m] - base.metrics[m]) for m in METRICS},
                "threshold": outcome.threshold,
                "n_rejected": int(outcome.rejected.sum()),
                "n_flips": int((outcome.rejected != base.rejected).sum()),
                "score_max_diff": diff,
                "score_shift": diff / base.to_threshold if base.to_threshold > 0 else None,
            }
        )
    shifts = [p["score_shift"] for p in products if p["score_shift"] is not None]
    return {
        "means": {name: float(np.mean([p[name] for p in products])) for name in METRICS},
        "minus_fp32": {
            _points(name): float(np.mean([p[_points(name)] for p in products])) for name in METRICS
        },
        "score_max_diff": max(p["score_max_diff"] for p in products),
        "score_shift": max(shifts, default=None),
        "flips": flips,
        "products": products,
    }


def _n_pairs(dataset: Dataset, product: str) -> int:
    """How many pairs of a good and a defective image an image AUROC counts."""
    labels = [sample.is_defective for sample in dataset.of(product).select(split="test")]
    return sum(labels) * (len(labels) - sum(labels))


def _flips(
    dataset: Dataset, product: str, outcome: Outcome, base: Outcome
) -> Iterator[dict[str, Any]]:
    samples = dataset.of(product).select(split="test")
    for index in np.flatnonzero(outcome.rejected != base.rejected):
        yield {
            "image": samples[index].path.relative_to(dataset.root).as_posix(),
            "is_defective": samples[index].is_defective,
            "verdict": _verdict(outcome.rejected[index]),
            "score": float(outcome.scores[index]),
            "threshold": outcome.threshold,
            "verdict_fp32": _verdict(base.rejected[index]),
            "score_fp32": float(base.scores[index]),
            "threshold_fp32": base.threshold,
        }


def _verdict(rejected: np.bool_) -> str:
    return "reject" if rejected else "pass"


def _failures(entries: Sequence[Mapping[str, Any]], limit: float) -> list[str]:
    return [
        f"{entry['precision']}: mean {metric.replace('_', ' ')} differs by "
        f"{entry['minus_fp32'][_points(metric)]:+.3f} points, at most {limit:g} may be"
        for entry in entries
        for metric in METRICS
        if not abs(entry["minus_fp32"][_points(metric)]) <= limit
    ]


def _points(metric: str) -> str:
    return f"{metric}_points"


def _data_facts(dataset: Dataset, references: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    return {
        "name": dataset.root.name,
        "layout": dataset.layout,
        "products": list(dataset.products),
        "n_test_images": len(dataset.select(split="test")),
        "references": {
            product: [path.relative_to(dataset.root).as_posix() for path in paths]
            for product, paths in references.items()
        },
    }


def _text_row(entry: Mapping[str, Any]) -> list[str]:
    shift = entry["score_shift"]
    cells = [entry["precision"]]
    for metric in METRICS:
        points = entry["minus_fp32"][_points(metric)]
        cells += [f"{entry['means'][metric]:.4f}", f"{points:+.3f}"]
    return [*cells, str(len(entry["flips"])), "" if shift is None else f"{shift:.1%}"]
