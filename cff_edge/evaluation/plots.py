"""Small inline SVG plots: a metric against K, one line per method.

Methods differ by colour, marker and position, so that a plot reads without colour. The colours are
those of Okabe and Ito, made for colour-blind readers, less the yellow that vanishes on white.
"""

import html
import math
from collections.abc import Callable, Sequence

from cff_edge.evaluation.summary import Figure, Row

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
_MARKERS = ("circle", "square", "diamond", "triangle")
_WIDTH, _HEIGHT = 300, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 34
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_MAX_TICKS = 6
_SPREAD_PX = 5.0

Scale = Callable[[float], float]


def plot_metric(label: str, metric: str, rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Draw one metric against K, in per cent, with one standard deviation over seeds as bars.

    Parameters
    ----------
    label : str
        Title of the plot.
    metric : str
    rows : sequence of Row
        Means over products; those without figures are left out.
    methods : sequence of str
        Decide colour and marker, as in `legend`.

    Returns
    -------
    str
        A ``figure`` element.
    """
    drawn = [row for row in rows if metric in row.figures]
    if not drawn:
        return ""
    ks = sorted({row.k for row in drawn})
    spans = [_span(row.figures[metric]) for row in drawn]
    ticks = _ticks(min(low for low, _ in spans), max(high for _, high in spans))
    x, y = _scale_x(ks), _scale_y(ticks)
    parts = [_axes(label, ks, ticks, x, y)]
    for number, method in enumerate(methods):
        shift = _SPREAD_PX * (number - (len(methods) - 1) / 2)
        own = sorted((row for row in drawn if row.method == method), key=lambda row: row.k)
        parts.append(_line(own, metric, number, shift, (x, y)))
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)} against K">{"".join(parts)}</svg></figure>'
    )


def legend(methods: Sequence[str]) -> str:
    """Return the list of methods with their colours and markers."""
    entries = "".join(
        f'<li><svg viewBox="0 0 30 12" aria-hidden="true"><line x1="0" x2="30" y1="6" y2="6" '
        f'stroke="{_colour(number)}" stroke-width="2"/>{_marker(number, 15, 6)}</svg>'
        f"{html.escape(method)}</li>"
        for number, method in enumerate(methods)
    )
    return f'<ul class="legend">{entries}</ul>'


def _line(
    rows: Sequence[Row], metric: str, number: int, shift: float, scales: tuple[Scale, Scale]
) -> str:
    colour, (x, y) = _colour(number), scales
    points = " ".join(f"{x(r.k) + shift:.1f},{y(100 * r.figures[metric].mean):.1f}" for r in rows)
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for row in rows:
        figure = row.figures[metric]
        low, high = _span(figure)
        at = x(row.k) + shift
        bar = (
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" '
            f'stroke="{colour}" stroke-width="1.5"/>'
        )
        deviation = "" if figure.std is None else f" ± {100 * figure.std:.1f}"
        title = f"{row.method}, K = {row.k}: {100 * figure.mean:.1f}{deviation}"
        marker = _marker(number, at, y(100 * figure.mean))
        parts.append(f"<g><title>{html.escape(title)}</title>{bar}{marker}</g>")
    return "".join(parts)


def _axes(label: str, ks: Sequence[int], ticks: Sequence[float], x: Scale, y: Scale) -> str:
    digits = 0 if all(tick == round(tick) for tick in ticks) else 1
    parts = [f'<text x="{_LEFT}" y="14" font-weight="bold">{html.escape(label)}</text>']
    for tick in ticks:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="currentColor" stroke-opacity=".2"/><text x="{_LEFT - 6}" '
            f'y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.{digits}f}</text>'
        )
    parts += [
        f'<text x="{x(k):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{k}</text>'
        for k in ks
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">K</text>')
    return "".join(parts)


def _scale_x(ks: Sequence[int]) -> Scale:
    """Place every K at the same distance from the next: 1, 2, 4 and 8 are doublings."""
    inner = _WIDTH - _LEFT - _RIGHT
    places = {k: _LEFT + inner * (index + 0.5) / len(ks) for index, k in enumerate(ks)}
    return lambda k: places[int(k)]


def _scale_y(ticks: Sequence[float]) -> Scale:
    span = ticks[-1] - ticks[0]
    inner = _HEIGHT - _TOP - _BOTTOM
    return lambda value: _HEIGHT - _BOTTOM - inner * (value - ticks[0]) / span


def _ticks(low: float, high: float) -> list[float]:
    """Return round values that enclose `low` to `high`, at most `_MAX_TICKS`, within 0 to 100."""
    for step in _STEPS:
        first, last = math.floor(low / step), math.ceil(high / step)
        last = max(last, first + 1)
        if last - first < _MAX_TICKS:
            break
    if last * step > 100:  # all at 100: the scale ends there
        first, last = first - 1, last - 1
    return [round(index * step, 6) for index in range(first, last + 1)]


def _span(figure: Figure) -> tuple[float, float]:
    """Return the ends of the bar, in per cent; none leaves the scale of a fraction."""
    deviation = figure.std or 0.0
    return 100 * max(figure.mean - deviation, 0.0), 100 * min(figure.mean + deviation, 1.0)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _marker(number: int, x: float, y: float) -> str:
    kind = _MARKERS[number % len(_MARKERS)]
    fill = f'fill="{_colour(number)}"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {fill}/>'
    corners = {
        "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        "triangle": ((0, -5), (4.5, 4), (-4.5, 4)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {fill}/>'
