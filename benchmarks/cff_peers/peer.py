"""What a peer is, and which there are.

A peer is frozen: it fits a few reference images and scores others. Its module is imported on first
use, so that SPADE needs no anomalib and the command line starts without any of them.
"""

import importlib
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cff_runtime.errors import MissingDependencyError, UsageError

MAP_SIZE_PX = 256


@dataclass(frozen=True)
class InputSpec:
    """What a peer wants to see: RGB of 0..255, squashed to a square, as ``(x - mean) / std``."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Peer(Protocol):
    """A detector on a device, with its weights."""

    @property
    def input(self) -> InputSpec:
        """How images must be prepared."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What stands in the provenance; ``image_score`` says how images are scored."""
        ...

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Forget what was fitted and take K prepared references [K,3,h,w]; K may be 0."""
        ...

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map prepared images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        ...


@dataclass(frozen=True)
class PeerEntry:
    """A peer before it is loaded.

    Attributes
    ----------
    module, builder : str
        Where its class is found; it is built as ``builder(backbone, device)``.
    backbone : str
        As `cff_peers.backbones.load_backbone` or the peer's own loader knows it.
    min_references : int
        The smallest K that the method is defined for.
    why : str
        Why it is not defined for fewer.
    """

    module: str
    builder: str
    backbone: str
    min_references: int
    why: str


_ANOMALIB = "cff_peers.anomalib_peers"
_NO_BANK = "it compares with references, and there are none"
_NO_COVARIANCE = "its unbiased covariance needs two images or more: with one it divides by zero"
_EMBEDDED, _WRN50 = "efficientnet-lite0", "wide_resnet50_2"

PEERS = {
    "patchcore": PeerEntry(_ANOMALIB, "PatchCorePeer", _EMBEDDED, 1, _NO_BANK),
    "padim": PeerEntry(_ANOMALIB, "PadimPeer", _EMBEDDED, 2, _NO_COVARIANCE),
    "spade": PeerEntry("cff_peers.spade", "SpadePeer", _EMBEDDED, 1, _NO_BANK),
    "winclip": PeerEntry(_ANOMALIB, "WinClipPeer", "ViT-B-16-plus-240", 0, ""),
    "anomalydino": PeerEntry(_ANOMALIB, "AnomalyDinoPeer", "vit_small_patch14_dinov2", 1, _NO_BANK),
    # The first three on the networks that their papers and anomalib take.
    "patchcore-wrn50": PeerEntry(_ANOMALIB, "PatchCorePeer", _WRN50, 1, _NO_BANK),
    "padim-resnet18": PeerEntry(_ANOMALIB, "PadimPeer", "resnet18", 2, _NO_COVARIANCE),
    "spade-wrn50": PeerEntry("cff_peers.spade", "SpadePeer", _WRN50, 1, _NO_BANK),
}


def load_peer(name: str, device: torch.device) -> Peer:
    """Load a peer and its weights, which may mean to download them.

    Raises
    ------
    UsageError
        If there is no such peer.
    MissingDependencyError
        If its packages are not installed, or its weights neither on this machine nor to be had.
    """
    if name not in PEERS:
        raise UsageError(f"a peer must be one of {', '.join(PEERS)}, got {name!r}")
    entry = PEERS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of anomalib about its own imports
            builder = getattr(importlib.import_module(entry.module), entry.builder)
            peer: Peer = builder(entry.backbone, device)
    except ImportError as error:
        if (error.name or "").startswith("cff_"):
            raise  # a fault of this project, not a missing package
        raise MissingDependencyError(
            f"the packages of peer {name!r} must be installed, but they are not ({error}); "
            "run `make peers-install` and use `.venv-peers/bin/cff-peers`"
        ) from error
    return peer


def unavailable_weights(backbone: str, error: Exception) -> MissingDependencyError:
    """Return the error for pretrained weights that are not here and cannot be fetched."""
    reason = textwrap.shorten(str(error), 160, placeholder=" ...")
    return MissingDependencyError(
        f"the pretrained weights of `{backbone}` must be on this machine or to be had from the "
        f"network, and are neither ({reason})"
    )
