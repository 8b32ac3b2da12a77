"""WideResNet50-2 as a pyramid: the trunk of the published TFA-Net (tfa_net.md 2.1).

Four stages: the stem behind its max-pooling and the first three groups of blocks, at 1/4, 1/4, 1/8
and 1/16 of the image, each on its own grid and not pooled. The fourth group is not built.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import wide_resnet50_2

from cff_edge.backbones.anchored import AnchoredBackbone
from cff_edge.backbones.protocol import BackboneInfo, StageInfo
from cff_edge.backbones.weights import read_state_dict, weights_sha256, why_unreadable
from cff_edge.prompts import anchors
from cff_runtime.errors import UsageError

NAME = "wide_resnet50_2"
DEFAULT_IMAGE_SIZE = 256
DEFAULT_JOINT_DIM = 512

_STAGES = (("stem", 64, 4), ("layer1", 256, 4), ("layer2", 512, 8), ("layer3", 1024, 16))
_BEHIND = ("layer4.", "fc.")
# torchvision's ImageNet statistics, of RGB values in 0..255
_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class WideResNetTrunk(nn.Module):
    """The network up to its third group, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        whole = wide_resnet50_2(weights=None)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.relu, self.maxpool = whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3

    def forward(self, images: Tensor) -> tuple[list[Tensor], None]:
        """Map normalised images [B,3,H,W] to S stages [B,N_s,E_s]; there is no embedding."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stages = [features]
        for layer in (self.layer1, self.layer2, self.layer3):
            stages.append(layer(stages[-1]))
        return [stage.flatten(2).transpose(1, 2) for stage in stages], None


class WideResNet(AnchoredBackbone):
    """WideResNet50-2 with anchors instead of a text tower.

    Parameters
    ----------
    weights : str
        ``random``, or the path of a file with torchvision's state dict of the whole network or of
        this trunk (``.safetensors``, else read by ``torch.load`` with ``weights_only``).
    image_size : int, default=256
        Side of the square input in pixels, a multiple of 16 from 32 up.
    joint_dim : int, default=512
        C, at least 2.
    seed : int, default=0
        Seed of random weights.

    Raises
    ------
    UsageError
        For unknown weights, or a size or dimension out of range.
    """

    info: BackboneInfo

    def __init__(
        self,
        weights: str,
        image_size: int = DEFAULT_IMAGE_SIZE,
        joint_dim: int = DEFAULT_JOINT_DIM,
        seed: int = 0,
    ) -> None:
        _check_arguments(weights, image_size, joint_dim)
        with torch.random.fork_rng(devices=[]):  # building draws from the global generator
            self._trunk = WideResNetTrunk()
        label = _fill(self._trunk, weights, seed)
        self._trunk.eval().requires_grad_(False)
        self.info = BackboneInfo(
            name=NAME,
            weights=label,
            weights_sha256=weights_sha256(self._trunk),
            activation="relu",
            image_size=image_size,
            mean=_MEAN,
            std=_STD,
            stages=tuple(
                StageInfo(tap, width, (image_size // reduction, image_size // reduction))
                for tap, width, reduction in _STAGES
            ),
            joint_dim=joint_dim,
            has_text_tower=False,
            licence="unknown" if label == "random" else "BSD-3-Clause",
        )
        self._anchors = anchors(joint_dim)


def load(model: str, weights: str, **options: Any) -> WideResNet:
    """Build the backbone for `load_backbone`; options left out keep their defaults."""
    if model:
        raise UsageError(
            f"`name` must be {NAME} alone, got '{NAME}:{model}'; leave out the part after the colon"
        )
    if options.pop("taps", None):
        raise UsageError(f"`taps` of {NAME} must be left out: its four stages are fixed")
    return WideResNet(weights, **options)


def _check_arguments(weights: str, image_size: int, joint_dim: int) -> None:
    if weights != "random" and not Path(weights).is_file():
        raise UsageError(
            f"`weights` of {NAME} must be 'random' or the path of a file with torchvision's state "
            f"dict, got {weights!r}; set `backbone.weights`"
        )
    if image_size < 32 or image_size % 16:
        raise UsageError(
            f"`image_size` must be a multiple of 16 from 32 up, got {image_size}; "
            f"{DEFAULT_IMAGE_SIZE} is the default"
        )
    if joint_dim < 2:
        raise UsageError(
            f"`joint_dim` must be at least 2, got {joint_dim}; {DEFAULT_JOINT_DIM} is the default"
        )


def _fill(trunk: WideResNetTrunk, weights: str, seed: int) -> str:
    """Give the trunk its weights; return how they are called in artefacts."""
    if weights == "random":
        _randomise(trunk, seed)
        return "random"
    path = Path(weights)
    state = read_state_dict(path)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(_BEHIND)}
    try:
        trunk.load_state_dict(kept)
    except RuntimeError as error:
        raise UsageError(
            f"`weights` must hold the state dict of {NAME}, but `{path}` does not fit it; "
            f"choose another file ({why_unreadable(error)})"
        ) from error
    return f"file:{path.name}"


def _randomise(trunk: WideResNetTrunk, seed: int) -> None:
    # Variance-preserving; the last normalisation of a block is small, so that skips do not add up.
    generator = torch.Generator().manual_seed(seed)
    for name, layer in trunk.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_in), generator)
        if isinstance(layer, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(layer.weight, 0.2)
