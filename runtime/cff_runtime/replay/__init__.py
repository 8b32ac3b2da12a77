"""Replay: stored parts scored again after a change, and every verdict that changed."""

from cff_runtime.replay.known import KnownParts, find_parts
from cff_runtime.replay.rescoring import (
    Failure,
    Judgement,
    Rescored,
    Side,
    Views,
    relative_score,
    rescore,
)
from cff_runtime.replay.tally import Tally

__all__ = [
    "Failure",
    "Judgement",
    "KnownParts",
    "Rescored",
    "Side",
    "Tally",
    "Views",
    "find_parts",
    "relative_score",
    "rescore",
]
