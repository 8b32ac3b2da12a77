"""The dual-mode anomaly map: distance and direction of features and reconstruction.

tfa_net.md 2.7: D is the mean squared difference over channels, C is 1 - cosine, both on the grid of
features; each is resized to the image with aligned corners and blurred, then they are fused.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.detector import resize_planes

WEIGHTED_DIRECTION = 5.0  # of C beside D
_TRUNCATE = 4.0  # deviations at which SciPy's `gaussian_filter` ends


def distance_and_direction(fused: Tensor, reconstructed: Tensor) -> Tensor:
    """Return D and C [B,2,g,g] of F and F_hat [B,C,g,g]."""
    distance = (fused - reconstructed).square().mean(dim=1)
    direction = 1.0 - F.cosine_similarity(fused, reconstructed, dim=1)
    return torch.stack([distance, direction], dim=1)


def anomaly_map(
    fused: Tensor, reconstructed: Tensor, size: Sequence[int], fusion: str, sigma: float
) -> Tensor:
    """Return the anomaly map [B,H,W] of F and F_hat [B,C,g,g].

    Parameters
    ----------
    fused, reconstructed : Tensor of shape (B, C, g, g)
    size : (H, W)
    fusion : {'product', 'weighted'}
        D * C, or 5 C + D.
    sigma : float
        Of the blur, in pixels of the map.
    """
    planes = resize_planes(distance_and_direction(fused, reconstructed), size)  # [B,2,H,W]
    down, across = (torch.from_numpy(blur_matrix(n, sigma)).to(planes) for n in size)
    blurred = down @ planes @ across.T
    return fuse_modes(blurred[:, 0], blurred[:, 1], fusion)


def fuse_modes(distance: Tensor, direction: Tensor, fusion: str) -> Tensor:
    """Return D * C (``product``) or 5 C + D (``weighted``)."""
    if fusion == "product":
        return distance * direction
    return WEIGHTED_DIRECTION * direction + distance


def image_score(anomaly: Tensor, statistic: str) -> Tensor:
    """Return the scores [B] of maps [B,H,W]: their population deviation or maximum."""
    flat = anomaly.flatten(1)
    return flat.amax(dim=1) if statistic == "max" else flat.std(dim=1, correction=0)


def blur_matrix(n: int, sigma: float) -> NDArray[np.float64]:
    """Return the [n,n] matrix of a Gaussian blur along one axis, as SciPy's with its defaults.

    The weights end at 4 sigma and add up to 1; beyond its borders the line is mirrored about the
    edge of its last pixel, as often as needed. ``sigma`` 0 gives the identity.
    """
    radius = math.floor(_TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if radius else np.ones(1)
    weights /= weights.sum()
    matrix = np.zeros((n, n))
    for row in range(n):
        places = (row + offsets) % (2 * n)  # one period of the mirrored line
        np.add.at(matrix[row], np.where(places < n, places, 2 * n - 1 - places), weights)
    return matrix
