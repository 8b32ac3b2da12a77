"""What is watched: one number per signal and picture, on scales where a usual spread means much.

score          the image score of a picture that passes: those that do not are counted anyway, and
               none is in the baseline
stage 1 .. S   log(1 + d / 0.01), d the cosine distance of the picture's mean feature to that of
               the nearest reference, see `cff_runtime.product_check`
sharpness      its logarithm
brightness, position across, position down   as `cff_runtime.drift.measures` has them
"""

import math
from collections.abc import Mapping
from typing import Any

SCORE, SHARPNESS, BRIGHTNESS = "score", "sharpness", "brightness"
ACROSS, DOWN = "position across", "position down"
STAGE = "stage "

# A spread below it is taken to be it: changes so small are of no use to anybody. The score and
# the stages' distances are logarithms of cosines; a grey value is 1 of 255; positions are shares.
_LEAST_SPREAD = {SCORE: 0.05, SHARPNESS: 0.05, BRIGHTNESS: 1.0, ACROSS: 0.003, DOWN: 0.003}
_LEAST_STAGE_SPREAD = 0.05
_LEAST_SHARPNESS = 0.1


def least_spread(name: str) -> float:
    """Return the smallest spread that a signal may be taken to have."""
    return _LEAST_SPREAD.get(name, _LEAST_STAGE_SPREAD)


def signals_of(inspection: Mapping[str, Any]) -> dict[str, float]:
    """Return the signals of an inspection; those that it does not hold are missing.

    Parameters
    ----------
    inspection : mapping
        `Result.to_dict`, or a record of ``cff-run watch``, which holds the same.
    """
    passed = inspection.get("verdict") == "pass"
    signals: dict[str, Any] = {SCORE: inspection.get("score") if passed else None}
    for stage, distance in enumerate(inspection.get("stage_distances") or (), start=1):
        signals[f"{STAGE}{stage}"] = distance
    measures = inspection.get("measures") or {}
    signals |= {
        SHARPNESS: measures.get("sharpness"),
        BRIGHTNESS: measures.get("brightness"),
        ACROSS: measures.get("position_x"),
        DOWN: measures.get("position_y"),
    }
    found = {name: float(value) for name, value in signals.items() if _is_number(value)}
    if SHARPNESS in found:
        found[SHARPNESS] = math.log(max(found[SHARPNESS], _LEAST_SHARPNESS))
    return found


def is_stage(name: str) -> bool:
    """Tell whether a signal is the distance of a stage."""
    return name.startswith(STAGE)


def plainness(name: str) -> int:
    """Return how plainly a signal names a cause: a measure of the picture, a stage, the score."""
    return 0 if name == SCORE else 1 if is_stage(name) else 2


def shown(name: str, value: float) -> str:
    """Return a signal's value as people read it."""
    if name == SHARPNESS:
        return f"{math.exp(value):.3g}"
    if is_stage(name):
        return f"{math.expm1(value) * 0.01:.2g}"
    if name in (ACROSS, DOWN):
        return f"{value:.1%} of the picture"
    return f"{value:.3g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
