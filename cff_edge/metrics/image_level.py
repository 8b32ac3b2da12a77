"""Metrics of one score an image, on scikit-learn."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cff_edge.metrics.checks import checked_scores


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve of image scores, a fraction.

    Parameters
    ----------
    labels : array-like of shape (n,), bool
        True where defective.
    scores : array-like of shape (n,), float
        Higher is more anomalous, in any unit.

    Raises
    ------
    DatasetError
        If the shapes differ, only one class is present or a score is not finite.
    """
    return float(roc_auc_score(*checked_scores(labels, scores)))


def image_ap(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision of image scores, a fraction; arguments as in `image_auroc`.

    Raises
    ------
    DatasetError
        If the shapes differ, only one class is present or a score is not finite.
    """
    return float(average_precision_score(*checked_scores(labels, scores)))


def image_f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the largest F1 of any threshold on image scores; arguments as in `image_auroc`.

    The threshold is the best one for these very labels, so this is an upper bound of what a
    threshold set beforehand reaches: the largest finite 2PR/(P+R) over scikit-learn's
    precision-recall curve, as in APRIL-GAN (its ``f1_sp``).

    Raises
    ------
    DatasetError
        If the shapes differ, only one class is present or a score is not finite.
    """
    precision, recall, _ = precision_recall_curve(*checked_scores(labels, scores))
    with np.errstate(invalid="ignore"):  # 0/0 where precision and recall are both 0
        f1 = 2 * precision * recall / (precision + recall)
    return float(f1[np.isfinite(f1)].max())
