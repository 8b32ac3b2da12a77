"""TFA-Net's encoder as a PyTorch module with the graph's own signature.

in   image [B,H,W,3] uint8 RGB, template [T,D] float32
out  features_0 [B,T,D] float32 (what the image would be as a template), anomaly_map [B,H,W]

The template is an input, so that a product may get another one without another graph.
"""

import numpy as np
import torch
from torch import Tensor, nn

from cff_edge.backbones import Backbone
from cff_edge.tfa_net.maps import fuse_modes
from cff_edge.tfa_net.model import TfaNet
from cff_export.passes import FoldedInput, fold_upsampling
from cff_export.passes.chain import Matrix

_SHORTEST = 1e-8  # of a norm, as `torch.nn.functional.cosine_similarity` has it
_TO_UNIT = 255.0


class FusedTfa(nn.Module):
    """Trunk, network and anomaly map; all that is left of training are constants."""

    scale: Tensor | None
    shift: Tensor | None
    template_scale: Tensor | None
    template_shift: Tensor | None
    channel_mean: Tensor | None
    channel_scale: Tensor | None
    up: Tensor

    def __init__(self, backbone: Backbone, net: TfaNet, folded: FoldedInput) -> None:
        super().__init__()
        info, config = backbone.info, net.config
        self.condition = ("template", (net.n_tokens, config.width))
        self.outputs = ("features_0", "anomaly_map")
        self.trunk = backbone.module
        self.net = net
        self.grids = [stage.grid for stage in info.stages]
        self.fusion = config.map
        self._optional("scale", folded.scale)
        self._optional("shift", folded.shift)
        # a template that is not normalised as published: (x' - mean) / std = x / 255
        apart = config.template_normalization == "as_published"
        self._optional("template_scale", np.array(info.std) / _TO_UNIT if apart else None)
        self._optional("template_shift", np.array(info.mean) if apart else None)
        self.register_buffer(
            "up", _constant(fold_upsampling(net.grid, info.image_size, config.blur_sigma))
        )
        for stage, grid in enumerate(self.grids):
            if grid != (net.grid, net.grid):
                for axis, length in zip("yx", grid, strict=True):
                    matrix = fold_upsampling(length, net.grid, 0.0)
                    self.register_buffer(f"grid_{axis}_{stage}", _constant(matrix))
        by_channel = config.feature_norm == "channels"
        mean, std = (_array(each) for each in (net.channel_mean, net.channel_std))
        self._optional("channel_mean", mean if by_channel else None)
        self._optional("channel_scale", 1.0 / std if by_channel else None)

    def forward(self, image: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return features_0 and anomaly_map."""
        pixels = image.float().permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        fused = self._fused(pixels)
        tokens = self.net.tokens(fused)
        patches = self.net.refine(self._aggregated(tokens, template))
        features = tokens
        if self.template_scale is not None and self.template_shift is not None:
            features = self.net.tokens(
                self._fused(pixels * self.template_scale + self.template_shift)
            )
        return features, self._map(fused, patches)

    def _fused(self, pixels: Tensor) -> Tensor:
        """Fused features [B,C,g,g] of pixels [B,3,H,W] in 0..255."""
        if self.scale is not None and self.shift is not None:
            pixels = pixels * self.scale + self.shift
        planes = []
        for stage, (tokens, grid) in enumerate(zip(self.trunk(pixels)[0], self.grids, strict=True)):
            plane = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid)  # [B,E_s,h_s,w_s]
            if grid != (self.net.grid, self.net.grid):
                up_y, up_x = getattr(self, f"grid_y_{stage}"), getattr(self, f"grid_x_{stage}")
                plane = up_y @ plane @ up_x.T
            planes.append(plane)
        fused = torch.cat(planes, dim=1)
        if self.channel_mean is not None and self.channel_scale is not None:
            fused = (fused - self.channel_mean) * self.channel_scale
        return fused

    def _aggregated(self, tokens: Tensor, template: Tensor) -> Tensor:
        """As `TfaNet.aggregate`, but what is kept stands first: attention has no order."""
        net = self.net
        kept = torch.cat([net.class_token[0], template + net.positions])  # [1+T,D]
        first = kept.expand(tokens.shape[0], -1, -1)
        sequence = torch.cat([first, tokens + net.positions], dim=1)  # [B,1+2T,D]
        for block in net.aggregation:
            sequence = block(sequence)
        aggregated: Tensor = net.aggregation_norm(sequence[:, : 1 + net.n_tokens])
        return aggregated

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
        norms = _norm(wanted) * _norm(rebuilt)
        direction = 1.0 - (wanted * rebuilt).sum(dim=-1) / norms
        up_x = self.up.T
        return fuse_modes(self.up @ distance @ up_x, self.up @ direction @ up_x, self.fusion)

    def _optional(self, name: str, array: "np.ndarray | None") -> None:
        """Keep values per channel as a buffer [C,1,1]."""
        if array is None:
            setattr(self, name, None)  # torch.export miscounts buffers registered as None
        else:
            self.register_buffer(name, _constant(array[:, None, None]))


def _norm(cells: Tensor) -> Tensor:
    """Norms over the channels of [B,g,g,C]."""
    return (cells * cells).sum(dim=-1).sqrt().clamp_min(_SHORTEST)


def _array(tensor: Tensor) -> Matrix:
    array: Matrix = tensor.detach().numpy().astype(np.float64)
    return array


def _constant(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
