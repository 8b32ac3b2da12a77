"""The page stands alone, says what the rows say, and shows the pictures that lie beside it."""

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cff_edge.evaluation.page import write_page
from cff_edge.evaluation.plots import legend, plot_metric
from cff_edge.evaluation.printed_tables import printed_tables
from cff_edge.evaluation.summary import DatasetSummary, Figure, Row
from cff_edge.metrics import METRIC_NAMES

PROVENANCE = {
    "commands": [["cff-eval", "a folder", "--method", "x=<run>"]],
    "versions": [{"torch": "2.9"}],
    "warnings": ["weights are <random>"],
    "seeds": [0, 1],
}
VOID = {"meta", "img", "line", "circle", "polygon", "polyline"}


def _row(method: str, k: int, mean: float, std: float | None = 0.01) -> Row:
    figures = {
        name: Figure(mean - 0.01 * index, std, mean - 0.1, mean)
        for index, name in enumerate(METRIC_NAMES)
    }
    return Row(
        dataset="parts",
        method=method,
        product=None,
        k=k,
        image_score="peak",
        products=("ring",),
        seeds=(0, 1),
        seeds_left_out=(),
        figures=figures,
        seconds=1.0,
        cells=(),
    )


def _dataset(rows: Sequence[Row]) -> DatasetSummary:
    return DatasetSummary("parts", None, ("ring",), 7, tuple(rows), ())


@pytest.fixture
def dataset() -> DatasetSummary:
    return _dataset([_row(m, k, 0.9 + k / 100) for k in (1, 4) for m in ("affine", "raw<1>")])


def _write(path: Path, dataset: DatasetSummary) -> str:
    write_page(path, [dataset], printed_tables([dataset], 10), PROVENANCE)
    return path.read_text("utf-8")


class _Balance(HTMLParser):
    """Fails on a tag that closes another than the last one opened; gathers cells and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def _parse(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == ["html", "body"] or parser.open == []
    return parser


def _picture(value: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path, dataset: DatasetSummary) -> None:
    folder = tmp_path / "pictures" / "parts" / "ring"
    folder.mkdir(parents=True)
    for name in ("input", "mask", "affine"):
        _picture(90).save(folder / f"0_{name}.png")

    page = _write(tmp_path / "index.html", dataset)

    parser = _parse(page)
    assert len(parser.links) == 3
    assert all(link.startswith("data:image/jpeg;base64,") for link in parser.links)
    assert "http" not in page and "<script" not in page and "url(" not in page
    assert "x=&lt;run&gt;" in page and "weights are &lt;random&gt;" in page
    assert "<run>" not in page and "raw<1>" not in page


def test_tables_print_what_the_rows_hold(tmp_path: Path, dataset: DatasetSummary) -> None:
    parser = _parse(_write(tmp_path / "index.html", dataset))
    expected = [f"{94 - index}.0 ± 1.0" for index in range(len(METRIC_NAMES))]
    start = parser.cells.index("affine", parser.cells.index("affine") + 1) - 1
    assert parser.cells[start : start + 4] == ["4", "affine", "2", "peak"]
    assert parser.cells[start + 4 : start + 12] == expected
    assert "84.0 to 94.0" in parser.cells
    assert any("NOT comparable" in text for text in parser.texts)


def test_pictures_are_small_and_stand_in_one_column_per_method(
    tmp_path: Path, dataset: DatasetSummary
) -> None:
    folder = tmp_path / "pictures" / "parts" / "ring"
    folder.mkdir(parents=True)
    for index in (2, 10, 33):
        for value, name in enumerate(("input", "mask", "some_method", "affine")):
            if (index, name) != (10, "affine"):
                _picture(60 * value + index).save(folder / f"{index}_{name}.png")
    (folder / "notes.txt").write_text("no picture")
    _picture(1).save(folder / "x_input.png")

    page = _write(tmp_path / "index.html", dataset)

    table = page.split('<table class="pictures">')[1].split("</table>")[0]
    assert re.findall(r"<th>(.*?)</th>", table) == ["input", "mask", "affine", "some_method"]
    rows = table.split("<tr>")[2:]
    assert len(rows) == 3 and "<td></td>" in rows[1]
    grey = []
    for data in re.findall(r"base64,([^\"]+)", rows[0]):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (176, 117)
            grey.append(round(float(np.asarray(image).mean())))
    assert grey == pytest.approx([2, 62, 182, 122], abs=2)
    assert "One colour scale per method and product" in page


def test_no_more_than_four_pictures_of_a_product_spread_evenly(
    tmp_path: Path, dataset: DatasetSummary
) -> None:
    folder = tmp_path / "pictures" / "parts" / "ring"
    folder.mkdir(parents=True)
    for index in range(6):
        _picture(40 * index).save(folder / f"{index}_input.png")
    page = _write(tmp_path / "index.html", dataset)
    assert re.findall(r"alt=\"input of image (\d)\"", page) == ["0", "1", "3", "4"]
    assert "ring, 4 of 6 pictures" in page


def test_without_pictures_nothing_is_said_of_them(tmp_path: Path, dataset: DatasetSummary) -> None:
    (tmp_path / "pictures" / "parts" / "ring").mkdir(parents=True)
    assert "colour scale" not in _write(tmp_path / "index.html", dataset)


# ---- plots


def _marks(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Return x of the bar and both of its ends by title, read from the SVG."""
    figure = ElementTree.fromstring(plot_metric("AP px", "pixel_auroc", rows, methods))
    found = {}
    for group in figure.iter("g"):
        title, line = group.find("title"), group.find("line")
        assert title is not None and line is not None
        found[str(title.text)] = (
            float(line.attrib["x1"]),
            float(line.attrib["y1"]),
            float(line.attrib["y2"]),
        )
    return found


def _axis(rows: Sequence[Row]) -> list[float]:
    figure = ElementTree.fromstring(plot_metric("AP px", "pixel_auroc", rows, ["affine"]))
    texts = [e for e in figure.iter("text") if e.attrib.get("text-anchor") == "end"]
    return [float(str(text.text)) for text in texts]


def test_bars_are_one_deviation_each_way_on_the_axis() -> None:
    rows = [_row("affine", 1, 0.90, 0.02), _row("affine", 4, 0.94, None)]
    figure = ElementTree.fromstring(plot_metric("AP px", "pixel_auroc", rows, ["affine"]))
    ticks = {
        float(str(e.text)): float(e.attrib["y"]) - 4
        for e in figure.iter("text")
        if e.attrib.get("text-anchor") == "end"
    }
    (low, y_low), (high, y_high) = min(ticks.items()), max(ticks.items())

    def per_cent(y: float) -> float:
        return low + (high - low) * (y_low - y) / (y_low - y_high)

    marks = _marks(rows, ["affine"])

    _, bottom, top = marks["affine, K = 1: 90.0 ± 2.0"]
    assert (per_cent(bottom), per_cent(top)) == pytest.approx((88.0, 92.0), abs=0.05)
    _, bottom, top = marks["affine, K = 4: 94.0"]
    assert (per_cent(bottom), per_cent(top)) == pytest.approx((94.0, 94.0), abs=0.05)


def test_methods_stand_side_by_side_in_order_of_k() -> None:
    rows = [_row(method, k, 0.9, None) for method in ("a", "b") for k in (1, 2, 4)]
    marks = _marks(rows, ["a", "b"])
    x = [marks[f"{method}, K = {k}: 90.0"][0] for k in (1, 2, 4) for method in ("a", "b")]
    assert x == sorted(x) and len(set(x)) == 6
    assert x[2] - x[0] == pytest.approx(x[4] - x[2], abs=0.11)  # doublings at equal distances


@pytest.mark.parametrize("mean", [0.0, 0.004, 0.5, 0.96, 0.9999, 1.0])
@pytest.mark.parametrize("std", [None, 0.0, 0.001, 0.3])
def test_axes_are_round_few_and_within_a_fraction(mean: float, std: float | None) -> None:
    ticks = _axis([_row("affine", 1, mean, std)])
    assert 2 <= len(ticks) <= 7
    assert 0 <= ticks[0] <= 100 * max(mean - (std or 0), 0) + 1e-9
    assert 100 >= ticks[-1] >= 100 * min(mean + (std or 0), 1) - 1e-9
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_a_metric_without_rows_is_not_drawn() -> None:
    row = _row("affine", 1, 0.9)
    assert plot_metric("x", "unknown", [row], ["affine"]) == ""


def test_no_two_methods_look_alike() -> None:
    entries = legend([f"method{index}" for index in range(12)]).split("<li>")[1:]
    looks = [re.sub(r"method\d+", "", entry) for entry in entries]
    assert len(set(looks)) == 12
