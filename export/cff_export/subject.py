"""What is exported: a trained detector, as the exporter sees it.

A detector brings a condition (what a product gives to the graph besides the image), graphs, and a
reference of its own in PyTorch that is not folded. Everything else, from the golden answers to the
gate, is the same for all. The module behind a detector's name is imported on first use.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cff_edge.backbones import Backbone, BackboneInfo
from cff_edge.checkpoint import CONFIG_NAME
from cff_edge.config import Config, load_config
from cff_export.reference import ReferenceEncoding
from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Stage
from cff_runtime.parity import ParityLimits

Images = Sequence[NDArray[np.uint8]]

# `config.model.name` to the module that has `make_subject` and `load_trained`
_MODULES = {"cff": "cff_export.cff_subject", "tfa-net": "cff_export.tfa_subject"}


@dataclass(frozen=True)
class ExportSettings:
    """What may be chosen at export.

    Attributes
    ----------
    text_names : tuple of str
        Class words whose text vectors the bundle carries, besides ``object``.
    text_weight : float or None
        Weight of the text map; the training configuration's if None.
    limits : ParityLimits or None
        Of the parity gate; those of `verify_bundle` if None.
    replace : bool
        Replace a bundle that stands at the same place.
    """

    text_names: tuple[str, ...] = ()
    text_weight: float | None = None
    limits: ParityLimits | None = None
    replace: bool = False


@dataclass(frozen=True)
class SubjectFacts:
    """What the manifest says of a detector.

    Attributes
    ----------
    info : BackboneInfo
    stages : tuple of Stage
        As the graph gives them.
    distance : str
        See `cff_runtime.finishing`.
    map : MapOutput
    score : ScoreOutput
    head : mapping
        For people.
    """

    info: BackboneInfo
    stages: tuple[Stage, ...]
    distance: str
    map: MapOutput
    score: ScoreOutput
    head: Mapping[str, object]


@dataclass(frozen=True)
class WrittenGraphs:
    """The scorers' files, one per stage or none at all, and a record per pass."""

    scorers: tuple[str, ...]
    passes: tuple[Mapping[str, object], ...]


class Subject(Protocol):
    """A trained detector that can be exported."""

    facts: SubjectFacts

    def condition(self, work: Path, references: Images) -> tuple[Condition, NDArray[np.float32]]:
        """Write the condition's files; return its manifest part, and the golden images' one."""
        ...

    def write_graphs(self, encoder: Path) -> WrittenGraphs:
        """Write the encoder to `encoder`, and scorers beside it."""
        ...

    def reference(self, images: Images, condition: NDArray[np.float32]) -> list[ReferenceEncoding]:
        """Answer preprocessed images [H,W,3] in PyTorch, unfolded."""
        ...

    def reference_map(
        self, encoding: ReferenceEncoding, references: Sequence[ReferenceEncoding]
    ) -> NDArray[np.float64]:
        """Return the anomaly map [H,W] by brute force."""
        ...

    def exported_features(self, encoding: ReferenceEncoding) -> list[NDArray[np.float32]]:
        """Return the features [N_s,C_s] as the graph must give them."""
        ...


@dataclass(frozen=True)
class Trained:
    """A finished training run, on the CPU and in eval mode.

    Attributes
    ----------
    config : Config
    backbone : Backbone
    model : nn.Module
        What was trained on it.
    products : tuple of str
        Trained on.
    images : tuple of str
        SHA-256 of the pixels of the images trained on, of a detector that learns the product that
        it inspects: such images must not be references.
    """

    config: Config
    backbone: Backbone
    model: nn.Module
    products: tuple[str, ...]
    images: tuple[str, ...] = ()


def make_subject(
    backbone: Backbone,
    model: nn.Module,
    config: Config,
    settings: ExportSettings,
    trained_on: Sequence[str],
) -> Subject:
    """Return what `export_bundle` exports.

    Raises
    ------
    UsageError
        If a setting does not suit the detector, or it cannot be exported.
    """
    subject: Subject = _module_of(config).make_subject(
        backbone, model, config, settings, trained_on
    )
    return subject


def load_trained(run: Path, weights: str | None = None) -> Trained:
    """Read a finished training run of any detector.

    Parameters
    ----------
    run : Path
    weights : str, optional
        The backbone's, if they moved since training.

    Raises
    ------
    UsageError
        If `run` is no finished run.
    CheckpointError
        If a file is damaged or does not fit.
    """
    if not (run / CONFIG_NAME).is_file():
        raise UsageError(
            f"`{run}` must be a finished training run (with `{CONFIG_NAME}`) or a bundle; "
            "make one with `cff-train`"
        )
    trained: Trained = _module_of(load_config(run / CONFIG_NAME)).load_trained(run, weights)
    return trained


def _module_of(config: Config) -> ModuleType:
    name = config.model.name
    if name not in _MODULES:
        raise UsageError(f"`model.name` must be one of {', '.join(_MODULES)}, got {name!r}")
    return importlib.import_module(_MODULES[name])
