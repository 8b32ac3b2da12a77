"""Pixel formats of libcff against NumPy and Pillow."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.imaging import load_image

FORMATS = {"RGB": (0, 3), "BGR": (1, 3), "RGBA": (2, 4), "grey": (3, 1)}


class _Image(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_size_t),
        ("format", ctypes.c_int32),
    )


def _to_rgb(library: ctypes.CDLL, raw: NDArray[np.uint8], pixel_format: str) -> NDArray[np.uint8]:
    """`raw` is [h,w,channels], with rows of any stride."""
    image = _Image(
        raw.ctypes.data, raw.shape[1], raw.shape[0], raw.strides[0], FORMATS[pixel_format][0]
    )
    assert library.cff__check_image(ctypes.byref(image)) == 0
    rgb = np.zeros((*raw.shape[:2], 3), np.uint8)
    library.cff__to_rgb(ctypes.byref(image), ctypes.c_void_p(rgb.ctypes.data))
    return rgb


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("apart", [False, True])
def test_formats(c_internals: ctypes.CDLL, pixel_format: str, apart: bool) -> None:
    channels = FORMATS[pixel_format][1]
    raw = np.random.default_rng(3).integers(0, 256, (31, 45, channels), dtype=np.uint8)
    raw = raw[:, :40] if apart else raw
    expected = {"RGB": raw[..., :3], "BGR": raw[..., ::-1], "RGBA": raw[..., :3]}.get(
        pixel_format, np.repeat(raw[..., :1], 3, axis=2)
    )
    np.testing.assert_array_equal(_to_rgb(c_internals, raw, pixel_format), expected)


@pytest.mark.parametrize(("pixel_format", "mode"), [("RGBA", "RGBA"), ("grey", "L")])
def test_as_python_reads_files(
    c_internals: ctypes.CDLL, tmp_path: Path, pixel_format: str, mode: str
) -> None:
    channels = FORMATS[pixel_format][1]
    raw = np.random.default_rng(4).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    Image.fromarray(raw if channels == 4 else raw[..., 0]).save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert image.mode == mode
    expected = load_image(tmp_path / "one.png")
    np.testing.assert_array_equal(_to_rgb(c_internals, raw, pixel_format), expected)


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"pixels": None}, "USAGE", "got NULL"),
        ({"format": 4}, "USAGE", "format"),
        ({"format": -1}, "USAGE", "format"),
        ({"width": 15}, "IMAGE", "at least 16 x 16 px, got 15 x 20"),
        ({"height": 0}, "IMAGE", "got 30 x 0"),
        ({"height": -(1 << 31)}, "IMAGE", "at least"),
        ({"stride": 89}, "USAGE", "stride"),
        ({"stride": 0}, "USAGE", "stride"),
        ({"stride": (1 << 64) - 1}, "USAGE", "stride"),
        ({"stride": 1 << 60}, "USAGE", "stride"),
        ({"width": (1 << 31) - 1}, "USAGE", "stride"),
    ],
)
def test_impossible_images(
    c_internals: ctypes.CDLL,
    c_status: SimpleNamespace,
    changes: dict[str, int | None],
    status: str,
    words: str,
) -> None:
    raw = np.zeros((20, 30, 3), np.uint8)
    fields = {"pixels": raw.ctypes.data, "width": 30, "height": 20, "stride": 90, "format": 0}
    image = _Image(**{**fields, **changes})
    assert c_internals.cff__check_image(ctypes.byref(image)) == getattr(c_status, status)
    assert words in c_internals.cff_last_error().decode()


def test_no_image(c_internals: ctypes.CDLL, c_status: SimpleNamespace) -> None:
    assert c_internals.cff__check_image(None) == c_status.USAGE
