"""Pixel metrics against scikit-learn, with ties, in every type a map may have."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cff_edge.metrics import pixel_ap, pixel_auroc, pixel_f1_max
from cff_runtime.errors import DatasetError

Masks = NDArray[np.bool_]
Maps = NDArray[np.floating]
Metric = Callable[[Masks, Maps], float]


def sklearn_f1_max(truth: Masks, values: Maps) -> float:
    precision, recall, _ = precision_recall_curve(truth, values)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(2 * precision * recall / (precision + recall)))


METRICS = [
    (pixel_auroc, roc_auc_score),
    (pixel_ap, average_precision_score),
    (pixel_f1_max, sklearn_f1_max),
]
ALL = [pixel_auroc, pixel_ap, pixel_f1_max]


def draw(
    seed: int, shape: tuple[int, ...], n_levels: int, share: float = 0.3
) -> tuple[Masks, Maps]:
    """Return masks and maps that help a little; few levels give many ties."""
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < share
    masks[0].flat[:2], masks[-1] = (True, False), False  # a good part among them
    return masks, np.round(rng.normal(masks * 0.8, 1.0) * n_levels) / n_levels


@pytest.mark.parametrize("share", [0.02, 0.9])
@pytest.mark.parametrize("n_levels", [1, 3, 10_000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("metric", "reference"), METRICS)
def test_against_scikit_learn(
    metric: Metric, reference: Metric, dtype: type[np.floating], n_levels: int, share: float
) -> None:
    for seed in range(3):
        masks, maps = draw(seed, (4, 19, 23), n_levels, share)
        maps = maps.astype(dtype)  # negative and positive values, and both zeros
        expected = reference(masks.ravel(), maps.astype(np.float64).ravel())
        assert metric(masks, maps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "reference"), METRICS)
def test_scores_of_one_sign_and_of_huge_range(metric: Metric, reference: Metric) -> None:
    masks, maps = draw(5, (3, 20, 20), 10_000)
    for values in (np.exp(20 * maps), -np.exp(20 * maps), 1e-42 * maps):  # also subnormal ones
        scores = values.astype(np.float32)
        expected = reference(masks.ravel(), scores.astype(np.float64).ravel())
        assert metric(masks, scores) == pytest.approx(expected, abs=1e-12)


def test_zeros_of_both_signs_are_tied() -> None:
    masks = np.array([[[False, True]]])
    assert pixel_auroc(masks, np.array([[[-0.0, 0.0]]], np.float32)) == 0.5
    assert pixel_auroc(masks, np.array([[[-0.0, 0.0]]])) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_last_bit_is_no_tie(dtype: type[np.floating]) -> None:
    for value in (dtype(1.0), dtype(-1.0), dtype(0.0)):
        maps = np.array([[[value, np.nextafter(value, dtype(2.0))]]])
        assert pixel_auroc(np.array([[[False, True]]]), maps) == 1.0
        assert pixel_auroc(np.array([[[True, False]]]), maps) == 0.0


def test_pixels_are_ranked_across_images() -> None:
    """Each map alone is perfect, but the second one's ground lies above the first one's defect."""
    masks = np.array([[[False, True]], [[False, True]]])
    maps = np.array([[[0.0, 0.1]], [[0.8, 0.9]]], np.float32)
    assert [pixel_auroc(masks[i : i + 1], maps[i : i + 1]) for i in (0, 1)] == [1.0, 1.0]
    assert pixel_auroc(masks, maps) == 0.75
    assert pixel_ap(masks, maps) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert pixel_f1_max(masks, maps) == pytest.approx(0.8)


def test_masks_and_maps_of_other_kinds() -> None:
    """Masks as read from a file, maps as bytes, and lists of images."""
    masks, maps = draw(1, (3, 12, 15), 100)
    maps = np.clip(maps * 40 + 128, 0, 255).astype(np.uint8)
    expected = roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-12)
    assert pixel_auroc(masks.astype(np.uint8) * 255, maps) == pytest.approx(expected, abs=1e-12)
    assert pixel_auroc(list(masks), list(maps)) == pytest.approx(expected, abs=1e-12)


def test_arguments_are_left_as_they_are() -> None:
    masks, maps = draw(2, (2, 9, 9), 10)
    maps = maps.astype(np.float32)
    before = masks.copy(), maps.copy()
    pixel_ap(masks, maps)
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(maps, before[1])


def test_many_pixels_are_counted_exactly() -> None:
    """More pixels than float16 can count, and values that differ in the last place only."""
    rng = np.random.default_rng(0)
    masks = rng.random((1, 300, 400)) < 0.02
    maps = rng.normal(masks * 1.5, 1.0).astype(np.float16)
    for metric, reference in METRICS:
        expected = reference(masks.ravel(), maps.astype(np.float64).ravel())
        assert metric(masks, maps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ALL)
class TestErrors:
    @pytest.mark.parametrize(("label", "n"), [(False, 0), (True, 8)])
    def test_one_class_only(self, metric: Metric, label: bool, n: int) -> None:
        expected = rf"^`masks` must hold good and defective pixels, got {n} defective of 8; "
        with pytest.raises(DatasetError, match=expected):
            metric(np.full((2, 2, 2), label), np.zeros((2, 2, 2)))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_maps_that_are_not_finite(self, metric: Metric, value: float) -> None:
        masks, maps = draw(0, (2, 3, 3), 10)
        maps[1, 2, 1] = value
        with pytest.raises(
            DatasetError, match=r"^`maps` must be finite, got 1 NaN or infinite of 18; "
        ):
            metric(masks, maps)

    def test_shapes_that_differ(self, metric: Metric) -> None:
        masks, maps = draw(0, (2, 3, 4), 10)
        for wrong in (maps.transpose(0, 2, 1), maps[:1], maps[..., :1], maps[..., None]):
            with pytest.raises(
                DatasetError, match=r"^`maps` must have the shape of `masks`, \(2, 3, 4\), got "
            ):
                metric(masks, wrong)

    def test_a_mask_alone_is_no_stack(self, metric: Metric) -> None:
        masks, maps = draw(0, (2, 3, 4), 10)
        with pytest.raises(DatasetError, match=r"^`masks` must be a stack of .* got \(3, 4\); "):
            metric(masks[0], maps[0])

    def test_images_of_different_sizes(self, metric: Metric) -> None:
        masks, maps = draw(0, (2, 3, 4), 10)
        with pytest.raises(DatasetError, match=r"^`maps` must be one array, got parts of diff"):
            metric(masks, [maps[0], maps[1, :2]])  # type: ignore[arg-type]

    def test_nothing_at_all(self, metric: Metric) -> None:
        with pytest.raises(DatasetError, match=r"got 0 defective of 0; "):
            metric(np.zeros((0, 2, 2), bool), np.zeros((0, 2, 2)))
