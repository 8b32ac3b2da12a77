"""What is usual: mean and spread of each signal, learnt from the first pictures.

K references alone are too few. Their distances are among few, all taken in one hand, and the
spread of 4 numbers is off by a factor of two; `docs/drift.md` has what that does. So the pictures
until `N_LEARN` have passed are the baseline. Those that do not pass belong to it, but for their
scores: a profile that rejects a third of the good parts would else learn from the two thirds that
lie nearest to its references, and the others would be a drift. A value farther from the median than
10 times 1.4826 median absolute deviations is left out: a black picture, or a hand.

The references say whether the first pictures were taken as they were: per stage, the mean distance
may be at most `START_MARGIN` above the largest distance of a reference to the others.
"""

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
MOST_KEPT = 4  # times N_LEARN: pictures that are learnt from where few pass, the latest ones
START_MARGIN = 1.2  # of logarithms: 3.3 times the cosine distance
_FAR = 10 * 1.4826


@dataclass(frozen=True)
class Usual:
    """Mean and spread of a signal, and how many values they are from."""

    n: int
    mean: float
    spread: float

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> "Usual":
        """Return mean and standard deviation of a signal's values, without those far off.

        The spread is at least what a signal of this name has at least.
        """
        every = np.asarray(values, np.float64)
        apart = np.abs(every - np.median(every))
        limit = max(_FAR * float(np.median(apart)), _FAR * least_spread(name))
        kept = every[apart <= limit]
        deviation = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
        return cls(len(kept), float(kept.mean()), max(deviation, least_spread(name)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Usual":
        """Read what `dataclasses.asdict` gave.

        Raises
        ------
        StorageError
            If it is not that.
        """
        n = take(fields, "n", int, StorageError)
        spread = take(fields, "spread", float, StorageError)
        if n < 1 or spread <= 0.0:
            raise StorageError(f"`n` and `spread` must be above 0, got {n} and {spread}")
        return cls(n, take(fields, "mean", float, StorageError), spread)


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
