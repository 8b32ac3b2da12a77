"""Plots as SVG, small enough to stand inside the page.

Why not matplotlib: a report must be one file that opens anywhere, prints, follows the reader's
dark mode and reads on a phone. Pictures made elsewhere have fixed colours and a fixed width, need
megabytes of packages and tens of kilobytes each. Here every plot is drawn twice, for a wide and for
a narrow column, in the page's own font and colours, and the page shows one of them.

Colours are those of Okabe & Ito, told apart with the common kinds of colour blindness; names stand
beside what they name wherever there is room, so that colour is never all there is.
"""

from collections.abc import Callable

from cff_bench.report.bars import draw_bars
from cff_bench.report.canvas import Canvas
from cff_bench.report.document import Plot
from cff_bench.report.heatmap import draw_heatmap
from cff_bench.report.lines import draw_lines

WIDE_PX = 720
NARROW_PX = 340

_DRAWN_BY: dict[str, Callable[[Plot, float], Canvas]] = {
    "line": draw_lines,
    "scatter": draw_lines,
    "bar": draw_bars,
    "stacked": draw_bars,
    "heatmap": draw_heatmap,
}
_LIGHT = ("#0072b2", "#c65000", "#00805d", "#b0548a", "#a87400", "#3a8fc4", "#5f5f5f", "#7a4fa3")
_DARK = ("#56b4e9", "#f08a4b", "#3cc79b", "#e39cc6", "#e6b23c", "#8fd0f5", "#b5b5b5", "#b79ae0")


def draw_plot(plot: Plot, width: float = WIDE_PX, style: str = "plot") -> str:
    """Return a plot as an ``svg`` element; one without anything to draw is an empty text."""
    if not any(y is not None for series in plot.series for y in series.y):
        return ""
    return _DRAWN_BY[plot.kind](plot, float(width)).svg(plot.title, style)


def draw_both(plot: Plot) -> str:
    """Return a plot for wide and for narrow pages; the style sheet shows one of them."""
    return draw_plot(plot, WIDE_PX, "plot wide") + draw_plot(plot, NARROW_PX, "plot narrow")


def style_sheet() -> str:
    """Return the style of everything drawn."""
    light = "".join(f"--c{index}:{colour};" for index, colour in enumerate(_LIGHT))
    dark = "".join(f"--c{index}:{colour};" for index, colour in enumerate(_DARK))
    rules = [
        f":root{{{light}--on:#fff;--grid:#0001;--mark:#333;--paper:#fff}}",
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}--on:#111;--grid:#fff2;"
        "--mark:#ddd;--paper:#16181c}}",
        ".plot{display:block;max-width:100%;height:auto}.plot.narrow{display:none}",
        "@media (max-width:699px){.plot.wide{display:none}.plot.narrow{display:block}}",
        "@media print{.plot.wide{display:block;max-width:15.5cm}.plot.narrow{display:none}}",
        ".plot text{font:12px system-ui,sans-serif;fill:currentColor}",
        ".plot .tick,.plot .axis{fill:var(--pale)}.plot .axis{font-style:italic}",
        ".plot .figure{font-variant-numeric:tabular-nums}.plot .note{font-size:11px}",
        ".plot .halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px}",
        ".plot .grid{stroke:var(--grid)}",
        ".plot .mark{stroke:var(--mark);stroke-dasharray:4 3}.plot .solid{stroke-dasharray:none}",
        ".plot .whisker{stroke:var(--mark);stroke-width:1.5}.plot .dashed{stroke-dasharray:6 4}",
        ".plot polyline{fill:none}.plot .band{fill-opacity:.16}",
        ".plot .leader{stroke-width:.7!important;stroke-opacity:.6}",
        ".plot .big{stroke-width:7}.plot .small{stroke-width:3;stroke-opacity:.55}",
    ]
    for index in range(len(_LIGHT)):
        colour = f"var(--c{index})"
        rules.append(
            f".plot .f{index}{{fill:{colour}}}.plot line.f{index}{{stroke:{colour}}}"
            f".plot .s{index}{{stroke:{colour};stroke-width:1.8}}"
            f".plot .p{index}{{stroke:{colour};stroke-linecap:round;fill:none}}"
            f".plot .t{index}{{fill:{colour}}}.plot .on{index}{{fill:var(--on)}}"
        )
    return "\n".join(rules)
