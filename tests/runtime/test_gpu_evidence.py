"""`make gpu-evidence` where there is no GPU, and what it writes where there is one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cff_runtime import Bundle
from cff_runtime.engines import Gpu, find_gpu

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/gpu_evidence.py"
PASSED = {"test": "a::b", "outcome": "passed", "seconds": 1.0, "reason": ""}
GATE = {"gate": {"passed": True}, "latency": {"total": {"p50_ms": 1.0}}}


@pytest.fixture
def evidence() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_evidence", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_a_gpu(evidence: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with answers in the place of its steps."""
    answers = {"outcomes": [PASSED], "run": GATE}
    tests = {"exit_code": 0, "told": "", "outcomes": answers["outcomes"]}
    monkeypatch.setattr(evidence, "find_gpu", lambda: Gpu("Orin", "8.7"))
    monkeypatch.setattr(evidence, "run_tests", lambda: tests)
    monkeypatch.setattr(evidence, "build", lambda bundle, flavour: {"exit_code": 0})
    monkeypatch.setattr(evidence, "measure", lambda *_: answers["run"])
    evidence.answers, evidence.tests = answers, tests
    return evidence


@pytest.fixture
def arguments(lite_bundle: Bundle, tmp_path: Path) -> list[str]:
    words = ["--bundle", str(lite_bundle.path), "--profile", str(tmp_path / "p.safetensors")]
    return [*words, "--out", str(tmp_path / "evidence.json")]


@pytest.mark.skipif(find_gpu() is not None, reason="this box has a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "evidence.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "runtime"), str(ROOT)))}

    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment,
    )

    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: evidence must be collected on a box with an NVIDIA GPU")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_a_bundle_it_says_so_and_writes_nothing(
    on_a_gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(tmp_path / "none"), "--profile", "p", "--out", str(tmp_path / "out")]

    assert on_a_gpu.main(words) == 1
    assert "run `make demo` first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_one_file_holds_it_all(
    on_a_gpu: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_a_gpu.main(arguments) == 0

    report = json.loads(Path(arguments[-1]).read_text())
    assert report["passed"] and report["gpu"] == {"name": "Orin", "compute_capability": "8.7"}
    assert report["tests"]["outcomes"] == [PASSED]
    assert set(report["engines"]) == {"tensorrt", "tensorrt-rtx"}
    assert set(report["runs"]) == set(on_a_gpu.RUNS)
    assert report["box"]["packages"] and report["box"]["python_version"]
    assert "passed: tests 1 passed; ran onnxruntime cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcomes", "run"),
    [
        ([PASSED, {**PASSED, "outcome": "failure"}], GATE),
        ([PASSED, {**PASSED, "outcome": "error"}], GATE),
        ([{**PASSED, "outcome": "skipped"}], GATE),
        ([], GATE),
        ([PASSED], {"gate": {"passed": False}}),
        ([PASSED], {"error": "no engine was built yet"}),
    ],
)
def test_what_failed_is_written_too_and_the_exit_code_is_1(
    outcomes: Any, run: Any, on_a_gpu: Any, arguments: list[str]
) -> None:
    on_a_gpu.tests["outcomes"], on_a_gpu.answers["run"] = outcomes, run

    assert on_a_gpu.main(arguments) == 1

    report = json.loads(Path(arguments[-1]).read_text())
    assert not report["passed"] and report["tests"]["outcomes"] == outcomes


def test_outcomes_are_read_from_pytests_report(evidence: Any) -> None:
    xml = """<testsuites><testsuite>
      <testcase classname="tests.gpu.a" name="one" time="0.5"/>
      <testcase classname="tests.gpu.a" name="two" time="0"><skipped message="no GPU"/></testcase>
      <testcase classname="tests.gpu.b" name="three"><failure message="wrong">x</failure></testcase>
    </testsuite></testsuites>"""

    outcomes = evidence.parse_outcomes(xml)

    assert [(entry["test"], entry["outcome"], entry["reason"]) for entry in outcomes] == [
        ("tests.gpu.a::one", "passed", ""),
        ("tests.gpu.a::two", "skipped", "no GPU"),
        ("tests.gpu.b::three", "failure", "wrong"),
    ]
    assert outcomes[0]["seconds"] == 0.5


def test_a_backend_is_measured_in_a_process_of_its_own(
    evidence: Any, lite_bundle: Bundle, lite_profile: Any, tmp_path: Path
) -> None:
    profile = tmp_path / "ring.safetensors"
    lite_profile.save(profile)

    ran = evidence.measure(lite_bundle.path, profile, "onnxruntime", {"threads": 1}, 3)
    refused = evidence.measure(
        lite_bundle.path, profile, "onnxruntime", {"provider": "tensorrt"}, 3
    )
    died = evidence.measure(tmp_path / "none", profile, "onnxruntime", {}, 3)

    assert ran["gate"]["passed"] and ran["latency"]["total"]["p50_ms"] > 0
    assert ran["latency"]["settings"]["n"] == 3 and ran["options"] == {"threads": 1}
    assert "provider `tensorrt` must be in the installed" in refused["error"]
    assert "must be a bundle" in died["error"]
