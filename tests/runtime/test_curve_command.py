"""`cff-run curve` from files to tables, JSON and a picture."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle
from cff_runtime.curve.command import add_curve_parser, parse_shots
from cff_runtime.curve.intervals import Estimate
from cff_runtime.curve.picture import draw_picture
from cff_runtime.curve.points import Curve, Point
from cff_runtime.errors import UsageError


@pytest.fixture
def parts(tmp_path: Path, draw_part: Callable[..., NDArray[np.uint8]]) -> Path:
    for name, defective, count in (("good", False, 5), ("bar", True, 2)):
        (tmp_path / name).mkdir()
        for seed in range(count):
            part = draw_part(60 + seed, defective)
            Image.fromarray(part).save(tmp_path / name / f"{seed}.png")
    return tmp_path


def run(bundle: Bundle, *words: object) -> int:
    parser = argparse.ArgumentParser()
    add_curve_parser(parser.add_subparsers())
    arguments = parser.parse_args(["curve", str(bundle.path), "--threads", "1", *map(str, words)])
    code: int = arguments.command(arguments)
    return code


def test_tables_and_a_picture(
    parts: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = parts / "curve.png"
    words = ("--good", parts / "good", "--defects", parts / "bar", "--draws", 4)
    assert run(lite_bundle, *words, "--shots", "1,2,4,8", "--picture", picture) == 0
    captured = capsys.readouterr()
    for label in ("false rejects", "defects found", "image AUROC", "one more brings"):
        assert label in captured.out
    assert "5 good parts cannot tell what a third reference would bring" in captured.out
    assert "5 good parts, 2 defective, 4 draws" in captured.out
    assert "encoded 27 of 27" in captured.err
    with Image.open(picture) as image:
        assert image.size[0] == 3 * 460
        assert len(image.convert("L").getcolors(1 << 16) or ()) > 20


def test_json_and_a_broken_image(
    parts: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts / "good" / "7.png").write_bytes(b"broken")
    assert run(lite_bundle, "--good", parts / "good", "--draws", 3, "--json") == 1
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["n_good"], facts["n_failed"], facts["n_defective"]) == (5, 1, 0)
    assert [point["k"] for point in facts["points"]] == [1, 2, 4]
    assert facts["points"][-1]["score_spread"] is None  # one part held out
    assert set(facts["points"][0]["estimates"]) == {"false_rejects"}
    assert "7.png" in captured.err


def test_the_same_seed_gives_the_same_numbers(
    parts: Path, lite_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--good", parts / "good", "--draws", 3, "--shots", "2", "--limit", 4, "--json")
    outputs = []
    for _ in range(2):
        assert run(lite_bundle, *words) == 0
        captured = capsys.readouterr()
        outputs.append(captured.out)
        assert "4 of 5 good parts are used" in captured.err
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    "words",
    [
        ("--shots", "0"),
        ("--shots", "two"),
        ("--shots", "1,,2"),
        ("--draws", "1"),
        ("--limit", "2"),
        ("--seed", "-1"),
        ("--margin", "nan"),
        ("--text-name", "nothing of the kind"),
        ("--precision", "int4"),
        ("--shots", "5"),
    ],
)
def test_calls_that_cannot_work_are_refused(
    parts: Path, lite_bundle: Bundle, words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        run(lite_bundle, "--good", parts / "good", *words)


def test_shots_are_sorted_and_unique() -> None:
    assert parse_shots("4, 1,2,2") == [1, 2, 4]


@pytest.mark.parametrize("n_points", [1, 2, 5])
def test_a_picture_has_a_panel_a_quantity(n_points: int) -> None:
    flat = Estimate(0.0, 0.0, 0.1, 0.0, 0.0)
    points = tuple(
        Point(k, 9, {"false_rejects": flat}, {}, {}, 1.0, 0.1) for k in range(1, n_points + 1)
    )
    image = draw_picture(Curve(10, 0, 5, points), "a sentence of many words " * 12)
    assert image.width == 460
    assert image.height > draw_picture(Curve(10, 0, 5, points), "short").height
