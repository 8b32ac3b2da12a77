"""What training and export need from a frozen backbone."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class StageInfo:
    """One tapped stage: E channels on a grid of h x w tokens, N = h * w."""

    tap: str
    width: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class BackboneInfo:
    """The facts about a backbone that travel with every artefact made from it.

    Attributes
    ----------
    name : str
        As in the configuration, such as ``open_clip:ViT-L-14-336`` or ``efficientnet-lite0``.
    weights : str
        ``imagenet``, an open_clip tag such as ``openai``, ``file:<name>`` or ``random``.
    weights_sha256 : str
        Hash over the names, shapes and values of all parameters and buffers.
    activation : str
        ``relu``, ``relu6``, ``gelu`` or ``quick_gelu``.
    image_size : int
        Side of the square network input in pixels.
    mean, std : tuple of 3 floats
        Input normalisation ``(x - mean) / std`` of RGB values in 0..255.
    stages : tuple of StageInfo
        Shallow to deep.
    joint_dim : int
        C, the dimension that projectors map to.
    has_text_tower : bool
        False where the text vectors are fixed anchors.
    licence : str
        Licence of the weights.
    """

    name: str
    weights: str
    weights_sha256: str
    activation: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stages: tuple[StageInfo, ...]
    joint_dim: int
    has_text_tower: bool
    licence: str


class Backbone(Protocol):
    """Multi-stage tokens of one forward pass; frozen, in eval mode."""

    info: BackboneInfo

    @property
    def module(self) -> nn.Module:
        """The image trunk: float [B,3,H,W], normalised, to ``(stages, embedding)``.

        ``stages`` is a list of S tensors [B,N_s,E_s], row-major over the stage's grid;
        ``embedding`` is the image embedding [B,C], not normalised, or None where the backbone
        has no text tower.
        """
        ...

    @property
    def unpadded_stem(self) -> nn.Conv2d | None:
        """The first convolution if it reads the input without padding, else None."""
        ...

    def text_vectors(self, product: str) -> Tensor:
        """Unit text vectors [C,2] of a product, column 0 normal and column 1 abnormal."""
        ...


__all__ = ["Backbone", "BackboneInfo", "StageInfo"]
