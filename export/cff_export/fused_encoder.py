"""The encoder of a bundle as a PyTorch module with the graph's own signature.

in   image [B,H,W,3] uint8 RGB, text [C,2] float32
out  features_s [B,N_s,C_s] float32 unit rows, text_map [B,H,W], text_score [B] with a text tower

The text vector is a column [C,1] and norms divide by broadcasting: ONNX Runtime multiplies by a
vector without its last axis 20 times slower, and `F.normalize` writes the norms out to full width.

With a raw memory bank (APRIL-GAN) features_s are the tokens themselves, C_s = E_s, and the folded
head feeds the text map alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from cff_edge.backbones import Backbone
from cff_export.head_chains import chain_module, frozen_parameter
from cff_export.passes import (
    TEXT_DIFFERENCE,
    FoldedInput,
    StageChain,
    fold_normalization,
)
from cff_runtime.finishing import upsampling_matrix


class FoldedTrunk(nn.Module):
    """A trunk that takes pixels in 0..255: what the encoder of every detector begins with."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, backbone: Backbone, folded: FoldedInput) -> None:
        super().__init__()
        self.trunk = backbone.module
        self.grids = [stage.grid for stage in backbone.info.stages]
        self.keep("scale", per_channel(folded.scale))
        self.keep("shift", per_channel(folded.shift))

    def stages(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Stages [B,N_s,E_s] and embedding of pixels [B,3,H,W]."""
        if self.scale is not None and self.shift is not None:
            pixels = pixels * self.scale + self.shift
        found: tuple[list[Tensor], Tensor] = self.trunk(pixels)
        return found

    def keep(self, name: str, array: "np.ndarray | None") -> None:
        """Make a constant a buffer, float32; None stays none."""
        if array is None:
            setattr(self, name, None)  # torch.export miscounts buffers registered as None
        else:
            self.register_buffer(name, torch.from_numpy(array.astype(np.float32)))


class FusedEncoder(FoldedTrunk):
    """Trunk and folded head; all that is left of training are constants."""

    difference: Tensor

    def __init__(
        self,
        backbone: Backbone,
        chains: Sequence[StageChain],
        folded: FoldedInput,
        bank: str = "calibrated",
    ) -> None:
        super().__init__(backbone, folded)
        info = backbone.info
        self.raw_bank = bank == "raw"
        self.has_text_tower = info.has_text_tower
        self.condition = ("text", (info.joint_dim, 2))
        scores = ("text_score",) if info.has_text_tower else ()
        self.outputs = (*(f"features_{s}" for s in range(len(self.grids))), "text_map", *scores)
        self.heads = nn.ModuleList(chain_module(chain) for chain in chains)
        self.register_buffer("difference", torch.tensor(TEXT_DIFFERENCE)[:, None])
        for stage, (chain, grid) in enumerate(zip(chains, self.grids, strict=True)):
            self.keep(f"basis_{stage}", chain.basis)
            for axis, length in zip("yx", grid, strict=True):
                matrix = upsampling_matrix(length, info.image_size)
                self.register_buffer(f"up_{axis}_{stage}", torch.from_numpy(matrix))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Return features_0 .. features_{S-1}, text_map and, with a text tower, text_score."""
        pixels = image.float().permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        stages, embedding = self.stages(pixels)
        direction = text @ self.difference  # [C,1]
        features = []
        text_map: Tensor | None = None
        for stage, (head, tokens) in enumerate(zip(self.heads, stages, strict=True)):
            unit = _unit_rows(head(tokens))
            features.append(_unit_rows(tokens) if self.raw_bank else unit)
            probability = self._abnormal_map(stage, unit, direction)
            text_map = probability if text_map is None else text_map + probability
        assert text_map is not None
        if not self.has_text_tower:
            return (*features, text_map)
        return (*features, text_map, torch.sigmoid(_unit_rows(embedding) @ direction).flatten())

    def _abnormal_map(self, stage: int, unit: Tensor, direction: Tensor) -> Tensor:
        """Probability map [B,H,W] of "abnormal" of one stage."""
        basis = getattr(self, f"basis_{stage}")
        column = direction if basis is None else basis.T @ direction  # [C_s,1]
        logits = (unit @ column).reshape(-1, *self.grids[stage])  # [B,h_s,w_s]
        up_y, up_x = getattr(self, f"up_y_{stage}"), getattr(self, f"up_x_{stage}")
        return torch.sigmoid(up_y @ logits @ up_x.T)


def per_channel(values: "np.ndarray | None") -> "np.ndarray | None":
    """Shape values [C] so that they go with planes [B,C,h,w]."""
    return None if values is None else values[:, None, None]


def _unit_rows(rows: Tensor) -> Tensor:
    """Divide rows by their norms, as `F.normalize` does."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-12)


@contextmanager
def folded_input(backbone: Backbone) -> Iterator[FoldedInput]:
    """Fold the input normalisation, into the backbone's own stem while the context lasts."""
    info, stem = backbone.info, backbone.unpadded_stem
    mean, std = np.array(info.mean), np.array(info.std)
    if stem is None:
        yield fold_normalization(mean, std, None, None)
        return
    kept_weight, kept_bias = stem.weight, stem.bias
    weight = kept_weight.detach().numpy().astype(np.float64)
    bias = None if kept_bias is None else kept_bias.detach().numpy().astype(np.float64)
    folded = fold_normalization(mean, std, weight, bias)
    if folded.stem is None:
        raise AssertionError("an unpadded stem takes the normalisation")
    try:
        stem.weight, stem.bias = (frozen_parameter(array) for array in folded.stem)
        yield folded
    finally:
        stem.weight, stem.bias = kept_weight, kept_bias
