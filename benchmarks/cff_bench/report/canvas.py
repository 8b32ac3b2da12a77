"""Pieces of SVG that all plots share: text of a known width, colours, a frame with axes."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from cff_bench.report.axes import Scale, format_tick

FONT_PX = 12
LINE_PX = 16
N_COLOURS = 8
# no font can be asked, so the widths are those of a wide one
_NARROW, _WIDE = frozenset(" .,:;'|!()[]/ijltfrI1-"), frozenset("mwMWGOQ@%&")


@dataclass
class Canvas:
    """Elements of a drawing of a fixed width whose height follows from what is drawn."""

    width: float
    height: float = 0.0
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, anchor: str = "start", style: str = "") -> None:
        """Write words with their baseline at y."""
        kind = f' class="{style}"' if style else ""
        at = f'text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {at}{kind}>{html.escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line."""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{steps}" class="{style}"/>')

    def area(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Fill what points enclose."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{steps}" class="{style}"/>')

    def dots(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw points, as one element however many they are."""
        steps = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        self.parts.append(f'<path d="{steps}" class="{style}"/>')

    def box(
        self, x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0
    ) -> None:
        """Draw a filled rectangle."""
        shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
            f'class="{style}"{shade}/>'
        )

    def svg(self, label: str, style: str) -> str:
        """Return the drawing as an element of its own."""
        return (
            f'<svg class="{style}" role="img" aria-label="{html.escape(label, quote=True)}" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" '
            f'height="{self.height:.0f}" xmlns="http://www.w3.org/2000/svg">'
            + "".join(self.parts)
            + "</svg>"
        )


def text_px(words: str) -> float:
    """Return about how wide words are."""
    return sum(map(_letter_px, words))


def shortened(words: str, width_px: float) -> str:
    """Return words cut to a width, with an ellipsis where something is lost."""
    if text_px(words) <= width_px:
        return words
    kept = words
    while len(kept) > 1 and text_px(kept) + FONT_PX > width_px:
        kept = kept[:-1]
    return kept + "…"


def wrapped(words: str, width_px: float) -> list[str]:
    """Return words in lines of a width, broken at blanks where there are any."""
    lines: list[str] = []
    for word in words.split():
        if lines and text_px(f"{lines[-1]} {word}") <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, width_px))
    return lines or [""]


def draw_legend(canvas: Canvas, names: Sequence[str], y: float, styles: Sequence[str]) -> float:
    """Write the names of series beside their colours; return where the legend ends."""
    x = 0.0
    for name, style in zip(names, styles, strict=True):
        words = shortened(name, canvas.width - 24)
        needed = 16 + text_px(words) + 14
        if x and x + needed - 14 > canvas.width:
            x, y = 0.0, y + LINE_PX
        if style.startswith("f"):
            canvas.box(x, y + 2, 11, 11, style)
        else:
            canvas.line(x, y + 8, x + 12, y + 8, style)
        canvas.text(x + 16, y + 12, words)
        x += needed
    return y + LINE_PX + 6


def draw_x_axis(canvas: Canvas, scale: Scale, top: float, bottom: float, label: str) -> float:
    """Draw the lines and numbers of a horizontal axis; return where its label ends."""
    ticks = scale.ticks(64)
    for tick in ticks:
        x = scale.at(tick)
        canvas.line(x, top, x, bottom, "grid")
        words = format_tick(tick, ticks)
        half = text_px(words) / 2
        canvas.text(min(max(x, half), canvas.width - half), bottom + 15, words, "middle", "tick")
    end = bottom + 18
    for line in wrapped(label, canvas.width) if label else ():
        end += LINE_PX
        canvas.text(canvas.width - 1, end - 3, line, "end", "axis")
    return end


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions moved apart by at least `gap`, within the limits, in the same order."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    for place, index in enumerate(order):
        least = moved[order[place - 1]] + gap if place else low
        moved[index] = max(moved[index], least)
    most = high
    for index in reversed(order):
        moved[index] = min(moved[index], most)
        most = moved[index] - gap
    return moved


def _letter_px(letter: str) -> float:
    if letter in _NARROW:
        return 4.8
    if letter in _WIDE:
        return 11.0
    return 8.4 if letter.isupper() else 7.5
