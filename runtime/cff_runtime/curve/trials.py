"""Enrolling K of the good parts, again and again, and judging those left over.

A draw is a random order of the good parts. Its first K are the references, the rest is held out; so
the K + 1 references of a draw are its K references and one more part, and what that part brought is
a difference within the draw, on the parts that are held out of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cff_runtime.curve.gallery import Gallery, Probe
from cff_runtime.finishing import image_score, peak_scale_of
from cff_runtime.thresholds import choose_threshold


@dataclass(frozen=True, eq=False)
class Trial:
    """What a profile of some references says of every part.

    Attributes
    ----------
    threshold : float
        A larger score is a reject.
    good : ndarray of shape (n,), float64
        Scores of the good parts; NaN for the references.
    defective : ndarray of shape (m,), float64
    """

    threshold: float
    good: NDArray[np.float64]
    defective: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trials:
    """All draws at one K, draw by draw."""

    k: int
    draws: tuple[Trial, ...]

    def rejects(self) -> NDArray[np.float64]:
        """Return [draws,n,1]: 1 where a good part was rejected, NaN where it was a reference."""
        rows = [np.where(np.isnan(t.good), np.nan, t.good > t.threshold) for t in self.draws]
        return np.stack(rows)[:, :, None]

    def detections(self) -> NDArray[np.float64]:
        """Return [draws,1,m]: 1 where a defective part was rejected."""
        rows = [(t.defective > t.threshold).astype(np.float64) for t in self.draws]
        return np.stack(rows)[:, None, :]

    def wins(self) -> NDArray[np.float64]:
        """Return [draws,n,m]: 1 where a defective part scores above a good one, 0.5 for a tie.

        Its mean over the pairs of a draw is the draw's image AUROC.
        """
        difference = np.stack([t.defective[None, :] - t.good[:, None] for t in self.draws])
        return 0.5 * (1.0 + np.sign(difference))

    def scores(self) -> tuple[float, float]:
        """Return mean and standard deviation of held-out good parts, both means over draws.

        The standard deviation is NaN where a draw holds out a single part.
        """
        held_out = [trial.good[~np.isnan(trial.good)] for trial in self.draws]
        deviations = [float(np.std(h, ddof=1)) if len(h) > 1 else np.nan for h in held_out]
        return float(np.mean([h.mean() for h in held_out])), float(np.mean(deviations))


def draw_orders(n_good: int, n_draws: int, seed: int) -> list[NDArray[np.intp]]:
    """Return random orders of the good parts."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(n_good) for _ in range(n_draws)]


def run_trials(
    gallery: Gallery, orders: Sequence[NDArray[np.intp]], k: int, margin: float
) -> Trials:
    """Enrol the first K parts of every order."""
    done: dict[frozenset[int], Trial] = {}  # few parts: the same references come up again
    draws = []
    for order in orders:
        references = [int(index) for index in order[:k]]
        key = frozenset(references)
        if key not in done:
            done[key] = run_trial(gallery, references, margin)
        draws.append(done[key])
    return Trials(k, tuple(draws))


def run_trial(gallery: Gallery, references: Sequence[int], margin: float) -> Trial:
    """Enrol some good parts as `cff-run enroll` does and score all others.

    Parameters
    ----------
    gallery : Gallery
    references : sequence of int
        Indices of good parts, at least one.
    margin : float
        Of the threshold.
    """
    answers = []
    for index in references:
        if len(references) > 1:
            others = [other for other in references if other != index]
            answers.append(gallery.answer(gallery.good[index], others))
    for index in references:
        others = [other for other in references if other != index] or [index]
        for probe in gallery.augmented[index]:
            answers.append(gallery.answer(probe, others, is_augmented=True))
    peaks = [answer.peak for answer in answers]
    scale = peak_scale_of(peaks)
    threshold = choose_threshold(
        [image_score(answer.value, answer.score, scale) for answer in answers],
        peaks,
        len(references),
        margin,
        has_encoder_score=gallery.manifest.score.output is not None,
    )

    def score(probe: Probe) -> float:
        answer = gallery.answer(probe, references)
        return image_score(answer.value, answer.score, scale)

    good = np.full(len(gallery.good), np.nan)
    for index, probe in enumerate(gallery.good):
        if index not in references:
            good[index] = score(probe)
    defective = [score(probe) for probe in gallery.defective]
    return Trial(threshold.value, good, np.array(defective, np.float64))
