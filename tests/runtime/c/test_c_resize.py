"""The resize of libcff against Pillow, bit for bit."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]
SIZE = ctypes.c_size_t
C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
# the suite itself may run with sanitizers loaded
_SANITIZER_NAMES = {"LD_PRELOAD", "ASAN_OPTIONS"}

# (h, w) -> (H, W): single pixels and lines, up, down, both at once, one axis only, extreme ratios
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (40, 30)),
    ((1, 50), (20, 20)),
    ((50, 1), (1, 7)),
    ((2, 3), (3, 2)),
    ((16, 16), (16, 17)),
    ((17, 23), (37, 41)),
    ((96, 40), (96, 96)),
    ((40, 96), (96, 96)),
    ((97, 95), (96, 96)),
    ((300, 20), (32, 256)),
    ((16, 3000), (64, 64)),
    ((3000, 16), (64, 64)),
    ((640, 480), (224, 336)),
    ((1031, 1257), (16, 16)),
    ((1031, 1257), (1, 1)),
    ((16, 16), (518, 518)),
    ((900, 1200), (518, 518)),
]


def _pillow(image: Pixels, height: int, width: int) -> Pixels:
    """Both passes one by one, as `Preprocessing` asks for them, without its smallest sides."""
    wide = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


def _resize(library: ctypes.CDLL, image: Pixels, height: int, width: int) -> Pixels:
    resized = np.zeros((height, width, 3), np.uint8)
    status = library.cff__resize_rgb(
        ctypes.c_void_p(image.ctypes.data),
        *(SIZE(number) for number in (*image.shape[:2], image.strides[0])),
        ctypes.c_void_p(resized.ctypes.data),
        SIZE(height),
        SIZE(width),
    )
    assert status == 0
    return resized


def _textures(shape: tuple[int, int]) -> dict[str, Pixels]:
    rng = np.random.default_rng(shape)
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    y, x = np.indices(shape)
    ramp = np.stack([x * 255 // shape[1], y * 255 // shape[0], (x + y) % 256], axis=2)
    return {
        "noise": noise,
        "extremes": np.where(noise > 127, 255, 0).astype(np.uint8),  # overshoots on both ends
        "stripes": np.repeat(((x % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2),
        "ramp": ramp.astype(np.uint8),
        "white": np.full((*shape, 3), 255, np.uint8),
    }


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_is_pillows(
    c_internals: ctypes.CDLL, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    for name, image in _textures(shape).items():
        got = _resize(c_internals, image, *size)
        np.testing.assert_array_equal(got, _pillow(image, *size), err_msg=name)


def test_is_pillows_at_random_sizes(c_internals: ctypes.CDLL) -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        h, w, height, width = np.exp(rng.uniform(0, np.log(300), 4)).astype(int)
        image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        got = _resize(c_internals, image, height, width)
        np.testing.assert_array_equal(
            got, _pillow(image, height, width), err_msg=f"{h} x {w} to {height} x {width}"
        )


def test_rows_may_lie_apart(c_internals: ctypes.CDLL) -> None:
    wide = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    cut = wide[3:50, 10:80]
    for size in ((47, 70), (47, 30), (20, 70), (33, 90)):
        expected = _pillow(np.ascontiguousarray(cut), *size)
        np.testing.assert_array_equal(_resize(c_internals, cut, *size), expected)


@pytest.mark.parametrize("sides", [(0, 5, 5, 5), (5, 5, 5, 0), (5, 1 << 40, 5, 5)])
def test_impossible_sides(
    c_internals: ctypes.CDLL, c_status: SimpleNamespace, sides: tuple[int, ...]
) -> None:
    h, w, height, width = (SIZE(side) for side in sides)
    status = c_internals.cff__resize_rgb(None, h, w, SIZE(1), None, height, width)
    assert status == c_status.IMAGE
    assert b"sides must be 1 to" in c_internals.cff_last_error()


class _Image(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", SIZE),
        ("format", ctypes.c_int32),
    )


@pytest.mark.parametrize("pixel_format", ["RGB", "BGR", "grey"])
def test_preprocess_is_pythons(c_internals: ctypes.CDLL, pixel_format: str) -> None:
    given = np.random.default_rng(2).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    if pixel_format == "grey":
        given = np.repeat(given[:, :, :1], 3, axis=2)
    laid_out = {"RGB": given, "BGR": given[:, :, ::-1], "grey": given[:, :, 0]}[pixel_format]
    raw = np.ascontiguousarray(laid_out)
    number = {"RGB": 0, "BGR": 1, "grey": 3}[pixel_format]
    image = _Image(raw.ctypes.data, 83, 61, raw.strides[0], number)
    resized = np.zeros((48, 96, 3), np.uint8)
    status = c_internals.cff__preprocess(
        ctypes.byref(image), ctypes.c_void_p(resized.ctypes.data), SIZE(48), SIZE(96)
    )
    assert status == 0
    np.testing.assert_array_equal(resized, Preprocessing(48, 96)(given))


def test_failing_memory(tmp_path: Path) -> None:
    """Each allocation of the resize, the maps and the regions fails once; nothing leaks."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("a C compiler is not installed")
    sources = ["finishing.c", "pixels.c", "regions.c", "resize.c", "status.c"]
    program = tmp_path / "failing_memory"
    command = [
        *(compiler, "-std=c99", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        *("-Wl,--wrap=malloc,--wrap=realloc", f"-I{C_FOLDER / 'include'}", f"-I{C_FOLDER / 'src'}"),
        *("-o", str(program), str(C_FOLDER / "tests" / "failing_memory.c")),
        *(str(C_FOLDER / "src" / source) for source in sources),
        "-lm",
    ]
    clean = {name: value for name, value in os.environ.items() if name not in _SANITIZER_NAMES}
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=clean
    )
    if "cannot find" in built.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [str(program)], capture_output=True, text=True, timeout=60, check=False, env=clean
    )
    assert ran.returncode == 0, ran.stderr
