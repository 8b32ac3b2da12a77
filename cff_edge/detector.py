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
        Calibrated, unit length.
    text_map : Tensor of shape (B, H, W)
        Sum over the stages of the probability of "abnormal", 0 to S.
    text_score : Tensor of shape (B,) or None
        Probability of "abnormal" of the image embedding; None without a text tower.
    """

    features: list[Tensor]
    text_map: Tensor
    text_score: Tensor | None


class Detector(nn.Module):
    """Backbone and head, from uint8 images to features and text maps."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.info: BackboneInfo = backbone.info
        self.trunk = backbone.module
        self.head = head
        self.register_buffer("mean", torch.tensor(self.info.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(self.info.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, text: Tensor) -> Detection:
        """Encode RGB images [B,H,W,3], uint8, with text vectors [C,2]."""
        stages, embedding = self.trunk(self.normalize(image))
        features = [F.normalize(stage, dim=-1) for stage in self.head(stages)]
        grids = [stage.grid for stage in self.info.stages]
        size = (image.shape[1], image.shape[2])
        text_map = torch.stack(
            [abnormal_map(f, text, g, size) for f, g in zip(features, grids, strict=True)]
        ).sum(dim=0)
        if embedding is None:
            return Detection(features, text_map, None)
        logits = LOGIT_SCALE * F.normalize(embedding, dim=-1) @ text  # [B,2]
        return Detection(features, text_map, logits.softmax(dim=-1)[:, 1])

    def normalize(self, image: Tensor) -> Tensor:
        """Map RGB images [B,H,W,3], uint8, to normalised float [B,3,H,W]."""
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std


def abnormal_map(
    features: Tensor, text: Tensor, grid: tuple[int, int], size: tuple[int, int]
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
