"""Moving the input normalisation into an unpadded stem, and why not into a padded one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from cff_edge.backbones import Backbone
from cff_export.fused_encoder import folded_input
from cff_export.passes import fold_normalization

MEAN = np.array([123.0, 117.0, 104.0])
STD = np.array([68.0, 66.0, 70.0])
Array = NDArray[np.float64]


@pytest.fixture
def stem() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 4, stride=4).double()


@pytest.fixture
def pixels() -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (2, 3, 16, 12)).astype(np.float64))


def _normalized(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.from_numpy(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def _arrays(stem: nn.Conv2d) -> tuple[Array, Array | None]:
    bias = None if stem.bias is None else stem.bias.detach().numpy()
    return stem.weight.detach().numpy(), bias


@pytest.mark.parametrize("with_bias", [True, False])
def test_unpadded_stem_takes_the_normalisation(
    stem: nn.Conv2d, pixels: torch.Tensor, with_bias: bool
) -> None:
    if not with_bias:
        stem.bias = None
    folded = fold_normalization(MEAN, STD, *_arrays(stem))
    assert folded.stem is not None
    assert (folded.scale, folded.shift) == (None, None)
    assert folded.reason == "folded into the stem convolution"
    weight, bias = folded.stem
    assert (weight.shape, bias.shape) == ((5, 3, 4, 4), (5,))
    got = F.conv2d(pixels, torch.from_numpy(weight), torch.from_numpy(bias), stride=4)
    with torch.no_grad():
        expected = stem(_normalized(pixels))
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_padded_stem_would_see_the_wrong_border(pixels: torch.Tensor) -> None:
    torch.manual_seed(0)
    padded = nn.Conv2d(3, 5, 3, padding=1).double()
    folded = fold_normalization(MEAN, STD, *_arrays(padded))
    assert folded.stem is not None
    weight, bias = map(torch.from_numpy, folded.stem)
    with torch.no_grad():
        wrong = (F.conv2d(pixels, weight, bias, padding=1) - padded(_normalized(pixels))).abs()
    assert wrong[:, :, 1:-1, 1:-1].max() < 1e-10
    for border in (wrong[:, :, 0], wrong[:, :, -1], wrong[:, :, :, 0], wrong[:, :, :, -1]):
        assert border.max() > 0.1


def test_padded_stem_is_declined_for_a_multiply_add(pixels: torch.Tensor) -> None:
    folded = fold_normalization(MEAN, STD, None, None)
    assert folded.stem is None
    assert folded.reason == "the stem pads: kept as one multiply-add"
    assert folded.scale is not None
    assert folded.shift is not None
    scale, shift = (torch.from_numpy(v).view(3, 1, 1) for v in (folded.scale, folded.shift))
    torch.testing.assert_close(pixels * scale + shift, _normalized(pixels), atol=1e-10, rtol=0)


def test_backbones_stem_is_folded_for_a_while_only(vit_backbone: Backbone) -> None:
    stem = vit_backbone.unpadded_stem
    assert stem is not None
    weight, bias = stem.weight, stem.bias
    assert bias is None
    rng = np.random.default_rng(2)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 3, 64, 64)).astype(np.float32))
    info = vit_backbone.info
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std))
    with torch.no_grad():
        expected, embedding = vit_backbone.module((pixels - mean) / std)
        with folded_input(vit_backbone) as folded:
            assert folded.stem is not None
            got, folded_embedding = vit_backbone.module(pixels)
    for stage, tokens in zip(got, expected, strict=True):
        torch.testing.assert_close(stage, tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded_embedding, embedding, atol=1e-4, rtol=1e-4)
    assert stem.weight is weight
    assert stem.bias is None
    with pytest.raises(KeyboardInterrupt), folded_input(vit_backbone):
        assert stem.weight is not weight
        raise KeyboardInterrupt
    assert stem.weight is weight


def test_padded_backbone_is_left_alone(lite_backbone: Backbone) -> None:
    before = [parameter.data_ptr() for parameter in lite_backbone.module.parameters()]
    with folded_input(lite_backbone) as folded:
        assert folded.stem is None
        assert [p.data_ptr() for p in lite_backbone.module.parameters()] == before
