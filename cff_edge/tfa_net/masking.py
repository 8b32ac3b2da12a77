"""Which input tokens the mask token replaces in training (tfa_net.md 2.5 and 2.11)."""

import numpy as np
from numpy.typing import NDArray

from cff_edge.tfa_net.options import TfaConfig


def draw_masks(
    rng: np.random.Generator, n_images: int, n_tokens: int, config: TfaConfig
) -> NDArray[np.bool_] | None:
    """Draw the masks of a batch.

    Parameters
    ----------
    rng : Generator
    n_images, n_tokens : int
        B and T.
    config : TfaConfig
        ``uniform`` draws every image's share from 0 to 1; ``fraction`` takes ``mask_fraction``.

    Returns
    -------
    ndarray of shape (B, T), bool, or None
        True for a replaced token, the share times T of them, rounded; None without masking.
    """
    if config.masking == "none":
        return None
    shares = (
        rng.random(n_images)
        if config.masking == "uniform"
        else np.full(n_images, config.mask_fraction)
    )
    ranks = rng.random((n_images, n_tokens)).argsort(axis=1).argsort(axis=1)
    return ranks < np.rint(shares * n_tokens)[:, None]
