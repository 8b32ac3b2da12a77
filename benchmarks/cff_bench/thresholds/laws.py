"""Known distributions of scores: how to draw from them, and the share of them above a threshold."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RARE_SHARE, _RARE_MEAN = 0.05, 6.0
_STEP = 0.5  # of the scores with ties


@dataclass(frozen=True)
class Law:
    """A distribution of scores.

    Attributes
    ----------
    name : str
    draw : callable
        From a generator and a shape to scores.
    share_above : callable
        From thresholds to P(S > threshold), exact.
    """

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], Floats]
    share_above: Callable[[Floats], Floats]


def _normal_above(values: Floats) -> Floats:
    flat = [0.5 * math.erfc(value / math.sqrt(2.0)) for value in values.ravel()]
    return np.array(flat).reshape(values.shape)


def _mixture(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.normal(size=shape) + _RARE_MEAN * (rng.random(shape) < _RARE_SHARE)


LAWS = (
    Law("normal", lambda rng, shape: rng.normal(size=shape), _normal_above),
    Law(
        "heavy tails (Cauchy)",
        lambda rng, shape: rng.standard_cauchy(shape),
        lambda values: 0.5 - np.arctan(values) / np.pi,
    ),
    Law(
        "skewed (log-normal)",
        lambda rng, shape: np.exp(rng.normal(size=shape)),
        lambda values: _normal_above(np.log(values)),
    ),
    Law(
        "ties (normal, in steps)",
        lambda rng, shape: _STEP * np.rint(rng.normal(size=shape) / _STEP),
        lambda values: _normal_above(values + 0.5 * _STEP),
    ),
    Law(
        "mixture (5% far away)",
        _mixture,
        lambda values: (
            (1.0 - _RARE_SHARE) * _normal_above(values)
            + _RARE_SHARE * _normal_above(values - _RARE_MEAN)
        ),
    ),
)
