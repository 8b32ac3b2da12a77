"""Checks of given references, each with one image made to fail it, and their picture."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile
from cff_runtime.contact_sheet import draw_sheet
from cff_runtime.image_checks import captions, check_references, sharpness_of
from cff_runtime.product_check import mean_features, product_distance, product_limit

Images = list[NDArray[np.uint8]]


@pytest.fixture
def other_product() -> NDArray[np.uint8]:
    """A bright chequered board: no ring at all."""
    board = np.kron(np.indices((12, 15)).sum(axis=0) % 2, np.ones((10, 10)))
    return np.repeat((60 + 180 * board)[:, :, None], 3, axis=2).astype(np.uint8)


def _kinds(profile: Profile, new: range | None = None) -> list[tuple[int, str]]:
    return [(warning.number, warning.kind) for warning in check_references(profile, new)]


def test_good_parts_give_no_warning(lite_inspector: Inspector, good_parts: Images) -> None:
    assert _kinds(lite_inspector.enroll(good_parts[:3], "ring")) == []


def test_a_blurred_image_is_named(lite_inspector: Inspector, good_parts: Images) -> None:
    blurred = cv2.GaussianBlur(good_parts[1], (0, 0), 2.0)

    profile = lite_inspector.enroll([good_parts[0], blurred, *good_parts[2:]], "ring")

    assert (2, "blurred") in _kinds(profile)
    assert not [kind for number, kind in _kinds(profile) if number != 2]


def test_sharpness_is_the_variance_of_the_laplacian(good_parts: Images) -> None:
    grey = cv2.cvtColor(good_parts[0], cv2.COLOR_RGB2GRAY).astype(np.float64)
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = (
        padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    )

    assert sharpness_of(good_parts[0]) == pytest.approx(laplacian.var(), rel=1e-5)


def test_twins_are_named(lite_inspector: Inspector, good_parts: Images) -> None:
    rng = np.random.default_rng(0)
    noisy = good_parts[0] + rng.normal(0, 2, good_parts[0].shape)
    almost = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    profile = lite_inspector.enroll([*good_parts[:3], good_parts[2], almost], "ring")

    texts = {warning.number: warning.text for warning in check_references(profile, range(3, 5))}
    assert "pixels are those of reference 3, image 3" in texts[4]
    assert "shows the same as reference 1, image 1" in texts[5]


def test_another_product_is_named_whether_it_came_first_or_last(
    lite_inspector: Inspector, good_parts: Images, other_product: NDArray[np.uint8]
) -> None:
    first = lite_inspector.enroll([other_product, *good_parts], "ring")
    assert (1, "wrong product") in _kinds(first)
    assert {number for number, kind in _kinds(first) if kind == "wrong product"} == {1}

    added = lite_inspector.add_normals(
        lite_inspector.enroll(good_parts, "ring"), [other_product, other_product]
    )
    kinds = _kinds(added, range(4, 6))
    assert (5, "wrong product") in kinds and (6, "wrong product") in kinds


def test_an_inspection_says_so_too(
    lite_inspector: Inspector,
    lite_profile: Profile,
    draw_part: Callable[..., NDArray[np.uint8]],
    other_product: NDArray[np.uint8],
) -> None:
    foreign = lite_inspector.inspect(other_product, lite_profile)
    assert foreign.warning is not None and "another product than `ring`" in foreign.warning
    assert foreign.to_dict()["warning"] == foreign.warning

    assert lite_inspector.inspect(draw_part(40), lite_profile).warning is None


def test_an_outlier_is_named(lite_profile: Profile) -> None:
    scores = list(lite_profile.threshold.scores)
    scores[2] = 1.14 * max(scores[0], scores[1], scores[3])
    rule = replace(lite_profile.threshold, scores=tuple(scores))

    assert _kinds(replace(lite_profile, threshold=rule)) == [(3, "outlier")]

    scores[2] = 1.12 * max(scores[0], scores[1], scores[3])
    rule = replace(lite_profile.threshold, scores=tuple(scores))
    assert _kinds(replace(lite_profile, threshold=rule)) == []


def test_another_shape_is_named(lite_inspector: Inspector, good_parts: Images) -> None:
    parts = [*good_parts[:2], good_parts[2][:, :120], cv2.resize(good_parts[3], (300, 240))]

    warnings = check_references(lite_inspector.enroll(parts, "ring"))

    (shape,) = [warning for warning in warnings if warning.kind == "wrong size"]
    assert shape.number == 3
    assert "120 x 120 px" in shape.text and "1.00, not 1.25" in shape.text


def test_a_lone_reference_has_nothing_to_be_compared_with(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    assert _kinds(lite_inspector.enroll(good_parts[:1], "ring")) == []


def test_product_distance_against_float64() -> None:
    rng = np.random.default_rng(3)
    features = [rng.normal(0.5, 1, (n, c)).astype(np.float32) for n, c in ((9, 4), (4, 6))]
    others = [
        [rng.normal(0.5, 1, (n, c)).astype(np.float32) for n, c in ((9, 4), (4, 6))]
        for _ in range(3)
    ]
    references = [np.stack(rows) for rows in zip(*map(mean_features, others), strict=True)]

    def distance(left: list[NDArray], right: list[NDArray]) -> float:
        total = 0.0
        for a, b in zip(left, right, strict=True):
            m, n = a.astype(np.float64).mean(axis=0), b.astype(np.float64).mean(axis=0)
            cosine = m @ n / np.linalg.norm(m) / np.linalg.norm(n)
            total += np.log(1 + (1 - cosine) / 0.01)
        return total

    expected = min(distance(features, other) for other in others)
    assert product_distance(mean_features(features), references) == pytest.approx(
        expected, abs=1e-4
    )

    left_out = [min(distance(one, other) for other in others if other is not one) for one in others]
    assert product_limit(references) == pytest.approx(min(12.0, max(left_out) + 2.8), abs=1e-4)
    assert product_limit([rows[:1] for rows in references]) == 10.0


def test_the_sheet_frames_what_has_a_warning(lite_inspector: Inspector, good_parts: Images) -> None:
    profile = lite_inspector.enroll([*good_parts[:3], good_parts[0]], "ring")
    remarks = list(captions(profile, check_references(profile, range(3, 4))))
    assert [len(own) for own in remarks] == [0, 0, 0, 1]

    sheet = draw_sheet(list(profile.reference_images), ["a", "b", "ü" * 300, "d"], remarks)

    red = (sheet == (190, 30, 30)).all(axis=2)
    height, width = 224 + 24 + 16, red.shape[1] // 2  # of the first row and column
    assert not red[:height].any() and not red[:, :width].any()
    assert red[height:, width:].any()


@pytest.mark.parametrize(("n_images", "n_columns"), [(1, 1), (2, 2), (5, 3), (64, 6)])
def test_the_sheet_has_room_for_any_number(
    n_images: int, n_columns: int, draw_part: Callable[..., NDArray[np.uint8]]
) -> None:
    sheet = draw_sheet([draw_part(0)] * n_images, ["part"] * n_images, [[]] * n_images)

    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == n_columns * 248
