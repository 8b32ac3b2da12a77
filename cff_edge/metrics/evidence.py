"""What a bootstrap over images needs of one evaluated cell, in little space.

Pixels are counted image by image in bins of their score. Half of the bins hold equally many of the
cell's defective pixels, half equally many of its good ones; bins of the pooled scores alone would
put a small defect, a thousandth of all pixels, into two of 2048. Pixels of one score share a bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cff_edge.metrics.checks import check_labels_fit, checked_maps, checked_scores
from cff_edge.metrics.ranking import PixelRanking, rank_pixels
from cff_runtime.errors import DatasetError, UsageError


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of one cell: one product, one draw of references.

    Attributes
    ----------
    product : str
    seed : int
        The draw of references.
    images : tuple of str
        Names of the n test images, each once.
    labels : ndarray of shape (n,), bool
        True where defective.
    scores : ndarray of shape (n,), float64
    positive, negative : ndarray of shape (n, n_bins), uint32
        Each image's defective and good pixels in bins of rising score; a bin may be empty.

    Raises
    ------
    DatasetError
        If the shapes do not fit, a name is there twice, a score is not finite, or only one class of
        images or pixels is present.
    """

    product: str
    seed: int
    images: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    positive: NDArray[np.uint32]
    negative: NDArray[np.uint32]

    def __post_init__(self) -> None:
        checked_scores(self.labels, self.scores)
        n_images = len(self.labels)
        if len(self.images) != n_images or len(set(self.images)) != n_images:
            raise DatasetError(
                f"`images` must be {n_images} different names, as many as `labels`, got "
                f"{len(self.images)}, {len(set(self.images))} of them different; name each "
                "image by its path"
            )
        for name, counts in (("positive", self.positive), ("negative", self.negative)):
            if counts.ndim != 2 or counts.shape != (n_images, self.positive.shape[-1]):
                raise DatasetError(
                    f"`{name}` must be counts of {n_images} images in bins, [n, n_bins], got "
                    f"{counts.shape}; make them with `collect_evidence`"
                )
            if not counts.any():
                raise DatasetError(
                    f"`{name}` must count pixels, got none; evaluate on a test set with good and "
                    "defective ones"
                )


def collect_evidence(
    product: str,
    seed: int,
    images: Sequence[str],
    labels: ArrayLike,
    scores: ArrayLike,
    masks: ArrayLike,
    maps: ArrayLike,
    n_bins: int = 2048,
) -> Evidence:
    """Count the pixels of one cell in bins of score.

    AUROC, average precision and F1 of the pooled counts lie within about 1e-3 of the exact ones.

    Parameters
    ----------
    product : str
    seed : int
        The draw of references.
    images : sequence of str
        Names of the n images, each once.
    labels : array-like of shape (n,), bool
        True where defective.
    scores : array-like of shape (n,), float
    masks : array-like of shape (n, H, W), bool
    maps : array-like of shape (n, H, W), float32
    n_bins : int, default=2048
        At least 2.

    Raises
    ------
    UsageError
        If `n_bins` is too small.
    DatasetError
        If the shapes do not fit, a value is not finite, only one class of images or pixels is
        present, or a good image has a mask.
    """
    if n_bins < 2:
        raise UsageError(f"`n_bins` must be at least 2, got {n_bins}; 2048 is a good number")
    is_defective, image_scores = checked_scores(labels, scores)
    truth, values = checked_maps(masks, maps)
    check_labels_fit(is_defective, truth)
    positive, negative = _counts(rank_pixels(truth, values), n_bins)
    return Evidence(
        product=product,
        seed=seed,
        images=tuple(images),
        labels=is_defective,
        scores=image_scores.astype(np.float64),
        positive=positive,
        negative=negative,
    )


def _counts(ranking: PixelRanking, n_bins: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the defective and the good pixels of each image in each bin, both [n, n_bins]."""
    # by mark: column 2i counts the good pixels of image i, column 2i + 1 its defective ones
    column_of_mark = np.concatenate(
        [2 * np.arange(ranking.n_images), 2 * ranking.region_images + 1]
    )
    starts = _bin_starts(ranking, n_bins)
    ends = np.append(starts[1:], ranking.packed.size)
    counts = np.zeros((n_bins, 2 * ranking.n_images), np.uint32)
    for row, start, end in zip(counts, starts, ends, strict=True):
        marks = ranking.packed[start:end].astype(np.uint32)  # drops the score
        row[:] = np.bincount(column_of_mark[marks], minlength=row.size)
    return np.ascontiguousarray(counts[:, 1::2].T), np.ascontiguousarray(counts[:, ::2].T)


def _bin_starts(ranking: PixelRanking, n_bins: int) -> NDArray[np.int64]:
    """Return where in the ranking each bin begins, [n_bins], rising, the first at 0."""
    n_defective, half = ranking.defective.size, n_bins // 2
    at_defective = ranking.defective[np.arange(half) * n_defective // half]
    wanted = np.arange(n_bins - half) * ranking.n_good // (n_bins - half)
    # good pixel g stands behind all defective ones that have no more than g good ones before them
    good_before = ranking.defective - np.arange(n_defective)
    at_good = wanted + np.searchsorted(good_before, wanted, side="right")
    places = np.sort(np.concatenate([at_defective, at_good]))
    shift = np.uint64(32)
    return np.searchsorted(ranking.packed, ranking.packed[places] >> shift << shift)  # tied: first
