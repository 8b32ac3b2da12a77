"""The resize against a reference written from the module's description, in NumPy alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.errors import BundleError, ImageError
from cff_runtime.preprocessing import Preprocessing

# (h, w) -> (H, W): enlarge, shrink, both at once, one axis only, extreme ratios, odd numbers
SIZES = [
    ((16, 16), (16, 17)),
    ((16, 16), (96, 96)),
    ((17, 23), (37, 41)),
    ((96, 40), (96, 96)),
    ((40, 96), (96, 96)),
    ((97, 95), (96, 96)),
    ((120, 150), (96, 96)),
    ((300, 20), (32, 256)),
    ((16, 700), (64, 64)),
    ((511, 333), (256, 256)),
    ((640, 480), (224, 336)),
    ((401, 599), (336, 336)),
    ((257, 1031), (16, 16)),
]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _coefficients(n_in: int, n_out: int) -> NDArray[np.float64]:
    """Rows of weights [n_out,n_in] that sum to 1."""
    ratio = n_in / n_out
    widened = max(ratio, 1.0)
    weights = np.zeros((n_out, n_in))
    for index in range(n_out):
        centre = (index + 0.5) * ratio
        first = max(int(centre - 2 * widened + 0.5), 0)
        last = min(int(centre + 2 * widened + 0.5), n_in)
        samples = np.arange(first, last)
        row = _cubic((samples + 0.5 - centre) / widened)
        weights[index, samples] = row / row.sum()
    return weights


def _resize_float(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float64]:
    """The documented numbers in float64, 8-bit rounding after each pass."""
    rows = _coefficients(image.shape[0], size[0])
    columns = _coefficients(image.shape[1], size[1])
    wide = np.clip(np.floor(np.matmul(columns, image.astype(np.float64)) + 0.5), 0, 255)
    return np.clip(np.floor(np.tensordot(rows, wide, 1) + 0.5), 0, 255)


def _resize_fixed_point(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The same with coefficients of 22 fractional bits, in integers."""

    def one_pass(pixels: NDArray[np.int64], n_out: int) -> NDArray[np.int64]:
        if len(pixels) == n_out:
            return pixels
        scaled = _coefficients(len(pixels), n_out) * (1 << 22)
        fixed = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64)
        # sums below 2**53: a float64 product of integers is exact, and fast
        total = np.tensordot(fixed.astype(np.float64), pixels.astype(np.float64), 1)
        return np.clip((total.astype(np.int64) + (1 << 21)) >> 22, 0, 255)

    wide = one_pass(image.astype(np.int64).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
    return one_pass(wide, size[0]).astype(np.uint8)


def _textures(shape: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(shape)
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    stripes = np.zeros((*shape, 3), np.uint8)
    stripes[::2, 1::3] = 255  # overshoots on both sides, so that clipping matters
    return {"noise": noise, "stripes": stripes}


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_resize_is_the_documented_numbers_to_the_last_bit(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    for name, image in _textures(shape).items():
        resized = Preprocessing(*size)(image)

        assert resized.shape == (*size, 3) and resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, _resize_fixed_point(image, size), err_msg=name)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_resize_is_float64_arithmetic_within_one_grey_level(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    image = _textures(shape)["noise"]

    difference = np.abs(Preprocessing(*size)(image) - _resize_float(image, size))

    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # values within 2**-22 of a half


def test_random_sizes_are_right_whatever_order_of_passes_pillow_prefers() -> None:
    rng = np.random.default_rng(8)
    for _ in range(25):
        shape, size = rng.integers(16, 400, 2), rng.integers(16, 300, 2)
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

        resized = Preprocessing(int(size[0]), int(size[1]))(image)

        np.testing.assert_array_equal(resized, _resize_fixed_point(image, (size[0], size[1])))


@pytest.mark.parametrize("size", [(96, 150), (240, 150), (33, 150), (120, 96), (120, 400)])
def test_one_axis_is_pillows_own_resize(size: tuple[int, int]) -> None:
    image = _textures((120, 150))["noise"]
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)

    np.testing.assert_array_equal(Preprocessing(*size)(image), np.asarray(expected))


def test_the_aspect_ratio_is_not_kept() -> None:
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 60:] = 200

    resized = Preprocessing(64, 64)(image)

    np.testing.assert_array_equal(resized[:, :30], 0)
    np.testing.assert_array_equal(resized[:, 34:], 200)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)

    np.testing.assert_array_equal(Preprocessing(96, 80)(image), image)


@pytest.mark.parametrize("size", [(96, 96), (60, 50)])
def test_views_give_what_their_copies_give(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    for view in (image[::2, ::2], image[:, ::-1], image[:, :, ::-1]):
        resized = Preprocessing(*size)(view)

        np.testing.assert_array_equal(resized, Preprocessing(*size)(view.copy()))
        assert resized.flags.c_contiguous


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((15, 40, 3), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="must"):
        Preprocessing(32, 32)(image)


def test_the_manifest_entry_comes_back() -> None:
    preprocessing = Preprocessing(518, 224)

    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", None),
        ("height", 15),
        ("height", 8193),
        ("height", 10**30),
        ("height", 96.0),
        ("height", True),
        ("width", "96"),
        ("resample", "bilinear"),
        ("cubic_a", -0.75),
        ("antialias", False),
        ("keep_aspect", True),
        ("colour", "BGR"),
        ("dtype", "float32"),
        ("crop", 224),
        ("resample", "x" * 10_000),
    ],
)
def test_what_this_runtime_does_not_do_is_refused(field: str, value: object) -> None:
    fields = {**Preprocessing(96, 96).to_dict(), field: value}

    with pytest.raises(BundleError, match=field) as caught:
        Preprocessing.from_dict(fields)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", list(Preprocessing(96, 96).to_dict()))
def test_a_missing_entry_is_refused(field: str) -> None:
    fields = Preprocessing(96, 96).to_dict()
    del fields[field]

    with pytest.raises(BundleError, match=field):
        Preprocessing.from_dict(fields)
