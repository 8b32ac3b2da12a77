"""What a batch is trained on: segmentation losses of the text maps, alignment of the stages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cff_edge.backbones import BackboneInfo
from cff_edge.config import Config
from cff_edge.detector import abnormal_maps, on_common_grid
from cff_edge.losses import alignment_loss, dice_loss, focal_loss
from cff_runtime.errors import UsageError


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
