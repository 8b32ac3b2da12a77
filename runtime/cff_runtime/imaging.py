"""Reading images: every file becomes 8-bit RGB, by fixed rules.

grey, 1-bit, palette, CMYK   converted to RGB by Pillow
alpha                        dropped
16-bit grey                  the high byte is kept (value >> 8); 16-bit colour likewise, by Pillow
EXIF orientation             not applied: pixels are taken as stored
several frames               the first

An image is refused before it is decoded if its file or its pixels are more than a limit: a file of
some kilobytes can claim any size.
"""

import io
import os
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cff_runtime.errors import ImageError, UsageError
from cff_runtime.storage import open_regular

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MIN_SIDE_PX = 16
MAX_PIXELS = 100_000_000  # 300 MB as RGB
MAX_FILE_BYTES = 1 << 30  # these pixels with 16 bits and four channels, not compressed
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image file as RGB.

    Parameters
    ----------
    path : path
    max_pixels : int
        Width times height; Pillow itself refuses above 178,956,970.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        RGB, 0 to 255.

    Raises
    ------
    UsageError
        If there is no such file.
    ImageError
        If the file is no PNG, JPEG, BMP or TIFF image, is damaged, holds floating-point or
        32-bit values, has more than `max_pixels` or 1 GiB, or is smaller than 16 x 16 px.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"image `{path}` must be an existing file; check the path")
    try:
        file = open_regular(path)
    except OSError as error:
        raise ImageError(f"`{path}` must be a readable file: {error.strerror or error}") from error
    with file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > MAX_FILE_BYTES:
            raise ImageError(
                f"`{path}` must have at most {MAX_FILE_BYTES} bytes, got {n_bytes}; "
                "is it an image of a single part?"
            )
        return _decode(file, str(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image file that is in memory, such as one whose hash is to be recorded.

    Parameters
    ----------
    data : bytes
    name : str
        In errors.
    max_pixels : int

    Returns
    -------
    ndarray of shape (h, w, 3), uint8

    Raises
    ------
    ImageError
        As `load_image`.
    """
    return _decode(io.BytesIO(data), name, max_pixels)


def _decode(file: IO[bytes], name: str, max_pixels: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:  # known from the header, nothing is decoded yet
                raise ImageError(
                    f"`{name}` must have at most {max_pixels} pixels, got {width} x {height}; "
                    "scale or crop it before the inspection"
                )
            image.load()
            rgb = _to_rgb(image, name)
    except UnidentifiedImageError as error:  # its text is an address in memory
        raise ImageError(
            f"`{name}` must be a readable PNG, JPEG, BMP or TIFF image, its first bytes are of none"
        ) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,  # where warnings are errors
    ) as error:
        # Pillow reports damaged files through all of these
        raise ImageError(
            f"`{name}` must be a readable PNG, JPEG, BMP or TIFF image: {error}"
        ) from error
    return require_image(rgb, name)


def require_image(image: NDArray[np.uint8], name: str = "image") -> NDArray[np.uint8]:
    """Return `image` if it is uint8 RGB of shape (h, w, 3) with sides of at least 16 px.

    Raises
    ------
    ImageError
        If it is anything else.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, "dtype", type(image).__name__)
        raise ImageError(f"`{name}` must be a uint8 array, got {got}; scale it to 0..255 first")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"`{name}` must have shape (h, w, 3), RGB, got {image.shape}")
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"`{name}` must be at least {MIN_SIDE_PX} x {MIN_SIDE_PX} px, got {width} x {height}; "
            "is it a thumbnail or an empty crop?"
        )
    return image


def list_images(paths: list[Path]) -> list[Path]:
    """Expand files and folders to image files; a folder gives its images, sorted, not nested.

    Raises
    ------
    UsageError
        If a path does not exist or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                entry
                for entry in path.iterdir()
                if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
            )
            if not inside:
                raise UsageError(
                    f"folder `{path}` must hold at least one image ({', '.join(IMAGE_SUFFIXES)})"
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"`{path}` must be an existing image or folder; check the path")
    return files


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError(
            f"`{name}` must hold 8-bit or 16-bit values, got Pillow mode {image.mode!r}; "
            "convert it, the range of its values is not known"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
