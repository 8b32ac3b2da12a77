"""What is usual: mean and spread of each signal, learnt from the first passed pictures.

K references alone are too few. Their distances are among few, all taken in one hand, and the
spread of 4 numbers is off by a factor of two; `docs/drift.md` has what that does. So the first
`N_LEARN` pictures that pass are the baseline, and the references say whether these were taken as
they were: per stage, the mean distance may be at most `START_MARGIN` above the largest distance of
a reference to the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.drift.signals import STAGE, least_spread
from cff_runtime.errors import StorageError
from cff_runtime.jsonfields import take
from cff_runtime.product_check import reference_distances

N_LEARN = 50
START_MARGIN = 1.2  # of logarithms: 3.3 times the cosine distance


@dataclass
class Usual:
    """Running mean and sum of squares of a signal, after Welford (1962), Technometrics 4."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take in a value."""
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self.squares += delta * (value - self.mean)

    def spread(self, name: str) -> float:
        """Return the standard deviation, or what a signal of this name has at least."""
        deviation = math.sqrt(self.squares / (self.n - 1)) if self.n > 1 else 0.0
        return max(deviation, least_spread(name))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Usual":
        """Read what `dataclasses.asdict` gave.

        Raises
        ------
        StorageError
            If it is not that.
        """
        n = take(fields, "n", int, StorageError)
        squares = take(fields, "squares", float, StorageError)
        if n < 0 or squares < 0.0:
            raise StorageError(f"`n` and `squares` must be 0 or more, got {n} and {squares}")
        return cls(n, take(fields, "mean", float, StorageError), squares)


def start_limits(means: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Return what the mean distance of the first pictures may be at most, per stage.

    Parameters
    ----------
    means : sequence of S ndarrays of shape (K, C_s), float32
        Of the references, see `Profile.means`.

    Returns
    -------
    dict
        By signal; empty for K = 1, where nothing is known of how parts differ.
    """
    n_references = len(means[0])
    if n_references == 1:
        return {}
    largest = [0.0] * len(means)
    for left_out in range(n_references):
        others = [np.delete(rows, left_out, axis=0) for rows in means]
        own = reference_distances([rows[left_out] for rows in means], others).min(axis=1)
        largest = [max(pair) for pair in zip(largest, own.tolist(), strict=True)]
    return {f"{STAGE}{s}": value + START_MARGIN for s, value in enumerate(largest, start=1)}
