"""Per-region overlap (PRO), in the published and in the exact form.

PRO at a threshold is the mean over all defective regions of a product of the fraction of the
region's pixels that are called; a region is 8-connected. Its area over the false positive rate
(FPR) of all good pixels, those of good images too, weighs a small defect like a large one
(Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021). `pro_as_published` is for
comparison with published few-shot tables only: it depends on single extreme scores, and lies on
another scale than `pro_exact`.
"""

import numpy as np
from numpy.typing import ArrayLike

from cff_edge.metrics.curves import straight_area
from cff_edge.metrics.ranking import Curve, PixelRanking, rank_pixels
from cff_runtime.errors import UsageError

PRO_FPR_LIMIT = 0.3
_N_STEPS = 200


def pro_as_published(masks: ArrayLike, maps: ArrayLike) -> float:
    """Return the PRO score as APRIL-GAN's evaluation code counts it, a fraction.

    200 thresholds in even steps of the score, ``arange(min, max, (max - min) / 200)``; a pixel is
    called above the threshold. The points with FPR < 0.3 are kept, their FPR stretched to 0..1 by
    (FPR - min) / (max - min), and joined by straight lines; no point is added at either end.

    Where the formula has no value, one is set: 0 if no threshold keeps the FPR below 0.3, as with
    constant maps, and the largest PRO kept if all kept points share one FPR.

    Parameters
    ----------
    masks : array-like of shape (n, H, W), bool
        True where defective.
    maps : array-like of shape (n, H, W), float

    Raises
    ------
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    return published_area(rank_pixels(masks, maps))


def pro_exact(masks: ArrayLike, maps: ArrayLike, fpr_limit: float = PRO_FPR_LIMIT) -> float:
    """Return the area under the PRO curve up to `fpr_limit`, divided by it, a fraction.

    Every distinct score is a threshold, the curve starts at (0, 0) and is joined by straight lines,
    also at the limit, as in MVTec AD's evaluation code. Constant maps give `fpr_limit` / 2.

    Parameters
    ----------
    masks : array-like of shape (n, H, W), bool
        True where defective.
    maps : array-like of shape (n, H, W), float
    fpr_limit : float, default=0.3
        Largest false positive rate, above 0 and at most 1.

    Raises
    ------
    UsageError
        If `fpr_limit` is out of range.
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    if not 0 < fpr_limit <= 1:
        raise UsageError(
            f"`fpr_limit` must be above 0 and at most 1, got {fpr_limit}; 0.3 is usual"
        )
    return exact_area(rank_pixels(masks, maps).curve(), fpr_limit)


def published_area(ranking: PixelRanking) -> float:
    """Return `pro_as_published` of ranked pixels."""
    low, high = ranking.lowest, ranking.highest
    step = (high - low) / _N_STEPS
    if step == 0:
        return 0.0
    false_positives, overlap = ranking.above(np.arange(low, high, step))
    fpr = false_positives / ranking.n_good
    kept = fpr < PRO_FPR_LIMIT
    if not kept.any():
        return 0.0
    fpr, overlap = fpr[kept][::-1], overlap[kept][::-1]  # rising
    if fpr[0] == fpr[-1]:
        return float(overlap.max())
    return straight_area((fpr - fpr[0]) / (fpr[-1] - fpr[0]), overlap)


def exact_area(curve: Curve, fpr_limit: float) -> float:
    """Return `pro_exact` of an exact curve."""
    fpr = curve.false_positives / curve.false_positives[-1]
    n_kept = int(np.searchsorted(fpr, fpr_limit, side="right"))
    x, y = fpr[:n_kept], curve.overlap[:n_kept]
    if n_kept < fpr.size:
        reached = (fpr_limit - fpr[n_kept - 1]) / (fpr[n_kept] - fpr[n_kept - 1])
        at_limit = y[-1] + reached * (curve.overlap[n_kept] - y[-1])
        x, y = np.append(x, fpr_limit), np.append(y, at_limit)
    return straight_area(x, y) / fpr_limit
