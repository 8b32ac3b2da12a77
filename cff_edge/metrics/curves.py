"""AUROC, average precision and largest F1 from counts above falling thresholds.

Each function takes two float64 arrays whose last axis runs over the distinct scores, highest first:
`true_positives`, the defective ones that score at least so much, and `false_positives`, the good
ones. The last entry counts all, and both classes occur. Leading axes, such as resamples, are kept.
The counts may be weighted with whole numbers. The definitions are scikit-learn's.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


def auroc(true_positives: Counts, false_positives: Counts) -> Counts:
    """Return the area under the ROC curve, joined by straight lines; a tie counts one half."""
    widths = np.diff(false_positives, axis=-1, prepend=0.0)
    heights = true_positives - np.diff(true_positives, axis=-1, prepend=0.0) / 2
    n_pairs = true_positives[..., -1] * false_positives[..., -1]
    return np.einsum("...t,...t->...", widths, heights) / n_pairs


def average_precision(true_positives: Counts, false_positives: Counts) -> Counts:
    """Return the sum over thresholds of the precision there times the recall gained there."""
    gains = np.diff(true_positives, axis=-1, prepend=0.0)
    # where nothing is above a threshold nothing was gained either
    precision = true_positives / np.maximum(true_positives + false_positives, 1.0)
    return np.einsum("...t,...t->...", gains, precision) / true_positives[..., -1]


def f1_max(true_positives: Counts, false_positives: Counts) -> Counts:
    """Return the largest F1 = 2PR/(P+R) of any threshold.

    With precision TP/(TP+FP) and recall TP/n that is 2TP/(TP+FP+n), which is 0 rather than
    undefined where TP is 0.
    """
    n_positive = true_positives[..., -1:]
    return (2 * true_positives / (true_positives + false_positives + n_positive)).max(axis=-1)


def straight_area(x: Counts, y: Counts) -> float:
    """Return the area under the points (`x`, `y`), `x` rising, joined by straight lines."""
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)
