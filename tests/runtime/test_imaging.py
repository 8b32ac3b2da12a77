import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.errors import ImageError, UsageError
from cff_runtime.imaging import list_images, load_image, require_image


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def grey16() -> NDArray[np.uint16]:
    """Every high byte, with low bytes on both sides of one half."""
    values = np.random.default_rng(4).integers(0, 1 << 16, (20, 30), dtype=np.uint16)
    values[0, :3] = (0x00FF, 0x0100, 0xFFFF)
    return values


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_rgb_files_come_back_exactly(rgb: NDArray[np.uint8], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"part{suffix}"
    Image.fromarray(rgb).save(path)

    for given in (path, str(path)):
        image = load_image(given)
        np.testing.assert_array_equal(image, rgb)
        assert image.dtype == np.uint8


def test_jpeg_is_close_to_what_opencv_reads(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "part.jpg"
    smooth = cv2.resize(rgb, (300, 200), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(path, quality=95)
    expected = cv2.imread(str(path))
    assert expected is not None

    difference = np.abs(load_image(path).astype(int) - expected[:, :, ::-1])

    assert difference.max() <= 4  # decoders round differently


def test_grey_becomes_three_equal_channels(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(rgb[:, :, 0]).save(tmp_path / "grey.png")

    image = load_image(tmp_path / "grey.png")

    np.testing.assert_array_equal(image, np.repeat(rgb[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_the_high_byte(
    grey16: NDArray[np.uint16], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), grey16)

    image = load_image(path)

    np.testing.assert_array_equal(image, np.repeat((grey16 // 256)[:, :, None], 3, axis=2))


def test_16_bit_big_endian_tiff_keeps_the_high_byte(
    grey16: NDArray[np.uint16], tmp_path: Path
) -> None:
    Image.frombytes("I;16B", (30, 20), grey16.astype(">u2").tobytes()).save(tmp_path / "be.tif")

    image = load_image(tmp_path / "be.tif")

    np.testing.assert_array_equal(image[:, :, 1], grey16 // 256)


def test_16_bit_colour_keeps_the_high_bytes(grey16: NDArray[np.uint16], tmp_path: Path) -> None:
    deep = np.stack([grey16, grey16[::-1], grey16[:, ::-1]], axis=2)
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep[:, :, ::-1])

    np.testing.assert_array_equal(load_image(tmp_path / "deep.png"), deep // 256)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(mode: str, rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    image = Image.fromarray(rgb if mode == "RGBA" else rgb[:, :, 0])
    image.putalpha(Image.fromarray(rgb[:, :, 1]))
    assert image.mode == mode
    image.save(tmp_path / "alpha.png")

    found = load_image(tmp_path / "alpha.png")

    expected = rgb if mode == "RGBA" else np.repeat(rgb[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette_colours_are_looked_up(transparency: object, tmp_path: Path) -> None:
    palette = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 128]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 3, (20, 30), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    keywords = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "palette.png", **keywords)

    np.testing.assert_array_equal(load_image(tmp_path / "palette.png"), palette[indices])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_becomes_black_and_white(suffix: str, tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((20, 30)) > 0.5
    Image.fromarray(bits).save(tmp_path / f"bits{suffix}")

    image = load_image(tmp_path / f"bits{suffix}")

    np.testing.assert_array_equal(image, np.repeat(bits[:, :, None], 3, axis=2) * 255)


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    inks = np.zeros((32, 48, 4), np.uint8)
    inks[:, :16, 0] = inks[:, 16:32, 1] = inks[:, 32:, 3] = 255  # cyan, magenta, black
    Image.fromarray(inks, "CMYK").save(tmp_path / "cmyk.jpg", quality=95)

    image = load_image(tmp_path / "cmyk.jpg").astype(int)

    for column, colour in ((8, (0, 255, 255)), (24, (255, 0, 255)), (40, (0, 0, 0))):
        assert np.abs(image[:, column - 3 : column + 3] - colour).max() <= 8


def test_exif_orientation_is_not_applied(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)

    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), rgb)


def test_the_first_of_several_frames_is_taken(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in (rgb, rgb[::-1], rgb[:, ::-1])]
    frames[0].save(tmp_path / "frames.tif", save_all=True, append_images=frames[1:])

    np.testing.assert_array_equal(load_image(tmp_path / "frames.tif"), rgb)


def _png(rgb: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    return data.getvalue()


def _huge_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def _encoded(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


DAMAGED: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "truncated.png": lambda rgb: _png(rgb)[:-400],
    "header_only.png": lambda rgb: _png(rgb)[:40],
    "flipped_bytes.png": lambda rgb: _png(rgb)[:60] + b"\xff" * 40 + _png(rgb)[100:],
    "text.png": lambda rgb: b"part number 4711, second shift\n" * 20,
    "empty.png": lambda rgb: b"",
    "zeros.tif": lambda rgb: bytes(2000),
    "huge.png": lambda rgb: _huge_png(),
    "truncated.jpg": lambda rgb: _encoded(Image.fromarray(rgb), "JPEG")[:300],
    "truncated.bmp": lambda rgb: _encoded(Image.fromarray(rgb), "BMP")[:300],
    "truncated.tif": lambda rgb: _encoded(Image.fromarray(rgb), "TIFF")[:900],
    "really_a.gif": lambda rgb: _encoded(Image.fromarray(rgb), "GIF"),
    "gif_named.png": lambda rgb: _encoded(Image.fromarray(rgb), "GIF"),
    "float.tif": lambda rgb: _encoded(Image.fromarray(np.ones((20, 30), np.float32)), "TIFF"),
    "int32.tif": lambda rgb: _encoded(Image.fromarray(np.ones((20, 30), np.int32)), "TIFF"),
    "one_pixel.png": lambda rgb: _png(rgb[:1, :1]),
    "narrow.png": lambda rgb: _png(rgb[:, :15]),
}


@pytest.mark.filterwarnings("ignore::Warning:PIL")
@pytest.mark.parametrize("name", DAMAGED)
def test_unusable_files_give_one_sentence(
    name: str, rgb: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name](rgb))

    with pytest.raises(ImageError, match="must") as caught:
        load_image(path)

    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_the_sentence_for_float_values_says_what_to_do(tmp_path: Path) -> None:
    Image.fromarray(np.ones((20, 30), np.float32)).save(tmp_path / "float.tif")

    with pytest.raises(ImageError, match=r"8-bit or 16-bit.*convert it"):
        load_image(tmp_path / "float.tif")


@pytest.mark.filterwarnings("ignore::Warning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_random_damage_never_gives_another_error(
    kind: str, rgb: NDArray[np.uint8], tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(kind))
    whole = np.frombuffer(_encoded(Image.fromarray(rgb), kind), np.uint8)
    outcomes = set()
    for _ in range(150):
        data = whole.copy()
        places = rng.integers(0, min(len(data), 250), rng.integers(1, 12))
        data[places] = rng.integers(0, 256, len(places))
        path = tmp_path / "fuzzed"
        path.write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes())
        try:
            assert load_image(path).ndim == 3
            outcomes.add("image")
        except ImageError:
            outcomes.add("error")

    assert "error" in outcomes


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_a_wrong_call(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "missing.png"

    with pytest.raises(UsageError, match="existing file"):
        load_image(path)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((20, 20, 3), np.float32), "uint8"),
        (np.zeros((20, 20, 3), np.uint16), "uint8"),
        ([[0]], "uint8 array, got list"),
        (None, "got NoneType"),
        (np.zeros((20, 20), np.uint8), r"\(h, w, 3\)"),
        (np.zeros((3, 20, 20), np.uint8), r"\(h, w, 3\)"),
        (np.zeros((20, 20, 1), np.uint8), r"\(h, w, 3\)"),
        (np.zeros((1, 20, 20, 3), np.uint8), r"\(h, w, 3\)"),
        (np.zeros((0, 0, 3), np.uint8), "16 x 16"),
        (np.zeros((15, 20, 3), np.uint8), "got 20 x 15"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: Any, expected: str) -> None:
    with pytest.raises(ImageError, match=expected):
        require_image(array)


def test_the_smallest_image_is_16_by_16() -> None:
    image = np.zeros((16, 16, 3), np.uint8)

    assert require_image(image) is image


def test_folders_expand_sorted_files_stay_in_order(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    (folder / "nested").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "c.tiff", "notes.txt", ".hidden.png", "nested/d.png"):
        (folder / name).write_bytes(b"")
    single = tmp_path / "single.dat"
    single.write_bytes(b"")

    found = list_images([single, folder])

    assert found == [single, folder / "a.jpg", folder / "b.PNG", folder / "c.tiff"]


@pytest.mark.parametrize("kind", ["missing", "empty folder", "folder without images"])
def test_nothing_to_list_is_a_wrong_call(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    if kind != "missing":
        path.mkdir()
    if kind == "folder without images":
        (path / "readme.txt").write_text("no images here")

    with pytest.raises(UsageError, match="must") as caught:
        list_images([path])

    assert str(path) in str(caught.value)


def test_a_file_that_is_no_image_has_the_same_error_every_time(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"this is a text, not an image")
    said = []
    for _ in range(2):
        with pytest.raises(ImageError, match="its first bytes are of none") as error:
            load_image(tmp_path / "text.png")
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "0x" not in said[0]
