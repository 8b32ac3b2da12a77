"""The same promises on real parts, and what the rule of thumb gives without further parts.

Further parts. A profile is enrolled with K references; every other good part of the product is
held out of the bank and scored. Parts are drawn from the held-out ones with replacement, so that
they are independent draws from a known population: the true share above the threshold can be
counted. Apart from that, and with no draw of ours, the training images left over set a threshold
and the test images come next, as on a line.

Rule of thumb. K references, drawn anew for each K, set the threshold alone; false rejects and
false accepts are counted on test parts, for the rule and for the one before it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.thresholds.remembering import RememberingBackend
from cff_bench.thresholds.simulation import stated
from cff_edge.datasets import Dataset, read_dataset
from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile
from cff_runtime.thresholds import choose_threshold, upper_share

# mvtec_mini had no part in choosing the rule; of piped, whose papers are alike, a few
HELD_OUT_SET = "mvtec_mini"
PRODUCTS: dict[str, tuple[str, ...]] = {
    "ballscrew": ("ballscrew",),
    "fabric_hsst": ("fabric",),
    "hazelnut_toy": ("hazelnut",),
    "piped": ("paper_bdp01_tl", "paper_brg01_rl", "paper_fvn01_tl"),
    HELD_OUT_SET: ("bottle", "hazelnut", "metal_nut", "transistor"),
}
SHOTS = (1, 2, 3, 4)
_FORMER_MARGIN = 0.25
_MOST_TEST_PARTS = 24  # good and defective each
_LEAST_FURTHER = 8
_N_FURTHER = (8, 20)
log = logging.getLogger(__name__)


def measure_real(
    bundle: Path, data: Path, n_draws: int, n_reference_draws: int, confidence: float
) -> dict[str, Any]:
    """Return ``further``, ``in_order`` and ``rule``, rows for each product.

    Raises
    ------
    CffError
        Whatever reading, opening, enrolling and inspecting raise.
    """
    opened = Bundle.open(bundle)
    backend = open_backend("onnxruntime", opened, {})
    further, in_order, rule = [], [], []
    for set_name, products in PRODUCTS.items():
        for product in products:
            log.info("%s/%s", set_name, product)
            one = Inspector(opened, RememberingBackend(backend))
            dataset = read_dataset(data / set_name, products=[product])
            name = {"set": set_name, "product": product}
            rule += [{**name, **row} for row in _try_rule(one, dataset, n_reference_draws)]
            found = _held_out(one, dataset)
            if found is not None:
                rows, ordered = _try_further(*found, n_draws, confidence)
                further += [{**name, **row} for row in rows]
                in_order.append({**name, **ordered})
    return {"further": further, "in_order": in_order, "rule": rule, "rule_means": _means(rule)}


def _scores(inspector: Inspector, profile: Profile, paths: Sequence[Path]) -> NDArray[np.float64]:
    return np.array([inspector.inspect(path, profile).score for path in paths])


def _paths(dataset: Dataset, split: str, defective: bool) -> list[Path]:
    return [s.path for s in dataset.select(split=split, defective=defective)]


def _held_out(
    inspector: Inspector, dataset: Dataset
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return scores of the training and test parts that are good and no references."""
    train = _paths(dataset, "train", False)
    order = np.random.default_rng(0).permutation(len(train))
    references, rest = [train[i] for i in order[:4]], [train[i] for i in order[4:]]
    if len(rest) < _LEAST_FURTHER:
        return None
    profile = inspector.enroll(references, dataset.products[0])
    test = _paths(dataset, "test", False)
    return _scores(inspector, profile, rest), _scores(inspector, profile, test)


def _try_further(
    train: NDArray[np.float64], test: NDArray[np.float64], n_draws: int, confidence: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rng = np.random.default_rng(1)
    population = np.concatenate([train, test])
    rows = []
    for n in _N_FURTHER:
        limits = rng.choice(population, (n_draws, n)).max(axis=1)
        shares = (population > limits[:, None]).mean(axis=1)
        bound = stated(upper_share(0, n, confidence))
        rows.append(
            {
                "n_parts": len(population),
                "n": n,
                "stated": bound,
                "held": float((shares <= bound).mean()),
                "expected_stated": stated(1.0 / (n + 1)),
                "expected": float(shares.mean()),
            }
        )
    ordered = {
        "n": len(train),
        "stated": stated(upper_share(0, len(train), confidence)),
        "expected_stated": 1.0 / (len(train) + 1),
        "n_next": len(test),
        "n_rejected": int((test > train.max()).sum()),
    }
    return rows, ordered


def _try_rule(
    inspector: Inspector, dataset: Dataset, n_reference_draws: int
) -> list[dict[str, Any]]:
    """Return false rejects and accepts for each K, means over draws of the references."""
    rng = np.random.default_rng(2)
    train = _paths(dataset, "train", False)
    good, bad = (_paths(dataset, "test", defective) for defective in (False, True))
    good, bad = (
        [paths[i] for i in rng.permutation(len(paths))[:_MOST_TEST_PARTS]] for paths in (good, bad)
    )
    rows = []
    for k in SHOTS:
        counts = []
        for _ in range(n_reference_draws):
            references = [train[i] for i in rng.permutation(len(train))[:k]]
            profile = inspector.enroll(references, dataset.products[0])
            good_scores = _scores(inspector, profile, good)
            bad_scores = _scores(inspector, profile, bad)
            threshold = profile.threshold
            limits = {
                "former": former_limit(threshold.scores),
                "rule": choose_threshold(
                    threshold.scores,
                    threshold.peaks,
                    k,
                    has_encoder_score=inspector.bundle.manifest.score.output is not None,
                ).value,
            }
            counts.append(
                [
                    [float((good_scores > limit).mean()), float((bad_scores <= limit).mean())]
                    for limit in limits.values()
                ]
            )
        former, new = np.mean(counts, axis=0).tolist()
        rows.append({"k": k, "former": former, "rule": new})
    return rows


def former_limit(scores: Sequence[float]) -> float:
    """Return the threshold as it was: max + 0.25 (max - median)."""
    largest = max(scores)
    return largest + _FORMER_MARGIN * (largest - float(np.median(scores)))


def _means(rule: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over products, of the sets that the rule was chosen on and of the held-out one."""
    rows = []
    for held_out in (False, True):
        for k in SHOTS:
            mine = [r for r in rule if r["k"] == k and (r["set"] == HELD_OUT_SET) == held_out]
            rows.append(
                {
                    "held_out": held_out,
                    "k": k,
                    "n_products": len(mine),
                    "former": np.mean([r["former"] for r in mine], axis=0).tolist(),
                    "rule": np.mean([r["rule"] for r in mine], axis=0).tolist(),
                }
            )
    return rows
