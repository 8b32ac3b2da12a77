"""The reference detector: frozen backbone, head, text maps, in PyTorch and unfolded.

The exporter folds this module and the parity gate compares with it, so it states the method as
the papers do and nothing is fused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cff_edge.backbones import Backbone, BackboneInfo
from cff_edge.heads import Head

LOGIT_SCALE = 100.0  # APRIL-GAN's constant, not CLIP's learned scale


@dataclass(frozen=True)
class Detection:
    """What the detector says about a batch, before any memory bank.

    Attributes
    ----------
    features : list of S tensors of shape (B, N_s, C), float32
        What the memory bank holds and is searched with, unit length: calibrated features, or raw
        tokens (B, N_s, E_s) with ``bank='raw'``.
    text_map : Tensor of shape (B, H, W)
        Sum over the stages of the probability of "abnormal", 0 to S.
    text_score : Tensor of shape (B,) or None
        Probability of "abnormal" of the image embedding; None without a text tower.
    """

    features: list[Tensor]
    text_map: Tensor
    text_score: Tensor | None


class Detector(nn.Module):
    """Backbone and head, from uint8 images to features and text maps.

    Parameters
    ----------
    backbone : Backbone
    head : Head
    bank : {'calibrated', 'raw'}
        What memory banks hold: calibrated features (CFF) or raw backbone tokens (APRIL-GAN).
    text_map : {'maps', 'features'}
        See `abnormal_maps`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: Head, bank: str = "calibrated", text_map: str = "maps"
    ) -> None:
        super().__init__()
        self.info: BackboneInfo = backbone.info
        self.trunk = backbone.module
        self.head = head
        self.bank = bank
        self.text_map = text_map
        self.register_buffer("mean", torch.tensor(self.info.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(self.info.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, text: Tensor) -> Detection:
        """Encode RGB images [B,H,W,3], uint8, with text vectors [C,2]."""
        stages, embedding = self.trunk(self.normalize(image))
        calibrated = self.head(stages)
        grids = [stage.grid for stage in self.info.stages]
        maps = abnormal_maps(calibrated, text, grids, image.shape[1:3], self.text_map)
        return Detection(
            features=bank_features(stages, calibrated, self.bank),
            text_map=text_map_of(maps, len(stages)),
            text_score=None if embedding is None else text_probability(embedding, text),
        )

    def normalize(self, image: Tensor) -> Tensor:
        """Map RGB images [B,H,W,3], uint8, to normalised float [B,3,H,W]."""
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std


def bank_features(
    stages: Sequence[Tensor], calibrated: Sequence[Tensor], bank: str
) -> list[Tensor]:
    """Return what memory banks hold, unit length, of raw [B,N_s,E_s] and calibrated [B,N_s,C]."""
    return [F.normalize(tokens, dim=-1) for tokens in (stages if bank == "raw" else calibrated)]


def abnormal_maps(
    calibrated: Sequence[Tensor],
    text: Tensor,
    grids: Sequence[tuple[int, int]],
    size: Sequence[int],
    text_map: str = "maps",
) -> Tensor:
    """Probability maps of "abnormal" of all stages, or of their sum.

    CFF speaks of a sum of per-stage maps (sections 3.2.2 and 3.3) and of features summed first
    (section 3.2); the two are ``maps`` and ``features``.

    Parameters
    ----------
    calibrated : sequence of S tensors of shape (B, N_s, C)
        Of any length. ``features`` adds them as they are, so that a longer one counts more.
    text : Tensor of shape (C, 2) or (B, C, 2)
    grids : sequence of S (h_s, w_s)
    size : (H, W)
    text_map : {'maps', 'features'}
        ``maps`` gives one map per stage; ``features`` brings all stages to the finest grid, sums
        them over the stages, and gives one map of the normalised sum.

    Returns
    -------
    Tensor of shape (S, B, H, W), or (1, B, H, W) for ``features``
    """
    if text_map == "features":
        common = on_common_grid(calibrated, grids)
        calibrated, grids = [torch.stack(common).sum(dim=0)], [finest(grids)]
    units = [F.normalize(stage, dim=-1) for stage in calibrated]
    return torch.stack(
        [abnormal_map(u, text, grid, size) for u, grid in zip(units, grids, strict=True)]
    )


def text_map_of(maps: Tensor, n_stages: int) -> Tensor:
    """Return the text map [B,H,W], 0 to S, of what `abnormal_maps` gave.

    The one map of summed features counts S times, so that ``head.text_weight`` means the same for
    both kinds.
    """
    return maps.sum(dim=0) * (n_stages / len(maps))


def text_probability(embedding: Tensor, text: Tensor) -> Tensor:
    """Probability of "abnormal" [B] of image embeddings [B,C] of any length (APRIL-GAN)."""
    logits = LOGIT_SCALE * F.normalize(embedding, dim=-1) @ text  # [B,2]
    return logits.softmax(dim=-1)[:, 1]


def abnormal_map(
    features: Tensor, text: Tensor, grid: tuple[int, int], size: Sequence[int]
) -> Tensor:
    """Probability map of "abnormal" of one stage (APRIL-GAN section 3.2).

    The logits are upsampled before the softmax.

    Parameters
    ----------
    features : Tensor of shape (B, N_s, C)
        Unit length.
    text : Tensor of shape (C, 2) or (B, C, 2)
        Unit text vectors, column 0 normal, column 1 abnormal.
    grid : (h_s, w_s)
    size : (H, W)

    Returns
    -------
    Tensor of shape (B, H, W)
    """
    logits = LOGIT_SCALE * features @ text  # [B,N_s,2]
    planes = logits.transpose(1, 2).reshape(-1, 2, *grid)  # [B,2,h_s,w_s]
    return resize_planes(planes, size).softmax(dim=1)[:, 1]


def resize_planes(planes: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps [B,X,h,w] bilinearly with aligned corners, as every map of the project."""
    return F.interpolate(planes, tuple(size), mode="bilinear", align_corners=True)


def on_common_grid(features: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Resize features [B,N_s,C] of all stages to the finest grid, [B,N,C]."""
    common = finest(grids)
    resized = []
    for stage, grid in zip(features, grids, strict=True):
        if grid != common:
            planes = stage.transpose(1, 2).reshape(*stage.shape[::2], *grid)  # [B,C,h_s,w_s]
            stage = resize_planes(planes, common).flatten(2).transpose(1, 2)
        resized.append(stage)
    return resized


def finest(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the grid of most tokens, the first of several."""
    return max(grids, key=lambda grid: grid[0] * grid[1])
