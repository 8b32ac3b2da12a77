"""The points of a learning curve, and what one more reference brings at each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.curve.gallery import Gallery
from cff_runtime.curve.intervals import Estimate, estimate
from cff_runtime.curve.trials import Trials, draw_orders, run_trials
from cff_runtime.errors import UsageError

Values = NDArray[np.float64]
MIN_PARTS = 3  # two references and one held out


@dataclass(frozen=True)
class Quantity:
    """Something that is estimated at every K."""

    name: str
    label: str
    values: Callable[[Trials], Values]
    needs_defects: bool


QUANTITIES = (
    Quantity("false_rejects", "false rejects", Trials.rejects, needs_defects=False),
    Quantity("detection", "defects found", Trials.detections, needs_defects=True),
    Quantity("auroc", "image AUROC", Trials.wins, needs_defects=True),
)


@dataclass(frozen=True)
class Point:
    """What K references give, by the name of the quantity.

    Attributes
    ----------
    k : int
    n_held_out : int
        Good parts judged in every draw.
    estimates : mapping of str to Estimate
    next : mapping of str to Estimate
        At K + 1, on the same held-out parts; empty where nothing is left to measure it.
    gains : mapping of str to Estimate
        Change from K to K + 1, draw by draw, on the parts held out of both.
    score_mean, score_spread : float
        Mean and standard deviation of held-out good parts' scores; NaN for a single one.
    """

    k: int
    n_held_out: int
    estimates: dict[str, Estimate]
    next: dict[str, Estimate]
    gains: dict[str, Estimate]
    score_mean: float
    score_spread: float

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON, which has no NaN."""
        facts = asdict(self)
        facts["score_spread"] = None if np.isnan(self.score_spread) else self.score_spread
        return facts


@dataclass(frozen=True)
class Curve:
    """A learning curve and how much is behind it."""

    n_good: int
    n_defective: int
    n_draws: int
    points: tuple[Point, ...]


def usable_shots(shots: Sequence[int], n_good: int) -> list[int]:
    """Return the K, ascending, that leave one of so many good parts over.

    Raises
    ------
    UsageError
        If there are fewer than three good parts or no K leaves a part over.
    """
    wanted = [k for k in sorted(set(shots)) if k < n_good]
    if n_good < MIN_PARTS or not wanted:
        raise UsageError(
            f"`--good` must give more parts than the smallest of `--shots` ({min(shots)}) and at "
            f"least {MIN_PARTS}, got {n_good}; add good parts"
        )
    return wanted


def measure_curve(
    gallery: Gallery,
    shots: Sequence[int],
    n_draws: int,
    margin: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """Measure every K of `shots` that leaves a part over, and K + 1 beside it.

    Parameters
    ----------
    gallery : Gallery
    shots : sequence of int
        Numbers of references K.
    n_draws : int
        Random orders of the good parts, the same for all K.
    margin : float
        Of the threshold.
    seed : int
    progress : callable, optional
        Called with (values of K done, values of K).

    Raises
    ------
    UsageError
        As `usable_shots`.
    """
    n_good = len(gallery.good)
    wanted = usable_shots(shots, n_good)
    needed = sorted({k + more for k in wanted for more in (0, 1) if k + more < n_good})
    orders = draw_orders(n_good, n_draws, seed)
    trials = {}
    for done, k in enumerate(needed, 1):
        trials[k] = run_trials(gallery, orders, k, margin)
        progress(done, len(needed))
    has_defects = bool(gallery.defective)
    points = tuple(_point(trials[k], trials.get(k + 1), has_defects, seed) for k in wanted)
    return Curve(n_good, len(gallery.defective), n_draws, points)


def _point(trials: Trials, following: Trials | None, has_defects: bool, seed: int) -> Point:
    used = [q for q in QUANTITIES if has_defects or not q.needs_defects]
    estimates = {q.name: estimate(q.values(trials), seed) for q in used}
    later, gains = {}, {}
    for quantity in used if following is not None else ():
        assert following is not None
        before, after = quantity.values(trials), quantity.values(following)
        later[quantity.name] = estimate(after, seed)
        gains[quantity.name] = estimate(after - before, seed, is_difference=True)
    score_mean, score_spread = trials.scores()
    n_held_out = len(trials.draws[0].good) - trials.k
    return Point(trials.k, n_held_out, estimates, later, gains, score_mean, score_spread)
