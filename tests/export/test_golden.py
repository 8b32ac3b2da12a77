"""Golden images: fixed, drawn, two good parts and a defective one."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from cff_export.golden import GOLDEN_NAMES, GOLDEN_ROLES, N_REFERENCES, draw_golden_images
from cff_runtime import Bundle
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.verification import DEFECTIVE, GOOD, REFERENCE


def test_eight_images_of_sizes_that_must_be_resized() -> None:
    images = draw_golden_images()
    assert len(images) == len(GOLDEN_NAMES) == 8
    assert N_REFERENCES == 2
    shapes = [image.shape for image in images]
    assert len(set(shapes)) == 8
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    for height, width, channels in shapes:
        assert channels == 3
        assert min(height, width) >= 224
        assert height != width or height not in (64, 96, 224, 256, 336, 518)
    assert sum(height > width for height, width, _ in shapes) >= 2
    assert sum(height < width for height, width, _ in shapes) >= 2


def test_they_are_the_same_every_time() -> None:
    first, second = draw_golden_images(), draw_golden_images()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({hashlib.sha256(image.tobytes()).digest() for image in first}) == 8


def test_drawing_leaves_the_global_random_state_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    draw_golden_images()
    assert np.random.random() == expected


def test_only_the_last_three_show_a_defect() -> None:
    # a defect is the one thing brighter than the lit disc, whose shade is 190 + 18 at most
    n_bright = [(image[:, :, 0] > 212).sum() for image in draw_golden_images()]
    assert n_bright[:5] == [0] * 5
    assert min(n_bright[5:]) > 500
    assert GOLDEN_ROLES == (REFERENCE, REFERENCE, GOOD, GOOD, GOOD, DEFECTIVE, DEFECTIVE, DEFECTIVE)


def test_pictures_have_colour_and_texture() -> None:
    for image in draw_golden_images():
        values = image.astype(np.float64)
        assert values.std() > 30
        assert values[:, :, 0].mean() > values[:, :, 2].mean() + 3
        assert np.abs(np.diff(values, axis=1)).mean() > 2


def test_a_bundle_carries_them_losslessly(lite_bundle: Bundle) -> None:
    for name, drawn in zip(GOLDEN_NAMES, draw_golden_images(), strict=True):
        path: Path = lite_bundle.file(f"golden/{name}")
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert np.array_equal(np.asarray(image), drawn)
        resized = Preprocessing(96, 96)(drawn)
        with Image.open(path) as image:
            expected = image.resize((96, 96), Image.Resampling.BICUBIC)
        assert np.array_equal(resized, np.asarray(expected))
