"""A matrix of figures, each cell shaded by its value and carrying it as a number."""

import math

from cff_bench.report.canvas import LINE_PX, Canvas, shortened, text_px, wrapped
from cff_bench.report.document import Plot, format_cell

_ROW_PX = 26
_DARK = 0.5  # a cell of more colour has light text


def draw_heatmap(plot: Plot, width: float) -> Canvas:
    """Draw the rows of a heatmap; where columns do not fit side by side, they go on below."""
    canvas = Canvas(width)
    columns = list(dict.fromkeys(str(x) for series in plot.series for x in series.x))
    cells = [{str(x): y for x, y in zip(s.x, s.y, strict=True)} for s in plot.series]
    values = [v for row in cells for v in row.values() if v is not None and math.isfinite(v)]
    left = min(max((text_px(s.name) for s in plot.series), default=0.0) + 10, 0.36 * width)
    texts = [format_cell(value, plot.spec) for value in values]
    words = [word for name in columns for word in name.split()]
    needed = max((text_px(text) for text in (*texts, *words)), default=20.0) + 8
    needed = min(needed, width - left)
    n_across = max(1, min(len(columns), int((width - left) / needed)))
    y = 0.0
    if plot.y_label or plot.x_label:
        for line in wrapped(" / ".join(t for t in (plot.y_label, plot.x_label) if t), width):
            canvas.text(0, y + 12, line, style="axis")
            y += LINE_PX
    for first in range(0, len(columns), n_across):
        part = columns[first : first + n_across]
        cell_px = min((width - left) / n_across, 92.0)
        heads = [wrapped(name, cell_px - 4) for name in part]
        n_lines = max(len(head) for head in heads)
        for index, head in enumerate(heads):
            for row, line in enumerate(head):
                at = y + 12 + LINE_PX * (n_lines - len(head) + row)
                canvas.text(left + (index + 0.5) * cell_px, at, line, "middle", "tick")
        y += LINE_PX * n_lines + 2
        for series, row_cells in zip(plot.series, cells, strict=True):
            name = shortened(series.name, left - 8)
            canvas.text(left - 8, y + _ROW_PX / 2 + 4, name, "end")
            for index, column in enumerate(part):
                x = left + index * cell_px
                _draw_cell(canvas, row_cells.get(column), values, plot.spec, (x, y, cell_px))
            y += _ROW_PX
        y += 10
    canvas.height = y
    return canvas


def _draw_cell(
    canvas: Canvas,
    value: float | None,
    values: list[float],
    spec: str,
    place: tuple[float, float, float],
) -> None:
    x, y, cell_px = place
    share = _share(value, values)
    if share is not None:
        shade = 0.06 + 0.86 * share
        canvas.box(x + 1, y + 1, cell_px - 2, _ROW_PX - 2, "f0", shade)
    style = "on0" if share is not None and 0.06 + 0.86 * share > _DARK else "figure"
    canvas.text(x + cell_px / 2, y + _ROW_PX / 2 + 4, format_cell(value, spec), "middle", style)


def _share(value: float | None, values: list[float]) -> float | None:
    """Return how far a value lies between the smallest and the largest, by logs if far apart."""
    if value is None or not math.isfinite(value):
        return None
    low, high = min(values), max(values)
    if low == high:
        return 0.3
    if low > 0 and high / low > 8:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
