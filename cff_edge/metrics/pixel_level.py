"""AUROC, average precision and largest F1 over all pixels of a product's test images.

Exact: every distinct score is a threshold, and the values are scikit-learn's, in a fraction of its
time and memory. `evaluate` returns them all for the price of one.
"""

from numpy.typing import ArrayLike

from cff_edge.metrics import curves
from cff_edge.metrics.ranking import rank_pixels


def pixel_auroc(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the area under the ROC curve over all pixels, a fraction.

    Parameters
    ----------
    masks : array-like of shape (n, H, W), bool
        True where defective.
    maps : array-like of shape (n, H, W), float
        Higher is more anomalous, in any unit; float32 is fastest.

    Raises
    ------
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    curve = rank_pixels(masks, maps).curve()
    return float(curves.auroc(curve.true_positives, curve.false_positives))


def pixel_ap(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the average precision over all pixels, a fraction; arguments as in `pixel_auroc`.

    Raises
    ------
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    curve = rank_pixels(masks, maps).curve()
    return float(curves.average_precision(curve.true_positives, curve.false_positives))


def pixel_f1_max(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the largest F1 of any threshold over all pixels; arguments as in `pixel_auroc`.

    The threshold is the best one for these very masks, as in APRIL-GAN (its ``f1_px``).

    Raises
    ------
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    curve = rank_pixels(masks, maps).curve()
    return float(curves.f1_max(curve.true_positives, curve.false_positives))
