"""TFA-Net behind its trunk: fuse, embed, aggregate onto the template, refine (tfa_net.md 2.1-2.4).

The input's tokens only lend to the template's what attention takes from them and are dropped
then, so that whatever the template has no place for does not come back in the reconstruction. The
last aggregation block does not even compute them, which takes 3 % off the time of the embedded
graph (0.967 [0.943, 0.980] by turns, n = 60, 2 threads).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_edge.backbones import StageInfo
from cff_edge.detector import resize_planes
from cff_edge.tfa_net.blocks import NORM_EPS, Block
from cff_edge.tfa_net.options import TfaConfig
from cff_edge.tfa_net.positions import sincos_2d, with_class_token
from cff_runtime.errors import UsageError


class TfaNet(nn.Module):
    """What is trained: patch embedding, aggregation blocks, refinement blocks.

    Shapes: C channels of all stages together, a grid of g x g cells, patches of k x k cells,
    T = (g / k)^2 tokens of width D.

    Parameters
    ----------
    stages : sequence of StageInfo
        Of the trunk.
    config : TfaConfig

    Attributes
    ----------
    n_channels : int
        C.
    grid, patch : int
        g and k.
    n_tokens : int
        T.
    channel_mean, channel_std : Tensor of shape (C,)
        Of the training normals' fused features with ``feature_norm = "channels"``; 0 and 1 before
        training and with ``"none"``.

    Raises
    ------
    UsageError
        If the patch does not divide the grid, or a width its heads or 4.
    """

    positions: Tensor
    refined_positions: Tensor
    channel_mean: Tensor
    channel_std: Tensor

    def __init__(self, stages: Sequence[StageInfo], config: TfaConfig) -> None:
        super().__init__()
        self.config = config
        self.stage_grids = tuple(stage.grid for stage in stages)
        self.n_channels = sum(stage.width for stage in stages)
        self.grid = config.grid or max(max(grid) for grid in self.stage_grids)
        self.patch = config.patch
        _check_sizes(self.grid, config)
        side = self.grid // self.patch
        self.n_tokens = side * side
        width, refined = config.width, config.refinement_width
        self.embedding = nn.Conv2d(self.n_channels, width, self.patch, self.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = (
            None if config.masking == "none" else nn.Parameter(torch.zeros(1, 1, width))
        )
        self.aggregation = nn.ModuleList(
            Block(width, config.heads) for _ in range(config.aggregation_blocks)
        )
        self.aggregation_norm = nn.LayerNorm(width, NORM_EPS)
        self.narrow = nn.Linear(width, refined)
        self.refinement = nn.ModuleList(
            Block(refined, config.refinement_heads) for _ in range(config.refinement_blocks)
        )
        self.refinement_norm = nn.LayerNorm(refined, NORM_EPS)
        self.prediction = nn.Linear(refined, self.patch**2 * self.n_channels)
        self.register_buffer("positions", _buffer(sincos_2d(width, side)), persistent=False)
        self.register_buffer(
            "refined_positions",
            _buffer(with_class_token(sincos_2d(refined, side))),
            persistent=False,
        )
        self.register_buffer("channel_mean", torch.zeros(self.n_channels))
        self.register_buffer("channel_std", torch.ones(self.n_channels))
        self._initialise()

    def fuse(self, stages: Sequence[Tensor]) -> Tensor:
        """Bring S stages [B,N_s,E_s] to the common grid, one behind another: F [B,C,g,g].

        With ``feature_norm = "channels"`` each channel is normalised by its mean and deviation.
        """
        planes = []
        for stage, grid in zip(stages, self.stage_grids, strict=True):
            plane = stage.transpose(1, 2).reshape(*stage.shape[::2], *grid)  # [B,E_s,h_s,w_s]
            side = (self.grid, self.grid)
            planes.append(plane if grid == side else resize_planes(plane, side))
        fused = torch.cat(planes, dim=1)
        if self.config.feature_norm == "none":
            return fused
        return (fused - self.channel_mean.view(-1, 1, 1)) / self.channel_std.view(-1, 1, 1)

    def tokens(self, fused: Tensor) -> Tensor:
        """Embed the patches of F [B,C,g,g] as tokens [B,T,D], without position codes."""
        embedded: Tensor = self.embedding(fused)  # [B,D,g/k,g/k]
        return embedded.flatten(2).transpose(1, 2)

    def reconstruct(self, tokens: Tensor, template: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reconstruct the input's features F [B,C,g,g] on the template.

        Parameters
        ----------
        tokens : Tensor of shape (B, T, D)
            Of the input.
        template : Tensor of shape (T, D) or (B, T, D)
            Tokens of the template.
        mask : Tensor of shape (B, T), bool, optional
            True where the mask token stands for an input token.
        """
        return self.unpatchify(self.refine(self.aggregate(tokens, template, mask)))

    def aggregate(self, tokens: Tensor, template: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return class token and template tokens [B,1+T,D] that have seen the input."""
        if mask is not None:
            assert self.mask_token is not None
            tokens = torch.where(mask[..., None], self.mask_token, tokens)
        # what is kept stands first: attention has no order
        if template.ndim == 2:
            template = template[None]
        class_token = self.class_token.expand(template.shape[0], -1, -1)  # its code is zero
        kept = torch.cat([class_token, template + self.positions], dim=1)
        kept = kept.expand(tokens.shape[0], -1, -1)  # [B,1+T,D]
        sequence = torch.cat([kept, tokens + self.positions], dim=1)  # [B,1+2T,D]
        *earlier, last = self.aggregation
        for block in earlier:
            sequence = block(sequence)
        aggregated: Tensor = self.aggregation_norm(last(sequence, 1 + self.n_tokens))
        return aggregated

    def refine(self, aggregated: Tensor) -> Tensor:
        """Map [B,1+T,D] to patches of features [B,T,k*k*C]."""
        sequence = self.narrow(aggregated) + self.refined_positions
        for block in self.refinement:
            sequence = block(sequence)
        patches: Tensor = self.prediction(self.refinement_norm(sequence)[:, 1:])
        return patches

    def patchify(self, fused: Tensor) -> Tensor:
        """Cut F [B,C,g,g] into patch vectors [B,T,k*k*C], the channel running fastest."""
        side, patch = self.grid // self.patch, self.patch
        cells = fused.view(-1, self.n_channels, side, patch, side, patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, self.n_tokens, patch**2 * cells.shape[1])

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Put patch vectors [B,T,k*k*C] together again: [B,C,g,g]."""
        side, patch = self.grid // self.patch, self.patch
        cells = patches.view(-1, side, side, patch, patch, self.n_channels)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.n_channels, self.grid, self.grid)

    def _initialise(self) -> None:
        """Xavier-uniform weights, zero biases, class and mask token of deviation 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for token in (self.class_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)


def _buffer(code: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(code).to(torch.get_default_dtype())


def _check_sizes(grid: int, config: TfaConfig) -> None:
    if grid % config.patch:
        raise UsageError(
            f"`tfa.patch` must divide the grid of {grid} cells, got {config.patch}; "
            "choose another patch or `tfa.grid`"
        )
    for name, heads in (("width", "heads"), ("refinement_width", "refinement_heads")):
        width, n_heads = getattr(config, name), getattr(config, heads)
        if width % 4 or width % n_heads:
            raise UsageError(
                f"`tfa.{name}` must be a multiple of 4 and of `tfa.{heads}` ({n_heads}), "
                f"got {width}"
            )
