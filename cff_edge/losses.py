"""Focal, dice and alignment losses (CFF section 3.4; focal and dice as APRIL-GAN defines them).

    L_adj    = sum over n < S of w_n (1 - mean over tokens of cos(F^_n, F^_{n+1}))
    L_global = || Sim(F^_1, F^_S) - I ||_F^2, Sim the N x N cosine matrix
    L_align  = L_adj + 0.1 L_global
    L_total  = 0.6 L_focal + 0.4 L_dice + 0.1 L_align

The paper leaves the scale of L_global open; with N = 1369 tokens the raw norm is huge, so it is
divided by N, which makes its diagonal term O(1). `global_scale='none'` keeps the raw norm.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cff_runtime.errors import UsageError

GLOBAL_SCALES = ("tokens", "none")

_FOCAL_GAMMA = 2.0
_FOCAL_SMOOTH = 1e-5
_DICE_SMOOTH = 1.0


def focal_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Two-class focal loss, gamma 2, mean over all pixels.

    Parameters
    ----------
    probability : Tensor of shape (B, H, W), float
        Probability of *abnormal* in [0, 1].
    mask : Tensor of shape (B, H, W), float or bool
        1 where abnormal.
    """
    one_hot = mask.to(probability.dtype).clamp(_FOCAL_SMOOTH, 1.0 - _FOCAL_SMOOTH)
    p_true = one_hot * probability + (1.0 - one_hot) * (1.0 - probability) + _FOCAL_SMOOTH
    return (-((1.0 - p_true) ** _FOCAL_GAMMA) * p_true.log()).mean()


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - (2 sum(p y) + 1) / (sum p + sum y + 1) per image [B,H,W], mean over the batch."""
    p = probability.flatten(1)
    y = mask.to(p.dtype).flatten(1)
    overlap = 2.0 * (p * y).sum(dim=1) + _DICE_SMOOTH
    return (1.0 - overlap / (p.sum(dim=1) + y.sum(dim=1) + _DICE_SMOOTH)).mean()


def alignment_loss(
    features: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    global_weight: float = 0.1,
    global_scale: str = "tokens",
) -> Tensor:
    """L_adj + global_weight * L_global on normal images, mean over the batch.

    Parameters
    ----------
    features : sequence of S tensors of shape (B, N, C)
        Calibrated features of all stages on one common grid; normalised here.
    weights : sequence of S - 1 floats, optional
        w_n, one for each pair of adjacent stages; 1 by default.
    global_weight : float
        Factor of L_global, 0.1 in the paper.
    global_scale : {'tokens', 'none'}
        Divide L_global by N, or not at all.

    Raises
    ------
    UsageError
        If `weights` has not S - 1 entries or `global_scale` is unknown.
    """
    if global_scale not in GLOBAL_SCALES:
        raise UsageError(
            f"`global_scale` must be one of {', '.join(GLOBAL_SCALES)}, got {global_scale!r}"
        )
    unit = [F.normalize(stage, dim=-1) for stage in features]
    pairs = list(itertools.pairwise(unit))
    if weights is None:
        weights = [1.0] * len(pairs)
    if len(weights) != len(pairs):
        raise UsageError(
            f"`adjacent_weights` must have one entry per pair of adjacent stages ({len(pairs)}), "
            f"got {len(weights)}"
        )
    adjacent = unit[0].new_zeros(())  # what remains of one stage alone
    for w, (shallow, deep) in zip(weights, pairs, strict=True):
        adjacent = adjacent + w * (1.0 - (shallow * deep).sum(-1).mean())
    similarity = unit[0] @ unit[-1].transpose(1, 2)  # [B,N,N]
    n_tokens = similarity.shape[-1]
    identity = torch.eye(n_tokens, dtype=similarity.dtype, device=similarity.device)
    frobenius = ((similarity - identity) ** 2).sum(dim=(1, 2)).mean()
    if global_scale == "tokens":
        frobenius = frobenius / n_tokens
    return adjacent + global_weight * frobenius
