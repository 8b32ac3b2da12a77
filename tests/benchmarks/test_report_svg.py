"""Plots: where things are drawn, by hand; ticks; labels that do not overlap."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from cff_bench.report.axes import fit_scale, format_tick
from cff_bench.report.canvas import shortened, spread, text_px, wrapped
from cff_bench.report.document import Mark, Plot, PlotSeries
from cff_bench.report.svg import NARROW_PX, WIDE_PX, draw_both, draw_plot

NAMESPACE = "{http://www.w3.org/2000/svg}"


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(NAMESPACE + tag))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in elements(svg, "text")]


def test_a_straight_scale() -> None:
    scale = fit_scale([0.0, 50.0], 0.0, 104.0)
    assert (scale.low, scale.high) == (0.0, 52.0)  # 4 % of room above, none below zero
    assert scale.at(25.0) == pytest.approx(50.0)
    assert scale.ticks(25) == [0.0, 20.0, 40.0]


def test_a_logarithmic_scale() -> None:
    scale = fit_scale([1.0, 1000.0, None, -3.0, math.nan], 0.0, 300.0, is_log=True)
    assert scale.at(10.0) - scale.at(1.0) == pytest.approx(scale.at(100.0) - scale.at(10.0))
    assert scale.ticks(60) == [1.0, 10.0, 100.0, 1000.0]
    assert scale.ticks(40) == [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
    assert not scale.has(0.0) and not scale.has(None) and scale.has(0.5)


@pytest.mark.parametrize("values", [[], [3.0], [0.0], [5.0, 5.0]])
@pytest.mark.parametrize("is_log", [False, True])
def test_a_scale_never_has_two_equal_ends(values: list[float], is_log: bool) -> None:
    scale = fit_scale(values, 0, 100, is_log)
    assert scale.low < scale.high
    assert scale.ticks(20)


def test_ticks_are_short() -> None:
    ticks = [0.0, 0.5, 20_000.0, 3e6, 1.5e9, 2e12, 0.0002]
    shown = [format_tick(tick, ticks) for tick in ticks]
    assert shown == ["0", "0.5", "20k", "3M", "1.5G", "2T", "0.0002"]


def test_labels_are_moved_apart_within_limits() -> None:
    moved = spread([50.0, 50.0, 51.0, 98.0], 10, 0, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False))
    assert min(moved) >= 0 and max(moved) <= 100
    assert spread([10.0, 30.0], 10, 0, 100) == [10.0, 30.0]


def test_words_are_cut_and_wrapped() -> None:
    assert shortened("encoder", 200) == "encoder"
    cut = shortened("a very long name indeed", 60)
    assert cut.endswith("…") and text_px(cut) <= 70
    assert wrapped("one two three", text_px("one two")) == ["one two", "three"]


def test_a_line_has_its_points_where_they_belong() -> None:
    plot = Plot("p", "P", "line", series=[PlotSeries("a", [0, 1, 2], [0, 10, 20])])
    found = elements(draw_plot(plot), "polyline")[0].attrib["points"]
    points = [tuple(map(float, pair.split(","))) for pair in found.split()]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # straight stays straight
    assert steps[0][0] > 0 > steps[0][1]


def test_a_gap_parts_a_line() -> None:
    plot = Plot("p", "P", "line", series=[PlotSeries("a", [0, 1, 2, 3, 4], [1, 2, None, 2, 1])])
    assert len(elements(draw_plot(plot), "polyline")) == 2


def test_bars_are_as_long_as_their_values() -> None:
    series = [PlotSeries("a", ["x", "y", "z"], [10.0, 20.0, None])]
    svg = draw_plot(Plot("p", "P", "bar", series=series, spec=".0f"))
    widths = [float(element.attrib["width"]) for element in elements(svg, "rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert {"x", "y", "z", "10", "20", "–"} <= set(texts(svg))


def test_stacks_add_up() -> None:
    series = [PlotSeries("a", ["x"], [1.0]), PlotSeries("b", ["x"], [3.0])]
    svg = draw_plot(Plot("p", "P", "stacked", series=series, spec=".1f"))
    boxes = [e for e in elements(svg, "rect") if float(e.attrib["height"]) > 12]
    assert len(boxes) == 2
    starts = [float(box.attrib["x"]) for box in boxes]
    ends = [float(box.attrib["x"]) + float(box.attrib["width"]) for box in boxes]
    assert (ends[1] - starts[1]) / (ends[0] - starts[0]) == pytest.approx(3, abs=0.05)
    assert "4.0" in texts(svg)


def test_a_heatmap_carries_its_figures() -> None:
    series = [PlotSeries("r1", ["1", "2"], [1.0, None]), PlotSeries("r2", ["2"], [4.0])]
    svg = draw_plot(Plot("p", "P", "heatmap", series=series, spec=".1f"))
    assert texts(svg).count("–") == 2  # one unknown, one that a row lacks
    assert {"r1", "r2", "1", "2", "1.0", "4.0"} <= set(texts(svg))
    assert len(elements(svg, "rect")) == 2


@pytest.mark.parametrize("kind", ["line", "bar", "scatter", "heatmap", "stacked"])
@pytest.mark.parametrize("width", [WIDE_PX, NARROW_PX])
@pytest.mark.parametrize("is_log", [False, True])
def test_everything_lies_within_the_drawing(kind: str, width: int, is_log: bool) -> None:
    names = ["short", "a name that is rather long for one side of a telephone", "<&>"]
    series = [
        PlotSeries(name, [1, 20, 3000], [0.5 + index, 7.0, None], [0.4, 6, None], [9, 8, None])
        for index, name in enumerate(names)
    ]
    marks = [Mark("limit", y=5.0), Mark("here", x=20.0), Mark("a point", 3000.0, 5.0)]
    plot = Plot("p", 'a "title"', kind, "x", "y", is_log, is_log, series, marks)
    svg = draw_plot(plot, width)
    root = ElementTree.fromstring(svg)
    height = float(root.attrib["height"])
    assert float(root.attrib["width"]) == width
    for element in root.iter(NAMESPACE + "text"):
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        size = text_px(element.text or "")
        start = {"end": x - size, "middle": x - size / 2}.get(
            element.attrib.get("text-anchor", ""), x
        )
        assert start >= -1 and start + size <= width + 1, element.text
        assert 0 <= y <= height + 1, element.text
    for number in re.findall(r'points="([^"]*)"', svg):
        for pair in number.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width and 0 <= y <= height


@pytest.mark.parametrize("kind", ["line", "bar", "scatter", "heatmap", "stacked"])
def test_nothing_to_draw_is_nothing(kind: str) -> None:
    assert draw_plot(Plot("p", "P", kind)) == ""
    assert draw_both(Plot("p", "P", kind, series=[PlotSeries("a", ["x"], [None])])) == ""


def test_names_in_place_of_numbers() -> None:
    plot = Plot("p", "P", "scatter", series=[PlotSeries("a", ["fp32", "int8"], [1.0, 2.0])])
    assert {"fp32", "int8"} <= set(texts(draw_plot(plot)))


def test_a_name_of_points_keeps_clear_of_the_name_of_the_line_through_them() -> None:
    line = PlotSeries("t1, fitted", [1, 2, 4], [1, 2, 4], style="dashed")
    points = PlotSeries("t1", [1, 2, 4], [1, 2, 4], style="points")
    svg = draw_plot(Plot("p", "P", "line", series=[points, line]))
    found = {element.text: element for element in elements(svg, "text")}
    beside, end = found["t1"], found["t1, fitted"]
    is_right_of = float(beside.attrib["x"]) + text_px("t1") <= float(end.attrib["x"])
    is_apart = abs(float(beside.attrib["y"]) - float(end.attrib["y"])) >= 10
    assert is_right_of or is_apart
