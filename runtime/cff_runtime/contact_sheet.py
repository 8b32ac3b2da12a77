"""A sheet of thumbnails with captions, for looking at the references of a profile."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import StorageError
from cff_runtime.storage import atomic_write

_THUMBNAIL_PX = 224
_GAP_PX = 12
_LINE_PX = 16
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
_MAX_COLUMNS = 6
_GROUND_RGB, _TEXT_RGB, _WARNING_RGB = (250, 250, 250), (40, 40, 40), (190, 30, 30)


def draw_sheet(
    images: Sequence[NDArray[np.uint8]],
    titles: Sequence[str],
    remarks: Sequence[Sequence[str]],
) -> NDArray[np.uint8]:
    """Draw images in rows, each with a title and, in red, remarks below it.

    Parameters
    ----------
    images : sequence of n ndarrays of shape (H, W, 3), uint8
        RGB.
    titles : sequence of n str
    remarks : sequence of n sequences of str
        Broken into lines where they are too long.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        RGB.
    """
    n_columns = max(1, min(_MAX_COLUMNS, math.ceil(math.sqrt(len(images)))))
    lines = [
        [*_wrap(title)[:1], *(line for remark in own for line in _wrap(remark))]
        for title, own in zip(titles, remarks, strict=True)
    ]
    rows = []
    for start in range(0, len(images), n_columns):
        stop = start + n_columns
        n_lines = max(map(len, lines[start:stop]))
        cells = [
            _cell(image, own, n_lines, bool(warned))
            for image, own, warned in zip(
                images[start:stop], lines[start:stop], remarks[start:stop], strict=True
            )
        ]
        cells += [_ground(cells[0].shape[0], cells[0].shape[1])] * (n_columns - len(cells))
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def save_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write a sheet as PNG.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    ok, data = cv2.imencode(".png", sheet[:, :, ::-1])
    if not ok:
        raise StorageError(f"`{path}` could not be encoded as PNG")
    atomic_write(path, data.tobytes())


def _cell(
    image: NDArray[np.uint8], lines: Sequence[str], n_lines: int, warned: bool
) -> NDArray[np.uint8]:
    scale = _THUMBNAIL_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=smooth)
    height = _THUMBNAIL_PX + 2 * _GAP_PX + n_lines * _LINE_PX
    cell = _ground(height, _THUMBNAIL_PX + 2 * _GAP_PX)
    cell[_GAP_PX : _GAP_PX + size[1], _GAP_PX : _GAP_PX + size[0]] = small
    if warned:
        corner = (_GAP_PX + size[0] + 1, _GAP_PX + size[1] + 1)
        cv2.rectangle(cell, (_GAP_PX - 2, _GAP_PX - 2), corner, _WARNING_RGB, 3)
    for number, line in enumerate(lines):
        place = (_GAP_PX, _GAP_PX + size[1] + (number + 1) * _LINE_PX)
        colour = _WARNING_RGB if number else _TEXT_RGB
        cv2.putText(cell, line, place, _FONT, _FONT_SCALE, colour, 1, cv2.LINE_AA)
    return cell


def _ground(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), _GROUND_RGB, np.uint8)


def _wrap(text: str) -> list[str]:
    """Break a text into lines as wide as a thumbnail; what OpenCV cannot write becomes ``?``."""
    plain = text.encode("ascii", "replace").decode()
    lines = [""]
    for word in plain.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > _THUMBNAIL_PX:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line) for line in lines]


def _cut(line: str) -> str:
    """Shorten a line without blanks, such as a long file name."""
    if _width(line) <= _THUMBNAIL_PX:
        return line
    while _width(f"{line}..") > _THUMBNAIL_PX:
        line = line[:-1]
    return f"{line}.."


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0])
