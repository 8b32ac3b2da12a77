"""What a configuration's values must be, alone and together."""

import math
from typing import TYPE_CHECKING, Any

from cff_edge.heads import BANKS, CALIBRATORS, PROJECTOR_INITS, TEXT_MAPS
from cff_edge.losses import GLOBAL_SCALES
from cff_edge.presets import MODEL_RECIPES
from cff_edge.tfa_net import options
from cff_runtime.errors import UsageError
from cff_runtime.finishing import DISTANCES

if TYPE_CHECKING:
    from cff_edge.config import Config

MAX_SEED = 2**63 - 1  # the largest integer of TOML

# What a run would otherwise meet hours later
_CHOICES = {
    "model.name": tuple(MODEL_RECIPES),
    "head.calibrator": CALIBRATORS,
    "head.projector_init": PROJECTOR_INITS,
    "head.bank": BANKS,
    "head.distance": DISTANCES,
    "head.text_map": TEXT_MAPS,
    "train.global_scale": GLOBAL_SCALES,
    "train.loss_map": ("fused", "stages"),
    "train.calibrator_map": ("text", "bank"),
    "train.align_on": ("batch", "references"),
    "train.device": ("auto", "cpu", "cuda"),
    "tfa.masking": options.MASKINGS,
    "tfa.template": options.TEMPLATES,
    "tfa.template_normalization": options.TEMPLATE_NORMALIZATIONS,
    "tfa.training_template": options.TRAINING_TEMPLATES,
    "tfa.feature_norm": options.FEATURE_NORMS,
    "tfa.map": options.MAPS,
    "tfa.score": options.SCORES,
    "tfa.selection": options.SELECTIONS,
}
_POSITIVE = (
    "train.batch_size",
    "train.learning_rate",
    "train.calibrator_learning_rate",
    "train.episode_queries",
    "tfa.patch",
    "tfa.width",
    "tfa.heads",
    "tfa.aggregation_blocks",
    "tfa.refinement_width",
    "tfa.refinement_heads",
)
_NOT_NEGATIVE = (
    "data.max_per_product",
    "head.text_weight",
    "train.projector_epochs",
    "train.calibrator_epochs",
    "train.seed",
    "train.focal_weight",
    "train.dice_weight",
    "train.align_weight",
    "train.global_weight",
    "train.mosaic",
    "tfa.grid",
    "tfa.refinement_blocks",
    "tfa.blur_sigma",
    "tfa.epochs",
    "tfa.weight_decay",
    "tfa.cosine_weight",
)
_SHARES = ("train.mosaic", "tfa.mask_fraction")


def check_ranges(config: "Config") -> None:
    """Refuse values out of range.

    Raises
    ------
    UsageError
        For the first one found.
    """
    for name, choices in _CHOICES.items():
        value = _value(config, name)
        if value not in choices:
            raise UsageError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")
    for name in _POSITIVE:
        value = _value(config, name)
        if not 0 < value < math.inf:
            raise UsageError(f"`{name}` must be above 0 and finite, got {value}")
    for name in _NOT_NEGATIVE:
        value = _value(config, name)
        if not 0 <= value < math.inf:
            raise UsageError(f"`{name}` must be 0 or more and finite, got {value}")
    for value in config.train.adjacent_weights:
        if not 0 <= value < math.inf:
            raise UsageError(f"`train.adjacent_weights` must be 0 or more and finite, got {value}")
    betas = config.train.adam_betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"`train.adam_betas` must be two numbers in [0, 1), got {list(betas)}")
    for name in _SHARES:
        value = _value(config, name)
        if not 0 <= value <= 1:
            raise UsageError(f"`{name}` must be a probability, got {value}")
    if not 0 <= config.tfa.held_out < 1:
        raise UsageError(f"`tfa.held_out` must be in [0, 1), got {config.tfa.held_out}")
    if config.train.seed > MAX_SEED:
        raise UsageError(f"`train.seed` must be at most {MAX_SEED}, got {config.train.seed}")


def check_combinations(config: "Config") -> None:
    """Refuse options that would have no effect or cannot both hold.

    Raises
    ------
    UsageError
        For the first pair found.
    """
    on_references = config.train.align_on == "references"
    if on_references and not config.data.align_references:
        raise UsageError(
            '`data.align_references` must name images for `train.align_on = "references"`, got none'
        )
    if config.data.align_references and not on_references:
        raise UsageError(
            '`train.align_on` must be "references" for `data.align_references` to count, got '
            f"{config.train.align_on!r}; set it, or leave the images out"
        )
    if on_references and config.head.calibrator == "none":
        raise UsageError(
            "`head.calibrator` must be affine or mlp to align on references, got 'none'; "
            "L_align trains calibrators alone"
        )
    trains_calibrators = config.head.calibrator != "none" and config.train.calibrator_epochs > 0
    on_bank = config.train.calibrator_map == "bank" and trains_calibrators
    if on_bank and config.head.bank == "raw":
        raise UsageError(
            '`train.calibrator_map` must be "text" with `head.bank = "raw"`, got "bank"; '
            "calibrators have no say in a bank of raw tokens"
        )
    if on_bank and config.train.mosaic > 0:
        raise UsageError(
            '`train.calibrator_map` must be "text" with `train.mosaic`, got "bank"; '
            "episodes are made of whole images"
        )
    if config.tfa.selection == "held_out" and config.tfa.held_out == 0:
        raise UsageError(
            '`tfa.held_out` must be above 0 for `tfa.selection = "held_out"`, got 0; such as 0.1'
        )
    if config.train.loss_map == "stages" and config.head.text_map == "features":
        raise UsageError(
            '`train.loss_map` must be "fused" with `head.text_map = "features"`, got "stages"; '
            "summed features have one map only"
        )


def _value(config: "Config", name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)
