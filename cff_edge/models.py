"""The detectors that can be trained, by the name in ``[model]``.

A detector's module is imported on first use and has ``train_run(config, out, cache, resume)``, that
chooses its images, trains and writes the run's folder.
"""

import importlib
import logging
from pathlib import Path
from typing import Protocol, cast

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.config import Config

log = logging.getLogger(__name__)

MODELS = {
    "cff": "cff_edge.training",
    "tfa-net": "cff_edge.tfa_net.training",
}


class TrainRun(Protocol):
    """What trains a detector as its configuration says."""

    def __call__(
        self, config: Config, out: Path, cache: Path | None = None, resume: bool = False
    ) -> None:
        """Write the run's folder `out`, or continue there."""
        ...


def train_run(config: Config, out: Path, cache: Path | None = None, resume: bool = False) -> None:
    """Train the detector that the configuration names and write the run's folder.

    Raises
    ------
    CffError
        As the detector's own training says.
    """
    train = cast(TrainRun, importlib.import_module(MODELS[config.model.name]).train_run)
    train(config, out, cache, resume)


def configured_backbone(config: Config, weights: str | None = None) -> Backbone:
    """Build the backbone of a configuration, with other weights if some are given.

    Raises
    ------
    UsageError
        For an unknown name or weights, or sizes that do not fit.
    MissingDependencyError
        If a package that the backbone needs is not installed.
    """
    backbone = load_backbone(
        config.backbone.name,
        weights or config.backbone.weights,
        config.backbone.image_size,
        config.backbone.joint_dim or None,
        config.backbone.taps or None,
        config.train.seed,
    )
    if backbone.info.weights == "random":
        log.warning("random backbone weights: features mean nothing, for latency and parity only")
    return backbone
