"""The learning curve as a picture, drawn with Pillow: means, their intervals, the draws."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cff_runtime.curve.intervals import Estimate
from cff_runtime.curve.points import QUANTITIES, Curve, Point
from cff_runtime.storage import atomic_write

_PANEL_PX, _HEIGHT_PX = 460, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 48, 78
_FOOT_PX = 34
_SCALE = 2  # drawn twice as large and reduced: lines without steps
_BACK, _INK, _GREY, _GRID = (255, 255, 255), (30, 30, 30), (110, 110, 110), (224, 224, 224)
_LINE, _BAND, _DRAWS = (0, 114, 178), (196, 222, 238), (120, 160, 185)
_STEPS = (0.02, 0.05, 0.1, 0.2, 0.25)
_MAX_TICKS = 6


def save_picture(path: Path, curve: Curve, sentence: str) -> None:
    """Draw a panel per quantity and write the picture as PNG.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    data = io.BytesIO()
    draw_picture(curve, sentence).save(data, "PNG", optimize=True)
    atomic_write(path, data.getvalue())


def draw_picture(curve: Curve, sentence: str) -> Image.Image:
    """Draw the curve; the sentence stands below it."""
    shown = [q for q in QUANTITIES if q.name in curve.points[0].estimates]
    width = _PANEL_PX * len(shown)
    lines = _wrap(sentence, width - 40)
    height = _HEIGHT_PX + _FOOT_PX + 20 * len(lines)
    image = Image.new("RGB", (width * _SCALE, height * _SCALE), _BACK)
    pen = ImageDraw.Draw(image)
    for index, quantity in enumerate(shown):
        values = [point.estimates[quantity.name] for point in curve.points]
        _panel(pen, index * _PANEL_PX, quantity.label, curve.points, values)
    _text(pen, (20, _HEIGHT_PX - 8), _legend(curve), 12, _GREY)
    for number, line in enumerate(lines):
        _text(pen, (20, _HEIGHT_PX + 16 + 20 * number), line, 14, _INK)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _legend(curve: Curve) -> str:
    parts = f"{curve.n_good} good parts"
    if curve.n_defective:
        parts += f", {curve.n_defective} defective"
    return (
        f"{parts}, {curve.n_draws} draws. Band: 90% interval of the mean. Bars: 90% of the draws."
    )


def _panel(
    pen: ImageDraw.ImageDraw,
    left: int,
    label: str,
    points: Sequence[Point],
    values: Sequence[Estimate],
) -> None:
    low = min(min(value.low, value.draws_low) for value in values)
    high = max(max(value.high, value.draws_high) for value in values)
    margin = max(0.05 * (high - low), 0.02)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    ks = [point.k for point in points]
    x0, x1 = left + _LEFT, left + _PANEL_PX - _RIGHT
    y0, y1 = _HEIGHT_PX - _BOTTOM, _TOP

    def x(k: float) -> float:
        span = max(ks[-1] - ks[0], 1)
        return x0 + 16 + (x1 - x0 - 32) * (k - ks[0]) / span

    def y(value: float) -> float:
        return y0 + (y1 - y0) * (value - low) / (high - low)

    _text(pen, (x0, 16), label, 16, _INK)
    _axes(pen, (x0, x1, y0), ks, (low, high), (x, y))
    if len(ks) > 1:
        band = [(x(k), y(v.high)) for k, v in zip(ks, values, strict=True)]
        band += [(x(k), y(v.low)) for k, v in zip(ks[::-1], values[::-1], strict=True)]
        pen.polygon([(a * _SCALE, b * _SCALE) for a, b in band], fill=_BAND)
    for k, value in zip(ks, values, strict=True):
        if len(ks) == 1:
            _line(pen, [(x(k), y(value.low)), (x(k), y(value.high))], _BAND, 12)
        _line(pen, [(x(k), y(value.draws_low)), (x(k), y(value.draws_high))], _DRAWS, 2)
    _line(pen, [(x(k), y(v.mean)) for k, v in zip(ks, values, strict=True)], _LINE, 3)
    for k, value in zip(ks, values, strict=True):
        centre, radius = (x(k) * _SCALE, y(value.mean) * _SCALE), 5 * _SCALE
        pen.ellipse([c + s * radius for s in (-1, 1) for c in centre], fill=_LINE)


def _axes(
    pen: ImageDraw.ImageDraw,
    frame: tuple[int, int, int],
    ks: Sequence[int],
    limits: tuple[float, float],
    scales: tuple[Callable[[float], float], Callable[[float], float]],
) -> None:
    (x0, x1, y0), (low, high), (x, y) = frame, limits, scales
    step = next((s for s in _STEPS if (high - low) / s <= _MAX_TICKS), _STEPS[-1])
    ticks = [n * step for n in range(round(1.0 / step) + 1) if low <= n * step <= high]
    for tick in ticks:
        _line(pen, [(x0, y(tick)), (x1, y(tick))], _GRID, 1)
        _text(pen, (x0 - 8, y(tick)), f"{100 * tick:.0f}%", 13, _GREY, "rm")
    _line(pen, [(x0, y0), (x1, y0)], _GREY, 1)
    for k in ks:
        _text(pen, (x(k), y0 + 8), str(k), 13, _GREY, "mt")
    _text(pen, ((x0 + x1) / 2, y0 + 28), "references K", 13, _GREY, "mt")


def _line(
    pen: ImageDraw.ImageDraw,
    path: Sequence[tuple[float, float]],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    points = [(a * _SCALE, b * _SCALE) for a, b in path]
    if len(points) > 1:
        pen.line(points, fill=colour, width=width * _SCALE, joint="curve")


def _text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str = "lt",
) -> None:
    font = ImageFont.load_default(size * _SCALE)
    pen.text((at[0] * _SCALE, at[1] * _SCALE), text, colour, font, anchor)


def _wrap(text: str, width_px: int) -> list[str]:
    font = ImageFont.load_default(14)
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
