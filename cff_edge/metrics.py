"""Image and pixel metrics, exact, on scikit-learn.

Masks and maps of all test images of a product are pooled, as in APRIL-GAN's protocol.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from cff_runtime.errors import DatasetError


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the AUROC of image scores.

    Parameters
    ----------
    labels : array-like of shape (n,), bool
        True where defective.
    scores : array-like of shape (n,), float

    Raises
    ------
    DatasetError
        If only one class is present or a score is not finite.
    """
    truth, values = _checked(labels, scores, "image")
    return float(roc_auc_score(truth, values))


def pixel_auroc(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the AUROC over all pixels of masks [n,H,W], bool, and maps [n,H,W], float.

    Raises
    ------
    DatasetError
        If only one class is present or a value is not finite.
    """
    truth, values = _checked(masks, maps, "pixel")
    return float(roc_auc_score(truth, values))


def pixel_ap(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the average precision over all pixels of masks [n,H,W] and maps [n,H,W].

    Raises
    ------
    DatasetError
        If only one class is present or a value is not finite.
    """
    truth, values = _checked(masks, maps, "pixel")
    return float(average_precision_score(truth, values))


def _checked(
    labels: ArrayLike, scores: ArrayLike, what: str
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    truth = np.asarray(labels, dtype=bool)
    values = np.asarray(scores)
    if truth.shape != values.shape:
        raise DatasetError(
            f"{what} labels and scores must have one shape, got {truth.shape} and {values.shape}"
        )
    if not np.isfinite(values).all():
        raise DatasetError(f"{what} scores must be finite, got NaN or infinity")
    n_positive = int(truth.sum())
    if n_positive in (0, truth.size):
        raise DatasetError(
            f"{what} metrics need normal and defective {what}s, got {n_positive} defective of "
            f"{truth.size}"
        )
    return truth.ravel(), values.ravel()
