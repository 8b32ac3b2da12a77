"""Binned pixels: what they count, and how near their metrics come to scikit-learn's."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cff_edge.metrics import Evidence, bootstrap_interval, collect_evidence
from cff_runtime.errors import DatasetError, UsageError

Masks = NDArray[np.bool_]
Maps = NDArray[np.floating]
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max")


def collect(masks: Masks, maps: Maps, n_bins: int = 2048) -> Evidence:
    labels = masks.any(axis=(1, 2))
    names = [f"{index}.png" for index in range(len(masks))]
    return collect_evidence("ring", 0, names, labels, maps.max(axis=(1, 2)), masks, maps, n_bins)


def draw(n_images: int, side_px: int, share: float, gain: float) -> tuple[Masks, Maps]:
    """Return every second image with a defect that covers `share` of all pixels together."""
    rng = np.random.default_rng(0)
    masks = np.zeros((n_images, side_px, side_px), bool)
    height = max(1, round(side_px * np.sqrt(2 * share)))
    masks[::2, :height, :height] = True
    return masks, rng.normal(masks * gain, 1.0).astype(np.float32)


def exact(masks: Masks, maps: Maps) -> dict[str, float]:
    truth, values = masks.ravel(), maps.astype(np.float64).ravel()
    precision, recall, _ = precision_recall_curve(truth, values)
    with np.errstate(invalid="ignore"):
        f1 = np.nanmax(2 * precision * recall / (precision + recall))
    return {
        "pixel_auroc": roc_auc_score(truth, values),
        "pixel_ap": average_precision_score(truth, values),
        "pixel_f1_max": float(f1),
    }


def binned(evidence: Evidence) -> dict[str, float]:
    return {name: bootstrap_interval([evidence], name, 1).mean for name in PIXEL_METRICS}


@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.3])
def test_metrics_are_within_a_thousandth(share: float, gain: float) -> None:
    """Also where bins of equally many pixels would leave ten to the defect."""
    masks, maps = draw(20, 160, share, gain)
    evidence = collect(masks, maps)
    expected = exact(masks, maps)
    for name, value in binned(evidence).items():
        assert value == pytest.approx(expected[name], abs=1e-3), name


def test_counts_say_whose_the_pixels_are() -> None:
    masks, maps = draw(6, 30, 0.1, 1.0)
    evidence = collect(masks, maps, n_bins=64)
    assert evidence.positive.shape == evidence.negative.shape == (6, 64)
    assert evidence.positive.dtype == evidence.negative.dtype == np.uint32
    np.testing.assert_array_equal(evidence.positive.sum(axis=1), masks.sum(axis=(1, 2)))
    np.testing.assert_array_equal(evidence.negative.sum(axis=1), (~masks).sum(axis=(1, 2)))
    # every image's scores, sorted, fill its bins from below
    bins = np.arange(64)
    pooled = []
    for image in range(6):
        for counts, kind in ((evidence.positive, masks), (evidence.negative, ~masks)):
            scores = np.sort(maps[image][kind[image]])
            pooled += list(zip(scores.tolist(), np.repeat(bins, counts[image]), strict=True))
    ordered = [number for _, number in sorted(pooled)]
    assert ordered == sorted(ordered)


def test_half_of_the_bins_share_out_each_class() -> None:
    """No bin holds more than its share of the defective or of the good pixels."""
    masks, maps = draw(10, 100, 0.01, 1.0)
    evidence = collect(masks, maps, n_bins=200)
    assert evidence.positive.sum(axis=0).max() <= np.ceil(masks.sum() / 100)
    assert evidence.negative.sum(axis=0).max() <= np.ceil((~masks).sum() / 100)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_few_scores_keep_a_bin_each(dtype: type[np.floating]) -> None:
    masks, maps = draw(6, 30, 0.1, 1.0)
    maps = np.clip(np.round(maps * 3), -6, 6).astype(dtype)
    evidence = collect(masks, maps)
    scores = np.unique(maps)
    used = np.flatnonzero(evidence.positive.any(axis=0) | evidence.negative.any(axis=0))
    assert used.size == scores.size
    expected = [[(maps[i][masks[i]] == score).sum() for score in scores] for i in range(6)]
    np.testing.assert_array_equal(evidence.positive[:, used], expected)
    expected = [[(maps[i][~masks[i]] == score).sum() for score in scores] for i in range(6)]
    np.testing.assert_array_equal(evidence.negative[:, used], expected)
    for name, value in exact(masks, maps).items():
        assert binned(evidence)[name] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("n_bins", [2, 3, 7])
def test_odd_and_tiny_numbers_of_bins(n_bins: int) -> None:
    masks, maps = draw(4, 20, 0.2, 1.0)
    evidence = collect(masks, maps, n_bins)
    assert evidence.positive.shape == (4, n_bins)
    assert evidence.positive.sum() == masks.sum()
    assert evidence.negative.sum() == (~masks).sum()


def test_labels_and_scores_are_kept() -> None:
    masks, maps = draw(4, 20, 0.2, 1.0)
    evidence = collect(masks, maps)
    assert evidence.images == ("0.png", "1.png", "2.png", "3.png")
    assert (evidence.product, evidence.seed) == ("ring", 0)
    np.testing.assert_array_equal(evidence.labels, [True, False, True, False])
    np.testing.assert_array_equal(evidence.scores, maps.max(axis=(1, 2)).astype(np.float64))
    assert evidence.scores.dtype == np.float64


class TestErrors:
    def test_too_few_bins(self) -> None:
        with pytest.raises(UsageError, match=r"^`n_bins` must be at least 2, got 1; "):
            collect(*draw(4, 20, 0.2, 1.0), n_bins=1)

    def test_names(self) -> None:
        masks, maps = draw(4, 20, 0.2, 1.0)
        labels, scores = masks.any(axis=(1, 2)), maps.max(axis=(1, 2))
        for names, n_different in ((("a", "b", "a", "c"), 3), (("a", "b", "c"), 3)):
            expected = (
                rf"^`images` must be 4 different names, as many as `labels`, got {len(names)}, "
                rf"{n_different} of them"
            )
            with pytest.raises(DatasetError, match=expected):
                collect_evidence("ring", 0, names, labels, scores, masks, maps)

    def test_good_images_with_a_mask(self) -> None:
        masks, maps = draw(4, 20, 0.2, 1.0)
        with pytest.raises(DatasetError, match=r"^`masks` must be empty where `labels` is False"):
            collect_evidence(
                "ring", 0, list("abcd"), [True, False, False, False], range(4), masks, maps
            )

    def test_counts_that_do_not_fit(self) -> None:
        """As from a damaged file."""
        good = np.ones((2, 5), np.uint32)
        labels, scores = np.array([True, False]), np.array([1.0, 0.0])
        for wrong in (
            np.ones((3, 5), np.uint32),
            np.ones(5, np.uint32),
            np.ones((2, 4), np.uint32),
        ):
            with pytest.raises(
                DatasetError, match=r"^`negative` must be counts of 2 images in bin"
            ):
                Evidence("ring", 0, ("a", "b"), labels, scores, good, wrong)
        for wrong in (np.ones((3, 5), np.uint32), np.ones(5, np.uint32)):
            with pytest.raises(
                DatasetError, match=r"^`positive` must be counts of 2 images in bin"
            ):
                Evidence("ring", 0, ("a", "b"), labels, scores, wrong, good)
        with pytest.raises(DatasetError, match=r"^`positive` must count pixels, got none; "):
            Evidence("ring", 0, ("a", "b"), labels, scores, 0 * good, good)
        with pytest.raises(DatasetError, match=r"^`labels` must hold good and defective images"):
            Evidence("ring", 0, ("a", "b"), labels | True, scores, good, good)


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_real_anomaly_maps() -> None:
    folder = Path(os.environ["CFF_DATA"]) / "_metric_fixture"
    expected = json.loads((folder / "expected.json").read_text())["paper_fvn01_k4"]["expected"]
    with np.load(folder / "paper_fvn01_k4.npz") as file:
        maps, packed = file["maps"], file["masks"]
    masks = np.unpackbits(packed, axis=-1, count=maps.shape[2]).astype(bool)
    for name, value in binned(collect(masks, maps)).items():
        assert value == pytest.approx(expected[name.replace("f1_max", "f1max")], abs=1e-3)
