"""TFA-Net's graph module against the unfolded detector, for every option that changes the graph."""

from typing import Any

import numpy as np
import pytest
import torch

from cff_edge.backbones import Backbone
from cff_edge.config import load_config
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.options import TfaConfig
from cff_export.fused_encoder import folded_input
from cff_export.fused_tfa import FusedTfa

SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 2,
    "aggregation_blocks": 2,
    "refinement_width": 16,
    "refinement_heads": 2,
    "refinement_blocks": 1,
}


def _net(backbone: Backbone, **options: Any) -> TfaNet:
    """A network of random weights that knows each channel's mean and deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = TfaNet(backbone.info.stages, TfaConfig(**SMALL | options)).eval()
        net.channel_mean += 0.3 * torch.randn_like(net.channel_mean)
        net.channel_std *= 0.5 + torch.rand_like(net.channel_std)
    return net


def _images(backbone: Backbone, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    side = backbone.info.image_size
    return torch.randint(0, 256, (n, side, side, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("family", ["lite", "vit"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"map": "weighted", "blur_sigma": 2.0},
        {"map": "weighted", "blur_sigma": 0.0},
        {"feature_norm": "channels", "patch": 4},
        {"grid": 8, "masking": "none"},
        {"template_normalization": "as_published"},
        {"template_normalization": "as_published", "feature_norm": "channels"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()) or "default",
)
def test_folded_is_unfolded(
    lite_backbone: Backbone, vit_backbone: Backbone, family: str, options: dict[str, Any]
) -> None:
    backbone = lite_backbone if family == "lite" else vit_backbone  # its stem takes the input scale
    net = _net(backbone, **options)
    detector = TfaDetector(backbone, net).eval()
    images = _images(backbone, 3)
    with torch.inference_mode():
        template = detector.template(images[2:])[0]
        expected = detector(images, template)
        with folded_input(backbone) as folded:
            module = FusedTfa(backbone, net, folded).eval()
            features, anomaly_map = module(images, template)
    scale = float(expected.features.abs().max())
    np.testing.assert_allclose(features, expected.features, atol=1e-5 * scale)
    largest = float(expected.anomaly_map.max())
    np.testing.assert_allclose(anomaly_map, expected.anomaly_map, atol=1e-4 * largest)
    assert anomaly_map.std() > 1e-2 * largest  # there is something to compare


def test_an_image_sees_its_template_and_not_its_neighbours(lite_backbone: Backbone) -> None:
    net = _net(lite_backbone)
    images = _images(lite_backbone, 3)
    with torch.inference_mode(), folded_input(lite_backbone) as folded:
        module = FusedTfa(lite_backbone, net, folded).eval()
        features, first = module(images, module(images, torch.zeros(36, 32))[0][0])
        _, second = module(images, features[1])
        _, alone = module(images[1:2], features[1])
    assert (first - second).abs().max() > 1e-2 * second.max()
    np.testing.assert_allclose(alone[0], second[1], atol=1e-4 * float(second.max()))


def test_published_sizes_can_be_built() -> None:
    config = load_config(preset="tfa-net-published")
    assert (config.tfa.patch, config.tfa.width, config.tfa.aggregation_blocks) == (4, 768, 12)
