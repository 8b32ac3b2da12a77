"""All pixels of a product in one sorted array, from which every pixel metric is read.

A pixel is one uint64: the upper half orders by score, the lower half, the mark, says whose it is.
Marks below the number of images are good pixels of that image; the marks above are the defective
regions, counted on across images. Sorted, a score's good pixels come before its defective ones.

Between two scores that occur on defective pixels only false positives are gained, so the exact
curve over all distinct scores has its corners at the scores of defective pixels: before and after
each of them. That leaves a few per cent of the points, and no approximation.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cff_edge.metrics.checks import checked_maps

_SHIFT = np.uint64(32)
_CONNECTIVITY = 8


@dataclass(frozen=True, eq=False)
class Curve:
    """Corners of the exact curve, from above the highest score to below the lowest.

    Attributes
    ----------
    true_positives, false_positives : ndarray of shape (m,), float64
        Defective and good pixels called so far.
    overlap : ndarray of shape (m,), float64
        Mean over all regions of the fraction of the region's pixels called so far.
    """

    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    overlap: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PixelRanking:
    """Pixels of a product by rising score; P pixels, D of them defective, in R regions.

    Attributes
    ----------
    packed : ndarray of shape (P,), uint64
        Score key and mark of each pixel, rising.
    defective : ndarray of shape (D,), int64
        Where in `packed` the defective pixels are, rising.
    n_images : int
    region_images, region_areas : ndarray of shape (R,), int64
        Image of each region, and its area in pixels.
    levels : ndarray of shape (L,), float64, or None
        Distinct scores that the keys number; None where a key is a float32's own bits.
    lowest, highest : float
        Range of the scores.
    """

    packed: NDArray[np.uint64]
    defective: NDArray[np.int64]
    n_images: int
    region_images: NDArray[np.int64]
    region_areas: NDArray[np.int64]
    levels: NDArray[np.float64] | None
    lowest: float
    highest: float

    @property
    def n_good(self) -> int:
        """Number of good pixels, in good and in defective images."""
        return self.packed.size - self.defective.size

    def curve(self) -> Curve:
        """Return the exact curve."""
        keys = self.packed[self.defective] >> _SHIFT
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))  # tied groups [G]
        ends = np.append(starts[1:], keys.size)
        lowest_of_tie = np.searchsorted(self.packed, keys[starts] << _SHIFT)
        called = [
            self.packed.size - 1 - self.defective[ends - 1],  # before a score ...
            self.packed.size - lowest_of_tie,  # ... and after it
        ]
        found = [keys.size - ends, keys.size - starts]
        n_called = np.stack(called, axis=-1)[::-1].ravel()  # [2G], highest score first
        n_found = np.stack(found, axis=-1)[::-1].ravel()
        n_called = np.concatenate([[0], n_called, [self.packed.size]])
        n_found = np.concatenate([[0], n_found, [keys.size]])
        return Curve(
            true_positives=n_found.astype(np.float64),
            false_positives=(n_called - n_found).astype(np.float64),
            overlap=self._overlaps()[n_found],
        )

    def above(
        self, thresholds: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the false positives and the mean overlap of calling what scores above a threshold.

        Parameters
        ----------
        thresholds : ndarray of shape (T,), float64
            None of them below `lowest`.

        Returns
        -------
        false_positives : ndarray of shape (T,), int64
        overlap : ndarray of shape (T,), float64
        """
        first_above = np.searchsorted(self.packed, (self._keys_at(thresholds) + 1) << _SHIFT)
        n_found = self.defective.size - np.searchsorted(self.defective, first_above)
        return self.packed.size - first_above - n_found, self._overlaps()[n_found]

    def _overlaps(self) -> NDArray[np.float64]:
        """Return the mean overlap once the highest 0, 1, ... D defective pixels are called."""
        marks = self.packed[self.defective[::-1]].astype(np.uint32)  # drops the upper half
        gains = 1.0 / (self.region_areas * self.region_areas.size)
        return np.concatenate([[0.0], np.cumsum(gains[marks - np.uint32(self.n_images)])])

    def _keys_at(self, thresholds: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Return the key of the highest score that is not above each threshold."""
        if self.levels is not None:
            return (np.searchsorted(self.levels, thresholds, side="right") - 1).astype(np.uint64)
        rounded = thresholds.astype(np.float32)
        below = np.nextafter(rounded, np.float32(-np.inf))
        return _keys(np.where(rounded > thresholds, below, rounded)).astype(np.uint64)


def rank_pixels(masks: ArrayLike, maps: ArrayLike) -> PixelRanking:
    """Label the regions of `masks` and sort the pixels of `maps` by score.

    Takes 8 bytes a pixel beside the arguments and 4 more for a moment. Maps of float16 and float32
    are sorted by their bits; any other type goes through its distinct values, slower but as exact.

    Parameters
    ----------
    masks : array-like of shape (n, H, W), bool
        True where defective; regions are 8-connected.
    maps : array-like of shape (n, H, W), float

    Raises
    ------
    DatasetError
        If the shapes differ, a map is not finite, or only one class of pixels is present.
    """
    truth, values = checked_maps(masks, maps)
    lowest, highest = float(values.min()), float(values.max())
    levels, numbers = None, None
    if values.dtype not in (np.float16, np.float32):
        levels, inverse = np.unique(values.astype(np.float64), return_inverse=True)
        numbers = inverse.reshape(truth.shape)  # flat in some versions of NumPy
    packed = np.empty(truth.shape, np.uint64)
    region_images: list[int] = []
    region_areas: list[NDArray[np.int64]] = []
    for image in range(len(truth)):
        n_labels, labels = cv2.connectedComponents(
            truth[image].astype(np.uint8), connectivity=_CONNECTIVITY
        )
        packed[image] = _keys(values[image]) if numbers is None else numbers[image]
        packed[image] <<= _SHIFT
        offset = len(truth) + len(region_images) - 1  # region 1 of this image has the next mark
        packed[image] |= np.where(labels > 0, labels + offset, image).astype(np.uint64)
        region_images += [image] * (n_labels - 1)
        region_areas.append(np.bincount(labels.ravel(), minlength=n_labels)[1:])
    flat = packed.reshape(-1)
    flat.sort()
    return PixelRanking(
        packed=flat,
        defective=np.flatnonzero(flat.astype(np.uint32) >= len(truth)),
        n_images=len(truth),
        region_images=np.array(region_images),
        region_areas=np.concatenate(region_areas),
        levels=levels,
        lowest=lowest,
        highest=highest,
    )


def _keys(values: NDArray[np.floating[Any]]) -> NDArray[np.uint32]:
    """Return uint32 that order as the float values do: IEEE 754 bits, negative ones turned round.

    A negative number's bits are all inverted, a positive one's sign bit only; -0 becomes +0 first.
    """
    bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32)
    flips = np.where(bits >> 31 == 1, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return bits ^ flips
