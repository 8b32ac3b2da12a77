"""What a training step gets to see: tokens and masks, in the batch's order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cff_edge.backbones import Backbone
from cff_edge.batches import BatchLoader
from cff_edge.datasets import Sample
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.heads import Head
from cff_edge.mosaic import Mosaic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(small_backbone: Backbone, shared_cache: Path) -> FeatureCache:
    widths = [stage.width for stage in small_backbone.info.stages]
    return FeatureCache(shared_cache, Detector(small_backbone, Head(widths, 32)).eval(), CPU)


@pytest.fixture(scope="module")
def loader(cache: FeatureCache) -> BatchLoader:
    return BatchLoader(cache, 64, CPU)


def _mask(sample: Sample) -> torch.Tensor:
    if sample.mask is None:
        return torch.zeros(64, 64, dtype=torch.bool)
    with Image.open(sample.mask) as image:
        resized = image.convert("L").resize((64, 64), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized) > 127)


def test_samples_come_from_the_cache(
    loader: BatchLoader, cache: FeatureCache, tiny_samples: list[Sample]
) -> None:
    batch = [tiny_samples[i] for i in (4, 0, 9)]
    assert [sample.is_defective for sample in batch] == [False, True, False]
    stages, target = loader.load(batch)
    assert [stage.shape for stage in stages] == [
        (3, 64, 24),
        (3, 64, 40),
        (3, 16, 112),
        (3, 4, 320),
    ]
    for stage, expected in zip(stages, cache.load([s.path for s in batch]), strict=True):
        assert torch.equal(stage, expected)
    assert target.dtype == torch.bool
    assert torch.equal(target, torch.stack([_mask(sample) for sample in batch]))
    assert target.any(dim=(1, 2)).tolist() == [False, True, False]


def test_a_batch_keeps_its_order_with_mosaics_in_it(
    loader: BatchLoader, cache: FeatureCache, tiny_samples: list[Sample]
) -> None:
    first = Mosaic((tiny_samples[0], tiny_samples[4], tiny_samples[4], tiny_samples[1]))
    second = Mosaic((tiny_samples[4], tiny_samples[0], tiny_samples[5], tiny_samples[6]))
    batch = [second, tiny_samples[2], first, tiny_samples[5]]
    stages, target = loader.load(batch)
    plain = cache.load([tiny_samples[2].path, tiny_samples[5].path])
    loaded = [mosaic.load(64, 64) for mosaic in (second, first)]
    pasted = cache.encode([image for image, _ in loaded])[0]
    for stage, samples, mosaics in zip(stages, plain, pasted, strict=True):
        assert torch.equal(stage[[1, 3]], samples)
        torch.testing.assert_close(stage[[0, 2]], mosaics)
        assert not torch.allclose(stage[0], stage[2])
    masks = [torch.from_numpy(mask) for _, mask in loaded]
    own = [masks[0], _mask(tiny_samples[2]), masks[1], _mask(tiny_samples[5])]
    assert torch.equal(target, torch.stack(own))


def test_mosaics_alone_make_a_batch(loader: BatchLoader, tiny_samples: list[Sample]) -> None:
    good = tiny_samples[4]
    stages, target = loader.load([Mosaic((good, good, good, good))])
    assert [len(stage) for stage in stages] == [1] * 4
    assert not target.any()
