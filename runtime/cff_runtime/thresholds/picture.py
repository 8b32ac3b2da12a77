"""A picture of the scores behind a threshold: one row for each kind, both thresholds across.

Few scores are dots, stacked where they would hide each other; many are a histogram. The ground
shows what becomes of a score: green passes, amber is for review, red is rejected.
"""

import textwrap
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import StorageError
from cff_runtime.overlay import VERDICT_RGB
from cff_runtime.storage import atomic_write
from cff_runtime.thresholds.threshold import Threshold

_WIDTH_PX, _LEFT_PX, _RIGHT_PX = 1000, 190, 30
_TOP_PX, _ROW_PX, _AXIS_PX, _LINE_PX = 74, 90, 52, 24
_MOST_DOTS = 60  # of one kind; more are a histogram
_N_BINS = 80
_DOT_PX = 6
_INK_RGB, _PAPER_RGB, _FAINT_RGB = (33, 33, 33), (255, 255, 255), (150, 150, 150)
_GROUND = 0.12  # strength of the verdicts' colours behind the scores
_FONT = cv2.FONT_HERSHEY_SIMPLEX

# kind -> name and colour; the mark is drawn by `_mark`
_KINDS = {
    "references": ("references left out", (21, 101, 192)),
    "augmentations": ("augmentations", (84, 110, 122)),
    "further": ("further good parts", (46, 125, 50)),
    "defective": ("defective parts", (198, 40, 40)),
}


def draw_scores(threshold: Threshold) -> NDArray[np.uint8]:
    """Draw the scores of a threshold's card.

    Parameters
    ----------
    threshold : Threshold

    Returns
    -------
    ndarray of shape (h, 1000, 3), uint8
        RGB.
    """
    rows = {
        "references": threshold.reference_scores,
        "augmentations": threshold.augmentation_scores,
        "further": threshold.card_scores("further"),
        "defective": threshold.card_scores("defective"),
    }
    rows = {kind: scores for kind, scores in rows.items() if scores}
    said = textwrap.wrap(threshold.statement, 100) or [""]
    bottom = _TOP_PX + _ROW_PX * len(rows)
    height = bottom + _AXIS_PX + _LINE_PX * len(said) + 12
    canvas = np.full((height, _WIDTH_PX, 3), _PAPER_RGB, np.uint8)
    low, high = _range([*(s for scores in rows.values() for s in scores), threshold.value])
    low, high = min(low, threshold.review), max(high, threshold.value)
    pad = 0.05 * (high - low)
    span = (low - pad, high + pad)
    _draw_ground(canvas, threshold, span, bottom)
    for number, (kind, scores) in enumerate(rows.items()):
        _draw_row(canvas, kind, scores, span, _TOP_PX + _ROW_PX * (number + 1))
    _draw_axis(canvas, span, bottom)
    _draw_limits(canvas, threshold, span, bottom)
    for number, line in enumerate(said):
        _write(canvas, line, (16, bottom + _AXIS_PX + _LINE_PX * number + 14), _INK_RGB)
    return canvas


def save_scores(path: Path, threshold: Threshold) -> None:
    """Draw the scores and write them as PNG.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    ok, data = cv2.imencode(".png", draw_scores(threshold)[:, :, ::-1])
    if not ok:
        raise StorageError(f"`{path}` could not be encoded as PNG")
    atomic_write(path, data.tobytes())


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2


def _column(score: float, span: tuple[float, float]) -> int:
    share = (score - span[0]) / (span[1] - span[0])
    return _LEFT_PX + round(share * (_WIDTH_PX - _LEFT_PX - _RIGHT_PX))


def _draw_ground(
    canvas: NDArray[np.uint8], threshold: Threshold, span: tuple[float, float], bottom: int
) -> None:
    review, value = _column(threshold.review, span), _column(threshold.value, span)
    edges = (_LEFT_PX, review, value, _WIDTH_PX - _RIGHT_PX)
    for (start, stop), rgb in zip(pairwise(edges), VERDICT_RGB.values(), strict=True):
        tint = _GROUND * np.array(rgb) + (1.0 - _GROUND) * 255.0
        canvas[_TOP_PX:bottom, start:stop] = np.rint(tint).astype(np.uint8)


def _draw_row(
    canvas: NDArray[np.uint8],
    kind: str,
    scores: tuple[float, ...],
    span: tuple[float, float],
    base: int,
) -> None:
    name, rgb = _KINDS[kind]
    _write(canvas, name, (12, base - 40), rgb)
    _write(canvas, f"n = {len(scores)}", (12, base - 18), _FAINT_RGB)
    cv2.line(canvas, (_LEFT_PX, base), (_WIDTH_PX - _RIGHT_PX, base), _FAINT_RGB, 1)
    if len(scores) > _MOST_DOTS:
        counts, edges = np.histogram(scores, _N_BINS, span)
        for count, start, stop in zip(counts, edges[:-1], edges[1:], strict=True):
            top = base - round(float(count / counts.max()) * (_ROW_PX - 12))
            if count:
                corner = (_column(float(start), span), min(top, base - 2))
                cv2.rectangle(canvas, corner, (_column(float(stop), span) - 1, base - 1), rgb, -1)
        return
    taken: dict[int, int] = {}
    for score in sorted(scores):
        x = _column(score, span)
        slot = x // (2 * _DOT_PX)
        level = taken.get(slot, 0)
        taken[slot] = level + 1
        y = base - _DOT_PX - 3 - min(level, 5) * (2 * _DOT_PX + 1)
        _mark(canvas, kind, (x, y), rgb)


def _mark(canvas: NDArray[np.uint8], kind: str, at: tuple[int, int], rgb: tuple[int, ...]) -> None:
    """Draw a disc, a ring, a square or a cross: told apart without their colours."""
    x, y, r = *at, _DOT_PX - 1
    if kind == "references":
        cv2.circle(canvas, at, r, rgb, -1, cv2.LINE_AA)
    elif kind == "augmentations":
        cv2.circle(canvas, at, r - 1, rgb, 1, cv2.LINE_AA)
    elif kind == "further":
        cv2.rectangle(canvas, (x - r + 1, y - r + 1), (x + r - 1, y + r - 1), rgb, -1)
    else:
        cv2.line(canvas, (x - r, y - r), (x + r, y + r), rgb, 2, cv2.LINE_AA)
        cv2.line(canvas, (x - r, y + r), (x + r, y - r), rgb, 2, cv2.LINE_AA)


def _draw_axis(canvas: NDArray[np.uint8], span: tuple[float, float], bottom: int) -> None:
    raw = (span[1] - span[0]) / 7.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((f for f in (1, 2, 5, 10) if f * power >= raw), default=10)
    for index in range(int(np.ceil(span[0] / step)), int(np.floor(span[1] / step)) + 1):
        x = _column(float(index * step), span)
        cv2.line(canvas, (x, bottom), (x, bottom + 5), _INK_RGB, 1)
        text = f"{index * step:.4g}"
        (width, _), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
        _write(canvas, text, (x - width // 2, bottom + 22), _INK_RGB)


def _draw_limits(
    canvas: NDArray[np.uint8], threshold: Threshold, span: tuple[float, float], bottom: int
) -> None:
    limits = [("reject", threshold.value, 24)]
    if threshold.review < threshold.value:
        limits.append(("review", threshold.review, 52))
    for name, score, y in limits:
        x, rgb = _column(score, span), VERDICT_RGB[name]
        cv2.line(canvas, (x, y + 6), (x, bottom), rgb, 2)
        text = f"{name} above {score:.4f}"
        (width, _), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
        left = min(max(8, x - width // 2), _WIDTH_PX - width - 8)
        cv2.putText(canvas, text, (left, y), _FONT, 0.5, rgb, 1, cv2.LINE_AA)


def _write(canvas: NDArray[np.uint8], text: str, at: tuple[int, int], rgb: tuple[int, ...]) -> None:
    cv2.putText(canvas, text, at, _FONT, 0.45, rgb, 1, cv2.LINE_AA)
