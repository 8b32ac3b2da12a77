"""The reference detector of TFA-Net: trunk, network, anomaly map, in PyTorch and unfolded.

The exporter folds this module and the parity gate compares with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cff_edge.backbones import Backbone, BackboneInfo
from cff_edge.tfa_net.maps import anomaly_map, image_score
from cff_edge.tfa_net.model import TfaNet

_TO_UNIT = 255.0


@dataclass(frozen=True)
class TfaDetection:
    """What the detector says about a batch.

    Attributes
    ----------
    features : Tensor of shape (B, T, D)
        What these images' features would be as a template.
    anomaly_map : Tensor of shape (B, H, W)
    """

    features: Tensor
    anomaly_map: Tensor


class TfaDetector(nn.Module):
    """Trunk and network, from uint8 images and a template's tokens to the anomaly map.

    Parameters
    ----------
    backbone : Backbone
    net : TfaNet
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, net: TfaNet) -> None:
        super().__init__()
        self.info: BackboneInfo = backbone.info
        self.trunk = backbone.module
        self.net = net
        self.register_buffer("mean", torch.tensor(self.info.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(self.info.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, template: Tensor) -> TfaDetection:
        """Judge RGB images [B,H,W,3], uint8, on a template's tokens [T,D]."""
        config = self.net.config
        fused = self.fused(image)
        tokens = self.net.tokens(fused)
        reconstructed = self.net.reconstruct(tokens, template)
        size = image.shape[1:3]
        return TfaDetection(
            tokens if config.template_normalization == "like_input" else self.template(image),
            anomaly_map(fused, reconstructed, size, config.map, config.blur_sigma),
        )

    def fused(self, image: Tensor) -> Tensor:
        """Return the fused features [B,C,g,g] of images [B,H,W,3], uint8."""
        return self.net.fuse(self.trunk(self.normalize(image))[0])

    def normalize(self, image: Tensor) -> Tensor:
        """Map RGB images [B,H,W,3], uint8, to normalised float [B,3,H,W]."""
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def template_stages(self, image: Tensor) -> list[Tensor]:
        """Return the trunk's stages [B,N_s,E_s] of images [B,H,W,3], uint8, as templates."""
        if self.net.config.template_normalization == "like_input":
            stages: list[Tensor] = self.trunk(self.normalize(image))[0]
        else:
            stages = self.trunk(image.permute(0, 3, 1, 2).float() / _TO_UNIT)[0]
        return stages

    def template(self, image: Tensor) -> Tensor:
        """Return the tokens [B,T,D] of images [B,H,W,3], uint8, as templates."""
        return self.net.tokens(self.net.fuse(self.template_stages(image)))

    def score(self, anomaly: Tensor) -> Tensor:
        """Return the image scores [B] of anomaly maps [B,H,W]."""
        return image_score(anomaly, self.net.config.score)
