"""Repeated draws of parts from known distributions: how often does what is stated hold?

Further parts. n scores are drawn, the threshold is set as `choose_threshold` sets it, and the true
share of good parts above it is compared with the bound as it is printed, rounding included.

By hand. The worst that a person can do with the scores in sight: every rank is stated, and a draw
counts as held only if all of its statements hold.

References left out. Parts are points, the score is the distance to the nearest of the bank, as in a
memory bank: K references are scored without themselves, the next part against all. With a text
tower, score = (t + scale * distance) / 2 and scale = 1 / (2 * largest distance), for which both the
largest score is tried and the limit that has t and distance apart.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cff_bench.thresholds.laws import LAWS, Floats, Law
from cff_runtime.thresholds import largest_rank, percent, upper_share, upper_share_in_sight

# parts and the wish; None takes the largest score
CASES: tuple[tuple[int, float | None], ...] = (
    (8, None),
    (20, None),
    (59, 0.05),
    (100, None),
    (100, 0.05),
    (300, 0.01),
)
N_REFERENCES = (2, 3, 4, 8)
_BY_HAND_PARTS, _BY_HAND_RANKS = 40, 12
_DIMENSIONS = 3
_CHUNK = 2000

_POINTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (Cauchy)": lambda rng, shape: rng.standard_cauchy(shape),
    "two kinds of parts": lambda rng, shape: (
        rng.normal(size=shape) + 8.0 * (rng.random((*shape[:-1], 1)) < 0.2)
    ),
}


def stated(share: float) -> float:
    """Return a bound as it is printed, a share again."""
    return float(percent(share)[:-1]) / 100.0


def simulate_further(n_draws: int, confidence: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return a row for each distribution, number of parts and wish."""
    rng = np.random.default_rng(seed)
    rows = []
    for law in LAWS:
        for n, wish in CASES:
            rank = 1 if wish is None else max(1, largest_rank(n, wish, confidence))
            bound = stated(upper_share(rank - 1, n, confidence))
            shares = np.concatenate(
                [
                    law.share_above(_largest(law, rng, size, n, rank)[:, rank - 1])
                    for size in _chunks(n_draws)
                ]
            )
            rows.append(
                {
                    "law": law.name,
                    "n": n,
                    "wish": wish,
                    "rank": rank,
                    "stated": bound,
                    "held": float((shares <= bound).mean()),
                    "expected_stated": stated(rank / (n + 1)),
                    "expected": float(shares.mean()),
                    "expected_error": float(shares.std() / np.sqrt(n_draws)),
                }
            )
    return rows


def simulate_by_hand(n_draws: int, confidence: float, seed: int = 1) -> list[dict[str, Any]]:
    """Return a row for each distribution: all statements of a draw must hold."""
    rng = np.random.default_rng(seed)
    n, ranks = _BY_HAND_PARTS, _BY_HAND_RANKS
    bounds = np.array([stated(upper_share_in_sight(k, n, confidence)) for k in range(ranks)])
    rows = []
    for law in LAWS:
        held = [
            (law.share_above(_largest(law, rng, size, n, ranks)) <= bounds).all(axis=1)
            for size in _chunks(n_draws)
        ]
        rows.append({"law": law.name, "n": n, "held": float(np.concatenate(held).mean())})
    return rows


def simulate_left_out(n_draws: int, seed: int = 2) -> list[dict[str, Any]]:
    """Return a row for each distribution and K: how often the next part exceeds all references."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, draw in _POINTS.items():
        for n_references in N_REFERENCES:
            above, largest, apart = [], [], []
            for size in _chunks(n_draws):
                points = draw(rng, (size, n_references + 1, _DIMENSIONS))
                text = rng.random((size, n_references + 1))
                distances = _distances(points)
                above.append(_exceeds(distances))
                scale = 0.5 / distances[:, :-1].max(axis=1, keepdims=True)
                scores = 0.5 * (text + scale * distances)
                largest.append(_exceeds(scores))
                limit = 0.5 * (
                    text[:, :-1].max(axis=1) + scale[:, 0] * distances[:, :-1].max(axis=1)
                )
                apart.append((scores[:, -1] > limit).astype(np.float64))
            rows.append(
                {
                    "law": name,
                    "n_references": n_references,
                    "stated": stated(1.0 / (n_references + 1)),
                    "rate": float(np.concatenate(above).mean()),
                    "text_largest": float(np.concatenate(largest).mean()),
                    "text_stated": stated(2.0 / (n_references + 1)),
                    "text_rate": float(np.concatenate(apart).mean()),
                }
            )
    return rows


def _chunks(n_draws: int) -> list[int]:
    return [min(_CHUNK, n_draws - start) for start in range(0, n_draws, _CHUNK)]


def _largest(law: Law, rng: np.random.Generator, n_draws: int, n: int, ranks: int) -> Floats:
    """Return the largest scores of each draw [n_draws,ranks], in falling order."""
    scores = law.draw(rng, (n_draws, n))
    return -np.sort(np.partition(-scores, ranks - 1, axis=1)[:, :ranks], axis=1)


def _distances(points: Floats) -> Floats:
    """Distances [n,K+1] to the nearest reference: of K left out, then of the next part."""
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=3)  # [n,K+1,K+1]
    apart[:, range(apart.shape[1]), range(apart.shape[1])] = np.inf
    return apart[:, :, :-1].min(axis=2)


def _exceeds(scores: Floats) -> Floats:
    return (scores[:, -1] > scores[:, :-1].max(axis=1)).astype(np.float64)
