"""Metrics against their definitions, and against real anomaly maps with known figures."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_edge.metrics import image_auroc, pixel_ap, pixel_auroc
from cff_runtime.errors import DatasetError

Labels = NDArray[np.bool_]
Scores = NDArray[np.floating]
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


def draw(seed: int, shape: tuple[int, ...], n_levels: int) -> tuple[Labels, Scores]:
    """Return labels and scores that help a little; few levels give many ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random(shape) < 0.3
    labels.flat[0], labels.flat[1] = True, False
    scores = rng.normal(labels * 0.8, 1.0)
    return labels, np.round(scores * n_levels) / n_levels


@pytest.mark.parametrize("n_levels", [1, 3, 10_000])
@pytest.mark.parametrize("seed", range(4))
class TestAgainstBruteForce:
    def test_image_auroc(self, seed: int, n_levels: int) -> None:
        labels, scores = draw(seed, (60,), n_levels)
        assert image_auroc(labels, scores) == pytest.approx(
            pairwise_auroc(labels, scores), abs=1e-12
        )

    def test_pixel_auroc_pools_all_images(self, seed: int, n_levels: int) -> None:
        masks, maps = draw(seed, (3, 9, 11), n_levels)
        masks[2] = False  # a good part among them
        expected = pairwise_auroc(masks.ravel(), maps.ravel())
        assert pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-12)

    def test_pixel_ap_pools_all_images(self, seed: int, n_levels: int) -> None:
        masks, maps = draw(seed, (3, 9, 11), n_levels)
        masks[2] = False
        expected = stepwise_ap(masks.ravel(), maps.ravel())
        assert pixel_ap(masks, maps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "auroc", "ap"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1.0, 1.0),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0, 0.5 / 3 + 0.25),
        ([0, 1, 0, 1], [5.0, 5.0, 5.0, 5.0], 0.5, 0.5),
        ([0, 1, 1, 0], [1.0, 2.0, 3.0, 2.0], 0.875, 0.5 + 1 / 3),
    ],
)
def test_worked_by_hand(labels: list[int], scores: list[float], auroc: float, ap: float) -> None:
    assert image_auroc(labels, scores) == pytest.approx(auroc)
    pixels, values = np.reshape(labels, (1, 2, 2)), np.reshape(scores, (1, 2, 2))
    assert pixel_auroc(pixels, values) == pytest.approx(auroc)
    assert pixel_ap(pixels, values) == pytest.approx(ap)


def test_pixels_are_ranked_across_images() -> None:
    """Each map alone is perfect, but the second one's ground lies above the first one's defect."""
    masks = np.array([[[False, True]], [[False, True]]])
    maps = np.array([[[0.0, 0.1]], [[0.8, 0.9]]], np.float32)
    assert [pixel_auroc(masks[i], maps[i]) for i in (0, 1)] == [1.0, 1.0]
    assert pixel_auroc(masks, maps) == 0.75
    assert pixel_ap(masks, maps) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_last_bit_is_no_tie() -> None:
    one = np.float32(1.0)
    scores = np.array([one, np.nextafter(one, np.float32(2.0))])
    assert image_auroc([False, True], scores) == 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_maps_of_low_precision_are_counted_exactly(dtype: type[np.floating]) -> None:
    """More pixels than float16 can count, and values that differ in the last place only."""
    rng = np.random.default_rng(0)
    masks = rng.random((1, 300, 400)) < 0.02
    maps = (rng.normal(masks * 1.5, 1.0)).astype(dtype)
    # by ranks, as pairs would be too many
    _, inverse, counts = np.unique(maps.ravel(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, n_positive = masks.size, int(masks.sum())
    above = ranks[masks.ravel()].sum() - n_positive * (n_positive + 1) / 2
    expected = above / (n_positive * (n - n_positive))
    assert pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("metric", "what", "shape"),
    [
        (image_auroc, "image", (8,)),
        (pixel_auroc, "pixel", (2, 2, 2)),
        (pixel_ap, "pixel", (2, 2, 2)),
    ],
)
class TestErrors:
    @pytest.mark.parametrize(("label", "n"), [(False, 0), (True, 8)])
    def test_one_class_only(
        self, metric: Metric, what: str, shape: tuple[int, ...], label: bool, n: int
    ) -> None:
        expected = rf"^{what} metrics need normal and defective {what}s, got {n} defective of 8$"
        with pytest.raises(DatasetError, match=expected):
            metric(np.full(shape, label), np.zeros(shape))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite(
        self, metric: Metric, what: str, shape: tuple[int, ...], value: float
    ) -> None:
        labels, scores = draw(0, shape, 10)
        scores.flat[3] = value
        with pytest.raises(DatasetError, match=rf"^{what} scores must be finite"):
            metric(labels, scores)

    def test_shapes_that_differ(self, metric: Metric, what: str, shape: tuple[int, ...]) -> None:
        labels, scores = draw(0, shape, 10)
        for wrong in (scores.reshape((*shape[::-1], 1)), scores[:1], scores[..., :1]):
            with pytest.raises(DatasetError, match=rf"^{what} labels and scores must have one sha"):
                metric(labels, wrong)

    def test_nothing_at_all(self, metric: Metric, what: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(DatasetError, match=r"got 0 defective of 0"):
            metric(np.zeros((0, *shape[1:]), bool), np.zeros((0, *shape[1:])))


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_real_anomaly_maps() -> None:
    """64 maps with figures by scikit-learn on another machine; the image score is the maximum."""
    folder = Path(os.environ["CFF_DATA"]) / "_metric_fixture"
    expected = json.loads((folder / "expected.json").read_text())["paper_fvn01_k4"]["expected"]
    with np.load(folder / "paper_fvn01_k4.npz") as file:
        arrays = {name: file[name] for name in file}
    maps = arrays["maps"]
    masks = np.unpackbits(arrays["masks"], axis=-1, count=maps.shape[2]).astype(bool)
    labels = masks.any(axis=(1, 2))
    np.testing.assert_array_equal(labels, arrays["labels"])
    scores = maps.astype(np.float64).max(axis=(1, 2))
    assert image_auroc(labels, scores) == pytest.approx(expected["image_auroc"], abs=1e-12)
    assert pixel_auroc(masks, maps) == pytest.approx(expected["pixel_auroc"], abs=1e-12)
    assert pixel_ap(masks, maps) == pytest.approx(expected["pixel_ap"], abs=1e-12)
