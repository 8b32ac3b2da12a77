"""`cff-bench demo` end to end on a small data set, its report, and what it refuses."""

import base64
import contextlib
import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench import cli
from cff_bench.demo import commands, pipeline
from cff_bench.demo.evaluation import Inspection, Summary, choose_references, evaluate_product
from cff_bench.demo.report import write_report
from cff_bench.demo.synthetic import PRODUCTS, write_synthetic_dataset
from cff_edge.datasets import Sample, read_dataset
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import CffError, DatasetError
from cff_runtime.imaging import load_image

PRODUCT = "nut <M6> & co"  # a folder may be named so; a page must escape it
OTHERS = ("bolt", "cap")
BAR, DOT = "bar <1>", "dot"
BAR_MASK = (slice(52, 60), slice(80, 115))  # what `draw_part` makes bright
SIZE = (96, 96)
SMALL = ["train.projector_epochs=1", "train.calibrator_epochs=1", "backbone.image_size=96"]

DrawPart = Callable[..., NDArray[np.uint8]]


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_product(folder: Path, draw_part: DrawPart, first_seed: int) -> None:
    """Write a product whose verdicts are known: all but 4 of 9 test parts repeat a training part.

    Good part 003 shows the bar, so it is rejected; a part with a dot has one changed pixel, so
    it passes.
    """
    train = [draw_part(first_seed + number) for number in range(5)]
    barred = [draw_part(first_seed + 10 + number, True) for number in range(4)]
    parts = {"train/good": train, "test/good": [*train[:3], barred[3]], f"test/{BAR}": barred[:3]}
    parts[f"test/{DOT}"] = [part.copy() for part in train[3:]]
    for part in parts[f"test/{DOT}"]:
        part[7, 7] += 9
    for name, images in parts.items():
        for number, image in enumerate(images):
            write_image(folder / name / f"{number:03}.png", image)
    for defect, where, n in ((BAR, BAR_MASK, 3), (DOT, (slice(5, 9), slice(5, 9)), 2)):
        mask = np.zeros(train[0].shape[:2], np.uint8)
        mask[where] = 255
        for number in range(n):
            write_image(folder / "ground_truth" / defect / f"{number:03}_mask.png", mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, draw_part: DrawPart) -> Path:
    root = tmp_path_factory.mktemp("data") / "parts"
    for index, name in enumerate((*OTHERS, PRODUCT)):
        write_product(root / name, draw_part, 1000 * (index + 1))
    return root


@dataclass(frozen=True)
class Demo:
    out: Path
    summary: dict[str, Any]
    page: str
    stdout: str


@pytest.fixture(scope="module")
def demo(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One run of the real command lines, into the folder of an earlier demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    stale = ("run/head.safetensors", "run/state.safetensors", "bundle/manifest.json")
    for name in (*stale, "inspected/old.png", "overlays/old.png", "maps/old.npy", "report.html"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("stale")
    (out / ".cff-demo").touch()
    settings = [word for setting in SMALL for word in ("--set", setting)]
    words = ["demo", "--out", out, "--data", data, "--product", PRODUCT, "-k", 5, *settings]
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        assert cli.main([str(word) for word in words]) == 0
    summary = json.loads((out / "summary.json").read_text())
    return Demo(out, summary, (out / "report.html").read_text(), stdout.getvalue())


@dataclass(frozen=True)
class Raw:
    """What the bundle and profile left behind say about the test parts, without ``cff-run``."""

    defective: NDArray[np.bool_]
    scores: NDArray[np.float64]
    masks: NDArray[np.bool_]
    maps: NDArray[np.float32]
    threshold: float


@pytest.fixture(scope="module")
def raw(demo: Demo, data: Path) -> Raw:
    inspector = Inspector.open(Path(demo.summary["bundle"]))
    profile = Profile.load(Path(demo.summary["profile"]))
    paths = sorted((data / PRODUCT / "test").glob("*/*.png"))
    results = [inspector.inspect(load_image(path), profile) for path in paths]
    masks = []
    for path in paths:
        mask = np.zeros((120, 150), np.uint8)
        if path.parent.name != "good":
            truth = data / PRODUCT / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            mask = np.asarray(Image.open(truth))
        small = Image.fromarray(mask).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        masks.append(np.asarray(small) > 127)
    return Raw(
        np.array([path.parent.name != "good" for path in paths]),
        np.array([result.score for result in results]),
        np.array(masks),
        np.array([result.anomaly_map for result in results]),
        profile.threshold.value,
    )


def pairwise_auroc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    positive, negative = scores[labels], np.sort(scores[~labels])
    below = np.searchsorted(negative, positive, "left")
    not_above = np.searchsorted(negative, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))


def stepwise_ap(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Precision at the threshold that just finds a defective one, in the mean over those."""
    rising, positive = np.sort(scores), np.sort(scores[labels])
    called = len(rising) - np.searchsorted(rising, positive, "left")
    found = len(positive) - np.searchsorted(positive, positive, "left")
    return float((found / called).mean())


def test_references_for_the_figures_are_right() -> None:
    labels = np.array([True, False, True, False, False])
    scores = np.array([3.0, 2.0, 2.0, 1.0, 0.0])
    assert pairwise_auroc(labels, scores) == pytest.approx((3 + 2.5) / 6)
    assert stepwise_ap(labels, scores) == pytest.approx((1 + 2 / 3) / 2)


class TestSummary:
    def test_keys_and_types(self, demo: Demo) -> None:
        assert set(demo.summary) == {field.name for field in fields(Summary)}
        kinds = {
            "product": str, "k": int, "n_test_images": int, "image_auroc": float,
            "pixel_auroc": float, "pixel_ap": float, "threshold": float,
            "false_reject_rate": float, "false_accept_rate": float, "calibrator": str,
            "p50_ms": float, "stages_ms": dict, "bundle": str, "profile": str,
        }  # fmt: skip
        assert {name: type(value) for name, value in demo.summary.items()} == kinds

    def test_facts(self, demo: Demo) -> None:
        summary = demo.summary
        assert (summary["product"], summary["k"], summary["n_test_images"]) == (PRODUCT, 5, 9)
        assert summary["calibrator"] == "affine"
        assert Path(summary["bundle"]) == demo.out / "bundle"
        assert Path(summary["profile"]).parent == demo.out
        manifest = Bundle.open(Path(summary["bundle"])).manifest
        assert tuple(manifest.head["trained_on"]) == OTHERS
        profile = Profile.load(Path(summary["profile"]))
        assert (profile.product, profile.n_references) == (PRODUCT, 5)

    def test_times(self, demo: Demo) -> None:
        stages = demo.summary["stages_ms"]
        assert list(stages) == ["preprocess", "encode", "search", "finish"]
        assert all(ms > 0 for ms in stages.values())
        assert demo.summary["p50_ms"] >= max(stages.values())

    def test_figures_follow_from_the_raw_scores(self, demo: Demo, raw: Raw) -> None:
        summary = demo.summary
        assert len(raw.scores) == 9
        assert summary["threshold"] == raw.threshold
        image = pairwise_auroc(raw.defective, raw.scores)
        pixel = pairwise_auroc(raw.masks.ravel(), raw.maps.ravel())
        assert summary["image_auroc"] == pytest.approx(image, abs=1e-9)
        assert summary["pixel_auroc"] == pytest.approx(pixel, abs=1e-5)
        ap = stepwise_ap(raw.masks.ravel(), raw.maps.ravel())
        assert summary["pixel_ap"] == pytest.approx(ap, abs=1e-4)
        rejected = raw.scores > raw.threshold
        assert summary["false_reject_rate"] == rejected[~raw.defective].mean()
        assert summary["false_accept_rate"] == (~rejected[raw.defective]).mean()

    def test_figures_are_neither_perfect_nor_chance(self, demo: Demo) -> None:
        """As made, see `write_product`."""
        assert demo.summary["false_reject_rate"] == 0.25
        assert demo.summary["false_accept_rate"] == 0.4
        assert 0.4 < demo.summary["image_auroc"] < 1
        assert 0.5 < demo.summary["pixel_auroc"] < 1

    def test_is_printed(self, demo: Demo) -> None:
        printed = dict(
            re.split(r"\s{2,}", line, maxsplit=1) for line in demo.stdout.strip().splitlines()
        )
        summary = demo.summary
        assert printed["product"] == f"{PRODUCT}, K = 5, 9 test images"
        labels = {
            "image_auroc": "image AUROC",
            "pixel_auroc": "pixel AUROC",
            "pixel_ap": "pixel AP",
            "threshold": "threshold",
        }
        for name, label in labels.items():
            shown = float(printed[label])
            assert shown == pytest.approx(summary[name], abs=6e-4)
        assert printed["false rejects"] == "25.0% of the good parts"
        assert printed["false accepts"] == "40.0% of the defective parts"
        assert printed["p50"].startswith(f"{summary['p50_ms']:.1f} ms")
        assert printed["report"] == str(demo.out / "report.html")

    def test_nothing_of_the_earlier_demo_is_left(self, demo: Demo) -> None:
        stale = [p for p in demo.out.rglob("*") if p.is_file() and p.read_bytes() == b"stale"]
        assert stale == []
        assert not (demo.out / "maps").exists()
        assert len(list((demo.out / "overlays").iterdir())) == 9


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def pictures(page: Page) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(",")[2])))
        for image in page.of("img")
    ]


class TestReport:
    def test_is_well_formed_and_whole(self, demo: Demo) -> None:
        page = Page(demo.page)
        assert page.open == []
        assert demo.page.startswith("<!doctype html>")
        assert demo.page.endswith("</html>")

    def test_needs_nothing_from_elsewhere(self, demo: Demo) -> None:
        page = Page(demo.page)
        assert page.of("img")
        for image in page.of("img"):
            assert (image["src"] or "").startswith("data:image/jpeg;base64,")
        assert not {"link", "script", "iframe", "object"} & {tag for tag, _ in page.tags}
        without_pictures = re.sub(r'src="data:image/jpeg;base64,[A-Za-z0-9+/=]+"', "", demo.page)
        assert len(without_pictures) < 20_000
        for word in ("http", "src=", "href", "url(", "@import"):
            assert word not in without_pictures

    def test_escapes_names(self, demo: Demo) -> None:
        assert "nut <M6>" not in demo.page
        assert BAR not in demo.page
        page = Page(demo.page)
        assert not {"m6", "1"} & {tag for tag, _ in page.tags}
        assert PRODUCT in page.text
        assert f"{BAR} / 000.png" in page.text

    def test_names_product_and_figures(self, demo: Demo) -> None:
        text = Page(demo.page).text
        assert "enrolled from 5 good parts, 9 parts inspected" in text
        assert "trained on bolt, cap, never on this product" in text
        assert f"image AUROC {demo.summary['image_auroc']:.3f}" in text
        assert f"pixel AUROC {demo.summary['pixel_auroc']:.3f}" in text
        assert f"pixel AP {demo.summary['pixel_ap']:.3f}" in text
        assert "false rejects 25%" in text
        assert "false accepts 40%" in text
        assert f"{demo.summary['p50_ms']:.1f} ms" in text
        assert f"Threshold {demo.summary['threshold']:.4f}" in text

    def test_own_data_are_not_called_synthetic(self, demo: Demo) -> None:
        assert "ynthetic" not in Page(demo.page).text

    def test_shows_wrong_and_right_verdicts(self, demo: Demo) -> None:
        text = Page(demo.page).text
        for title in (
            "Wrong: passed (2)",
            "Right: rejected (3)",
            "Wrong: rejected (1)",
            "Right: passed (3)",
        ):
            assert title in text
        captions = re.findall(r"(good|dot|bar <1>) / (\d+)\.png: (pass|reject) , score", text)
        assert len(captions) == 9
        assert ("good", "003", "reject") in captions
        assert ("good", "000", "pass") in captions
        assert ("dot", "001", "pass") in captions
        assert ("bar <1>", "002", "reject") in captions

    def test_each_part_stands_beside_its_heat_map(self, demo: Demo) -> None:
        page = Page(demo.page)
        assert [image["alt"] for image in page.of("img")] == ["part", "heat map"] * 9
        for part, heat_map in zip(pictures(page)[::2], pictures(page)[1::2], strict=True):
            assert (part.format, part.size) == ("JPEG", (448, 358))  # 150 x 120, enlarged
            assert heat_map.size[0] == 448
            assert heat_map.size[1] > 358  # with a caption

    def test_every_score_is_a_dot(self, demo: Demo, raw: Raw) -> None:
        """Right of the line exactly if it is rejected."""
        page = Page(demo.page)
        [line] = page.of("line")
        dots = [(float(dot["cx"] or 0), dot["cy"]) for dot in page.of("circle")]
        assert len(dots) == 9
        n_right = sum(x > float(line["x1"] or 0) for x, _ in dots)
        assert n_right == (raw.scores > raw.threshold).sum()
        assert len({y for _, y in dots}) == 2


def make_inspection(folder: Path, index: int, defective: bool, verdict: str) -> Inspection:
    image, overlay = folder / f"{index}.png", folder / f"{index}_overlay.png"
    write_image(image, np.full((40, 60, 3), 90, np.uint8))
    write_image(overlay, np.full((55, 60, 3), 90, np.uint8))
    mask = folder / f"{index}_mask.png"
    write_image(mask, np.pad(np.full((6, 6), 255, np.uint8), ((10, 24), (10, 44))))
    defect = "<b>dent</b>" if defective else "good"
    sample = Sample(image, "p", "test", defect, mask if defective else None)
    score = index / 10 + (2.0 if verdict == "reject" else 0.0)
    record = {"score": score, "verdict": verdict, "threshold": 1.99, "regions": []}
    return Inspection(sample, record, overlay)


class TestReportAlone:
    """Cases that the run above does not make."""

    def write(
        self, demo: Demo, out: Path, inspections: Sequence[Inspection], synthetic: bool
    ) -> Page:
        manifest = Bundle.open(demo.out / "bundle").manifest
        enrolled = {"threshold": {"statement": "<i>limit</i>"}, "bank_rows": [1, 2]}
        summary = replace(Summary(**demo.summary), threshold=1.99)
        write_report(out / "r.html", summary, inspections, enrolled, manifest, synthetic)
        return Page((out / "r.html").read_text())

    def test_synthetic_data_are_said_to_be(self, demo: Demo, tmp_path: Path) -> None:
        parts = [make_inspection(tmp_path, i, i > 0, ("pass", "reject")[i]) for i in range(2)]
        page = self.write(demo, tmp_path, parts, True)
        assert "Synthetic data." in page.text
        assert "say nothing about a real product" in page.text

    def test_without_wrong_verdicts(self, demo: Demo, tmp_path: Path) -> None:
        parts = [make_inspection(tmp_path, i, i > 0, ("pass", "reject")[i]) for i in range(2)]
        page = self.write(demo, tmp_path, parts, False)
        for title in ("Wrong: passed (0)", "Wrong: rejected (0)", "Right: rejected (1)"):
            assert title in page.text
        assert len(page.of("figure")) == 2
        assert page.open == []

    def test_names_are_escaped_everywhere(self, demo: Demo, tmp_path: Path) -> None:
        page = self.write(demo, tmp_path, [make_inspection(tmp_path, 0, True, "pass")], False)
        assert "<b>dent</b> / 0.png" in page.text
        assert "<i>limit</i>" in page.text

    def test_many_of_a_kind_show_those_nearest_to_the_threshold(
        self, demo: Demo, tmp_path: Path
    ) -> None:
        parts = [make_inspection(tmp_path, i, True, "pass") for i in range(12)]
        page = self.write(demo, tmp_path, parts, False)
        assert "Wrong: passed (12, 8 shown)" in page.text
        shown = re.findall(r"dent</b> / (\d+)\.png", page.text)
        assert shown == ["11", "10", "9", "8", "7", "6", "5", "4"]
        assert len(page.of("circle")) == 12


class TestEvaluation:
    def test_visa_layout(
        self, demo: Demo, draw_part: DrawPart, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Stems that repeat between folders, and suffixes that differ, keep apart."""
        rows = [["object", "split", "label", "image", "mask"]]
        images = {
            "Normal/000.png": ("train", False), "Normal/001.png": ("train", False),
            "Normal/002.png": ("test", False), "Normal/003.bmp": ("test", False),
            "Normal/003.png": ("test", False), "Anomaly/002.png": ("test", True),
            "Anomaly/003.png": ("test", True),
        }  # fmt: skip
        for seed, (name, (split, defective)) in enumerate(images.items()):
            write_image(tmp_path / "v/pcb" / name, draw_part(7000 + seed, defective))
            mask = f"pcb/Masks/{Path(name).stem}.png" if defective else ""
            label = "anomaly" if defective else "normal"
            rows.append(["pcb", split, label, f"pcb/{name}", mask])
            if defective:
                truth = np.zeros((120, 150), np.uint8)
                truth[BAR_MASK] = 3  # a class id, as VisA stores
                write_image(tmp_path / "v" / mask, truth)
        (tmp_path / "v/split_csv").mkdir()
        with (tmp_path / "v/split_csv/1cls.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        dataset = read_dataset(tmp_path / "v")
        out = tmp_path / "out"
        summary, inspections, enrolled = evaluate_product(
            demo.out / "bundle", dataset, "pcb", 2, "affine", out
        )
        assert (summary.product, summary.k, summary.n_test_images) == ("pcb", 2, 5)
        assert enrolled["n_references"] == 2
        assert summary.image_auroc == 1.0
        assert summary.pixel_auroc > 0.9
        assert [item.sample for item in inspections] == dataset.select("test")
        assert len({item.overlay for item in inspections}) == 5
        for item in inspections:
            assert item.overlay.is_file()
            assert Path(item.record["image"]).resolve() == item.sample.path
        stderr = capfd.readouterr().err
        assert "$ cff-run enroll " in stderr
        assert "inspected 5 of 5 images" in stderr

    def test_references_are_drawn_from_good_training_parts(self, data: Path) -> None:
        dataset = read_dataset(data)
        drawn = [choose_references(dataset, "bolt", 3, seed) for seed in (0, 0, 1, 2, 3)]
        assert drawn[0] == drawn[1]
        assert len({tuple(paths) for paths in drawn}) > 1
        for paths in drawn:
            assert len(set(paths)) == 3
            assert {path.parent for path in paths} == {data / "bolt" / "train" / "good"}
        with pytest.raises(DatasetError, match=r"`bolt` must have 6 good training images, got 5"):
            choose_references(dataset, "bolt", 6)


class TestCommands:
    def test_returns_what_it_printed(self, demo: Demo, capfd: pytest.CaptureFixture[str]) -> None:
        [shown] = commands.run_json(["cff-run", "show", demo.summary["profile"]])
        assert shown["product"] == PRODUCT
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("\n$ cff-run show '")

    def test_a_failure_ends_in_one_sentence(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(CffError, match=r"^`cff-run` failed with exit code \d, see above$"):
            commands.run(["cff-run", "show", tmp_path / "gone"])
        stderr = capfd.readouterr().err
        assert "error: " in stderr
        assert "Traceback" not in stderr


class StoppedError(CffError):
    """Raised in place of the training."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the first command line and stop there."""
    lines: list[list[str]] = []

    def run(command: Sequence[object]) -> str:
        lines.append([str(word) for word in command])
        raise StoppedError("stopped")

    monkeypatch.setattr(pipeline, "run", run)
    return lines


class TestBadCalls:
    """Refused in one sentence before anything is trained or replaced."""

    @pytest.fixture(autouse=True)
    def _no_training(self, recorded: list[list[str]]) -> None:
        self.recorded = recorded

    def refused(
        self, capsys: pytest.CaptureFixture[str], out: Path, *words: object, code: int
    ) -> str:
        assert cli.main(["demo", "--out", str(out), *map(str, words)]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        [line] = captured.err.splitlines()
        assert self.recorded == []
        assert not (out / "summary.json").exists()
        return line

    def test_unknown_product(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.refused(capsys, tmp_path, "--data", data, "--product", "bold", code=2)
        assert line == (
            f"error: product must be one of bolt, cap, {PRODUCT}, got 'bold'; did you mean 'bolt'?"
        )

    def test_unknown_product_to_train_on(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--data", data, "--product", "bolt", "--train", "cup, cap")
        line = self.refused(capsys, tmp_path, *words, code=2)
        assert "got 'cup'; did you mean 'cap'?" in line

    def test_unknown_synthetic_product(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in (["--product", "cop"], ["--train", "brick,cop"]):
            line = self.refused(capsys, tmp_path, *words, code=2)
            assert re.search(r"one of brick, .*, cup, got 'cop'; did you mean 'cup'\?", line)
        assert list(tmp_path.iterdir()) == []

    def test_product_trained_on(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--data", data, "--product", "bolt", "--train", "cap,bolt")
        line = self.refused(capsys, tmp_path, *words, code=2)
        assert line.startswith("error: `bolt` must not be among the products trained on")

    def test_data_without_product(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.refused(capsys, tmp_path, "--data", data, code=2)
        assert line.startswith("error: `--product` (make: PRODUCT) must name the product")

    def test_empty_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        line = self.refused(capsys, tmp_path, "--data", empty, "--product", "bolt", code=1)
        assert line == (
            f"error: `{empty}` must hold images in MVTec AD, VisA or folder layout, none were found"
        )

    def test_no_such_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, tmp_path, "--data", "gone", "--product", "bolt", code=2)
        assert line == "error: data set `gone` must be an existing folder; check the path"

    def test_more_references_than_training_parts(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--data", data, "--product", "bolt", "-k", 6)
        line = self.refused(capsys, tmp_path, *words, code=1)
        assert line == "error: `bolt` must have 6 good training images, got 5"

    def test_nothing_to_train_on(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--data", data / "bolt", "--product", "bolt")
        line = self.refused(capsys, tmp_path, *words, code=1)
        assert line.endswith("must hold another product than `bolt` to train on")

    @pytest.mark.parametrize("left_out", ["good", "defective"])
    def test_nothing_to_compare(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], left_out: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        for folder in (copy / "bolt" / "test").iterdir():
            if (folder.name == "good") == (left_out == "good"):
                shutil.rmtree(folder)
        line = self.refused(capsys, tmp_path / "out", "--data", copy, "--product", "bolt", code=1)
        assert line == "error: `bolt` must have good and defective test images"

    def test_missing_mask(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        (copy / "bolt" / "ground_truth" / DOT / "001_mask.png").unlink()
        out = tmp_path / "out"
        line = self.refused(capsys, out, "--data", copy, "--product", "bolt", code=1)
        assert "dot/001.png` must have a mask" in line

    def test_folders_of_somebody_else_stay(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        weights = tmp_path / "run" / "head.safetensors"
        weights.parent.mkdir()
        weights.write_text("a week of training")
        words = ("--data", data, "--product", "bolt")
        line = self.refused(capsys, tmp_path, *words, code=2)
        assert line == (
            f"error: `{tmp_path}/run` would be replaced, but no demo wrote it; use another --out"
        )
        assert weights.read_text() == "a week of training"

    def test_a_refused_call_keeps_the_last_demo(
        self, demo: Demo, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = sorted(demo.out.rglob("*"))
        assert cli.main(["demo", "--out", str(demo.out), "--data", str(data)]) == 2
        words = ["--data", str(data), "--product", "bolt", "-k", "99"]
        assert cli.main(["demo", "--out", str(demo.out), *words]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 2
        assert sorted(demo.out.rglob("*")) == before


class TestCommandLines:
    def test_trains_on_all_other_products(
        self, data: Path, tmp_path: Path, recorded: list[list[str]]
    ) -> None:
        words = ["--data", str(data), "--product", "cap", "--set", "train.seed=3"]
        assert cli.main(["demo", "--out", str(tmp_path), *words]) == 1
        [line] = recorded
        assert line[:5] == ["cff-train", "--data", str(data), "--exclude", "cap"]
        assert line[5:] == ["--out", str(tmp_path / "run"), "--set", "train.seed=3"]

    def test_trains_on_the_products_named(
        self, data: Path, tmp_path: Path, recorded: list[list[str]]
    ) -> None:
        words = ["--data", str(data), "--product", "cap", "--train", f"bolt, {PRODUCT}"]
        assert cli.main(["demo", "--out", str(tmp_path), *words]) == 1
        [line] = recorded
        assert line[3:5] == ["--products", f"bolt,{PRODUCT}"]

    def test_data_inside_the_output_folder_stay(
        self, data: Path, tmp_path: Path, recorded: list[list[str]]
    ) -> None:
        """As when the data that one demo drew are given to the next."""
        for name in ("data", "synthetic"):
            shutil.copytree(data, tmp_path / name)
            before = sorted((tmp_path / name).rglob("*"))
            (tmp_path / ".cff-demo").touch()
            words = ["--data", str(tmp_path / name), "--product", "cap"]
            assert cli.main(["demo", "--out", str(tmp_path), *words]) == 1
            assert sorted((tmp_path / name).rglob("*")) == before
        assert len(recorded) == 2

    def test_draws_data_by_default(
        self,
        tmp_path: Path,
        recorded: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        small = partial(write_synthetic_dataset, n_train=4, n_good=1, n_per_defect=1)
        monkeypatch.setattr(pipeline, "write_synthetic_dataset", small)
        for _ in range(2):  # the second replaces the first
            assert cli.main(["demo", "--out", str(tmp_path)]) == 1
        assert recorded[0] == recorded[1]
        drawn = tmp_path / "synthetic"
        assert recorded[0][:5] == ["cff-train", "--data", str(drawn), "--exclude", PRODUCTS[-1]]
        assert set(read_dataset(drawn).products) == set(PRODUCTS)
        assert "drawing a synthetic data set into" in capsys.readouterr().err
