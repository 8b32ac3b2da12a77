"""The page of a replay, its pictures, and the command from files to exit code."""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Inspector, Profile, Result
from cff_runtime.errors import UsageError
from cff_runtime.replay.command import add_replay_parser
from cff_runtime.replay.page import Heading, write_page
from cff_runtime.replay.pictures import MAX_MOVERS, Shelf, Triptych, draw_triptych
from cff_runtime.replay.rescoring import Judgement, Rescored, Views
from cff_runtime.replay.scatter import MAX_POINTS, draw_scatter
from cff_runtime.replay.tally import Tally

PICTURES = Triptych(b"part", b"old", b"new")


def moved(shift: float, changed: bool = True, name: str = "a.png") -> Rescored:
    new = "pass" if changed else "reject"
    old, after = Judgement(1.0, 1.2, "reject"), Judgement(1.0, 1.2 + shift, new)
    return Rescored(name, old, after, None)


class TestShelf:
    def test_the_furthest_changed_parts_stay(self) -> None:
        shelf = Shelf(5)
        shifts = np.random.default_rng(0).normal(size=200)
        for shift in shifts:
            part = moved(float(shift))
            if shelf.wants(part):
                shelf.put(part, PICTURES)
        kept = [abs(part.shift) for part, _ in shelf.pictures(changed=True)]
        assert kept == pytest.approx(sorted(np.abs(shifts), reverse=True)[:5])

    def test_a_few_unchanged_movers_stay_beside_them(self) -> None:
        shelf = Shelf(100)
        for number in range(50):
            shelf.put(moved(0.01 * number, changed=False), PICTURES)
        assert len(shelf.pictures(changed=False)) == MAX_MOVERS
        assert shelf.pictures(changed=True) == []

    def test_none_are_kept_if_none_are_wanted(self) -> None:
        assert not Shelf(0).wants(moved(9.0))
        assert not Shelf(0).wants(moved(9.0, changed=False))


@pytest.mark.parametrize("size", [(120, 150), (20, 900), (700, 64)])
def test_pictures_show_both_maps(
    numpy_inspector: Callable[..., Inspector],
    good_parts: list[NDArray[np.uint8]],
    size: tuple[int, int],
) -> None:
    inspector = numpy_inspector()
    profile = inspector.enroll(good_parts, "ring")
    image = np.full((*size, 3), 90, np.uint8)
    result = inspector.inspect(image, profile)
    blank = replace(result, anomaly_map=np.full((32, 32), -9.0, np.float32), regions=())
    triptych = draw_triptych(Views(image, blank, result), profile, profile)
    part, old, new = (decode(data) for data in (triptych.part, triptych.old, triptych.new))
    assert max(part.shape) == 320
    assert part.shape == old.shape == new.shape
    assert np.abs(part.astype(int) - old).max() <= 3  # nothing above normal: the part itself
    assert np.abs(part.astype(int) - new).max() > 20


def decode(data: bytes) -> NDArray[np.uint8]:
    import io

    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_scatter_draws_all_changed_and_thins_the_rest() -> None:
    points = [(0.9, 0.9 + 1e-5 * n, False) for n in range(2 * MAX_POINTS)]
    svg, n_drawn = draw_scatter([*points, (0.9, 1.1, True)])
    assert n_drawn == MAX_POINTS + 1
    assert svg.count('class="same"') == MAX_POINTS and svg.count('class="moved"') == 1


@pytest.mark.parametrize("points", [[], [(1.0, 1.0, False)], [(-50.0, 900.0, True)]])
def test_a_scatter_stays_in_its_frame(points: list[tuple[float, float, bool]]) -> None:
    svg, _ = draw_scatter(points)
    xs = [float(value) for value in re.findall(r'\b(?:x|x1|x2|cx)="([-0-9.]+)"', svg)]
    assert xs and min(xs) >= 0.0 and max(xs) <= 500.0
    assert "nan" not in svg


def test_the_page_escapes_names_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    tally = Tally()
    tally.add(moved(-0.4, name="<b>evil & co\udcff.png"))
    page = tmp_path / "deep" / "page.html"
    write_page(page, Heading("<ring>", {"bundle": ("a<b", "a<b")}), tally, Shelf(3))
    text = page.read_text()
    assert "&lt;b&gt;evil &amp; co" in text and "<b>evil" not in text
    assert "http" not in text and "<script" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.fixture
def stored(
    lite_bundle: Bundle,
    lite_profile: Profile,
    lite_inspector: Inspector,
    tmp_path: Path,
    draw_part: Callable[..., NDArray[np.uint8]],
) -> Path:
    """Six stored parts; the new profile's threshold lies between the third and the fourth."""
    scores = []
    for name, defective in (("good", False), ("bar", True)):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for seed in range(3):
            path = tmp_path / "parts" / name / f"{seed}.png"
            Image.fromarray(draw_part(20 + seed, defective)).save(path)
            scores.append(lite_inspector.inspect(path, lite_profile).score)
    assert max(scores[:3]) < min(scores[3:])
    low, middle = min(scores) - 0.1, (max(scores[:3]) + min(scores[3:])) / 2
    for name, value in (("old", low), ("new", middle)):
        limits = replace(lite_profile.threshold, value=value, review=value)
        replace(lite_profile, threshold=limits).save(tmp_path / f"{name}.safetensors")
    return tmp_path


def run(folder: Path, bundle: Bundle, *more: str, new: str = "new.safetensors") -> int:
    parser = argparse.ArgumentParser()
    add_replay_parser(parser.add_subparsers())
    words = ["replay", str(folder / "parts"), "--old", str(folder / "old.safetensors")]
    words += ["--new", str(folder / new), "--page", str(folder / "page.html"), "--threads", "1"]
    arguments = parser.parse_args([*words, "--new-bundle", str(bundle.path), *more])
    code: int = arguments.command(arguments)
    return code


def test_changes_are_listed_pictured_and_told_by_the_exit_code(
    stored: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stored, lite_bundle) == 3
    out = capsys.readouterr().out
    assert out.count("reject to pass") == 4  # three parts and the summary
    assert "3 of 6 verdicts changed: 3 reject to pass; 3 for the better, 0 for the worse" in out
    page = (stored / "page.html").read_text()
    assert page.count('<figure class="part">') == 6
    assert page.count("data:image/jpeg;base64,") == 6 * 3 + 1
    assert "100.0%" in page  # good parts rejected before


def test_json_holds_the_same(
    stored: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stored, lite_bundle, "--json", "--pictures", "1") == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["n_scored"], facts["n_changed"], facts["n_better"]) == (6, 3, 3)
    shifts = [abs(change["shift"]) for change in facts["changes"]]
    assert shifts == sorted(shifts, reverse=True)
    assert "Pictures of the 1 of 3 changed parts" in (stored / "page.html").read_text()


def test_no_change_exits_with_0_and_a_broken_image_with_1(
    stored: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stored, lite_bundle, new="old.safetensors") == 0
    (stored / "parts" / "good" / "9.png").write_bytes(b"broken")
    assert run(stored, lite_bundle) == 1
    captured = capsys.readouterr()
    assert "error: " in captured.err and "9.png" in captured.err
    assert "Not scored" in (stored / "page.html").read_text()


def test_known_parts_come_from_a_file(
    stored: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored / "known.csv").write_text("good/0.png,crack\n")
    assert run(stored, lite_bundle, "--known", str(stored / "known.csv"), "--json") == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["n_better"], facts["n_worse"]) == (0, 1)


def test_calls_that_cannot_work_are_refused(stored: Path, lite_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="--pictures"):
        run(stored, lite_bundle, "--pictures", "-1")
    parser = argparse.ArgumentParser()
    add_replay_parser(parser.add_subparsers())
    profile = str(stored / "old.safetensors")
    words = ["replay", str(stored), "--old", profile, "--new", profile, "--page", "x.html"]
    arguments = parser.parse_args(words)
    with pytest.raises(UsageError, match="a profile does not say where its bundle lies"):
        arguments.command(arguments)


def test_results_are_kept_by_nobody(
    numpy_inspector: Callable[..., Inspector], good_parts: list[NDArray[np.uint8]]
) -> None:
    """Memory stays constant: what a tally keeps of a part is numbers and its path."""
    inspector = numpy_inspector()
    profile = inspector.enroll(good_parts, "ring")
    result: Result = inspector.inspect(good_parts[0], profile)
    kept = vars(Rescored("a", *(Judgement(result.score, 1.0, "pass"),) * 2, None))
    assert not any(isinstance(value, np.ndarray) for value in kept.values())
