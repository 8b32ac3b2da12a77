"""What a training step gets to see: tokens and masks of samples and of mosaics."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cff_edge.datasets import Sample, load_mask
from cff_edge.feature_cache import FeatureCache
from cff_edge.mosaic import Mosaic

Item = Sample | Mosaic


class BatchLoader:
    """Loads frozen tokens and masks.

    Parameters
    ----------
    cache : FeatureCache
        Has the samples' tokens; encodes mosaics, which no two epochs share.
    side_px : int
        Of masks and mosaics.
    device : torch.device
        Where batches go.
    """

    def __init__(self, cache: FeatureCache, side_px: int, device: torch.device) -> None:
        self._cache = cache
        self._side = side_px
        self._device = device

    def load(self, items: Sequence[Item]) -> tuple[list[Tensor], Tensor]:
        """Return S stages [B,N_s,E_s], float32, and masks [B,H,W], bool."""
        samples = {i: item for i, item in enumerate(items) if isinstance(item, Sample)}
        mosaics = {
            i: item.load(self._side, self._side)
            for i, item in enumerate(items)
            if isinstance(item, Mosaic)
        }
        parts = []
        if samples:
            parts.append(self._cache.load([sample.path for sample in samples.values()]))
        if mosaics:
            parts.append(self._cache.encode([image for image, _ in mosaics.values()])[0])
        order = torch.from_numpy(np.argsort([*samples, *mosaics]))  # back to the batch's
        stages = [torch.cat(stage)[order].to(self._device) for stage in zip(*parts, strict=True)]
        masks = {i: load_mask(sample, self._side, self._side) for i, sample in samples.items()}
        masks |= {i: mask for i, (_, mask) in mosaics.items()}
        target = np.stack([masks[i] for i in range(len(items))])
        return stages, torch.from_numpy(target).to(self._device)
