"""TFA-Net's encoder as a PyTorch module with the graph's own signature.

in   image [B,H,W,3] uint8 RGB, template [T,D] float32
out  features_0 [B,T,D] float32 (what the image would be as a template), anomaly_map [B,H,W]

The template is an input, so that a product may get another one without another graph.
"""

import numpy as np
import torch
from torch import Tensor

from cff_edge.backbones import Backbone
from cff_edge.tfa_net.maps import fuse_modes
from cff_edge.tfa_net.model import TfaNet
from cff_export.fused_encoder import FoldedTrunk
from cff_export.passes import FoldedInput, fold_upsampling

_SHORTEST = 1e-8  # of a norm, as `torch.nn.functional.cosine_similarity` has it
_TO_UNIT = 255.0


class FusedTfa(FoldedTrunk):
    """Trunk, network and anomaly map; all that is left of training are constants."""

    template_scale: Tensor | None
    template_shift: Tensor | None
    channel_mean: Tensor | None
    channel_scale: Tensor | None
    up: Tensor
    ones: Tensor

    def __init__(self, backbone: Backbone, net: TfaNet, folded: FoldedInput) -> None:
        super().__init__(backbone, folded)
        info, config = backbone.info, net.config
        self.condition = ("template", (net.n_tokens, config.width))
        self.outputs = ("features_0", "anomaly_map")
        self.net = net
        self.fusion = config.map
        # a template that is not normalised as published: (x' - mean) / std = x / 255
        apart = config.template_normalization == "as_published"
        scale, shift = (np.array(each)[:, None, None] for each in (info.std, info.mean))
        self.keep("template_scale", scale / _TO_UNIT if apart else None)
        self.keep("template_shift", shift if apart else None)
        self.keep("up", fold_upsampling(net.grid, info.image_size, config.blur_sigma))
        self.keep("ones", np.ones((1, net.n_channels)))
        for stage, grid in enumerate(self.grids):
            if grid != (net.grid, net.grid):
                for axis, length in zip("yx", grid, strict=True):
                    self.keep(f"grid_{axis}_{stage}", fold_upsampling(length, net.grid, 0.0))
        by_channel = config.feature_norm == "channels"
        mean, std = (_planes(each) for each in (net.channel_mean, net.channel_std))
        self.keep("channel_mean", mean if by_channel else None)
        self.keep("channel_scale", 1.0 / std if by_channel else None)

    def forward(self, image: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return features_0 and anomaly_map."""
        pixels = image.float().permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        fused = self._fused(pixels)
        tokens = self.net.tokens(fused)
        patches = self.net.refine(self.net.aggregate(tokens, template))
        features = tokens
        if self.template_scale is not None and self.template_shift is not None:
            features = self.net.tokens(
                self._fused(pixels * self.template_scale + self.template_shift)
            )
        return features, self._map(fused, patches)

    def _fused(self, pixels: Tensor) -> Tensor:
        """Fused features [B,C,g,g] of pixels [B,3,H,W] in 0..255."""
        planes = []
        for stage, (tokens, grid) in enumerate(
            zip(self.stages(pixels)[0], self.grids, strict=True)
        ):
            plane = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid)  # [B,E_s,h_s,w_s]
            if grid != (self.net.grid, self.net.grid):
                up_y, up_x = getattr(self, f"grid_y_{stage}"), getattr(self, f"grid_x_{stage}")
                plane = up_y @ plane @ up_x.T
            planes.append(plane)
        fused = torch.cat(planes, dim=1)
        if self.channel_mean is not None and self.channel_scale is not None:
            fused = (fused - self.channel_mean) * self.channel_scale
        return fused

    def _map(self, fused: Tensor, patches: Tensor) -> Tensor:
        """Anomaly map [B,H,W]: distance and direction, upsampled and blurred, then fused.

        Channels come last, where ONNX Runtime sums them several times faster; a patch vector holds
        rows, columns and channels of its cells.
        """
        net, side = self.net, self.net.grid // self.net.patch
        wanted = fused.permute(0, 2, 3, 1)  # [B,g,g,C]
        cells = patches.reshape(-1, side, side, net.patch, net.patch, net.n_channels)
        rebuilt = cells.transpose(2, 3).reshape(-1, net.grid, net.grid, net.n_channels)
        apart = wanted - rebuilt
        distance = (apart * apart).mean(dim=-1)  # [B,g,g]
        # a product with ones: of a sum ONNX Runtime takes the transposition behind it, 1 ms of 26
        lengths = (self.ones @ (fused * fused).flatten(2)).sqrt().clamp_min(_SHORTEST)  # [B,1,g*g]
        norms = lengths.reshape(-1, net.grid, net.grid) * _norm(rebuilt)
        direction = 1.0 - (wanted * rebuilt).sum(dim=-1) / norms
        up_x = self.up.T
        return fuse_modes(self.up @ distance @ up_x, self.up @ direction @ up_x, self.fusion)


def _norm(cells: Tensor) -> Tensor:
    """Norms over the channels of [B,g,g,C]."""
    return (cells * cells).sum(dim=-1).sqrt().clamp_min(_SHORTEST)


def _planes(values: Tensor) -> "np.ndarray":
    """Values per channel [C] in float64, [C,1,1]."""
    return values.detach().numpy().astype(np.float64)[:, None, None]
