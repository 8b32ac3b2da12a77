"""Lines and clouds of points, each named where it ends or lies, else in a legend."""

import math
from collections.abc import Sequence
from typing import Any

from cff_bench.report.axes import Scale, fit_scale, format_tick
from cff_bench.report.canvas import (
    LINE_PX,
    N_COLOURS,
    Canvas,
    draw_legend,
    draw_x_axis,
    shortened,
    spread,
    text_px,
    wrapped,
)
from cff_bench.report.document import Mark, Plot, PlotSeries

_LABEL_SHARE = 0.3  # names stand at the ends of lines where they need no more of the width
_LONGEST_SHARE = 0.45
_MOST_LABELS = 9
_FEW_POINTS = 4  # a cloud of so many points is named beside one of them

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_lines(plot: Plot, width: float) -> Canvas:
    """Draw a plot of lines or of points."""
    canvas = Canvas(width)
    names = [str(series.name) for series in plot.series]
    categories = _categories(plot)
    labels = [str(s.name) for s in plot.series if _has_line(plot, s)]
    room = max((text_px(name) for name in labels), default=0.0) + 12
    clouds = [len(series.x) for series in plot.series if not _has_line(plot, series)]
    is_direct = (
        len(names) <= _MOST_LABELS
        and room <= _LABEL_SHARE * width
        and max(map(text_px, names), default=0.0) <= _LONGEST_SHARE * width
        and max(clouds, default=0) <= _FEW_POINTS
    )
    y = 0.0
    if len(names) > 1 and not is_direct:
        y = draw_legend(canvas, names, y, [_line_style(plot, i) for i in range(len(names))])
    for line in wrapped(plot.y_label, width) if plot.y_label else ():
        canvas.text(0, y + 12, line, style="axis")
        y += LINE_PX
    upright = [mark for mark in plot.marks if mark.x is not None and mark.y is None]
    top = y + 8 + LINE_PX * len(upright)
    bottom = top + min(0.52 * width, 300.0)
    scale_y = _scale_y(plot, bottom, top)
    left = _draw_y_axis(canvas, scale_y, width - (room if is_direct else 6), measure_only=True)
    right = width - (room if is_direct and len(names) > 1 else 8)
    _draw_y_axis(canvas, scale_y, right)
    scale_x = _scale_x(plot, categories, left, right)
    if categories:
        canvas.height = _draw_categories(canvas, categories, scale_x, bottom, plot.x_label)
    else:
        canvas.height = draw_x_axis(canvas, scale_x, top, bottom, plot.x_label)
    drawn = [
        _draw_series(canvas, plot, index, categories, scale_x, scale_y)
        for index in range(len(plot.series))
    ]
    _draw_marks(canvas, plot.marks, scale_x, scale_y, y + 4)
    if is_direct and len(names) > 1:
        ends = [i for i in range(len(names)) if _has_line(plot, plot.series[i])]
        taken = _draw_names(canvas, names, drawn, ends, right, (top, bottom))
        others = [i for i in range(len(names)) if i not in ends]
        _draw_names_beside(canvas, names, drawn, others, top, taken)
    return canvas


def _line_style(plot: Plot, index: int) -> str:
    colour = index % N_COLOURS
    style = plot.series[index].style
    if style == "points" or (plot.kind == "scatter" and not style):
        return f"f{colour}"
    return f"s{colour} dashed" if style == "dashed" else f"s{colour}"


def _categories(plot: Plot) -> list[str]:
    """Return the names along x, or none where x holds numbers."""
    positions = [x for series in plot.series for x in series.x]
    if not any(isinstance(x, str) for x in positions):
        return []
    return list(dict.fromkeys(str(x) for x in positions))


def _scale_x(plot: Plot, categories: list[str], left: float, right: float) -> Scale:
    if categories:
        return Scale(-0.5, len(categories) - 0.5, left, right)
    values = [x for series in plot.series for x in series.x]
    values += [mark.x for mark in plot.marks]
    return fit_scale(values, left, right, plot.x_log)


def _scale_y(plot: Plot, bottom: float, top: float) -> Scale:
    values: list[Any] = [mark.y for mark in plot.marks]
    for series in plot.series:
        values += [*series.y, *(series.low or ()), *(series.high or ())]
    return fit_scale(values, bottom, top, plot.y_log)


def _draw_y_axis(canvas: Canvas, scale: Scale, right: float, measure_only: bool = False) -> float:
    """Draw the lines and numbers of the upright axis; return where the plot begins."""
    ticks = scale.ticks(34)
    words = [format_tick(tick, ticks) for tick in ticks]
    left = max((text_px(word) for word in words), default=0.0) + 8
    for tick, word in zip(ticks, words, strict=True) if not measure_only else ():
        canvas.line(left, scale.at(tick), right, scale.at(tick), "grid")
        canvas.text(left - 6, scale.at(tick) + 4, word, "end", "tick")
    return left


def _draw_categories(
    canvas: Canvas, names: Sequence[str], scale: Scale, bottom: float, label: str
) -> float:
    each = abs(scale.at(1) - scale.at(0))
    lines = [wrapped(name, max(each - 6, 30)) for name in names]
    for index, parts in enumerate(lines):
        for row, part in enumerate(parts):
            y = bottom + 15 + LINE_PX * row
            canvas.text(scale.at(index), y, part, "middle", "tick")
    end = bottom + 4 + LINE_PX * max(len(parts) for parts in lines)
    if label:
        end += LINE_PX
        canvas.text(canvas.width - 1, end, label, "end", "axis")
    return end + 6


def _draw_series(
    canvas: Canvas, plot: Plot, index: int, categories: list[str], scale_x: Scale, scale_y: Scale
) -> list[Point]:
    """Draw one series and return its points."""
    series, colour = plot.series[index], index % N_COLOURS
    runs = _runs(series, categories, scale_x, scale_y)
    points = [point for run in runs for point in run]
    _draw_interval(canvas, plot, series, colour, categories, scale_x, scale_y)
    has_line = _has_line(plot, series)
    if has_line:
        for run in runs:
            canvas.path(run, f"s{colour} dashed" if series.style == "dashed" else f"s{colour}")
    if not has_line or (not series.style and len(points) <= 24):
        size = "big" if len(points) <= 60 else "small"
        canvas.dots(points, f"p{colour} {size}")
    return points


def _has_line(plot: Plot, series: PlotSeries) -> bool:
    return series.style in ("line", "dashed") or (plot.kind == "line" and not series.style)


def _runs(
    series: PlotSeries, categories: list[str], scale_x: Scale, scale_y: Scale
) -> list[list[Point]]:
    """Return the points in pixels, apart where one between them cannot be drawn."""
    runs: list[list[Point]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        place = categories.index(str(x)) if categories else x
        if scale_x.has(place) and scale_y.has(y):
            runs[-1].append((scale_x.at(place), scale_y.at(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _draw_interval(
    canvas: Canvas,
    plot: Plot,
    series: PlotSeries,
    colour: int,
    categories: list[str],
    scale_x: Scale,
    scale_y: Scale,
) -> None:
    if not series.low or not series.high:
        return
    ends = []
    for x, low, high in zip(series.x, series.low, series.high, strict=True):
        place = categories.index(str(x)) if categories else x
        if scale_x.has(place) and scale_y.has(low) and scale_y.has(high):
            ends.append((scale_x.at(place), scale_y.at(low), scale_y.at(high)))
    if plot.kind == "line" and series.style != "points" and len(ends) > 1:
        outline = [(x, low) for x, low, _ in ends] + [(x, high) for x, _, high in reversed(ends)]
        canvas.area(outline, f"f{colour} band")
    else:
        for x, low, high in ends:
            canvas.line(x, low, x, high, f"s{colour}")


def _draw_marks(
    canvas: Canvas, marks: Sequence[Mark], scale_x: Scale, scale_y: Scale, top: float
) -> None:
    row = 0
    for mark in marks:
        if mark.x is not None and mark.y is not None:
            if scale_x.has(mark.x) and scale_y.has(mark.y):
                x, y = scale_x.at(mark.x), scale_y.at(mark.y)
                canvas.line(x - 5, y, x + 5, y, "mark solid")
                canvas.line(x, y - 5, x, y + 5, "mark solid")
                _text_beside(canvas, x + 3, y - 6, mark.label, scale_x.end_px)
        elif mark.x is not None and scale_x.has(mark.x):
            x, y = scale_x.at(mark.x), top + LINE_PX * row
            canvas.line(x, y, x, scale_y.start_px, "mark")
            _text_beside(canvas, x, y + 9, mark.label, canvas.width)
            row += 1
        elif mark.y is not None and scale_y.has(mark.y):
            y = scale_y.at(mark.y)
            canvas.line(scale_x.start_px, y, scale_x.end_px, y, "mark")
            canvas.text(scale_x.start_px + 4, y - 4, mark.label, style="note halo")


def _text_beside(canvas: Canvas, x: float, y: float, words: str, right: float) -> None:
    if x + 4 + text_px(words) <= right:
        canvas.text(x + 4, y, words, style="note halo")
    else:
        canvas.text(x - 4, y, words, "end", "note halo")


def _draw_names(
    canvas: Canvas,
    names: Sequence[str],
    drawn: Sequence[Sequence[Point]],
    chosen: Sequence[int],
    right: float,
    ends: tuple[float, float],
) -> list[Box]:
    """Write each name to the right of its last point, moved apart; return where they stand."""
    shown = [index for index in chosen if drawn[index]]
    lasts = [max(drawn[index]) for index in shown]
    heights = spread([y for _, y in lasts], LINE_PX - 2, ends[0] + 4, ends[1])
    for index, (x, y), height in zip(shown, lasts, heights, strict=True):
        if math.hypot(right - x, height - y) > 12:
            canvas.line(x + 3, y, right + 4, height, f"s{index % N_COLOURS} leader")
        words = shortened(names[index], canvas.width - right - 6)
        canvas.text(right + 7, height + 4, words, style=f"t{index % N_COLOURS}")
    return [(right, height - 7, canvas.width, height + 7) for height in heights]


def _draw_names_beside(
    canvas: Canvas,
    names: Sequence[str],
    drawn: Sequence[Sequence[Point]],
    chosen: Sequence[int],
    top: float,
    taken: Sequence[Box],
) -> None:
    """Write each name beside its last point, on the first side where nothing else lies."""
    taken = [*taken, *((x - 5, y - 5, x + 5, y + 5) for points in drawn for x, y in points)]
    for index in chosen:
        if not drawn[index]:
            continue
        (x, y), width = max(drawn[index]), text_px(names[index])
        sides = [(x + 8, y + 4), (x - 8 - width, y + 4), (x - width / 2, y - 9)]
        sides += [(x - width / 2, y + 18), (x + 6, y - 9), (x + 6, y + 18)]
        boxes = [(left, base - 10, left + width, base + 3) for left, base in sides]
        inside = [b for b in boxes if b[0] >= 0 and b[2] <= canvas.width and b[1] >= top - 12]
        free = [b for b in inside if not any(_overlap(b, other) for other in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        canvas.text(box[0], box[3] - 3, names[index], style=f"t{index % N_COLOURS} halo")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
