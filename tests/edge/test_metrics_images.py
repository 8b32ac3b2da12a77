"""Image metrics against their definitions, counted pair by pair and threshold by threshold."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_edge.metrics import image_ap, image_auroc, image_f1_max
from cff_runtime.errors import DatasetError

Labels = NDArray[np.bool_]
Scores = NDArray[np.float64]
Metric = Callable[[Labels, Scores], float]


def pairwise_auroc(labels: Labels, scores: Scores) -> float:
    """Probability that a defective one scores above a normal one; a tie counts one half."""
    positive, negative = scores[labels], scores[~labels]
    above = (positive[:, None] > negative).mean()
    equal = (positive[:, None] == negative).mean()
    return float(above + 0.5 * equal)


def stepwise_ap(labels: Labels, scores: Scores) -> float:
    """Sum over falling thresholds of the precision there times the recall gained there."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        found = float((called & labels).sum())
        total += (found / labels.sum() - recall) * found / called.sum()
        recall = found / labels.sum()
    return total


def best_f1(labels: Labels, scores: Scores) -> float:
    """Largest harmonic mean of precision and recall where both are not 0."""
    best = 0.0
    for threshold in set(scores.tolist()):
        called = scores >= threshold
        found = float((called & labels).sum())
        if found:
            precision, recall = found / called.sum(), found / labels.sum()
            best = max(best, 2 / (1 / precision + 1 / recall))
    return best


METRICS = [(image_auroc, pairwise_auroc), (image_ap, stepwise_ap), (image_f1_max, best_f1)]


@pytest.mark.parametrize("n_levels", [1, 3, 10_000])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("metric", "reference"), METRICS)
def test_against_brute_force(metric: Metric, reference: Metric, seed: int, n_levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    labels[:2] = True, False
    scores = np.round(rng.normal(labels * 0.8, 1.0) * n_levels) / n_levels
    assert metric(labels, scores) == pytest.approx(reference(labels, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "auroc", "ap", "f1"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1.0, 1.0, 1.0),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0, 0.5 / 3 + 0.25, 2 / 3),
        ([0, 1, 0, 1], [5.0, 5.0, 5.0, 5.0], 0.5, 0.5, 2 / 3),
        ([0, 1, 1, 0], [1.0, 2.0, 3.0, 2.0], 0.875, 0.5 + 1 / 3, 0.8),
    ],
)
def test_worked_by_hand(
    labels: list[int], scores: list[float], auroc: float, ap: float, f1: float
) -> None:
    assert image_auroc(labels, scores) == pytest.approx(auroc)
    assert image_ap(labels, scores) == pytest.approx(ap)
    assert image_f1_max(labels, scores) == pytest.approx(f1)


def test_a_last_bit_is_no_tie() -> None:
    one = np.float32(1.0)
    scores = np.array([one, np.nextafter(one, np.float32(2.0))])
    assert image_auroc([False, True], scores) == 1.0


@pytest.mark.parametrize("metric", [image_auroc, image_ap, image_f1_max])
class TestErrors:
    @pytest.mark.parametrize(("label", "n"), [(False, 0), (True, 8)])
    def test_one_class_only(self, metric: Metric, label: bool, n: int) -> None:
        expected = rf"^`labels` must hold good and defective images, got {n} defective of 8; "
        with pytest.raises(DatasetError, match=expected):
            metric(np.full(8, label), np.zeros(8))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite(self, metric: Metric, value: float) -> None:
        scores = np.array([0.0, value, 1.0, value])
        with pytest.raises(
            DatasetError, match=r"^`scores` must be finite, got 2 NaN or infinite of 4; "
        ):
            metric(np.array([False, True, False, True]), scores)

    def test_shapes_that_differ(self, metric: Metric) -> None:
        labels = np.array([False, True])
        for wrong in (np.zeros(3), np.zeros((2, 1)), np.zeros(())):
            with pytest.raises(DatasetError, match=r"^`scores` must have the shape of `labels`, "):
                metric(labels, wrong)
        with pytest.raises(DatasetError, match=r"^`labels` must be one bool an image, \[n\], got "):
            metric(labels[:, None], np.zeros((2, 1)))

    def test_scores_that_are_no_numbers(self, metric: Metric) -> None:
        with pytest.raises(DatasetError, match=r"^`scores` must be numbers, got <U4; "):
            metric(np.array([False, True]), np.array(["low", "high"]))  # type: ignore[arg-type]

    def test_nothing_at_all(self, metric: Metric) -> None:
        with pytest.raises(DatasetError, match=r"got 0 defective of 0; "):
            metric(np.zeros(0, bool), np.zeros(0))
