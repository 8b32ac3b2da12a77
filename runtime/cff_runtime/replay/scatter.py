"""Old against new scores as an inline SVG, both relative to their threshold.

Changed parts are told by shape and place as well as by colour: they lie in another quarter than
their neighbours, outside both "pass" and "reject".
"""

import math
from collections.abc import Callable, Sequence

MAX_POINTS = 3000
_SIDE, _LEFT, _BOTTOM, _TOP = 420, 52, 44, 12
_MIN_SPAN = 0.2
_STEPS = (0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_MAX_TICKS = 8
_LOWEST, _HIGHEST = -1.0, 5.0  # further ones are drawn at the edge

Point = tuple[float, float, bool]
Scale = Callable[[float], float]


def draw_scatter(points: Sequence[Point]) -> tuple[str, int]:
    """Draw (old relative_score, new relative_score, is changed) of every part.

    Returns
    -------
    svg : str
        An ``svg`` element, without a script; colours are CSS variables of the page.
    n_drawn : int
        Of more than `MAX_POINTS` unchanged parts every so manieth is drawn, of changed ones the
        first so many.
    """
    unchanged = [point for point in points if not point[2]]
    changed = [point for point in points if point[2]][:MAX_POINTS]
    stride = max(1, math.ceil(len(unchanged) / MAX_POINTS))
    drawn = unchanged[::stride] + changed
    low, high = _range(points)
    scale = _SIDE / (high - low)

    def x(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) * scale

    def y(value: float) -> float:
        return _TOP + _SIDE - (min(max(value, low), high) - low) * scale

    parts = [_grid(low, high, x, y), _quarters(low, high, x, y)]
    for old, new, is_changed in drawn:
        if is_changed:
            parts.append(
                f'<path class="moved" d="M{x(old):.1f} {y(new) - 6:.1f}l6 6l-6 6l-6 -6z"/>'
            )
        else:
            parts.append(f'<circle class="same" cx="{x(old):.1f}" cy="{y(new):.1f}" r="3.5"/>')
    width, height = _LEFT + _SIDE + 14, _TOP + _SIDE + _BOTTOM
    label = "new against old scores, relative to their thresholds"
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return f"{opening}{''.join(parts)}</svg>", len(drawn)


def _range(points: Sequence[Point]) -> tuple[float, float]:
    values = [value for old, new, _ in points for value in (old, new)] + [1.0]
    low = max(_LOWEST, min(values))
    high = min(_HIGHEST, max(values))
    margin = max(0.04 * (high - low), (_MIN_SPAN - (high - low)) / 2, 0.0)
    return low - margin, high + margin


def _grid(low: float, high: float, x: Scale, y: Scale) -> str:
    step = next((s for s in _STEPS if (high - low) / s <= _MAX_TICKS), _STEPS[-1])
    ticks = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    parts = []
    for tick in ticks:
        text = f"{tick:.2f}".rstrip("0").rstrip(".") if tick else "0"
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{y(low):.1f}" '
            f'y2="{y(high):.1f}"/><line class="grid" x1="{x(low):.1f}" x2="{x(high):.1f}" '
            f'y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{x(tick):.1f}" y="{y(low) + 16:.1f}" text-anchor="middle">{text}</text>'
            f'<text x="{x(low) - 7:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    middle = (low + high) / 2
    parts.append(
        f'<text x="{x(middle):.1f}" y="{y(low) + 36:.1f}" text-anchor="middle">'
        "old score / threshold</text>"
        f'<text x="14" y="{y(middle):.1f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {y(middle):.1f})">new score / threshold</text>'
        f'<line class="grid diagonal" x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(high):.1f}" '
        f'y2="{y(high):.1f}"/>'
    )
    return "".join(parts)


def _quarters(low: float, high: float, x: Scale, y: Scale) -> str:
    """Both thresholds, and what a part in each quarter got; labels where there is room."""
    parts = [
        f'<line class="limit" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{y(low):.1f}" '
        f'y2="{y(high):.1f}"/><line class="limit" x1="{x(low):.1f}" x2="{x(high):.1f}" '
        f'y1="{y(1):.1f}" y2="{y(1):.1f}"/>'
    ]
    corners = (
        (x(low) + 6, y(high) + 14, "start", "rejected now"),
        (x(high) - 6, y(low) - 8, "end", "passed now"),
    )
    parts += [
        f'<text class="corner" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{text}</text>'
        for left, top, anchor, text in corners
    ]
    return "".join(parts)
