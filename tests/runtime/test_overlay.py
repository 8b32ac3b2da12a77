from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile, Region, Result
from cff_runtime.errors import StorageError
from cff_runtime.overlay import draw_overlay, heat_map, save_overlay

CAPTION_PX = 36
PASS, REJECT = (46, 125, 50), (198, 40, 40)
SIZES = [(16, 16), (120, 150), (600, 700), (30, 900), (900, 30), (16, 4000), (3000, 2000)]


def _result(
    anomaly_map: NDArray[np.float32], regions: tuple[Region, ...] = (), verdict: str = "pass"
) -> Result:
    score = float(anomaly_map.max())
    return Result(score, verdict, 0.5, anomaly_map, regions, None, {"encode": 1.0})


@pytest.fixture
def scaled(lite_profile: Profile) -> Profile:
    return replace(lite_profile, display_range=(0.25, 1.25))


def _constant(value: float) -> NDArray[np.float32]:
    return np.full((96, 96), value, np.float32)


def test_the_colours_are_infernos_in_rgb() -> None:
    """First, middle and last colour as published with the colour map."""
    anomaly_map = np.array([[-5.0, 0.25, 0.752, 1.25, 9.0]], np.float32)

    colours = heat_map(anomaly_map, (0.25, 1.25))[0].astype(int)

    for colour, expected in zip(
        colours,
        [(0, 0, 4), (0, 0, 4), (188, 55, 84), (252, 255, 164), (252, 255, 164)],
        strict=True,
    ):
        assert np.abs(colour - expected).max() <= 3


def test_the_scale_belongs_to_the_profile_not_to_the_picture(scaled: Profile) -> None:
    """Equal values get equal colours beside a low and beside a high neighbour."""
    image = np.full((96, 96, 3), 90, np.uint8)
    pictures = []
    for other in (0.0, 0.4, 3.0):
        anomaly_map = _constant(0.8)
        anomaly_map[:, 60:] = other
        pictures.append(draw_overlay(image, _result(anomaly_map), scaled))

    left = [picture[:-CAPTION_PX, :300] for picture in pictures]
    right = [picture[:-CAPTION_PX, 340:] for picture in pictures]
    np.testing.assert_array_equal(left[0], left[1])
    np.testing.assert_array_equal(left[0], left[2])
    assert not np.array_equal(right[0], right[2])


def test_values_up_to_the_good_parts_median_leave_the_part_as_it_is(scaled: Profile) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)

    for value in (0.0, 0.25):
        picture = draw_overlay(image, _result(_constant(value)), scaled)

        np.testing.assert_array_equal(picture[:-CAPTION_PX], image)


@pytest.mark.parametrize(("value", "share"), [(0.5, 0.25), (0.75, 0.5), (1.25, 1.0), (8.0, 1.0)])
def test_heat_grows_with_the_value(value: float, share: float, scaled: Profile) -> None:
    image = np.full((600, 600, 3), 90, np.uint8)
    colour = heat_map(_constant(value), scaled.display_range)[0, 0].astype(np.float64)
    expected = 90 * (1 - 0.65 * share) + colour * 0.65 * share

    picture = draw_overlay(image, _result(_constant(value)), scaled)

    assert np.abs(picture[:-CAPTION_PX] - expected).max() <= 1


def test_a_good_part_stays_dark_and_a_bad_one_glows_where_it_is_bad(
    lite_inspector: Inspector,
    lite_profile: Profile,
    draw_part: Callable[..., NDArray[np.uint8]],
    bad_part: NDArray[np.uint8],
) -> None:
    def heat(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        result = lite_inspector.inspect(image, lite_profile)
        picture = draw_overlay(image, replace(result, regions=()), lite_profile)[:-CAPTION_PX]
        plain = cv2.resize(image, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.abs(picture.astype(float) - plain).mean(axis=2)

    good, bad = heat(draw_part(50)), heat(bad_part)

    assert good.mean() < 5 and good.max() < 50
    scale = bad.shape[0] / 120
    defect = np.s_[int(52 * scale) : int(60 * scale), int(85 * scale) : int(110 * scale)]
    beside = bad[int(45 * scale) : int(50 * scale), int(85 * scale) : int(110 * scale)]
    assert beside.mean() > 40  # the bar itself is as bright as the end of the scale
    assert bad[: int(20 * scale)].mean() < 15
    assert bad[defect].mean() > good[defect].mean()


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((16, 16), (512, 512)),
        ((120, 150), (410, 512)),
        ((512, 400), (512, 400)),
        ((600, 700), (600, 700)),
        ((1024, 1024), (1024, 1024)),
        ((3000, 2000), (1024, 683)),
        ((30, 900), (30, 900)),
        ((900, 30), (900, 320)),
        ((16, 4000), (4, 1024)),
    ],
)
def test_pictures_have_a_useful_size(
    size: tuple[int, int], drawn: tuple[int, int], scaled: Profile
) -> None:
    picture = draw_overlay(np.zeros((*size, 3), np.uint8), _result(_constant(0.0)), scaled)

    assert picture.dtype == np.uint8
    assert picture.shape == (drawn[0] + CAPTION_PX, drawn[1], 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("verdict", "colour", "score"), [("pass", PASS, 0.25), ("reject", REJECT, 123456789.1234)]
)
def test_the_caption_is_coloured_and_fits(
    size: tuple[int, int],
    verdict: str,
    colour: tuple[int, int, int],
    score: float,
    scaled: Profile,
) -> None:
    result = replace(_result(_constant(0.0)), verdict=verdict, score=score)

    caption = draw_overlay(np.zeros((*size, 3), np.uint8), result, scaled)[-CAPTION_PX:]

    np.testing.assert_array_equal(caption[0], np.tile(colour, (caption.shape[1], 1)))
    written = np.argwhere((caption > 200).all(axis=2))
    assert len(written) > 250  # letters a few pixels high
    assert np.ptp(written[:, 0]) >= 10
    assert written[:, 1].min() >= 6 and written[:, 1].max() < caption.shape[1] - 1


@pytest.mark.parametrize("size", [(600, 700), (1200, 1400), (60, 70)])
@pytest.mark.parametrize("grey", [0, 255])
def test_regions_are_framed_on_dark_and_light_parts(
    grey: int, size: tuple[int, int], scaled: Profile
) -> None:
    image = np.full((*size, 3), grey, np.uint8)
    height, width = size
    box = (width // 7, height // 6, width // 2, height // 3)

    picture = draw_overlay(image, _result(_constant(0.0), (Region(1.0, 1.0, box),)), scaled)

    canvas = picture[:-CAPTION_PX].astype(int)
    scale = canvas.shape[0] / height
    left, top, right, bottom = (
        round(value * scale) for value in (box[0], box[1], box[0] + box[2], box[1] + box[3])
    )
    for y, x in (
        (top, (left + right) // 2),
        (bottom - 1, (left + right) // 2),
        ((top + bottom) // 2, left),
        ((top + bottom) // 2, right - 1),
    ):
        around = canvas[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        assert around.max() == 255 and around.min() == 0  # white, with a black outline
    middle = canvas[(top + bottom) // 2, (left + right) // 2]
    np.testing.assert_array_equal(middle, grey)


def test_a_region_of_one_pixel_does_not_vanish(scaled: Profile) -> None:
    image = np.zeros((3000, 2000, 3), np.uint8)
    region = Region(1.0, 1.0, (1999, 2999, 1, 1))

    picture = draw_overlay(image, _result(_constant(0.0), (region,)), scaled)

    assert (picture[:-CAPTION_PX] == 255).any()


def test_the_image_is_not_drawn_on(scaled: Profile) -> None:
    image = np.full((600, 600, 3), 90, np.uint8)
    anomaly_map = _constant(1.0)

    draw_overlay(image, _result(anomaly_map, (Region(1.0, 1.0, (5, 5, 50, 50)),)), scaled)

    np.testing.assert_array_equal(image, 90)
    np.testing.assert_array_equal(anomaly_map, 1.0)


def test_a_saved_picture_is_the_drawn_one(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray[np.uint8], tmp_path: Path
) -> None:
    result = lite_inspector.inspect(bad_part, lite_profile)

    save_overlay(tmp_path / "new" / "bad.png", bad_part, result, lite_profile)

    stored = cv2.imread(str(tmp_path / "new" / "bad.png"))
    assert stored is not None
    np.testing.assert_array_equal(stored[:, :, ::-1], draw_overlay(bad_part, result, lite_profile))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bad.png"]


def test_a_place_that_cannot_be_written_is_one_sentence(scaled: Profile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    image = np.zeros((96, 96, 3), np.uint8)

    with pytest.raises(StorageError, match="could not be written"):
        save_overlay(tmp_path / "file" / "a.png", image, _result(_constant(0.0)), scaled)
