"""The commands of profiles, as a user calls them."""

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Profile
from cff_runtime.errors import CffError
from cff_runtime.imaging import load_image
from cff_runtime.profile_command import add_profile_parsers
from cff_runtime.profile_history import history_folder, versions
from cff_runtime.thresholds import move_threshold

Images = list[NDArray[np.uint8]]


class Done(NamedTuple):
    """What a command left behind; `code` is an error's exit code, or 0."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return ``run(*arguments)``, which calls one of the commands."""

    def call(*arguments: object) -> Done:
        parser = argparse.ArgumentParser(prog="cff-run")
        add_profile_parsers(parser.add_subparsers(required=True))
        message, code = "", 0
        try:
            parsed = parser.parse_args([str(argument) for argument in arguments])
            code = parsed.command(parsed)
        except CffError as error:
            message, code = f"error: {error}\n", error.exit_code
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err + message)

    return call


@pytest.fixture
def parts(good_parts: Images, tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, image in enumerate(good_parts):
        Image.fromarray(image).save(folder / f"good_{index}.png")
    return folder


@pytest.fixture
def profile_file(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


def test_a_profile_is_made_extended_reduced_and_taken_back(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out" / "ring.safetensors"
    files = sorted(parts.iterdir())
    bundle = lite_bundle.path

    done = run("enroll", bundle, *files[:2], "--product", "ring", "--out", out)
    assert done.code == 0 and "ring, K = 2, threshold" in done.out
    assert "encoded 10 of 10" in done.err
    contents = [out.read_bytes()]

    done = run("add-normals", bundle, *files[2:], "--profile", out)
    assert done.code == 0 and "ring, K = 4" in done.out and "(was ring, K = 2" in done.out
    contents.append(out.read_bytes())

    done = run("remove", bundle, "good_0.png", "--profile", out)
    assert done.code == 0 and "ring, K = 3" in done.out
    names = [reference.name for reference in Profile.load(out).references]
    assert names == ["good_1.png", "good_2.png", "good_3.png"]

    for before in reversed(contents):
        assert run("undo", out).code == 0
        assert out.read_bytes() == before
    done = run("undo", out)
    assert done.code == 2 and "this is its first" in done.err
    assert list(out.parent.iterdir()) == [out]


def test_enrolling_over_a_profile_keeps_it(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run
) -> None:
    before = profile_file.read_bytes()
    arguments = (parts, "--product", "other", "--out", profile_file, "--limit", 1)

    assert run("enroll", lite_bundle.path, *arguments).code == 0

    assert Profile.load(profile_file).product == "other"
    assert versions(profile_file)[0].read_bytes() == before


def test_json_tells_references_history_and_warnings(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "ring.safetensors"
    twin = parts / "good_0.png"
    arguments = ("--product", "ring", "--out", out, "--json")

    enrolled = json.loads(run("enroll", lite_bundle.path, twin, *arguments).out)
    assert enrolled["profile"] == str(out) and enrolled["warnings"] == []
    added = run("add-normals", lite_bundle.path, twin, "--profile", out, "--json")

    facts = json.loads(added.out)
    assert [reference["name"] for reference in facts["references"]] == ["good_0.png"] * 2
    assert [entry["action"] for entry in facts["history"]] == ["enroll", "add-normals"]
    assert [(one["number"], one["kind"]) for one in facts["warnings"]] == [(2, "duplicate")]
    assert "warning: good_0.png: duplicate: its pixels are those of reference 1" in added.err


def test_strict_writes_nothing_but_the_picture(
    lite_bundle: Bundle, parts: Path, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    before = profile_file.read_bytes()
    sheet = tmp_path / "checks.png"
    options = ("--strict", "--checks", sheet)

    done = run(
        "add-normals", lite_bundle.path, parts / "good_1.png", "--profile", profile_file, *options
    )

    assert done.code == 1 and "must pass all checks" in done.err and done.out == ""
    assert profile_file.read_bytes() == before
    assert not history_folder(profile_file).exists()
    assert (load_image(sheet) == (190, 30, 30)).all(axis=2).any()


def test_diff_tells_references_and_thresholds(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run
) -> None:
    other = parts / "more.png"
    dark = cv2.convertScaleAbs(load_image(parts / "good_0.png"), alpha=0.9)
    Image.fromarray(dark).save(other)
    old = Profile.load(profile_file)
    run("add-normals", lite_bundle.path, other, "--profile", profile_file)
    new = Profile.load(profile_file)

    for arguments in ((profile_file,), (versions(profile_file)[0], profile_file)):
        done = run("diff", *arguments)
        assert done.code == 0
        assert "+ reference more.png" in done.out
        assert "n references            4 -> 5" in done.out
        assert f"{old.threshold.value:.4f} -> {new.threshold.value:.4f}" in done.out

        facts = json.loads(run("diff", *arguments, "--json").out)
        assert facts["references_added"] == ["more.png"] and facts["references_removed"] == []
        assert facts["bank_rows"]["new"] == [720, 720, 180, 45]
        assert facts["threshold"] == {"old": old.threshold.value, "new": new.threshold.value}
        assert len(facts["reference_scores"]) == 5
        assert facts["reference_scores"][4]["old"] is None

    back = json.loads(run("diff", profile_file, versions(profile_file)[0], "--json").out)
    assert back["references_removed"] == ["more.png"]
    assert run("diff", profile_file, profile_file).out.endswith("no difference\n")


def test_diff_of_a_first_version_is_a_wrong_call(profile_file: Path, run: Run) -> None:
    done = run("diff", profile_file)

    assert done.code == 2 and "this is its first" in done.err


def test_show_tells_and_draws_the_references(
    lite_profile: Profile, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    sheet = tmp_path / "sheet.png"

    facts = json.loads(run("show", profile_file, "--picture", sheet, "--json").out)

    assert [reference["name"] for reference in facts["references"]] == [
        f"image {number}" for number in range(1, 5)
    ]
    assert facts["threshold"]["value"] == lite_profile.threshold.value
    assert facts["history"][0]["action"] == "enroll" and facts["versions"] == []
    assert load_image(sheet).shape[1] == 2 * 248


def test_show_of_a_bundle_has_no_picture(lite_bundle: Bundle, tmp_path: Path, run: Run) -> None:
    assert json.loads(run("show", lite_bundle.path).out)["precision"] == "fp32"

    done = run("show", lite_bundle.path, "--picture", tmp_path / "p.png")

    assert done.code == 2 and "must come with a profile" in done.err


def test_a_threshold_set_by_hand_is_not_lost_in_silence(
    run: Run, lite_bundle: Bundle, profile_file: Path
) -> None:
    enrolled = Profile.load(profile_file)
    value = enrolled.threshold.value + 1.0
    replace(enrolled, threshold=move_threshold(enrolled.threshold, reject=value)).save(profile_file)

    done = run("remove", lite_bundle.path, "1", "--profile", profile_file)

    assert done.code == 0
    assert "a threshold set by hand is replaced; set it again with `cff-run threshold`" in done.err
    assert Profile.load(profile_file).threshold.method != "by-hand"


def test_shares_are_read_as_percent_too(run: Run, lite_bundle: Bundle, parts: Path) -> None:
    out = parts.parent / "wish.safetensors"
    command = ("enroll", lite_bundle.path, parts, "--product", "ring", "--out", out)

    assert run(*command, "--max-false-reject", "5%").code == 0
    assert Profile.load(out).settings["max_false_reject"] == 0.05
    assert run(*command, "--max-false-reject", "5").code == 2


def test_lost_further_parts_are_told(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "ring.safetensors"
    files = sorted(parts.iterdir())
    more = ("--further", *files[2:])
    run("enroll", lite_bundle.path, files[0], "--product", "ring", "--out", out, *more)

    silent = run("add-normals", lite_bundle.path, files[1], "--profile", out)
    assert "rested on 2 further parts too" in silent.err
    run("undo", out)
    told = run("add-normals", lite_bundle.path, files[1], "--profile", out, *more)

    assert "rested" not in told.err
    assert len(Profile.load(out).threshold.card_scores("further")) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("add-normals", "{bundle}", "{tmp}/none.png", "--profile", "{profile}"), 2, "none.png"),
        (("add-normals", "{bundle}", "{parts}", "--profile", "{tmp}/none"), 2, "existing file"),
        (("add-normals", "{tmp}", "{parts}", "--profile", "{profile}"), 2, "must be a bundle"),
        (("add-normals", "{bundle}", "{profile}", "--profile", "{profile}"), 1, "readable PNG"),
        (("remove", "{bundle}", "9", "--profile", "{profile}"), 2, "number from 1 to 4"),
        (("undo", "{tmp}/none"), 2, "existing file"),
        (("undo", "{parts}/good_0.png"), 1, "complete safetensors file"),
        (("diff", "{profile}", "{tmp}/none"), 2, "existing file"),
        (("show", "{parts}/good_0.png"), 1, "complete safetensors file"),
        (
            ("enroll", "{bundle}", "{parts}", "--product", "r", "--out", "o", "--max-bank", "0"),
            2,
            "`--max-bank` must be 1 or more",
        ),
        (
            ("enroll", "{bundle}", "{parts}", "--product=r", "--out=o", "--max-false-accept=0.1"),
            2,
            "--defects",
        ),
        (
            ("enroll", "{bundle}", "{parts}", "--product=r", "--out=o", "--confidence=1.5"),
            2,
            "`confidence` must be",
        ),
    ],
)
def test_bad_input_is_told_and_changes_nothing(
    arguments: tuple[str, ...],
    code: int,
    word: str,
    lite_bundle: Bundle,
    parts: Path,
    profile_file: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    before = profile_file.read_bytes()
    places = {"bundle": lite_bundle.path, "parts": parts, "profile": profile_file, "tmp": tmp_path}

    done = run(*(argument.format(**places) for argument in arguments))

    assert done.code == code and word in done.err, done.err
    assert profile_file.read_bytes() == before


def test_another_bundles_profile_is_not_extended(
    lite_bundle: Bundle, lite_profile: Profile, parts: Path, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "foreign"
    origin = replace(lite_profile.origin, encoder_sha256="0" * 64)
    replace(lite_profile, bundle_id="0" * 64, origin=origin).save(path)

    done = run("add-normals", lite_bundle.path, parts, "--profile", path)

    assert done.code == 1 and "another encoder" in done.err and "enrol" in done.err


ON_THE_BOX = """
import argparse, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx", "onnxscript", "cff_edge"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
from cff_runtime.profile_command import add_profile_parsers

parser = argparse.ArgumentParser()
add_profile_parsers(parser.add_subparsers())
bundle, profile, first, second = sys.argv[1:]
for line in (
    ["enroll", bundle, first, "--product", "ring", "--out", profile],
    ["add-normals", bundle, second, "--profile", profile, "--checks", profile + ".png"],
    ["diff", profile],
    ["show", profile, "--picture", profile + ".sheet.png"],
    ["remove", bundle, "1", "--profile", profile],
    ["undo", profile],
    ["undo", profile],
):
    arguments = parser.parse_args(line)
    assert arguments.command(arguments) == 0, line
print("done")
"""


def test_the_commands_run_without_torch_and_onnx(
    lite_bundle: Bundle,
    parts: Path,
    run_python: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    files = sorted(parts.iterdir())[:2]

    done = run_python(ON_THE_BOX, lite_bundle.path, tmp_path / "ring", *files)

    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
    assert Profile.load(tmp_path / "ring").n_references == 1
