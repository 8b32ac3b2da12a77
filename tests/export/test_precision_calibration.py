"""Calibration images: chosen, made from few, the same every time, nothing invented."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_export.precision.calibration import _rotated, calibration_images
from cff_runtime.errors import ImageError, UsageError
from cff_runtime.preprocessing import Preprocessing

SQUARE = Preprocessing(64, 48)


def test_originals_come_first_and_the_rest_is_made(photos: dict[str, NDArray[np.uint8]]) -> None:
    sources = list(photos.values())[:3]
    found = calibration_images(sources, SQUARE, 10)
    assert len(found.images) == 10
    assert all(image.shape == (64, 48, 3) and image.dtype == np.uint8 for image in found.images)
    preprocessed = {SQUARE(source).tobytes() for source in sources}
    assert {image.tobytes() for image in found.images[:3]} == preprocessed
    assert len({image.tobytes() for image in found.images}) == 10
    digest = hashlib.sha256()
    for image in found.images:
        digest.update(b"(64, 48, 3)" + image.tobytes())
    assert found.facts() == {"n_images": 10, "n_augmented": 7, "sha256": digest.hexdigest()}


def test_more_sources_than_asked_for_are_drawn_from(
    photos: dict[str, NDArray[np.uint8]],
) -> None:
    found = calibration_images(list(photos.values()), SQUARE, 4, seed=3)
    assert found.facts()["n_augmented"] == 0
    assert {i.tobytes() for i in found.images} < {SQUARE(p).tobytes() for p in photos.values()}


def test_same_call_same_images_other_seed_others(photos: dict[str, NDArray[np.uint8]]) -> None:
    sources = list(photos.values())[:2]
    first = calibration_images(sources, SQUARE, 6, seed=1)
    assert calibration_images(sources, SQUARE, 6, seed=1).sha256 == first.sha256
    assert calibration_images(sources, SQUARE, 6, seed=2).sha256 != first.sha256


def test_files_and_arrays_are_one(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    photo = photos["cat"]
    Image.fromarray(photo).save(tmp_path / "cat.png")
    from_file = calibration_images([tmp_path / "cat.png"], SQUARE, 3)
    assert from_file.sha256 == calibration_images([photo], SQUARE, 3).sha256


@pytest.mark.parametrize("shape", [(200, 300), (300, 90), (100, 100)])
@pytest.mark.parametrize("degrees", [-5.0, -0.3, 2.0, 5.0])
def test_rotation_shows_no_border(shape: tuple[int, int], degrees: float) -> None:
    """A white image stays white to its corners, and loses no more than it must."""
    image = np.full((*shape, 3), 255, np.uint8)
    rotated = _rotated(image, degrees)
    assert rotated.min() == 255
    height, width = rotated.shape[:2]
    assert abs(height / width - shape[0] / shape[1]) < 0.05 * shape[0] / shape[1]
    # the largest upright rectangle of this shape within the turned one
    angle = np.deg2rad(abs(degrees))
    share = 1.0 / (np.cos(angle) + max(shape) / min(shape) * np.sin(angle))
    assert share * shape[0] - 5 <= height <= share * shape[0]


def test_colours_keep_their_hue_and_range(photos: dict[str, NDArray[np.uint8]]) -> None:
    """Augmented images stay photographs of the same part: no channel is mixed into another."""
    red = np.zeros((80, 80, 3), np.uint8)
    red[..., 0] = 128
    for image in calibration_images([red], Preprocessing(32, 32), 20).images:
        assert not image[..., 1:].any()
        # 128 under gain and gamma of at most 1.25
        assert 80 <= image[..., 0].min() <= image[..., 0].max() <= 185


@pytest.mark.parametrize("n", [0, -3])
def test_refuses_no_images(n: int) -> None:
    with pytest.raises(UsageError, match=f"`n` must be at least 1 calibration image, got {n}"):
        calibration_images([np.zeros((20, 20, 3), np.uint8)], SQUARE, n)


def test_refuses_nothing_to_choose_from_and_other_arrays() -> None:
    with pytest.raises(UsageError, match="`sources` must name images of normal parts, got none"):
        calibration_images([], SQUARE)
    with pytest.raises(ImageError, match="uint8"):
        calibration_images([np.zeros((20, 20, 3), np.float32)], SQUARE)  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(16, 16), (16, 400), (2000, 17)])
def test_smallest_images_work(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert len(calibration_images([image], SQUARE, 8).images) == 8
