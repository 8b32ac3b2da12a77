from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime.watch.condition import ConditionWatch

Image = NDArray[np.uint8]
Draw = Callable[..., Image]


def _resized(image: Image) -> Image:
    return np.asarray(cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture
def watch(draw_part: Draw) -> ConditionWatch:
    return ConditionWatch(np.stack([_resized(draw_part(seed)) for seed in range(4)]))


def _blur(image: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8)


def _dark(image: Image) -> Image:
    return (image * 0.6).astype(np.uint8)


def _glare(image: Image) -> Image:
    changed = image.copy()
    changed[:, :20] = 255
    return changed


def _shift(image: Image) -> Image:
    return np.roll(image, (8, 9), axis=(0, 1))


@pytest.mark.parametrize(
    ("change", "name"),
    [(_blur, "focus"), (_dark, "brightness"), (_glare, "saturation"), (_shift, "shift_px")],
)
def test_a_changed_picture_is_said_after_five_and_gone_after_ten(
    change: Callable[[Image], Image], name: str, watch: ConditionWatch, draw_part: Draw
) -> None:
    warned = [name in watch(change(_resized(draw_part(seed))))[1] for seed in range(20, 28)]
    assert warned == [False] * 4 + [True] * 4

    warned = [name in watch(_resized(draw_part(seed)))[1] for seed in range(30, 42)]
    assert warned == [True] * 9 + [False] * 3


def test_good_parts_are_quiet(watch: ConditionWatch, draw_part: Draw) -> None:
    for seed in range(100, 300):
        assert watch(_resized(draw_part(seed)))[1] == {}


def test_now_and_then_is_no_warning(watch: ConditionWatch, draw_part: Draw) -> None:
    for seed in range(40):
        image = _resized(draw_part(seed))
        assert watch(_blur(image) if seed % 5 else image)[1] == {}


def test_a_shift_is_measured_in_pixels(watch: ConditionWatch, draw_part: Draw) -> None:
    image = _resized(draw_part(0))
    for dx, dy in ((3, 0), (0, -5), (6, 8)):
        measured = watch(np.roll(image, (dy, dx), axis=(0, 1)))[0]
        assert measured["shift_px"] == pytest.approx(
            np.hypot(dx, dy), abs=1.3
        )  # a grid of 0.75 px, and a border that fades


def test_textures_have_no_place_to_be_shifted_from() -> None:
    rng = np.random.default_rng(0)
    references = rng.integers(0, 255, (4, 96, 96, 3)).astype(np.uint8)
    assert "shift_px" not in ConditionWatch(references).bounds
    assert "shift_px" in ConditionWatch(references[:1]).bounds  # one alone cannot tell
    watch = ConditionWatch(references[:1])
    for _ in range(10):
        measured, warned = watch(rng.integers(0, 255, (96, 96, 3)).astype(np.uint8))
        assert "shift_px" not in measured and warned == {}


def test_flat_references_are_no_trouble() -> None:
    watch = ConditionWatch(np.full((2, 32, 32, 3), 90, np.uint8))
    assert watch(np.full((32, 32, 3), 90, np.uint8))[1] == {}
