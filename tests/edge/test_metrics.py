"""Metrics against their definitions, and against 64 real anomaly maps with known results."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_edge.metrics import image_auroc, pixel_ap, pixel_auroc
from cff_runtime.errors import DatasetError

Metric = Callable[[NDArray[np.bool_], NDArray[np.floating]], float]


def pairwise_auroc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Share of (defective, good) pairs in the right order; a tie counts one half."""
    difference = scores[truth][:, None] - scores[~truth][None, :]  # [n_defective, n_good]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def ap_by_definition(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Sum of precision times gain in recall over the distinct thresholds, highest first."""
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        flagged = scores >= threshold
        hits = int((flagged & truth).sum())
        recall = hits / int(truth.sum())
        total += (recall - recall_before) * hits / int(flagged.sum())
        recall_before = recall
    return total


def make_maps(seed: int, n_levels: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Draw masks [3,8,9] and maps that favour them; few levels make many ties."""
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 8, 9)) < 0.2
    levels = rng.integers(0, n_levels, masks.shape) + masks * (n_levels // 3)
    return masks, (levels / n_levels).astype(np.float32)


@pytest.mark.parametrize("n_levels", [3, 10, 100_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_exact(seed: int, n_levels: int) -> None:
    masks, maps = make_maps(seed, n_levels)
    truth, scores = masks.ravel(), maps.ravel()
    assert pixel_auroc(masks, maps) == pytest.approx(pairwise_auroc(truth, scores), abs=1e-12)
    assert pixel_ap(masks, maps) == pytest.approx(ap_by_definition(truth, scores), abs=1e-12)
    assert image_auroc(truth, scores) == pytest.approx(pairwise_auroc(truth, scores), abs=1e-12)


def test_known_image_auroc() -> None:
    assert image_auroc([False, False, True, True], [0.1, 0.4, 0.4, 0.8]) == 0.875
    assert image_auroc([0, 1], [0.0, 1.0]) == 1.0
    assert image_auroc([0, 1], [1.0, 0.0]) == 0.0
    assert image_auroc([0, 0, 1], [2.0, 2.0, 2.0]) == 0.5


def test_pixels_of_all_images_are_pooled() -> None:
    """Each map alone is perfect, but the second one's ground lies above the first one's defect."""
    masks = np.array([[[False, True]], [[False, True]]])
    maps = np.array([[[0.0, 0.1]], [[0.8, 0.9]]], np.float32)
    assert [pixel_auroc(masks[i], maps[i]) for i in (0, 1)] == [1.0, 1.0]
    assert pixel_auroc(masks, maps) == 0.75
    assert pixel_ap(masks, maps) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_constant_maps_are_at_chance() -> None:
    masks, maps = make_maps(0, 10)
    assert pixel_auroc(masks, np.zeros_like(maps)) == 0.5
    assert pixel_ap(masks, np.zeros_like(maps)) == pytest.approx(masks.mean())


def test_scores_that_differ_in_the_last_bit_are_no_tie() -> None:
    one = np.float32(1.0)
    scores = np.array([one, np.nextafter(one, np.float32(2.0))])
    assert image_auroc([False, True], scores) == 1.0


@pytest.mark.parametrize("metric", [image_auroc, pixel_auroc, pixel_ap])
@pytest.mark.parametrize("defective", [False, True])
def test_one_class_is_refused(metric: Metric, defective: bool) -> None:
    _, maps = make_maps(0, 10)
    with pytest.raises(DatasetError, match=r"need normal and defective .*, got \d+ defective of"):
        metric(np.full(maps.shape, defective), maps)


@pytest.mark.parametrize("metric", [image_auroc, pixel_auroc, pixel_ap])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(metric: Metric, value: float) -> None:
    masks, maps = make_maps(0, 10)
    maps[1, 2, 3] = value
    with pytest.raises(DatasetError, match="scores must be finite"):
        metric(masks, maps)


@pytest.mark.parametrize("metric", [image_auroc, pixel_auroc, pixel_ap])
def test_other_shapes_are_refused(metric: Metric) -> None:
    masks, maps = make_maps(0, 10)
    with pytest.raises(DatasetError, match=r"one shape, got \(3, 8, 9\) and \(2, 8, 9\)"):
        metric(masks, maps[:2])


def test_no_images_are_refused() -> None:
    with pytest.raises(DatasetError, match="got 0 defective of 0"):
        image_auroc([], [])


def test_inputs_are_not_changed() -> None:
    masks, maps = make_maps(0, 10)
    before = (masks.copy(), maps.copy())
    pixel_auroc(masks, maps)
    pixel_ap(masks, maps)
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(maps, before[1])


@pytest.mark.real_parts
@pytest.mark.skipif("CFF_DATA" not in os.environ, reason="CFF_DATA does not name the real images")
def test_real_maps_give_the_expected_metrics() -> None:
    folder = Path(os.environ["CFF_DATA"]) / "_metric_fixture"
    expected = json.loads((folder / "expected.json").read_text())["paper_fvn01_k4"]["expected"]
    with np.load(folder / "paper_fvn01_k4.npz") as arrays:
        maps = arrays["maps"].astype(np.float32)  # [64,128,128]
        masks = np.unpackbits(arrays["masks"], axis=-1).astype(bool)
        labels = arrays["labels"].astype(bool)
    scores = maps.max(axis=(1, 2)).astype(np.float64)
    assert image_auroc(labels, scores) == pytest.approx(expected["image_auroc"], abs=1e-12)
    assert pixel_auroc(masks, maps) == pytest.approx(expected["pixel_auroc"], abs=1e-12)
    assert pixel_ap(masks, maps) == pytest.approx(expected["pixel_ap"], abs=1e-12)
