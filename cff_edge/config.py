"""Training configuration: frozen dataclasses, strict TOML, presets per backbone."""

import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from cff_edge.config_checks import check_combinations, check_ranges
from cff_edge.presets import MODEL_RECIPES, OPEN_CLIP, PRESETS
from cff_edge.tfa_net.options import TfaConfig
from cff_runtime.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ModelConfig:
    """Which detector.

    Attributes
    ----------
    name : str
        A key of `cff_edge.presets.MODEL_RECIPES`: ``cff``, whose section is `head`, or ``tfa-net``,
        whose section is `tfa`.
    """

    name: str = "cff"


@dataclass(frozen=True)
class BackboneConfig:
    """Which frozen backbone.

    Attributes
    ----------
    name : str
        ``efficientnet-lite0``, ``wide_resnet50_2`` or ``open_clip:<model>``.
    weights : str
        ``imagenet``, an open_clip tag such as ``openai``, a file, or ``random``.
    image_size : int
        Side of the square network input in pixels.
    joint_dim : int
        C; 0 takes the backbone's own.
    taps : tuple of int
        Tapped blocks, 1-based, of a vision transformer; empty takes four evenly spaced ones.
    """

    name: str = "efficientnet-lite0"
    weights: str = "imagenet"
    image_size: int = 256
    joint_dim: int = 0
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Which labelled images.

    Attributes
    ----------
    roots : tuple of str
        Data sets in MVTec AD layout, VisA layout or plain folders.
    products : tuple of str
        Empty takes all.
    exclude : tuple of str
        Products left out, such as the one to be inspected later.
    max_per_product : int
        At most so many images of each product, drawn with the seed; 0 takes all.
    align_references : tuple of str
        Good images of the product to be inspected, for ``train.align_on = "references"``.
    """

    roots: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_per_product: int = 0
    align_references: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeadConfig:
    """Projectors and calibrators, and the weight of the text map in the anomaly map.

    Attributes
    ----------
    calibrator, projector_init : str
        See `cff_edge.heads`.
    text_weight : float
        1 in the paper. The embedded backbone's default is small: it has learned anchors instead of
        text, which mislead on products unlike those trained on (docs/experiment.md).
    bank : {'calibrated', 'raw'}
        What the memory bank holds and is searched with: calibrated features (CFF), or raw backbone
        tokens (APRIL-GAN), where the head decides the text map alone.
    distance : {'cosine', 'log'}
        What is summed over the stages: 1 - cosine as published, or its logarithm, which keeps a
        stage of large distances from deciding alone; see `cff_runtime.finishing`.
    text_map : {'maps', 'features'}
        One map per stage, summed, or one map of the features summed over the stages; see
        `cff_edge.detector.abnormal_maps`. Both range from 0 to S.
    """

    calibrator: str = "affine"
    projector_init: str = "orthonormal"
    text_weight: float = 0.1
    bank: str = "calibrated"
    distance: str = "log"
    text_map: str = "maps"


@dataclass(frozen=True)
class TrainConfig:
    """Two-stage training (CFF section 4).

    Attributes
    ----------
    projector_epochs, calibrator_epochs : int
        Epochs of stage 1 and stage 2.
    learning_rate, calibrator_learning_rate : float
        Of Adam, in stage 1 and stage 2.
    adam_betas : tuple of 2 floats
        Of Adam.
    focal_weight, dice_weight, align_weight : float
        Of L_total; stage 1 leaves L_align out.
    global_weight : float
        Of L_global inside L_align.
    global_scale : {'tokens', 'none'}
    adjacent_weights : tuple of float
        w_n; empty takes 1 for every pair.
    loss_map : {'fused', 'stages'}
        Focal and dice loss on the mean of the stages' text maps (CFF), or on each of them, added
        up (APRIL-GAN).
    calibrator_map : {'text', 'bank'}
        Whose focal and dice loss trains the calibrators: the text map's on batches, or the memory
        bank's in episodes of one product (`cff_edge.episodes`).
    episode_queries : int
        Images that an episode judges.
    align_on : {'batch', 'references'}
        Which normal images L_align sees: the batch's, or all of `data.align_references`.
    mosaic : float
        Probability that an image is replaced by a 2 x 2 mosaic of its product's images.
    device : {'auto', 'cpu', 'cuda'}
        Mixed precision is used on CUDA.
    """

    projector_epochs: int = 3
    calibrator_epochs: int = 5
    learning_rate: float = 1e-4
    calibrator_learning_rate: float = 1e-4
    adam_betas: tuple[float, ...] = (0.9, 0.999)
    batch_size: int = 16
    seed: int = 42
    focal_weight: float = 0.6
    dice_weight: float = 0.4
    align_weight: float = 0.1
    global_weight: float = 0.1
    global_scale: str = "tokens"
    adjacent_weights: tuple[float, ...] = ()
    loss_map: str = "fused"
    calibrator_map: str = "text"
    episode_queries: int = 5
    align_on: str = "batch"
    mosaic: float = 0.0
    device: str = "auto"


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tfa: TfaConfig = field(default_factory=TfaConfig)

    def to_toml(self) -> str:
        """Return the configuration as TOML."""
        return tomli_w.dumps(dataclasses.asdict(self))


# of the tuples that do not hold strings
_ITEM_KINDS: dict[str, type] = {"taps": int, "adjacent_weights": float, "adam_betas": float}


def load_config(
    path: Path | None = None, overrides: Sequence[str] = (), preset: str | None = None
) -> Config:
    """Build a configuration: the recipes, the preset, the file, the overrides.

    The recipes are those of the backbone and of the detector that the other layers name.

    Parameters
    ----------
    path : Path, optional
        TOML file.
    overrides : sequence of str
        Each ``section.key=value``; the value is TOML, or a plain string.
    preset : str, optional
        Name in `cff_edge.presets.PRESETS`.

    Raises
    ------
    UsageError
        For a missing or malformed file, an unknown preset or key, a value of the wrong type or
        out of range, or values that do not go together.
    """
    layers = [] if preset is None else [_preset(preset)]
    layers += [_read_toml(path)] if path is not None else []
    layers += [_parse_override(text) for text in overrides]
    backbone, model = _named(layers, "backbone"), _named(layers, "model")
    recipes = [OPEN_CLIP] if backbone.startswith("open_clip:") else []
    recipes.append(MODEL_RECIPES.get(model, {}))
    config = Config()
    for layer in (*recipes, *layers):
        config = _apply(config, layer)
    check_ranges(config)
    check_combinations(config)
    return config


def _named(layers: Sequence[Mapping[str, Any]], section: str) -> str:
    """Return the last name that a section of the layers gives, or nothing."""
    tables = [table for layer in layers if isinstance(table := layer.get(section), Mapping)]
    return str(next((table["name"] for table in reversed(tables) if "name" in table), ""))


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UsageError(f"`preset` must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"configuration `{path}` must be a readable file: {error}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"configuration `{path}` must be TOML: {error}") from error


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise UsageError(f"`--set` must be section.key=value, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {section: {name: parsed}}


def _apply(config: Config, layer: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    for section, values in layer.items():
        known = [f.name for f in dataclasses.fields(config)]
        if section not in known:
            _unknown(section, known, "section")
        if not isinstance(values, Mapping):
            raise UsageError(f"configuration section `{section}` must be a table, got {values!r}")
        current: Any = getattr(config, section)
        sections[section] = dataclasses.replace(
            current, **{k: _checked(current, section, k, v) for k, v in values.items()}
        )
    return dataclasses.replace(config, **sections)


def _checked(current: Any, section: str, key: str, value: Any) -> Any:
    """Return `value` with the type of the field's present value, or raise."""
    names = [f.name for f in dataclasses.fields(current)]
    if key not in names:
        _unknown(f"{section}.{key}", [f"{section}.{name}" for name in names], "key")
    present = getattr(current, key)
    if isinstance(present, tuple):
        values = value if isinstance(value, list) else [value]
        kind = _ITEM_KINDS.get(key, str)
        return tuple(_scalar(kind, f"{section}.{key}", item) for item in values)
    return _scalar(type(present), f"{section}.{key}", value)


def _scalar(kind: type, name: str, value: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"`{name}` must be of type {kind.__name__}, got {value!r}")
    return value


def _unknown(name: str, known: Sequence[str], what: str) -> None:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(known)}"
    raise UsageError(f"configuration {what} `{name}` must be known{hint}")
