"""Intervals of means over draws and parts that are crossed with each other.

Every draw judges the same few parts, so draws are not independent: more of them never tell more
than the parts do. Draws, good parts and defective parts are therefore resampled each on its own and
together (the bootstrap for crossed random effects of Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1, 2007, which errs on the wide side).

What it leaves out is that the references come from the same parts as well. In simulations (parts of
seven kinds, a part is rejected where no reference is of its kind, 8 to 32 parts, 150 runs each) the
intervals of a gain held the truth in 89 to 100 % of the runs, those of a mean in 69 to 82 % for
K = 1 and 2 and in 84 to 95 % above, where 90 % was meant.

Where every value is the same there is nothing to resample. With n parts and no event, the share of
events lies below 1 - 0.05^(1 / n) with 95 % confidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.9
_N_RESAMPLES = 1000
_BLOCK = 50  # resamples at once: [block, n, m] numbers


@dataclass(frozen=True)
class Estimate:
    """A mean with the interval that holds it at `LEVEL`, and what single draws gave.

    Attributes
    ----------
    mean : float
    low, high : float
        Interval of the mean: other parts and other draws of the same product.
    draws_low, draws_high : float
        5th and 95th percentile of the draws: how much the choice of references matters.
    """

    mean: float
    low: float
    high: float
    draws_low: float
    draws_high: float


def estimate(values: NDArray[np.float64], seed: int, is_difference: bool = False) -> Estimate:
    """Estimate the mean of values [draws,n,m]; NaN is a value that was not taken.

    Parameters
    ----------
    values : ndarray of shape (draws, n, m), float64
        By draw, good part and defective part; an axis that does not matter has length 1. At least
        one value in every draw.
    seed : int
    is_difference : bool
        Whether the values lie in -1 to 1 instead of 0 to 1.
    """
    taken = ~np.isnan(values)
    filled = np.where(taken, values, 0.0)
    per_draw = filled.sum(axis=(1, 2)) / taken.sum(axis=(1, 2))
    draws_low, draws_high = (float(q) for q in np.percentile(per_draw, (5, 95)))
    seen = values[taken]
    mean = float(filled.sum() / taken.sum())
    if seen.min() == seen.max():
        bound = 1.0 - 0.05 ** (1.0 / _n_parts(taken))
        low = mean - bound if is_difference else max(0.0, mean - bound)
        high = mean + bound if is_difference else min(1.0, mean + bound)
        return Estimate(mean, low, high, draws_low, draws_high)
    means = _resample(filled, taken.astype(np.float64), seed)
    tails = 50.0 * (1.0 - LEVEL)
    low, high = (float(q) for q in np.percentile(means, (tails, 100.0 - tails)))
    return Estimate(mean, low, high, draws_low, draws_high)


def _n_parts(taken: NDArray[np.bool_]) -> int:
    """Count the parts behind the values: of good and defective ones the fewer."""
    counts = [int(taken.any(axis=axes).sum()) for axes in ((0, 2), (0, 1))]
    matter = [count for count, size in zip(counts, taken.shape[1:], strict=True) if size > 1]
    return min(matter, default=1)


def _resample(
    values: NDArray[np.float64], taken: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return means of `_N_RESAMPLES` resamplings of draws, good and defective parts."""
    rng = np.random.default_rng(seed)
    n_draws, n, m = values.shape
    means = []
    for _ in range(_N_RESAMPLES // _BLOCK):
        weights = [
            rng.multinomial(size, np.full(size, 1.0 / size), _BLOCK) for size in (n_draws, n, m)
        ]
        sums = [
            np.einsum("bnm,bn,bm->b", np.tensordot(weights[0], array, 1), weights[1], weights[2])
            for array in (values, taken)
        ]
        known = sums[1] > 0  # a resampling may miss every value that was taken
        means.append(sums[0][known] / sums[1][known])
    return np.concatenate(means)
