"""What differs from one start of a process to the next: memory layout, placement of pages, clocks.

All samples of one start share it, however many they are, so that only starts can tell how far it
scatters. Each start s of S is a random group (Wolter 2007, Introduction to Variance Estimation,
chapter 2; for benchmarks Georges, Buytaert & Eeckhout 2007, Statistically Rigorous Java Performance
Evaluation): with x_s the log of its median,

    estimate      m   = (x_1 + ... + x_S) / S
    variance      e^2 = ((x_1 - m)^2 + ... + (x_S - m)^2) / (S (S - 1))
    interval      m +- t(S - 1) e

Between two series the difference of the estimates has the variance e_A^2 + e_B^2 and Welch's
degrees of freedom. For a percentile of all samples the squares are taken about that percentile
instead of m, which is never less.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import UsageError

Array = NDArray[np.float64]


def split_starts(samples: Array, starts: Sequence[int]) -> list[Array]:
    """Return the samples of every start; those of a single one where `starts` is empty.

    Raises
    ------
    UsageError
        If the numbers do not add up to the samples.
    """
    if not starts:
        return [samples]
    if sum(starts) != len(samples):
        raise UsageError(
            f"`starts` must add up to the {len(samples)} samples, got {list(starts)!r:.80}"
        )
    return list(np.split(samples, np.cumsum(starts)[:-1]))


def without_starts(samples: Array, starts: Sequence[int]) -> Array:
    """Return positive samples, those of every start over its median: what is left is within."""
    return np.concatenate([part / np.median(part) for part in split_starts(samples, starts)])


def scatter_between(logs: Sequence[float], centre: float | None = None) -> tuple[float, float]:
    """Return the mean of one figure per start, and the standard error of that.

    Parameters
    ----------
    logs : sequence of float
        Of two starts or more.
    centre : float, optional
        What the squares are taken about; the mean if not given.
    """
    values = np.asarray(logs, dtype=np.float64)
    n = len(values)
    mean = float(values.mean())
    squares = float(np.sum((values - (mean if centre is None else centre)) ** 2))
    return mean, math.sqrt(squares / (n * (n - 1)))
