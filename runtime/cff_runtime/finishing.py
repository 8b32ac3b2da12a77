"""From nearest-neighbour cosines to an anomaly map and an image score, on the host.

D_s   = 1 - max over the bank of cosine              [h_s,w_s]  per stage (CFF section 3.2)
d     = D_s                                          distance "cosine", as published
d     = log(1 + D_s / 0.01)                          distance "log"
map   = sum over s of up(d(D_s)) + weight * encoder's map        [H,W]
up    = bilinear, align_corners, as APRIL-GAN upsamples its maps
score = max(map) or std(map), over all pixels        without a score of the encoder's
score = 0.5 (its score + peak_scale * max(map))      with one; peak_scale from the references

A bundle without scorers has no D_s: its map is the encoder's, times the weight.

Distances of one stage can be ten times those of another, which then decides alone. Their logarithms
differ by a constant, so that in the sum of "log" every stage has its say, whatever the product.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import BackendError

DISTANCES = ("cosine", "log")
# Distances far below it count as none: normal parts lie at 0.01 to 0.15, by stage and product.
LOG_SCALE = 0.01
_PEAK_SHARE = 0.5


def stage_distance(nearest: NDArray[np.float32], distance: str) -> NDArray[np.float32]:
    """Turn largest cosines to the memory bank into distances of the same shape.

    Parameters
    ----------
    nearest : ndarray, float32
    distance : {'cosine', 'log'}
    """
    cosine_distance = 1.0 - nearest
    if distance == "cosine":
        return cosine_distance
    # rounding can leave a token a hair beyond its own twin
    return np.log1p(np.maximum(cosine_distance, 0.0) / np.float32(LOG_SCALE))


@lru_cache(maxsize=32)
def _taps(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return for each of n_out samples its left neighbour of n_in and the right one's weight."""
    position = np.linspace(0.0, n_in - 1.0, n_out) if n_out > 1 else np.zeros(1)
    left = np.minimum(position.astype(np.intp), max(n_in - 2, 0))
    return left, (position - left).astype(np.float32)


def upsampling_matrix(n_in: int, n_out: int) -> NDArray[np.float32]:
    """Return the [n_out,n_in] matrix of bilinear interpolation with aligned corners."""
    return _interpolate(np.eye(n_in, dtype=np.float32), n_out)


def upsample(grid: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Upsample a map [h_s,w_s] to [H,W], bilinear with aligned corners.

    Two weighted sums instead of matrix products: a BLAS would wake threads that compete with the
    inference backend's.
    """
    wide = _interpolate(grid.T, width).T  # [h_s,W]
    return _interpolate(wide, height)


def _interpolate(rows: NDArray[np.float32], n_out: int) -> NDArray[np.float32]:
    """Interpolate along the first axis, [n_in,X] to [n_out,X]."""
    left, weight = _taps(len(rows), n_out)
    right = np.minimum(left + 1, len(rows) - 1)
    start = rows[left]
    return start + (rows[right] - start) * weight[:, None]


def fuse_maps(
    nearest: Sequence[NDArray[np.float32]],
    grids: Sequence[tuple[int, int]],
    encoder_map: NDArray[np.float32],
    map_weight: float,
    distance: str,
) -> NDArray[np.float32]:
    """Sum the stages' distance maps and the weighted map of the encoder.

    Parameters
    ----------
    nearest : sequence of S ndarrays of shape (N_s,), float32
        Largest cosine to the memory bank, per token; of no stage where nothing is searched.
    grids : sequence of as many (h_s, w_s)
        N_s = h_s * w_s.
    encoder_map : ndarray of shape (H, W), float32
    map_weight : float
    distance : {'cosine', 'log'}

    Returns
    -------
    ndarray of shape (H, W), float32
    """
    height, width = encoder_map.shape
    distances: dict[tuple[int, int], NDArray[np.float32]] = {}
    for best, grid in zip(nearest, grids, strict=True):
        plane = stage_distance(best, distance).reshape(grid)
        distances[grid] = distances[grid] + plane if grid in distances else plane
    total = encoder_map * np.float32(map_weight)
    for plane in distances.values():  # stages of one grid are upsampled together
        total += upsample(plane, height, width)
    return total


def peak_scale_of(peaks: Sequence[float]) -> float:
    """Return `peak_scale` from the maxima of good parts' maps: the largest gets half the score."""
    return _PEAK_SHARE / max(max(peaks), float(np.finfo(np.float32).tiny))


def map_statistic(anomaly_map: NDArray[np.float32], statistic: str) -> float:
    """Return what of a map makes the image score.

    Parameters
    ----------
    anomaly_map : ndarray of shape (H, W), float32
    statistic : {'max', 'std'}
        The population standard deviation is summed in float64.
    """
    if statistic == "std":
        return float(np.std(anomaly_map, dtype=np.float64))
    return float(anomaly_map.max())


def image_score(value: float, encoder_score: float | None, peak_scale: float) -> float:
    """Return the image score from the map's statistic and the encoder's score, if there is one.

    Parameters
    ----------
    value : float
        See `map_statistic`; the map's maximum where there is a score of the encoder's.
    encoder_score : float or None
    peak_scale : float
        Factor of the maximum; not used without a score of the encoder's.

    Raises
    ------
    BackendError
        If it is not finite: NaN is above no threshold, and a part must not pass because of it.
    """
    score = value if encoder_score is None else 0.5 * (encoder_score + peak_scale * value)
    if not math.isfinite(score):
        raise BackendError(f"image score must be finite, got {score}; run `cff-run verify`")
    return score
