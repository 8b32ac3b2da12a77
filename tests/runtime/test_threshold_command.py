"""`cff-run threshold` as a user calls it, and its picture."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import StorageError, UsageError
from cff_runtime.profile_history import undo
from cff_runtime.thresholds import Threshold, choose_threshold, upper_share
from cff_runtime.thresholds.command import add_threshold_parser
from cff_runtime.thresholds.picture import draw_scores, save_scores

LEFT, RIGHT, TOP, ROW = 190, 30, 74, 90
Run = Callable[..., int]


@pytest.fixture
def path(lite_profile: Profile, tmp_path: Path) -> Path:
    lite_profile.save(tmp_path / "ring.safetensors")
    return tmp_path / "ring.safetensors"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_threshold_parser(parser.add_subparsers())
    parsed = parser.parse_args(["threshold", *map(str, arguments)])
    return int(parsed.command(parsed))


def save(folder: Path, images: list[NDArray[np.uint8]]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_showing_changes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()

    assert run(path) == 0

    said = capsys.readouterr().out
    threshold = Profile.load(path).threshold
    assert f"reject above {threshold.value:.4f}" in said and threshold.statement in said
    assert "references left out" in said and "premise: " in said and "review" not in said
    assert path.read_bytes() == before


def test_moving_by_hand_rewrites_the_profile_and_can_be_undone(
    path: Path, lite_inspector: Inspector, bad_part: NDArray[np.uint8]
) -> None:
    before = path.read_bytes()
    score = lite_inspector.inspect(bad_part, Profile.load(path)).score

    assert run(path, "--reject", score + 1, "--review", score - 1) == 0

    profile = Profile.load(path)
    assert (profile.threshold.value, profile.threshold.review) == (score + 1, score - 1)
    assert profile.threshold.method == profile.history[-1]["method"] == "by-hand"
    assert profile.history[-1]["action"] == "threshold"
    result = lite_inspector.inspect(bad_part, profile)
    assert result.score == pytest.approx(score, abs=1e-4)
    assert result.verdict == "review" and result.regions
    low, high = profile.display_range
    assert 0.5 * (low + high) == pytest.approx(profile.threshold.pixel_value)
    undo(path)
    assert path.read_bytes() == before


def test_further_and_defective_parts_are_scored_and_remembered(
    path: Path,
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    draw_part: Callable[..., NDArray[np.uint8]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = ([draw_part(n, defective=d) for n in range(50, 58)] for d in (False, True))
    profile = Profile.load(path)
    scores = [lite_inspector.inspect(image, profile).score for image in good]
    folders = save(tmp_path / "good", good), save(tmp_path / "bad", bad)

    code = run(
        path, "--bundle", lite_bundle.path, "--good", folders[0], "--defects", folders[1], "--json"
    )

    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert facts["value"] == pytest.approx(max(scores), abs=1e-4)
    assert facts["card"]["risk"]["false_rejects"] == upper_share(0, 8, 0.95)
    assert len(set(facts["card"]["data"]["further"])) == 8
    assert run(path, "--max-false-reject", "60%", "--max-false-accept", "0.4") == 0  # no images
    again = Profile.load(path)
    assert again.threshold.card_scores("further") == tuple(facts["card"]["scores"]["further"])
    assert again.settings["max_false_reject"] == 0.6
    assert again.threshold.card["wishes"]["max_false_accept"] == 0.4


def test_a_reference_is_no_further_part(
    path: Path, lite_bundle: Bundle, good_parts: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    folder = save(tmp_path / "good", good_parts[:1])

    with pytest.raises(UsageError, match="it is a reference of the profile"):
        run(path, "--bundle", lite_bundle.path, "--good", folder)


def test_an_image_counts_once(
    path: Path, lite_bundle: Bundle, draw_part: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    folder = save(tmp_path / "good", [draw_part(70)] * 2)

    with pytest.raises(UsageError, match="the same image as"):
        run(path, "--bundle", lite_bundle.path, "--good", folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--review", 1e5), "give `--reject` as well"),
        (("--reject", "nan"), "a score of at most 1000000"),
        (("--reject", 1, "--max-false-reject", "1%"), "without wishes"),
        (("--good", "x"), "`--bundle`"),
        (("--confidence", "90%"), "something to choose"),
        (("--max-false-accept", "5%"), "defective parts"),
    ],
)
def test_wrong_calls_change_nothing(path: Path, arguments: tuple[object, ...], said: str) -> None:
    before = path.read_bytes()

    with pytest.raises(UsageError, match=said):
        run(path, *arguments)

    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["0", "1", "100%", "-5%", "5", "many", "", "nan", "%"])
def test_what_is_no_share_is_refused(
    path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(path, f"--max-false-reject={text}")
    assert "must be above 0 and below 1" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_leaves_the_profile(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError):
        run(path, "--reject", 1.0, "--picture", tmp_path / "file" / "p.png")

    assert path.read_bytes() == before


def column(score: float, low: float, high: float) -> int:
    pad = 0.05 * (high - low)
    return LEFT + round((score - low + pad) / (high - low + 2 * pad) * (1000 - LEFT - RIGHT))


def test_the_picture_has_marks_and_limits_where_the_scores_are() -> None:
    threshold = choose_threshold([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 3, defects=[9.0, 10.0])
    picture = draw_scores(threshold).astype(int)

    assert picture.shape[1] == 1000 and picture.dtype == int
    for row, score, rgb in ((0, 1.0, (21, 101, 192)), (0, 2.0, (21, 101, 192))):
        y = TOP + ROW * (row + 1) - 9
        assert tuple(picture[y, column(score, 1.0, 10.0)]) == rgb
    x = column(threshold.value, 1.0, 10.0)
    assert tuple(picture[TOP + 5, x]) == (198, 40, 40)
    ground = picture[TOP + 5, [LEFT + 5, 1000 - RIGHT - 5]]
    assert ground[0][1] > ground[0][0] and ground[1][0] > ground[1][1]  # green, then red
    marks = (picture[TOP + ROW : TOP + 2 * ROW - 2] == (198, 40, 40)).all(axis=2)
    marks[:, :LEFT] = False  # the name of the row
    marks[:, x - 2 : x + 3] = False
    assert column(9.0, 1.0, 10.0) - 6 <= np.nonzero(marks.any(axis=0))[0].min()


@pytest.mark.parametrize("n", [1, 60, 61, 5000])
def test_many_scores_and_equal_scores_can_be_drawn(n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rules: list[Threshold] = [
        choose_threshold([0.0] * 4, [0.0] * 4, 1, further=[0.0] * n),
        choose_threshold([1e-6] * 4, [1e-6] * 4, 4, further=list(rng.normal(1e-6, 1e-7, n))),
        choose_threshold([1e6] * 4, [1e6] * 4, 4, further=list(rng.normal(1e6, 1e5, n))),
    ]
    for rule in rules:
        save_scores(tmp_path / "scores.png", rule)

        read = cv2.imread(str(tmp_path / "scores.png"))
        assert read is not None and read.shape[1] == 1000
