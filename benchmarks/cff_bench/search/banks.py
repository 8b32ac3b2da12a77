"""Memory banks of any number of references, from the features of a few real ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOVED = 0.05  # length of the random step of a repeated unit row, about its angle in radians
_BLOCK_ROWS = 4096

Features = Sequence[NDArray[np.float32]]


def bank_of(features: Features, shots: int) -> NDArray[np.float32]:
    """Return one stage's bank of K references.

    Parameters
    ----------
    features : sequence of ndarrays of shape (N_s, C_s), float32
        Unit rows of encoded references, in order.
    shots : int
        K; beyond the references at hand their rows are repeated, each moved at random (seeded) by
        0.05 of its length, so that no two are alike.

    Returns
    -------
    ndarray of shape (K * N_s, C_s), float32
        Unit rows.
    """
    rng = np.random.default_rng(0)
    parts: list[NDArray[np.float32]] = list(features[:shots])
    while len(parts) < shots:
        rows = features[len(parts) % len(features)]
        step = rng.standard_normal(rows.shape, np.float32)
        step *= np.float32(_MOVED) / np.linalg.norm(step, axis=1, keepdims=True)
        moved = rows + step
        parts.append(moved / np.linalg.norm(moved, axis=1, keepdims=True))
    return np.concatenate(parts)


def brute_force(features: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest cosine of every row [N,C] to the bank [M,C], all in float64."""
    tokens = features.astype(np.float64)
    best = np.full(len(tokens), -np.inf)
    for start in range(0, len(bank), _BLOCK_ROWS):
        block = bank[start : start + _BLOCK_ROWS].astype(np.float64)
        np.maximum(best, (tokens @ block.T).max(axis=1), out=best)
    return best
