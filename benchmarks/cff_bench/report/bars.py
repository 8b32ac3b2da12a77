"""Bars, stacks and dots with intervals, lying: long names read well, also on a narrow screen."""

from cff_bench.report.axes import Scale, fit_scale
from cff_bench.report.canvas import (
    LINE_PX,
    N_COLOURS,
    Canvas,
    draw_legend,
    draw_x_axis,
    text_px,
    wrapped,
)
from cff_bench.report.document import Plot, PlotSeries, format_cell

_BAR_PX = 15
_GAP_PX = 9
_LEFT_SHARE = 0.34  # names stand beside their bars where they need no more of the width


def draw_bars(plot: Plot, width: float) -> Canvas:
    """Draw a plot of bars or stacks, or of dots where all series have the style ``points``."""
    canvas = Canvas(width)
    categories = list(dict.fromkeys(str(x) for series in plot.series for x in series.x))
    is_stacked = plot.kind == "stacked"
    y = 0.0
    if len(plot.series) > 1:
        styles = [f"f{index % N_COLOURS}" for index in range(len(plot.series))]
        y = draw_legend(canvas, [series.name for series in plot.series], y, styles)
    above = [mark for mark in plot.marks if mark.y is not None]
    marks_top = y
    y += LINE_PX * len(above)
    longest = max((text_px(name) for name in categories), default=0.0)
    beside = longest + 10 <= _LEFT_SHARE * width
    left = longest + 10 if beside else 0.0
    scale = _value_scale(plot, categories, left, width)
    top = y
    axis_at = len(canvas.parts)
    for name in categories:
        if not beside:
            for line in wrapped(name, width):
                canvas.text(0, y + 12, line)
                y += LINE_PX
        start = y
        if is_stacked:
            _draw_stack(canvas, plot, name, scale, y)
            y += _BAR_PX + 4
        else:
            for index, series in enumerate(plot.series):
                if _draw_bar(canvas, plot, series, index, name, scale, y):
                    y += _BAR_PX + 2
        if y == start:
            y += _BAR_PX
        if beside:
            canvas.text(left - 8, (start + y) / 2 + 3, name, "end")
        y += _GAP_PX
    bottom = y
    bars, canvas.parts[axis_at:] = canvas.parts[axis_at:], []
    canvas.height = draw_x_axis(canvas, scale, top, bottom, plot.y_label)
    canvas.parts += bars
    for index, mark in enumerate(above):
        if scale.has(mark.y) and mark.y is not None:
            x = scale.at(mark.y)
            canvas.line(x, marks_top + LINE_PX * index + 4, x, bottom, "mark")
            _text_beside(canvas, x, marks_top + LINE_PX * index + 12, mark.label)
    return canvas


def _value_scale(plot: Plot, categories: list[str], left: float, width: float) -> Scale:
    """Return the scale of the values, with room for the figure behind the longest bar."""
    values: list[float | None] = [mark.y for mark in plot.marks]
    texts = [""]
    if plot.kind == "stacked":
        for name in categories:
            total = sum(_value(series, name) or 0.0 for series in plot.series)
            values.append(total)
            texts.append(format_cell(total, plot.spec))
    else:
        for series in plot.series:
            values += [*series.y, *(series.low or ()), *(series.high or ())]
            texts += [format_cell(value, plot.spec) for value in series.y]
    room = max(text_px(text) for text in texts) + 10
    from_zero = None if _is_dots(plot) else True
    is_log = plot.y_log and plot.kind != "stacked"  # logs do not add up
    return fit_scale(values, left, width - room, is_log, from_zero)


def _draw_bar(
    canvas: Canvas, plot: Plot, series: PlotSeries, index: int, name: str, scale: Scale, y: float
) -> bool:
    """Draw one bar, its interval and its figure; return whether the series has this category."""
    names = [str(x) for x in series.x]
    if name not in names:
        return False
    place = names.index(name)
    value = series.y[place]
    zero = scale.low if scale.is_log else min(max(0.0, scale.low), scale.high)
    if not scale.has(value):
        canvas.text(scale.at(zero) + 4, y + 12, "–")
        return True
    colour = index % N_COLOURS
    x, start = scale.at(value), scale.at(zero)
    if _is_dots(plot):
        canvas.dots([(x, y + _BAR_PX / 2)], f"p{colour} big")
    else:
        canvas.box(min(x, start), y, abs(x - start), _BAR_PX, f"f{colour}")
    end = max(x, start)
    low = series.low[place] if series.low else None
    high = series.high[place] if series.high else None
    if low is not None and high is not None and scale.has(low) and scale.has(high):
        middle = y + _BAR_PX / 2
        style = f"s{colour}" if _is_dots(plot) else "whisker"
        canvas.line(scale.at(low), middle, scale.at(high), middle, style)
        end = max(end, scale.at(high))
    canvas.text(end + 5, y + 12, format_cell(value, plot.spec), style="figure")
    return True


def _draw_stack(canvas: Canvas, plot: Plot, name: str, scale: Scale, y: float) -> None:
    """Draw one stack; a part has its figure inside where that fits."""
    total = 0.0
    for index, series in enumerate(plot.series):
        value = _value(series, name)
        if not value or value < 0:
            continue
        start, end = scale.at(total or scale.low), scale.at(total + value)
        canvas.box(start, y, end - start - 0.6, _BAR_PX + 4, f"f{index % N_COLOURS}")
        words = format_cell(value, plot.spec)
        if text_px(words) + 6 <= end - start:
            style = f"on{index % N_COLOURS}"
            canvas.text((start + end) / 2, y + 14, words, "middle", style)
        total += value
    words = format_cell(total, plot.spec)
    canvas.text(scale.at(total or scale.low) + 5, y + 14, words, style="figure")


def _value(series: PlotSeries, name: str) -> float | None:
    for x, y in zip(series.x, series.y, strict=True):
        if str(x) == name:
            return None if y is None else float(y)
    return None


def _is_dots(plot: Plot) -> bool:
    return bool(plot.series) and all(series.style == "points" for series in plot.series)


def _text_beside(canvas: Canvas, x: float, y: float, words: str) -> None:
    """Write words to the right of a line, or to the left where they would leave the drawing."""
    if x + 4 + text_px(words) <= canvas.width:
        canvas.text(x + 4, y, words, style="note")
    else:
        canvas.text(x - 4, y, words, "end", "note")
