"""What a batch is trained on: losses of the text map or the bank map, alignment of the stages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cff_edge.backbones import BackboneInfo
from cff_edge.config import Config
from cff_edge.detector import abnormal_maps, on_common_grid
from cff_edge.few_shot import distance_map
from cff_edge.losses import alignment_loss, dice_loss, focal_loss
from cff_runtime.errors import UsageError

# A bank map becomes a probability by sigmoid(_SLOPE (map / mean of the control's map) - _OFFSET):
# one half where it is 1.5 times what a good part has.
_SLOPE = 2.0
_OFFSET = 3.0


class Objective:
    """The losses of a configuration.

    Parameters
    ----------
    config : Config
    info : BackboneInfo
        Its stages and image size count.

    Raises
    ------
    UsageError
        If `train.adjacent_weights` does not fit the stages.
    """

    def __init__(self, config: Config, info: BackboneInfo) -> None:
        n_pairs = len(info.stages) - 1
        n_weights = len(config.train.adjacent_weights)
        if n_weights not in (0, n_pairs):  # refused before stage 1, though stage 2 uses it
            raise UsageError(
                "`train.adjacent_weights` must have one entry per pair of adjacent stages "
                f"({n_pairs}), got {n_weights}"
            )
        self._train = config.train
        self._text_map = config.head.text_map
        self._distance = config.head.distance
        self._grids = [stage.grid for stage in info.stages]
        self._size = (info.image_size, info.image_size)

    def segmentation(self, calibrated: Sequence[Tensor], text: Tensor, target: Tensor) -> Tensor:
        """Focal and dice loss on the fused map, or on every stage's map, added up.

        Parameters
        ----------
        calibrated : sequence of S tensors of shape (B, N_s, C)
        text : Tensor of shape (B, C, 2)
            Of each image's product.
        target : Tensor of shape (B, H, W), bool
        """
        features = [stage.float() for stage in calibrated]
        maps = abnormal_maps(features, text, self._grids, self._size, self._text_map)  # [S,B,H,W]
        if self._train.loss_map == "fused":
            maps = maps.mean(dim=0, keepdim=True)  # M = sum of M_n, over S to stay a probability
        return torch.stack([self._of_map(probability, target) for probability in maps]).sum()

    def few_shot(
        self,
        calibrated: Sequence[Tensor],
        n_references: int,
        target: Tensor,
        spans: Sequence[Tensor | None],
    ) -> Tensor:
        """Focal and dice loss on the map of the memory bank (the feature score of CFF section 3.2).

        Parameters
        ----------
        calibrated : sequence of S tensors of shape (K + 1 + B, N_s, C)
            Of an episode: references, control, queries.
        n_references : int
            K.
        target : Tensor of shape (B, H, W), bool
            Masks of the queries.
        spans : sequence of S tensors of shape (C, r_s) or None
            Bases to search in, see `cff_edge.heads.Head.spans`.
        """
        maps = []
        for stage, grid, span in zip(calibrated, self._grids, spans, strict=True):
            units = torch.nn.functional.normalize(stage.float(), dim=-1)
            bank = units[:n_references].flatten(0, 1)  # [M,C]
            nearest = _nearest_cosine(units[n_references:], bank, span)
            maps.append(distance_map(nearest, grid, self._size, self._distance))
        control, *queries = torch.stack(maps).sum(dim=0)  # [H,W] each
        scale = control.mean().clamp(min=1e-6)
        probability = torch.sigmoid(_SLOPE * torch.stack(queries) / scale - _OFFSET)
        return self._of_map(probability, target)

    def alignment(self, calibrated: Sequence[Tensor]) -> Tensor:
        """Weighted L_align of normal images, S stages [B,N_s,C]."""
        train = self._train
        weights = train.adjacent_weights or None
        units = [torch.nn.functional.normalize(stage.float(), dim=-1) for stage in calibrated]
        common = on_common_grid(units, self._grids)
        loss = alignment_loss(common, weights, train.global_weight, train.global_scale)
        return train.align_weight * loss

    def _of_map(self, probability: Tensor, target: Tensor) -> Tensor:
        """Focal and dice loss of one map [B,H,W]."""
        train = self._train
        focal, dice = focal_loss(probability, target), dice_loss(probability, target)
        return train.focal_weight * focal + train.dice_weight * dice


def _nearest_cosine(features: Tensor, bank: Tensor, span: Tensor | None) -> Tensor:
    """Return the largest cosine [B,N] of unit features [B,N,C] to the rows of a bank [M,C].

    As `cff_edge.few_shot.nearest_cosine`, with a gradient: rows are found without one, and only
    the cosines to those found are followed back, instead of all [N,M].
    """
    with torch.no_grad():
        queries, rows = (features, bank) if span is None else (features @ span, bank @ span)
        found = torch.stack([(image @ rows.T).argmax(dim=-1) for image in queries])  # [B,N]
    return (features * bank[found]).sum(dim=-1)
