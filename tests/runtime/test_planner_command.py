"""`cff-run plan` on this box: that it holds what it says, writes what it plans, and refuses."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.planner.command import add_plan_parser
from cff_runtime.planner.memory import measure_in_process


@pytest.fixture
def profile_path(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


def run(bundle: Bundle, profile: Path, *words: object) -> int:
    parser = argparse.ArgumentParser()
    add_plan_parser(parser.add_subparsers())
    fixed = ["plan", str(bundle.path), "--profile", str(profile), "--threads", "1"]
    arguments = parser.parse_args([*fixed, "--seconds", "0.05", *map(str, words)])
    code: int = arguments.command(arguments)
    return code


def test_a_wide_budget_holds_and_the_profile_works(
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    profile_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = profile_path.parent / "planned.safetensors"
    words = ("--cycle-time", "100s", "--max-memory", "20GB", "--out", out)
    assert run(lite_bundle, profile_path, *words) == 0
    captured = capsys.readouterr()
    assert "fp32 with the whole bank holds 100000 ms in 99% of inspections and 20000 MB" in (
        captured.out
    )
    assert "0 of 20 verdicts changed" in captured.out
    assert "need no resize" in captured.err
    planned = Profile.load(out)
    old = Profile.load(profile_path)
    assert planned.threshold.value == pytest.approx(old.threshold.value)
    assert planned.history[-1]["action"] == "plan"
    image = old.reference_images[0]
    assert lite_inspector.inspect(image, planned).verdict == "pass"


def test_an_impossible_budget_writes_nothing(
    lite_bundle: Bundle, profile_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = profile_path.parent / "planned.safetensors"
    words = ("--cycle-time", "0.001ms", "--percentile", "50", "--out", out, "--json")
    assert run(lite_bundle, profile_path, *words) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is False and facts["profile"] is None
    assert any("closest: fp32" in note for note in facts["notes"])
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--cycle-time", "80"),
        ("--cycle-time", "80ms", "--precision", "int4"),
        ("--cycle-time", "80ms", "--seconds", "0"),
        ("--cycle-time", "80ms", "--percentile", "10"),
        ("--cycle-time", "80ms", "--image", "missing.png"),
    ],
)
def test_calls_that_cannot_work_are_refused(
    lite_bundle: Bundle, profile_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        run(lite_bundle, profile_path, *words)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_memory_is_that_of_a_process_of_its_own(lite_bundle: Bundle, lite_profile: Profile) -> None:
    peak = measure_in_process("onnxruntime", "cpu", 1)(lite_bundle, lite_profile)
    bank = sum(bank.nbytes for bank in lite_profile.banks)
    assert 20e6 + bank < peak < 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_a_failing_probe_tells_why(lite_bundle: Bundle, lite_profile: Profile) -> None:
    with pytest.raises(BackendError, match=r"memory probe must inspect two images.*provider"):
        measure_in_process("onnxruntime", "no such provider", 1)(lite_bundle, lite_profile)
