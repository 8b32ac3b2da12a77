"""The parity page stands alone and says what the gate said, whatever the facts look like."""

import base64
import io
import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_export.parity_page import ParityEntry, write_parity_page
from cff_runtime.errors import StorageError
from cff_runtime.overlay import heat_map
from cff_runtime.parity import ParityLimits, ParityReport, find_failures
from cff_runtime.result import Result
from cff_runtime.verification import DEFECTIVE, GOOD, REFERENCE, GoldenCheck

Map = NDArray[np.float32]
REDUCED = ParityLimits(features=None, anomaly_map=None, map_shift=0.1, rank_correlation=0.94)
VOID = {"meta", "img", "br"}
BLACK, BRIGHT = heat_map(np.array([[0.0, 1.0]], np.float32), (0.0, 1.0))[0]

REPORT = ParityReport(
    n_images=3,
    resize_equal=True,
    feature_max_diff=(1e-6, 2e-6),
    feature_min_cosine=(0.999991, 0.999992),
    feature_mean_cosine=(0.999997, 0.999998),
    encoder_map_max_diff=3e-6,
    encoder_score_max_diff=4e-6,
    map_max_diff=2e-4,
    score_max_diff=5e-5,
    map_shift=0.0025,
    score_shift=0.0005,
    rank_correlation=1.0,
    auroc_diff=0.0,
    scores=(0.25, 1.5, 3.0),
    expected_scores=(0.25, 1.25, 3.0),
    flipped=(),
    limits=ParityLimits(),
)


class _Page(HTMLParser):
    """Fails on a tag that closes another than the last one opened; gathers rows, links, texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.source = path.read_text("utf-8")
        self.text = ""
        self.feed(self.source)
        assert self.open in (["html"], [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, *start: str) -> list[str]:
        """Return the one row that starts with these cells."""
        (found,) = [row for row in self.rows if tuple(row[: len(start)]) == start]
        return found

    def pictures(self) -> list[NDArray[np.uint8]]:
        """Return the inlined pictures in RGB, those of colour scales left out."""
        data = [base64.b64decode(link.partition(",")[2]) for link in self.links if "data:" in link]
        images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in data]
        return [image for image in images if image.shape[0] > 1]


def _judged(**changes: Any) -> dict[str, Any]:
    report = replace(REPORT, **changes)
    return replace(report, failures=find_failures(report)).to_dict()


def _check(name: str, expected: Map, got: Map, role: int = GOOD) -> GoldenCheck:
    verdict = "reject" if role == DEFECTIVE else "pass"
    result = Result(float(got.max()), verdict, 2.0, got, (), None, {})
    return GoldenCheck(name, role, expected, float(expected.max()), result)


def _entry(report: dict[str, Any] | None = None, **changes: Any) -> ParityEntry:
    start = ParityEntry("fp16", "encoder.fp16.onnx", _judged() if report is None else report)
    return replace(start, **changes)


def _write(folder: Path, *entries: ParityEntry) -> _Page:
    write_parity_page(folder / "parity.html", "Bundle 1234", entries)
    return _Page(folder / "parity.html")


@pytest.fixture
def checks() -> list[GoldenCheck]:
    """Three images of 40 x 60, of which the second is 0.25 too high in one corner."""
    maps = np.random.default_rng(3).random((3, 40, 60), dtype=np.float32)
    got = maps.copy()
    got[1, :20, :20] += 0.25
    names = [f"golden/golden_{index}.png" for index in range(3)]
    return list(map(_check, names, maps, got, (REFERENCE, GOOD, DEFECTIVE)))


def test_the_page_asks_for_nothing(tmp_path: Path, checks: list[GoldenCheck]) -> None:
    page = _write(tmp_path, _entry(checks=checks), _entry(precision="int8"))
    assert page.source.startswith("<!doctype html>")
    assert all(link.startswith(("data:image/png;base64,", "#p")) for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "http" not in page.source and "url(" not in page.source and "@import" not in page.source
    assert [path.name for path in tmp_path.iterdir()] == ["parity.html"]


def test_every_quantity_is_told_with_its_limit(tmp_path: Path) -> None:
    page = _write(tmp_path, _entry({**_judged(), "batch_position_max_diff": 2e-5}))

    for row in (
        ["anomaly map, largest difference", "2.0e-04", "≤ 1.0e-03", "✓ holds"],
        ["anomaly map, share of the way to its threshold", "0.25%", "≤ 1.00%", "✓ holds"],
        ["score, largest difference", "5.0e-05", "≤ 1.0e-03", "✓ holds"],
        ["score, share of the way to its threshold", "0.05%", "≤ 1.00%", "✓ holds"],
        ["encoder's map, largest difference", "3.0e-06", "≤ 1.0e-03", "✓ holds"],
        ["encoder's score, largest difference", "4.0e-06", "≤ 1.0e-03", "✓ holds"],
        ["scores, rank correlation", "1.0000", "≥ 0.9900", "✓ holds"],
        ["image AUROC, difference", "0", "≤ 0.0020", "✓ holds"],
        ["verdicts that flip", "0", "≤ 0", "✓ holds"],
        ["resize, equal to the last bit", "yes", "yes", "✓ holds"],
        ["answers, change with the batch", "2.0e-05", "-", "no limit"],
    ):
        assert page.row(row[0]) == row
    stages = ["0", "1.0e-06", "≤ 1.0e-04", "✓ holds", "0.999997", "≥ 0.999990", "✓ holds"]
    assert page.row("0", "1.0e-06") == [*stages, "0.999991"]
    assert page.row("1", "2.0e-06")[-1] == "0.999992"
    assert page.row("fp16")[1:3] == ["passed", "encoder.fp16.onnx"]


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"map_max_diff": 0.5}, "anomaly map, largest difference"),
        ({"map_shift": math.inf}, "anomaly map, share of the way to its threshold"),
        ({"score_max_diff": math.inf}, "score, largest difference"),
        ({"score_shift": 0.02}, "score, share of the way to its threshold"),
        ({"encoder_map_max_diff": 0.01}, "encoder's map, largest difference"),
        ({"encoder_score_max_diff": 0.01}, "encoder's score, largest difference"),
        ({"rank_correlation": 0.9}, "scores, rank correlation"),
        ({"auroc_diff": math.nan}, "image AUROC, difference"),
        ({"flipped": ("golden/golden_2.png",)}, "verdicts that flip"),
        ({"resize_equal": False}, "resize, equal to the last bit"),
    ],
)
def test_marks_agree_with_the_gate(change: dict[str, Any], label: str, tmp_path: Path) -> None:
    report = _judged(**change)
    page = _write(tmp_path, _entry(report))
    outside = [row[0] for row in page.rows if "✗ outside" in row]
    assert outside == [label] and len(report["failures"]) == 1
    assert report["failures"][0] in page.text
    assert page.row("fp16")[1] == "outside its limits"
    finite = all(math.isfinite(value) for value in change.values() if isinstance(value, float))
    assert (page.row(label)[1] == "not finite") == (not finite)


def test_a_stage_is_marked_by_difference_and_by_cosine(tmp_path: Path) -> None:
    changes = {"feature_max_diff": (1e-6, math.inf), "feature_mean_cosine": (0.99, 1.0)}
    page = _write(tmp_path, _entry(_judged(**changes)))

    first, second = (row for row in page.rows if len(row) == 8 and row[0] in ("0", "1"))
    assert (first[3], first[6]) == ("✓ holds", "✗ outside")
    assert (second[3], second[6]) == ("✗ outside", "✓ holds")
    assert second[1] == "not finite"


def test_what_has_no_limit_is_not_marked(tmp_path: Path) -> None:
    page = _write(tmp_path, _entry(_judged(limits=REDUCED, map_max_diff=0.9)))
    assert page.row("anomaly map, largest difference")[1:] == ["9.0e-01", "-", "no limit"]
    assert page.row("0", "1.0e-06")[2:4] == ["-", "no limit"]
    page = _write(tmp_path, _entry(_judged(limits=ParityLimits(verdict_flips=None))))
    assert page.row("verdicts that flip")[1:] == ["0", "-", "no limit"]


@pytest.mark.parametrize(("diff", "mark"), [(0.019, "✓ holds"), (math.nan, "✗ outside")])
def test_a_batch_is_marked_by_the_limit_that_the_report_names(
    diff: float, mark: str, tmp_path: Path
) -> None:
    batch = {"batch_position_max_diff": diff, "batch_position_limit": 0.02}
    page = _write(tmp_path, _entry(_judged() | batch))
    assert page.row("answers, change with the batch")[2:] == ["≤ 2.0e-02", mark]


def test_verdicts_of_both_sides_stand_beside_each_other(
    tmp_path: Path, checks: list[GoldenCheck]
) -> None:
    page = _write(tmp_path, _entry(_judged(flipped=(checks[2].name,)), checks=checks))
    peaks = [float(check.expected_map.max()) for check in checks]
    assert page.row(checks[0].name) == [
        *(checks[0].name, "reference", f"{peaks[0]:.4f}", f"{peaks[0]:.4f}", "0", "2.0000"),
        *("pass", "pass", "✓ same"),
    ]
    assert page.row(checks[1].name)[4] == f"{checks[1].result.score - peaks[1]:+.1e}"
    assert page.row(checks[2].name)[5:] == ["2.0000", "pass", "reject", "✗ flipped"]
    assert page.row("verdicts that flip")[1] == "1"


def test_without_maps_the_scores_are_told_and_no_pictures_promised(tmp_path: Path) -> None:
    page = _write(tmp_path, _entry(_judged(flipped=("golden/golden_1.png",))))
    assert page.row("1", "1.2500") == ["1", "1.2500", "1.5000", "+2.5e-01"]
    assert "Flipped: golden/golden_1.png." in page.text
    assert page.pictures() == [] and "Maps" not in page.text


def test_a_score_that_is_not_finite_is_told(tmp_path: Path, checks: list[GoldenCheck]) -> None:
    broken = replace(checks[0], result=replace(checks[0].result, score=math.nan))
    page = _write(tmp_path, _entry(checks=[broken]), _entry(_judged(scores=(math.nan, 1.0, 2.0))))
    assert page.row(checks[0].name)[3:5] == ["not finite", "not finite"]
    assert page.row("0", "0.2500") == ["0", "0.2500", "not finite", "not finite"]


def test_a_refusal_says_why_once(tmp_path: Path) -> None:
    report = _judged(score_shift=0.5, auroc_diff=0.1)
    refused = f"no choice of blocks passes: {report['failures'][0]}"
    page = _write(tmp_path, _entry(report, encoder="", refused=refused))
    assert f"Refused: {refused}" in page.text
    assert [page.text.count(failure) for failure in report["failures"]] == [1, 1]
    assert page.row("fp16")[1:3] == ["refused", "-"]


def test_a_precision_may_be_refused_before_the_gate_and_after_it(tmp_path: Path) -> None:
    page = _write(tmp_path, _entry({}, encoder="", refused="the graph cannot be built"))
    assert page.row("fp16") == ["fp16", "refused", "-", "-", "-", "-", "-", "0"]
    assert "Refused: the graph cannot be built" in page.text
    assert "nothing was measured" in page.text and "Quantities" not in page.text
    slower = _write(tmp_path, _entry(refused="int8 is not faster on this CPU"))
    assert slower.row("fp16")[1] == "refused" and "✗" not in slower.text


def test_a_report_of_another_version_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = _judged()
    parts = [{name: whole[name] for name in whole if name != gone} for gone in whole]
    fewer = [{n: whole["limits"][n] for n in whole["limits"] if n != g} for g in whole["limits"]]
    parts += [{**whole, "limits": limits} for limits in fewer]
    page = _write(tmp_path, *map(_entry, parts))
    assert len([row for row in page.rows if row[0] == "fp16"]) == len(parts)


def test_kept_blocks_stand_with_reason_and_cost_and_speed_is_a_table(tmp_path: Path) -> None:
    facts = {
        "repair": {"kept": {"trunk.blocks.3": "overflow", "heads.0": "error of 2e-3"}, "trials": 9},
        "share_fp32": {"parameters": 0.03125, "multiply_adds": 0.123456},
        "speed": {"fp32": {"p50_ms": 12.345678, "n": 7}, "int8": {"p50_ms": 6.5, "n": 7}},
        "n_casts": 24,
    }
    page = _write(tmp_path, _entry(kept_fp32=("trunk.blocks.3", "heads.0"), facts=facts))

    section = page.text.partition("Blocks kept in fp32")[2].partition("How it was built")
    for told in ("trunk.blocks.3, heads.0", "overflow", "error of 2e-3", "0.03125", "0.1235", "9"):
        assert told in section[0]
    assert "n casts24" in section[2] and "0.03125" not in section[2]
    assert page.row("fp16")[-1] == "2" and ["", "p50 ms", "n"] in page.rows
    assert page.row("fp32") == ["fp32", "12.35", "7"] and page.row("int8") == ["int8", "6.5", "7"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "-"),
        (True, "yes"),
        (0.000123456, "0.0001235"),
        (math.inf, "inf"),
        ([1, "two", None], "1, two, -"),
        ([], "none"),
        ({}, "none"),
        ([{"a": 1, "b": 2}, {"a": 3}], "ab1122"),
        ({"x": {"a": 1}, "y": {"b": 2}}, "xa1yb2"),
        ({"x": {"a": 1}, "y": {"a": 2, "b": 3}}, "abx1y23"),
        ({"x": {"y": {"z": [{"deep": "end"}]}}}, "xyzdeepend"),
    ],
)
def test_facts_of_any_shape_are_rendered(value: Any, told: str, tmp_path: Path) -> None:
    page = _write(tmp_path, _entry(facts={"anything": value, "repair": value, "speed": value}))
    assert told in page.text.partition("How it was built")[2]


def test_everything_is_escaped(tmp_path: Path, checks: list[GoldenCheck]) -> None:
    evil = "<b onload='x'>&\"</b>"
    check = replace(checks[0], name=evil)
    report = {**_judged(flipped=(evil,)), "failures": [evil]}
    facts = {evil: evil, "repair": {evil: [evil]}, "speed": {evil: {evil: evil}, "y": {evil: 1}}}
    entry = ParityEntry(evil, evil, report, [check], (evil,), f"because {evil}!", facts)
    unlucky = replace(entry, checks=(), refused="")

    write_parity_page(tmp_path / "parity.html", evil, [entry, unlucky])
    page = _Page(tmp_path / "parity.html")
    assert evil not in page.source and "b" not in page.tags
    assert page.text.count(evil) > 20 and f"because {evil}!" in page.text


def test_maps_share_one_scale_and_differences_are_drawn_to_the_limit(
    tmp_path: Path, checks: list[GoldenCheck]
) -> None:
    report = _judged(limits=REDUCED, map_max_diff=0.25, map_shift=0.05)
    page = _write(tmp_path, _entry(report, checks=checks))

    every = np.stack([check.expected_map for check in checks])
    low, high = np.quantile(every, (0.5, 0.995))
    assert f"Maps: {low:.4g}" in page.text and f"{high:.4g}, from the median" in page.text
    assert "0.5, the limit of this precision" in page.text  # 0.25 is 5 %, 10 % may be
    pictures = page.pictures()
    assert len(pictures) == 9 and all(picture.shape == (40, 60, 3) for picture in pictures)
    for index, check in enumerate(checks):
        expected, got, difference = pictures[3 * index : 3 * index + 3]
        assert np.array_equal(expected, heat_map(check.expected_map, (low, high)))
        assert np.array_equal(got, heat_map(check.result.anomaly_map, (low, high)))
        change = np.abs(check.result.anomaly_map - check.expected_map)
        assert np.array_equal(difference, heat_map(change, (0.0, 0.5)))
    assert "golden/golden_1.png, good: largest difference 2.5e-01" in page.text


@pytest.mark.parametrize(
    ("diff", "shift", "limits", "told"),
    [
        (2e-4, 0.001, (1e-3, 0.01), "0.001, the limit"),  # 1 % of the way would be 0.002
        (2e-4, 0.01, (1e-3, 0.01), "0.0002, the limit"),
        (2e-4, 0.01, (1e-3, None), "0.001, the limit"),
        (math.inf, math.inf, (1e-3, 0.01), "0.001, the limit"),
        (0.0, 0.0, (None, 0.01), "a tenth of the scale of the maps"),
        (2e-4, 0.01, (None, None), "a tenth of the scale of the maps"),
    ],
)
def test_the_tighter_limit_is_the_scale_of_differences(
    diff: float, shift: float, limits: Any, told: str, tmp_path: Path, checks: list[GoldenCheck]
) -> None:
    report = _judged(map_max_diff=diff, map_shift=shift)
    report["limits"] |= dict(zip(("anomaly_map", "map_shift"), limits, strict=True))
    page = _write(tmp_path, _entry(report, checks=checks))
    assert told in page.text.partition("Absolute differences: 0")[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_drawn(value: float, tmp_path: Path) -> None:
    expected = np.linspace(0.0, 1.0, 64, dtype=np.float32).reshape(8, 8)
    got = expected.copy()
    got[:4] = value
    page = _write(tmp_path, _entry(checks=[_check("a.png", expected, got)]))
    _, drawn, difference = page.pictures()
    assert (drawn[:4] == (BLACK if value < 0 else BRIGHT)).all()
    assert (difference[:4] == BRIGHT).all() and (difference[4:] == BLACK).all()
    assert "a.png, good: largest difference not finite" in page.text


def test_maps_of_odd_shapes_and_without_contrast_are_drawn(tmp_path: Path) -> None:
    zeros, broken = np.zeros((8, 8), np.float32), np.full((8, 8), np.nan, np.float32)
    other = np.ones((4, 4), np.float32)
    pairs = [(zeros, zeros), (broken, zeros), (zeros, other), (np.ones(16, np.float32), other)]
    page = _write(tmp_path, *[_entry(checks=[_check("a.png", *pair)]) for pair in pairs])
    assert len(page.pictures()) == 3 + 3 + 2 and (page.pictures()[0] == BLACK).all()
    assert page.text.count("a.png, good: expected (8, 8), got (4, 4)") == 1


def test_four_precisions_at_518_px_stay_small(tmp_path: Path) -> None:
    grids = np.random.default_rng(0).random((16, 37, 37), dtype=np.float32)  # rougher than parts
    maps = [np.asarray(cv2.resize(grid, (518, 518)), np.float32) for grid in grids]
    checks = [_check(f"{index}.png", maps[index], maps[index + 8]) for index in range(8)]
    page = _write(tmp_path, *[_entry(precision=name, checks=checks) for name in "abcd"])
    assert len(page.source) < 1_500_000
    assert {picture.shape for picture in page.pictures()} == {(128, 128, 3)}


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written"):
        write_parity_page(tmp_path / "file" / "parity.html", "x", [_entry()])


def test_the_page_needs_no_torch() -> None:
    code = "import sys, cff_export.parity_page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
