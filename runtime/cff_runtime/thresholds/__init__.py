"""Thresholds from good parts, with the risk stated.

`bounds` holds the mathematics, `rule` the rule of thumb for 1 to 4 references, `choice` puts them
together, `card` records what was done, `moving` lets a person decide, `picture` shows the scores.
"""

from cff_runtime.thresholds.augmentations import (
    N_AUGMENTATIONS,
    augmentations,
    without_border,
)
from cff_runtime.thresholds.bounds import (
    DEFAULT_CONFIDENCE,
    largest_rank,
    parts_needed,
    percent,
    upper_share,
    upper_share_in_sight,
)
from cff_runtime.thresholds.choice import choose_threshold
from cff_runtime.thresholds.moving import move_threshold
from cff_runtime.thresholds.rule import DEFAULT_MARGIN, MAX_MARGIN
from cff_runtime.thresholds.threshold import MAX_THRESHOLD, Threshold

__all__ = [
    "DEFAULT_CONFIDENCE",
    "DEFAULT_MARGIN",
    "MAX_MARGIN",
    "MAX_THRESHOLD",
    "N_AUGMENTATIONS",
    "Threshold",
    "augmentations",
    "choose_threshold",
    "largest_rank",
    "move_threshold",
    "parts_needed",
    "percent",
    "upper_share",
    "upper_share_in_sight",
    "without_border",
]
