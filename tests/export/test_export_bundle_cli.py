"""`cff-export` on a finished bundle: precisions, engines, other hosts, and what it refuses."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cff_export import variants
from cff_export.cli import main
from cff_export.precision import PRECISIONS, Timing
from cff_runtime import Bundle
from cff_runtime.verification import golden_profile

Captured = pytest.CaptureFixture[str]
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)


@pytest.fixture
def bundle(lite_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lite_bundle.path, tmp_path / "bundle"))


def _fails(capsys: Captured, arguments: list[str], exit_code: int) -> str:
    assert main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def test_a_precision_is_added_in_place(bundle: Path, capsys: Captured) -> None:
    before = Bundle.open(bundle).manifest.id

    assert main([str(bundle), "--precision", "fp32, fp16"]) == 0

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fp16  encoder.fp16.onnx  mean cosine 0.999")
    assert "0 verdict flips" in line
    manifest = Bundle.open(bundle).manifest
    assert manifest.precisions == ("fp32", "fp16") and manifest.id == before


def test_another_folder_leaves_the_source_as_it_is(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"

    assert main([str(bundle), "--out", str(out), "--precision", "fp16"]) == 0
    assert Bundle.open(bundle).manifest.precisions == ("fp32",)
    assert Bundle.open(out).manifest.precisions == ("fp32", "fp16")
    assert main([str(bundle), "--out", str(out)]) == 2  # exists
    assert main([str(bundle), "--out", str(out), "--replace"]) == 0
    assert Bundle.open(out).manifest.precisions == ("fp32",)


def test_a_refused_precision_exits_with_1_and_the_reason(
    bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timings(*_: Any, **__: Any) -> dict[str, Timing]:
        return {"fp32": Timing(10.0, 7), "int8": Timing(10.0, 7)}

    monkeypatch.setattr(variants, "compare_speed", timings)

    assert main([str(bundle), "--precision", "int8"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("int8  REFUSED  int8 must take at most 90%")
    Bundle.open(bundle)


def test_wrong_options_are_one_sentence(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    line = _fails(capsys, [str(bundle), "--precision", "fp8"], 2)
    assert line == f"error: `--precision` must be of {', '.join(PRECISIONS)}, got 'fp8'"
    line = _fails(capsys, [str(bundle), "--text-weight", "0.5"], 2)
    assert "`--text-weight` must be given with a run" in line
    line = _fails(capsys, [str(bundle), "--precision", "int8-qdq"], 2)
    assert "`--calibration` must name images of good parts" in line
    line = _fails(capsys, [str(bundle), "--standalone", str(tmp_path / "x.onnx")], 2)
    assert "--profile" in line
    line = _fails(capsys, [str(bundle), "--engine", "tensorflow"], 2)
    assert "tensorrt" in line
    line = _fails(capsys, [str(tmp_path / "absent")], 2)
    assert "`--out` must be given with a run" in line


@needs_rtx
def test_engines_are_built_into_the_bundle_and_named(bundle: Path, capsys: Captured) -> None:
    arguments = [str(bundle), "--engine", "tensorrt-rtx", "--compute-capability", "8.6,8.9"]

    assert main([*arguments, "--precision", "fp16"]) == 0

    lines = capsys.readouterr().out.splitlines()
    engines = sorted((bundle / "engines").glob("encoder.*.engine"))
    assert [path.name.split(".")[1] for path in engines] == ["fp16"]
    assert any("HALF" in line and str(engines[0]) in line for line in lines)
    side_car = json.loads(engines[0].with_name(engines[0].name + ".json").read_text())
    assert side_car["key"]["compute_capabilities"] == ["8.6", "8.9"]
    Bundle.open(bundle)  # engines are a cache, no part of what the manifest vouches for


def test_a_standalone_graph_is_written_from_a_bundle(
    bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "ring.onnx"
    profile = bundle / golden_profile("fp32")

    assert main([str(bundle), "--standalone", str(out), "--profile", str(profile)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.stat().st_size > 1e7

    assert main([str(bundle), "--precision", "fp16"]) == 0
    half = tmp_path / "half.onnx"
    profile = bundle / golden_profile("fp16")
    assert main([str(bundle), "--standalone", str(half), "--profile", str(profile)]) == 0
    assert half.stat().st_size < 0.7 * out.stat().st_size  # the profile's precision


def test_precisions_are_added_without_pytorch(bundle: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom cff_export.cli import main\n"
        f"sys.exit(main([{str(bundle)!r}, '--precision', 'fp16']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("fp16  encoder.fp16.onnx")
