import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.thresholds import (
    DEFAULT_MARGIN,
    N_AUGMENTATIONS,
    augmentations,
    choose_threshold,
)


def test_the_formula_by_hand() -> None:
    threshold = choose_threshold([0.2, 0.5, 0.3], [2.0, 8.0, 4.0, 6.0], 3, margin=0.5)

    assert threshold.value == pytest.approx(0.5 + 0.5 / 9 * 0.5)
    assert threshold.pixel_value == pytest.approx(8.0 + 0.5 / 9 * 8.0)
    assert threshold.review == threshold.value
    assert threshold.scores == (0.2, 0.5, 0.3)
    assert threshold.peaks == (2.0, 8.0, 4.0, 6.0)
    assert threshold.n_parts == 3


def test_without_margin_it_is_the_largest_score() -> None:
    threshold = choose_threshold([0.2, 0.5, 0.3], [2.0, 8.0, 4.0], 3, margin=0.0)

    assert (threshold.value, threshold.pixel_value) == (0.5, 8.0)


def test_the_default_margin_is_used() -> None:
    given = choose_threshold([0.2, 0.5, 0.3], [0.2, 0.5, 0.3], 3, DEFAULT_MARGIN, at="now")

    assert choose_threshold([0.2, 0.5, 0.3], [0.2, 0.5, 0.3], 3, at="now") == given


def test_a_lone_image_s_own_bank_knows_nothing_of_other_parts() -> None:
    threshold = choose_threshold([2.0, 3.0], [2.0, 3.0], 1, margin=0.0)

    assert threshold.value == pytest.approx(1.42 * 3.0)


def test_a_margin_raises_negative_scores_too() -> None:
    assert choose_threshold([-2.0, -1.0], [-2.0, -1.0], 2, margin=1.0).value == -0.75


@pytest.mark.parametrize(
    ("n_parts", "per_cent"), [(2, 34), (3, 25), (4, 20), (5, 17), (7, 13), (9, 10), (99, 1)]
)
def test_the_promise_is_one_in_k_plus_one_never_rounded_down(n_parts: int, per_cent: int) -> None:
    threshold = choose_threshold([0.1] * n_parts, [0.1] * n_parts, n_parts)

    assert threshold.method == "leave-one-image-out"
    assert threshold.expected_false_rejects == 1.0 / (n_parts + 1)
    assert f"false rejects <= {per_cent}%" in threshold.statement
    assert f"{n_parts} good parts" in threshold.statement
    assert per_cent / 100 >= threshold.expected_false_rejects


def test_one_part_promises_nothing() -> None:
    threshold = choose_threshold([0.1, 0.2], [0.1, 0.2], 1)

    assert threshold.method == "self-augmentation"
    assert threshold.expected_false_rejects == 1.0
    assert "no promise" in threshold.statement


def test_the_promise_holds_for_exchangeable_scores() -> None:
    """The next of K + 1 draws exceeds the other K with probability 1 / (K + 1), whatever the law.

    20,000 trials: three standard deviations are 0.009.
    """
    rng = np.random.default_rng(0)
    for n_parts in (2, 4):
        draws = rng.standard_cauchy((20_000, n_parts + 1))
        promised = choose_threshold([0.1], [0.1], n_parts).expected_false_rejects
        limits = [choose_threshold(d, d, n_parts, margin=0.0).value for d in draws[:2000, :-1]]

        rate = float((draws[:, -1] > draws[:, :-1].max(axis=1)).mean())

        np.testing.assert_array_equal(limits, draws[:2000, :-1].max(axis=1))
        assert abs(rate - promised) < 0.01


def _ramp(height: int, width: int) -> NDArray[np.float64]:
    """A plane that bilinear interpolation reproduces, three channels of different slopes."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return np.stack([40 + 0.5 * x, 200 - 0.4 * y, 60 + 0.3 * x + 0.2 * y], axis=2)


def test_there_are_as_many_augmentations_as_announced() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)

    found = list(augmentations(image))

    assert len(found) == N_AUGMENTATIONS == 4
    for augmented in found:
        assert augmented.shape == image.shape and augmented.dtype == np.uint8
        assert not np.array_equal(augmented, image)
    different = {augmented.tobytes() for augmented in found}
    assert len(different) == 4


def test_augmentations_are_the_same_every_time_and_leave_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    before = image.copy()

    for one, other in zip(augmentations(image), augmentations(image), strict=True):
        np.testing.assert_array_equal(one, other)

    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("index", "degrees", "shift"), [(0, 1.5, 0.01), (1, -1.5, -0.01)])
def test_rotations_turn_about_the_centre_and_shift(
    index: int, degrees: float, shift: float
) -> None:
    height, width = 120, 160
    plane = _ramp(height, width)
    turned = list(augmentations(np.rint(plane).astype(np.uint8)))[index]
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    # the source of each pixel: shift back, then turn back; OpenCV's positive angles turn left
    dx, dy = x - (width - 1) / 2 - shift * width, y - (height - 1) / 2
    angle = np.deg2rad(degrees)
    source_x = np.cos(angle) * dx - np.sin(angle) * dy + (width - 1) / 2
    source_y = np.sin(angle) * dx + np.cos(angle) * dy + (height - 1) / 2
    expected = np.stack(
        [
            40 + 0.5 * source_x,
            200 - 0.4 * source_y,
            60 + 0.3 * source_x + 0.2 * source_y,
        ],
        axis=2,
    )
    inside = np.s_[8:-8, 8:-8]
    difference = turned[inside] - expected[inside]

    assert np.abs(difference).max() < 1.1  # the ramp and the result are rounded
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.02  # which cancels in the mean


@pytest.mark.parametrize(("index", "shift_px", "gain"), [(2, 3, 1.04), (3, -3, 0.96)])
def test_shifts_change_the_brightness_and_reflect_the_border(
    index: int, shift_px: int, gain: float
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 50, 3), dtype=np.uint8)  # 1.5 % = 3 px
    padded = np.pad(image, ((3, 3), (0, 0), (0, 0)), mode="reflect")
    start = 3 - shift_px
    moved = padded[start : start + 200].astype(np.float64)

    found = list(augmentations(image))[index]

    difference = np.abs(found - np.clip(np.rint(moved * gain), 0, 255))
    assert difference.max() <= 1  # a product on a half may round either way in float32
    assert (difference > 0).mean() < 0.01
