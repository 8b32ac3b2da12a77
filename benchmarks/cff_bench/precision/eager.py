"""The network of a bundle unfolded in PyTorch, as `cff_edge` runs it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.backbones import Backbone, BackboneInfo, load_backbone
from cff_edge.checkpoint import load_run, read_tensors
from cff_edge.detector import Detector
from cff_edge.heads import Head
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.options import TfaConfig
from cff_edge.tfa_net.run_files import MODEL_NAME, run_facts
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Manifest

# weights that every machine has; any others are replaced by random ones, which cost the same
_AT_HAND = ("imagenet", "random")
_BEFORE_NAMES = "cff"  # what a bundle holds whose manifest names no model

Unfolded = Detector | TfaDetector


def load_eager(
    manifest: Manifest, image: NDArray[np.uint8], condition: NDArray[np.float32]
) -> Callable[[], object]:
    """Return a call that encodes `image` [H,W,3] with a condition; see `rebuild_detector`.

    Its threads are PyTorch's, a setting of the process.
    """
    detector = rebuild_detector(manifest)
    images, given = torch.from_numpy(image)[None], torch.from_numpy(condition)

    def run() -> object:
        with torch.inference_mode():
            return detector(images, given)

    return run


def rebuild_detector(manifest: Manifest) -> Unfolded:
    """Build the unfolded detector that a bundle was made from, untrained.

    A bundle has no PyTorch weights. ImageNet's are at hand; others become random ones. What a
    forward pass costs does not depend on them.

    Raises
    ------
    UsageError
        If the detector is unknown, or cannot be built so that its stages are the bundle's.
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn from PyTorch's global generator
        torch.manual_seed(0)
        return _kind(manifest).build(manifest).eval()


def load_trained_part(detector: Unfolded, manifest: Manifest, run: Path) -> None:
    """Give a rebuilt detector what was trained in a run.

    Raises
    ------
    UsageError
        If `run` is no finished run, or not the one behind the bundle.
    CheckpointError
        If a file is damaged.
    """
    kind = _kind(manifest)
    try:
        getattr(detector, kind.trained).load_state_dict(kind.read(run))
    except RuntimeError as error:
        raise UsageError(
            f"`--run` must be the training run behind the bundle, the {kind.trained} in `{run}` "
            "does not fit"
        ) from error


def untrained_head(info: BackboneInfo, calibrator: str) -> Head:
    """Return a seeded head in eval mode for a backbone's stages: an isometry, the identity."""
    widths = [stage.width for stage in info.stages]
    with torch.random.fork_rng(devices=[]):  # `Head` draws from PyTorch's global generator
        torch.manual_seed(0)
        return Head(widths, info.joint_dim, calibrator).eval()


@dataclass(frozen=True)
class _Kind:
    """A detector: how it is built, which attribute of it is trained, and where that stands."""

    build: Callable[[Manifest], Unfolded]
    trained: str
    read: Callable[[Path], Mapping[str, Tensor]]


def _kind(manifest: Manifest) -> _Kind:
    name = manifest.head.get("model", _BEFORE_NAMES)
    if name not in _KINDS:
        raise UsageError(
            f"`head.model` of the bundle must be one of {', '.join(_KINDS)} to be built in "
            f"PyTorch, got {name!r:.80}"
        )
    return _KINDS[name]


def _build_cff(manifest: Manifest) -> Detector:
    stages = [(stage.tap, stage.grid) for stage in manifest.stages]
    taps = tuple(_tap_number(tap) for tap, _ in stages)
    backbone = _backbone(manifest, stages, manifest.condition.shape[0], taps)
    head = untrained_head(backbone.info, manifest.head["calibrator"])
    return Detector(backbone, head, manifest.head["bank"])


def _build_tfa(manifest: Manifest) -> TfaDetector:
    facts = manifest.backbone
    stages = [(str(stage["tap"]), tuple(stage["grid"])) for stage in facts["stages"]]
    named = all(tap[-1:].isdigit() for tap, _ in stages)  # others have no choice of taps
    taps = tuple(_tap_number(tap) for tap, _ in stages) if named else None
    try:
        options = TfaConfig(**manifest.head["options"])
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"`head.options` of the bundle must be those of TFA-Net: {error}; export the bundle "
            "again with this version"
        ) from error
    backbone = _backbone(manifest, stages, facts["joint_dim"], taps)
    return TfaDetector(backbone, TfaNet(backbone.info.stages, options))


def _tfa_tensors(run: Path) -> Mapping[str, Tensor]:
    run_facts(run)  # says what is missing
    return read_tensors(run / MODEL_NAME)[0]


_KINDS = {
    "cff": _Kind(_build_cff, "head", lambda run: load_run(run)[1]),
    "tfa-net": _Kind(_build_tfa, "net", _tfa_tensors),
}


def _backbone(
    manifest: Manifest,
    stages: Sequence[tuple[str, tuple[int, ...]]],
    joint_dim: int,
    taps: tuple[int, ...] | None,
) -> Backbone:
    facts = manifest.backbone
    weights = facts["weights"] if facts["weights"] in _AT_HAND else "random"
    size = manifest.preprocessing.height
    backbone = load_backbone(facts["name"], weights, size, joint_dim, taps)
    release = getattr(backbone, "release_text_tower", None)
    if release is not None:
        release()
    found = [(stage.tap, stage.grid) for stage in backbone.info.stages]
    if found != list(stages):
        raise UsageError(
            f"the stages of {facts['name']} must be the bundle's, {stages}, got {found}; "
            "export the bundle again with this version"
        )
    return backbone


def _tap_number(tap: str) -> int:
    found = re.search(r"\d+$", tap)
    if found is None:
        raise UsageError(f"`stages.tap` of the bundle must end in its block's number, got {tap!r}")
    return int(found[0])
