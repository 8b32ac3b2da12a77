"""Alarms of the rule without any drift, where the law of the signals is known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.drift.counter import (
    DEAD_ZONE,
    LARGEST_Z,
    LIMIT,
    STRANGE_LIMIT,
    STRANGE_Z,
    USUAL_STEP,
)

N_SIGNALS = 9
LAWS = ("normal", "Laplace", "Student t, 3 degrees", "log-normal")


def alarmed_share(law: str, n_runs: int, n_learn: int, n_pictures: int) -> float:
    """Return the share of quiet runs with an alarm, signals independent of each other.

    Parameters
    ----------
    law : str
        One of `LAWS`.
    n_runs, n_learn, n_pictures : int
        Runs, and pictures of each: learnt from, and then watched.
    """
    generator = np.random.default_rng(LAWS.index(law))
    shape = (n_runs, N_SIGNALS)
    learnt = np.stack([_draw(generator, law, shape) for _ in range(n_learn)])
    mean, spread = learnt.mean(axis=0), learnt.std(axis=0, ddof=1)
    both = (2, *shape)
    sums, strange = np.zeros(both), np.zeros(both)
    alarmed = np.zeros(n_runs, bool)
    for _ in range(n_pictures):
        z = (_draw(generator, law, shape) - mean) / spread
        ways = np.stack((z, -z))
        sums = np.maximum(0.0, sums + np.minimum(ways, LARGEST_Z) - DEAD_ZONE)
        strange = np.maximum(0.0, strange + np.where(ways > STRANGE_Z, 1.0, -USUAL_STEP))
        alarmed |= ((sums >= LIMIT) | (strange >= STRANGE_LIMIT)).any(axis=(0, 2))
    return float(alarmed.mean())


def simulate(n_runs: int, n_learn: int, n_pictures: int) -> list[dict[str, Any]]:
    """Return the share of runs with an alarm under each law, ready for JSON."""
    return [
        {"law": law, "runs": n_runs, "alarmed": alarmed_share(law, n_runs, n_learn, n_pictures)}
        for law in LAWS
    ]


def _draw(generator: np.random.Generator, law: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    if law == "normal":
        return generator.standard_normal(shape)
    if law == "Laplace":
        return generator.laplace(size=shape)
    if law == "log-normal":
        return generator.lognormal(size=shape)
    return generator.standard_t(3, shape)
