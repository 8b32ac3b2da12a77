import argparse
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime import inspector as inspector_module
from cff_runtime.cli import _parser, main
from cff_runtime.errors import CffError

Images = list[NDArray[np.uint8]]


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return ``run(*arguments)``, which calls ``cff-run`` and forbids tracebacks."""

    def call(*arguments: object) -> Done:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def parts(good_parts: Images, bad_part: NDArray[np.uint8], tmp_path: Path) -> Path:
    """A folder with good_0.png to good_3.png and a bad part."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, image in enumerate(good_parts):
        Image.fromarray(image).save(folder / f"good_{index}.png")
    Image.fromarray(bad_part).save(folder / "scratch.png")
    return folder


@pytest.fixture
def profile_file(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


def _strict_json(line: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def _fails(done: Done, code: int, *words: str) -> str:
    """Check the exit code and that one error line has the words; return it."""
    assert done.code == code, done.err
    assert len(done.errors) == 1, done.err
    for word in words:
        assert word in done.errors[0]
    return done.errors[0]


# ---- enroll


def test_enroll_writes_a_profile(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    goods = [parts / f"good_{index}.png" for index in range(4)]
    out = tmp_path / "profiles" / "ring.safetensors"

    done = run("enroll", lite_bundle.path, *goods, "--product", "ring", "--out", out)

    profile = Profile.load(out)
    assert done.code == 0
    assert (profile.product, profile.n_references) == ("ring", 4)
    assert f"threshold {profile.threshold.value:.4f}" in done.out
    assert "expected false rejects <= 20%" in done.out
    assert "encoded 20 of 20" in done.err
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_enroll_takes_a_folder_a_limit_and_a_margin(
    lite_bundle: Bundle, lite_inspector: Inspector, parts: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "two"
    options = ("--limit", 2, "--margin", 0.5, "--text-name", "bottle", "--json")

    done = run("enroll", lite_bundle.path, parts, "--product", "ring", "--out", out, *options)

    names = [parts / "good_0.png", parts / "good_1.png"]
    expected = lite_inspector.enroll(names, "ring", "bottle", margin=0.5)
    facts = _strict_json(done.out)
    assert done.code == 0
    assert facts["profile"] == str(out) and facts["n_references"] == 2
    assert facts["condition_name"] == "bottle"
    assert facts["bank_rows"] == [288, 288, 72, 18]
    assert facts["threshold"]["value"] == pytest.approx(expected.threshold.value, abs=1e-6)
    assert Profile.load(out).threshold.value == facts["threshold"]["value"]


def test_one_good_part_is_enough_and_promises_nothing(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        "enroll", lite_bundle.path, parts / "good_0.png", "--product", "r", "--out", tmp_path / "o"
    )

    assert done.code == 0
    assert "no promise" in done.out and "K = 1" in done.out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--product", " "), "`product`"),
        (("--product", "ring", "--limit", "0"), "--limit"),
        (("--product", "ring", "--limit", "-2"), "--limit"),
        (("--product", "ring", "--margin", "-1"), "`margin`"),
        (("--product", "ring", "--margin", "nan"), "`margin`"),
        (("--product", "ring", "--margin", "inf"), "`margin`"),
        (("--product", "ring", "--text-name", "screw"), "object, bottle"),
        (("--product", "ring", "--provider", "gpu"), "`provider`"),
        (("--product", "ring", "--backend", "torch"), "`backend`"),
        (("--product", "ring", "--threads", "-1"), "`threads`"),
        (("--product", "ring", "--threads", "100000"), "`threads`"),
    ],
)
def test_a_wrong_option_of_enroll_is_exit_code_2(
    options: tuple[str, ...], word: str, lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"

    done = run("enroll", lite_bundle.path, parts / "good_0.png", "--out", out, *options)

    _fails(done, 2, word, "must")
    assert not out.exists() and done.out == ""


@pytest.mark.parametrize("kind", ["missing", "empty folder"])
def test_nothing_to_enroll_is_exit_code_2(
    kind: str, lite_bundle: Bundle, tmp_path: Path, run: Run
) -> None:
    place = tmp_path / "place"
    if kind == "empty folder":
        place.mkdir()

    done = run("enroll", lite_bundle.path, place, "--product", "r", "--out", tmp_path / "out")

    _fails(done, 2, str(place))
    assert not (tmp_path / "out").exists()


def test_a_broken_reference_enrolls_nothing(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run
) -> None:
    (parts / "good_1.png").write_bytes(b"no image")
    before = profile_file.read_bytes()

    done = run("enroll", lite_bundle.path, parts, "--product", "ring", "--out", profile_file)

    _fails(done, 1, "good_1.png")
    assert profile_file.read_bytes() == before


@pytest.mark.parametrize("step", ["write_bytes", "fsync"])
def test_a_full_disk_keeps_the_old_profile(
    step: str,
    lite_bundle: Bundle,
    parts: Path,
    profile_file: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = profile_file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    arguments = (parts / "good_0.png", "--product", "ring", "--out", profile_file)

    done = run("enroll", lite_bundle.path, *arguments)

    monkeypatch.undo()
    _fails(done, 1, "No space left on device", str(profile_file))
    assert done.out == ""
    assert profile_file.read_bytes() == before
    assert not list(profile_file.parent.glob(".*"))


def test_a_real_size_limit_keeps_the_old_profile(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run_python: Callable[..., Any]
) -> None:
    before = profile_file.read_bytes()
    code = (
        "import resource, sys; from cff_runtime.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = (parts / "good_0.png", "--product", "ring", "--out", profile_file)

    done = run_python(code, "enroll", lite_bundle.path, *arguments)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert profile_file.read_bytes() == before
    assert not list(profile_file.parent.glob(".*"))


def test_an_unwritable_place_is_exit_code_1(
    lite_bundle: Bundle, parts: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "ring.safetensors"

    done = run("enroll", lite_bundle.path, parts / "good_0.png", "--product", "r", "--out", out)

    _fails(done, 1, "could not be written", str(out))


# ---- inspect


def test_inspect_prints_one_line_per_image(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run
) -> None:
    done = run("inspect", lite_bundle.path, parts, "--profile", profile_file)

    lines = done.out.splitlines()
    assert done.code == 0
    # a scratch across a tiny part changes it as a whole; no more than a warning may come of it
    assert all("looks like another product" in line for line in done.err.splitlines())
    assert [line.split()[0] for line in lines] == ["pass"] * 4 + ["reject"]
    assert [line.split()[-1] for line in lines] == [str(path) for path in sorted(parts.iterdir())]


def test_inspect_as_json_gives_the_results(
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    lite_profile: Profile,
    parts: Path,
    profile_file: Path,
    run: Run,
) -> None:
    done = run("inspect", lite_bundle.path, parts, "--profile", profile_file, "--json")

    assert done.code == 0 and done.err == ""
    results = [_strict_json(line) for line in done.out.splitlines()]
    assert [result["image"] for result in results] == [
        str(path) for path in sorted(parts.iterdir())
    ]
    for found in results:
        expected = lite_inspector.inspect(found["image"], lite_profile)
        assert found["score"] == pytest.approx(expected.score, abs=1e-6)
        assert (found["verdict"], found["threshold"]) == (expected.verdict, expected.threshold)
        assert [r["box"] for r in found["regions"]] == [list(r.box) for r in expected.regions]


def test_overlays_and_maps_are_written(
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    lite_profile: Profile,
    parts: Path,
    profile_file: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    pictures, maps = tmp_path / "new" / "pictures", tmp_path / "maps"
    options = ("--profile", profile_file, "--overlay", pictures, "--maps", maps)

    done = run("inspect", lite_bundle.path, parts, *options)

    names = sorted(path.stem for path in parts.iterdir())
    assert done.code == 0
    assert sorted(path.name for path in pictures.iterdir()) == [f"{name}.png" for name in names]
    assert sorted(path.name for path in maps.iterdir()) == [f"{name}.npy" for name in names]
    expected = lite_inspector.inspect(parts / "scratch.png", lite_profile).anomaly_map
    np.testing.assert_allclose(np.load(maps / "scratch.npy"), expected, atol=1e-6)
    with Image.open(pictures / "scratch.png") as picture:
        assert picture.mode == "RGB" and picture.width == 512


def test_images_of_one_name_get_outputs_of_their_own(
    lite_bundle: Bundle, good_parts: Images, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    paths = [
        tmp_path / name for name in ("a/b.png", "a_b.png", "c/b.png", "c/b.bmp", "c_b/png.png")
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(good_parts[0]).save(path)
    maps = tmp_path / "maps"

    done = run("inspect", lite_bundle.path, *paths, "--profile", profile_file, "--maps", maps)

    assert done.code == 0
    assert len(list(maps.iterdir())) == len(paths)


BROKEN: dict[str, bytes | None] = {
    "a_text.png": b"part number 4711\n",
    "b_empty.png": b"",
    "c_truncated.png": None,
    "d_pixel.png": None,
    "e_folder.png": None,
    "f_link.png": None,
}


@pytest.fixture
def mixed(parts: Path) -> Path:
    """The parts, with broken files among them."""
    whole = (parts / "good_0.png").read_bytes()
    for name, data in BROKEN.items():
        if data is not None:
            (parts / name).write_bytes(data)
    (parts / "c_truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(parts / "d_pixel.png")
    (parts / "e_folder.png").mkdir()
    (parts / "f_link.png").symlink_to(parts / "nowhere.png")
    return parts


@pytest.mark.parametrize("as_json", [False, True])
def test_broken_images_take_no_result_from_the_others(
    as_json: bool, lite_bundle: Bundle, mixed: Path, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--overlay", tmp_path / "pictures", *(["--json"] if as_json else []))

    done = run("inspect", lite_bundle.path, mixed, "--profile", profile_file, *options)

    assert done.code == 1
    assert len(done.errors) == len(BROKEN) + 1
    for name, line in zip(sorted(BROKEN), done.errors, strict=False):
        assert name in line and "must" in line
    assert done.errors[-1] == f"error: {len(BROKEN)} of {len(BROKEN) + 5} images failed"
    assert len(list((tmp_path / "pictures").iterdir())) == 5
    if as_json:
        lines = [_strict_json(line) for line in done.out.splitlines()]
        assert sorted(Path(x["image"]).name for x in lines if "error" in x) == sorted(BROKEN)
        verdicts = [line["verdict"] for line in lines if "verdict" in line]
    else:
        verdicts = [line.split()[0] for line in done.out.splitlines()]
    assert sorted(verdicts) == ["pass"] * 4 + ["reject"]


@pytest.mark.parametrize("option", ["--overlay", "--maps"])
def test_a_full_disk_takes_no_verdict_away(
    option: str, lite_bundle: Bundle, parts: Path, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "file").write_text("in the way")

    done = run(
        "inspect", lite_bundle.path, parts, "--profile", profile_file, option, tmp_path / "file"
    )

    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["pass"] * 4 + ["reject"]
    assert len(done.errors) == 6 and "could not be written" in done.errors[0]
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "I;16"), (".png", "LA"), (".jpg", "CMYK"), (".png", "1")]
)
def test_unusual_images_get_results(
    suffix: str, kind: str, lite_bundle: Bundle, profile_file: Path, tmp_path: Path, run: Run
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    image = Image.fromarray(values)
    if kind == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        image = image.convert(kind)
    image.save(tmp_path / f"image{suffix}")

    done = run("inspect", lite_bundle.path, tmp_path / f"image{suffix}", "--profile", profile_file)

    assert done.code == 0 and "looks like another product than `ring`" in done.err
    assert done.out.startswith("reject")


def test_pillows_remarks_on_damaged_files_are_not_printed(
    lite_bundle: Bundle, profile_file: Path, tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    """A truncated TIFF makes Pillow warn with lines of its own source."""
    Image.new("RGB", (40, 40)).save(tmp_path / "whole.tif")
    (tmp_path / "short.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:60])
    code = "import sys; from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"

    done = run_python(
        code, "inspect", lite_bundle.path, tmp_path / "short.tif", "--profile", profile_file
    )

    assert done.returncode == 1
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "] * 2, done.stderr


def test_a_name_that_is_no_text_can_be_printed(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run_python: Callable[..., Any]
) -> None:
    odd = os.fsencode(parts) + b"/odd_\xff.png"
    Path(os.fsdecode(odd)).write_bytes((parts / "scratch.png").read_bytes())
    code = "import sys; from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"

    for option in ([], ["--json"]):
        done = run_python(
            code, "inspect", lite_bundle.path, os.fsdecode(odd), "--profile", profile_file, *option
        )

        assert done.returncode == 0, done.stderr
        assert "odd_\\udcff.png" in done.stdout and "reject" in done.stdout


@pytest.mark.parametrize("sink", ["full", "closed pipe"])
@pytest.mark.parametrize("command", ["inspect", "show"])
def test_an_output_that_takes_nothing_is_one_sentence(
    sink: str,
    command: str,
    lite_bundle: Bundle,
    parts: Path,
    profile_file: Path,
    run_python: Callable[..., Any],
) -> None:
    code = "import sys; from cff_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = {
        "inspect": ["inspect", lite_bundle.path, parts, "--profile", profile_file],
        "show": ["show", profile_file],
    }[command]
    if sink == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    try:
        done = run_python(code, *arguments, stdout=target)
    finally:
        os.close(target)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: output: ")


def test_another_bundles_profile_is_refused_once_before_any_image(
    lite_bundle: Bundle, lite_profile: Profile, parts: Path, tmp_path: Path, run: Run
) -> None:
    replace(lite_profile, bundle_id="0" * 64).save(tmp_path / "foreign")

    done = run("inspect", lite_bundle.path, parts, "--profile", tmp_path / "foreign")

    _fails(done, 1, "belongs to bundle 000000000000", "enrol the product again")
    assert done.out == ""


@pytest.mark.parametrize("kind", ["truncated", "random", "other safetensors", "text", "image"])
def test_a_bad_profile_is_exit_code_1(
    kind: str, lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run
) -> None:
    data = {
        "truncated": profile_file.read_bytes()[:5000],
        "random": np.random.default_rng(0).bytes(3000),
        "other safetensors": (lite_bundle.path / "text.safetensors").read_bytes(),
        "text": b"threshold = 0.5\n",
        "image": (parts / "good_0.png").read_bytes(),
    }[kind]
    profile_file.write_bytes(data)

    done = run("inspect", lite_bundle.path, parts, "--profile", profile_file)

    _fails(done, 1, str(profile_file), "enrol again")
    assert done.out == ""


@pytest.mark.parametrize("what", ["bundle", "profile", "image"])
@pytest.mark.parametrize("kind", ["missing", "folder", "too long"])
def test_a_path_to_nothing_is_a_wrong_call(
    what: str,
    kind: str,
    lite_bundle: Bundle,
    parts: Path,
    profile_file: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = {"missing": tmp_path / "none", "folder": empty, "too long": "x" * 5000}[kind]
    paths = {"bundle": lite_bundle.path, "profile": profile_file, "image": parts, what: wrong}

    done = run("inspect", paths["bundle"], paths["image"], "--profile", paths["profile"])

    _fails(done, 1 if kind == "too long" else 2, str(wrong)[:100])
    assert done.out == ""


def test_a_damaged_bundle_is_exit_code_1(
    bundle_copy: Path, parts: Path, profile_file: Path, run: Run
) -> None:
    (bundle_copy / "text.safetensors").write_bytes(b"other")
    arguments = ((), ("--json",))

    for options in arguments:
        done = run("inspect", bundle_copy, parts, "--profile", profile_file, *options)
        _fails(done, 1, "text.safetensors", "copy the bundle again")
        assert done.out == ""


# ---- show


def test_show_describes_a_bundle(lite_bundle: Bundle, run: Run) -> None:
    for options in ((), ("--json",)):
        done = run("show", lite_bundle.path, *options)

        facts = _strict_json(done.out)
        assert done.code == 0 and done.err == ""
        assert facts["id"] == lite_bundle.manifest.id
        assert facts["condition"]["names"] == ["object", "bottle"]
        assert "files" not in facts
    assert len(done.out.splitlines()) == 1


def test_show_describes_a_profile(lite_profile: Profile, profile_file: Path, run: Run) -> None:
    for options in ((), ("--json",)):
        done = run("show", profile_file, *options)

        facts = _strict_json(done.out)
        assert done.code == 0 and done.err == ""
        assert facts["product"] == "ring" and facts["n_references"] == 4
        assert facts["bank_rows"] == [576, 576, 144, 36]
        assert facts["bank_mb"] == round((576 * 25 + 576 * 41 + 180 * 64) * 4 / 1e6, 2)
        assert facts["threshold"] == json.loads(json.dumps(asdict(lite_profile.threshold)))
        assert facts["bundle_id"] == lite_profile.bundle_id


@pytest.mark.parametrize(
    ("kind", "code"), [("missing", 2), ("empty folder", 2), ("image", 1), ("empty file", 1)]
)
def test_show_of_something_else(
    kind: str, code: int, parts: Path, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "thing"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "image":
        shutil.copy(parts / "good_0.png", path)
    elif kind == "empty file":
        path.touch()

    _fails(run("show", path), code, str(path))


# ---- verify


def test_verify_passes_on_a_whole_bundle(lite_bundle: Bundle, run: Run) -> None:
    done = run("verify", lite_bundle.path)

    assert done.code == 0 and done.err == ""
    assert done.out.startswith("passed  fp32, 8 golden images") and "0 verdict flips" in done.out

    report = _strict_json(run("verify", lite_bundle.path, "--json").out)

    assert report["passed"] is True and report["failures"] == []
    assert len(report["feature_max_diff"]) == 4


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_verify_fails_and_names_the_stage(
    value: float, bundle_copy: Path, edit_manifest: Callable[..., None], run: Run
) -> None:
    path = bundle_copy / "golden" / "expected.safetensors"
    answers = load_file(path)
    answers["features_2_5"][4, 3] += value
    save_file(answers, path)

    _fails(run("verify", bundle_copy), 1, "expected.safetensors", "SHA-256")

    edit_manifest(bundle_copy, rehash=True)
    done = run("verify", bundle_copy)

    message = _fails(done, 1, "parity gate", "features of stage 2 differ")
    assert "stage 1" not in message and "stage 3" not in message
    assert done.out.startswith("FAILED")

    done = run("verify", bundle_copy, "--json")

    report = _strict_json(done.out)
    assert done.code == 1 and report["passed"] is False
    assert "stage 2" in report["failures"][0]


# ---- the command itself


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("inspect",),
        ("inspect", "bundle"),
        ("inspect", "bundle", "image"),
        ("enroll", "bundle", "image", "--product", "ring"),
        ("enroll", "bundle", "image", "--out", "p"),
        ("enroll", "bundle", "--product", "ring", "--out", "p"),
        ("enroll", "bundle", "image", "--product", "r", "--out", "p", "--limit", "few"),
        ("enroll", "bundle", "image", "--product", "r", "--out", "p", "--margin", "wide"),
        ("inspect", "bundle", "image", "--profile", "p", "--threads", "all"),
        ("inspect", "bundle", "image", "--profile", "p", "--fast"),
        ("show",),
        ("show", "one", "two"),
        ("verify",),
    ],
)
def test_a_wrong_call_is_exit_code_2_with_the_usage(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*arguments)

    assert done.code == 2
    assert done.err.startswith("usage: cff-run")
    assert done.out == ""


@pytest.mark.parametrize("command", [(), ("enroll",), ("inspect",), ("show",), ("verify",)])
def test_help_is_data(command: tuple[str, ...], run: Run) -> None:
    done = run(*command, "--help")

    assert done.code == 0 and done.err == ""
    assert "usage: cff-run" in done.out


def test_an_interrupt_is_exit_code_130(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspector_module.Inspector, "inspect", interrupt)

    done = run("inspect", lite_bundle.path, parts, "--profile", profile_file)

    assert done.code == 130 and done.err == "interrupted\n"


def test_a_folder_that_may_not_be_read_is_one_sentence(
    lite_bundle: Bundle, parts: Path, profile_file: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> None:  # root may read everything: pretend
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", deny)

    done = run("inspect", lite_bundle.path, parts, "--profile", profile_file)

    _fails(done, 1, str(parts), "Permission denied")


def test_every_error_class_has_a_documented_exit_code() -> None:
    def all_below(kind: type[CffError]) -> list[type[CffError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in all_below(child))]

    codes = {kind.__name__: kind.exit_code for kind in all_below(CffError)}

    assert codes.pop("UsageError") == 2
    assert set(codes.values()) == {1}


def test_every_command_does_something() -> None:
    actions = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    commands = actions[0].choices
    assert {"enroll", "inspect", "watch", "drift", "sign-profile"} <= set(commands)
    for name, parser in commands.items():
        assert callable(parser.get_default("command")), name
