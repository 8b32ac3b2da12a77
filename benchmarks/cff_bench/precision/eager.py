"""The network of a bundle unfolded in PyTorch, as `cff_edge` runs it."""

import re
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cff_edge.backbones import BackboneInfo, load_backbone
from cff_edge.detector import Detector
from cff_edge.heads import Head
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Manifest

# weights that every machine has; any others are replaced by random ones, which cost the same
_AT_HAND = ("imagenet", "random")


def load_eager(
    manifest: Manifest, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> Callable[[], object]:
    """Return a call that encodes `image` [H,W,3] with text vectors [C,2]; see `rebuild_detector`.

    Its threads are PyTorch's, a setting of the process.
    """
    detector = rebuild_detector(manifest)
    images, vectors = torch.from_numpy(image)[None], torch.from_numpy(text)

    def run() -> object:
        with torch.inference_mode():
            return detector(images, vectors)

    return run


def rebuild_detector(manifest: Manifest) -> Detector:
    """Build the unfolded detector that a bundle was made from, with an untrained head.

    A bundle has no PyTorch weights. ImageNet's are at hand; others become random ones. What a
    forward pass costs does not depend on them.

    Raises
    ------
    UsageError
        If the backbone cannot be built so that its stages are the bundle's.
    """
    facts = manifest.backbone
    weights = facts["weights"] if facts["weights"] in _AT_HAND else "random"
    backbone = load_backbone(
        facts["name"],
        weights,
        manifest.preprocessing.height,
        manifest.condition.shape[0],
        tuple(_tap_number(stage.tap) for stage in manifest.stages),
    )
    release = getattr(backbone, "release_text_tower", None)
    if release is not None:
        release()
    found = [(stage.tap, stage.grid) for stage in backbone.info.stages]
    expected = [(stage.tap, stage.grid) for stage in manifest.stages]
    if found != expected:
        raise UsageError(
            f"the stages of {facts['name']} must be the bundle's, {expected}, got {found}; "
            "export the bundle again with this version"
        )
    head = untrained_head(backbone.info, manifest.head["calibrator"])
    return Detector(backbone, head, manifest.head["bank"]).eval()


def untrained_head(info: BackboneInfo, calibrator: str) -> Head:
    """Return a seeded head in eval mode for a backbone's stages: an isometry, the identity."""
    widths = [stage.width for stage in info.stages]
    with torch.random.fork_rng(devices=[]):  # `Head` draws from PyTorch's global generator
        torch.manual_seed(0)
        return Head(widths, info.joint_dim, calibrator).eval()


def _tap_number(tap: str) -> int:
    found = re.search(r"\d+$", tap)
    if found is None:
        raise UsageError(f"`stages.tap` of the bundle must end in its block's number, got {tap!r}")
    return int(found[0])
