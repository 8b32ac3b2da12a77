"""Why the search compares every row in float32: what an int8 pre-selection would leave to do.

Rows are rounded to int8 with a scale of their own, x = x8 + e. By Cauchy and Schwarz

    |x . b - x8 . b8| <= |x| |e_b| + |b8| |e_x|

with norms known exactly, so that a row can be left out if its upper bound is below the best lower
bound. What is left must be compared in float32 all the same. The int8 products themselves are not
timed here: the candidates alone decide.
"""

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

_MAX_PAIRS = 100_000
_LARGEST_INT8 = 127


def int8_candidates(features: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pairs of a token [N,C] and a bank row [M,C] int8 cannot decide, [N,M]."""
    tokens, token_errors = _rounded(features)
    rows, row_errors = _rounded(bank)
    middle = tokens @ rows.T
    error = (
        np.linalg.norm(features, axis=1)[:, None] * row_errors[None]
        + token_errors[:, None] * np.linalg.norm(rows, axis=1)[None]
    )
    candidates: NDArray[np.bool_] = middle + error >= (middle - error).max(axis=1, keepdims=True)
    return candidates


def recheck_ms(
    features: NDArray[np.float32], bank: NDArray[np.float32], candidates: NDArray[np.bool_]
) -> float:
    """Return the time to compare the candidates in float32, with NumPy.

    At most 100,000 pairs are timed; the time of more is in proportion.
    """
    token_indices, row_indices = np.nonzero(candidates)
    n_pairs = min(len(row_indices), _MAX_PAIRS)
    start_ns = perf_counter_ns()
    np.einsum("ij,ij->i", features[token_indices[:n_pairs]], bank[row_indices[:n_pairs]])
    elapsed_ms = (perf_counter_ns() - start_ns) / 1e6
    return elapsed_ms * len(row_indices) / n_pairs


def _rounded(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows [M,C] rounded to 8 bits, and the length of what that changed, [M]."""
    exact = rows.astype(np.float64)
    scale = np.abs(exact).max(axis=1, keepdims=True) / _LARGEST_INT8
    rounded = np.rint(exact / scale) * scale
    return rounded, np.linalg.norm(exact - rounded, axis=1)
