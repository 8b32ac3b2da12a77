"""`cff-run doctor` as it is called, with good, broken and no bundles."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cff_runtime import Bundle
from cff_runtime.doctor import add_doctor_parser
from cff_runtime.doctor.box import Box
from cff_runtime.doctor.examination import examine
from cff_runtime.doctor.needs import read_needs


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str


Doctor = Callable[..., Done]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Return ``doctor(*arguments, box=None)``."""

    def call(*arguments: object, box: Box | None = None) -> Done:
        parser = argparse.ArgumentParser(prog="cff-run")
        add_doctor_parser(parser.add_subparsers(required=True))
        parsed = parser.parse_args(["doctor", *map(str, arguments)])
        if box is None:
            code = parsed.command(parsed)
        else:
            code = examine(parsed.bundle, parsed.engines, parsed.json, box)
        captured = capsys.readouterr()
        assert captured.err == ""
        return Done(code, captured.out)

    return call


@pytest.fixture
def empty_box(tmp_path: Path) -> Box:
    """A box with no tools, no GPU and no ONNX Runtime."""
    (tmp_path / "root").mkdir()
    python = tmp_path / "python"
    answer = {"error": "ModuleNotFoundError: No module named 'onnxruntime'"}
    python.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{json.dumps(answer)}\nEND\n")
    python.chmod(0o755)
    return Box(tmp_path / "root", "", str(python), "x86_64", "3.12.3", [], False)


def _strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_this_box_without_a_bundle(doctor: Doctor) -> None:
    done = doctor()

    assert "This box" in done.out
    assert "The bundle" not in done.out
    assert "onnxruntime cpu" in done.out


def test_this_box_runs_a_bundle_on_its_cpu(lite_bundle: Bundle, doctor: Doctor) -> None:
    done = doctor(lite_bundle.path)

    assert done.code == 0
    assert f"id                {lite_bundle.manifest.id[:12]}, schema 4" in done.out
    lines = done.out.splitlines()
    assert any(line.split()[:3] == ["onnxruntime", "cpu", "works"] for line in lines)


def test_json_has_everything(lite_bundle: Bundle, doctor: Doctor, empty_box: Box) -> None:
    report = _strict_json(doctor(lite_bundle.path, "--json", box=empty_box).out)

    assert sorted(report) == ["box", "bundle", "engines", "findings", "passed", "routes"]
    assert report["passed"] is False
    assert report["box"]["gpus"] == {"unknown": "none"}
    assert report["bundle"]["id"] == lite_bundle.manifest.id
    assert report["findings"][0]["command"] == 'pip install "cff-edge[cpu]"'
    statuses = {(r["backend"], r["target"]): r["status"] for r in report["routes"]}
    assert statuses["onnxruntime", "cpu"] == "after"


def test_needs_are_those_of_the_files(lite_bundle: Bundle) -> None:
    needs = read_needs(lite_bundle.path)

    encoder = lite_bundle.path / "encoder.fp32.onnx"
    assert needs.precisions[0].weight_bytes == encoder.stat().st_size
    # the rows of one reference's banks: 12 x 12 twice, 6 x 6, 3 x 3 tokens of 4 widths
    widths = [stage.width for stage in lite_bundle.manifest.stages]
    tokens = [144, 144, 36, 9]
    expected = 4 * sum(n * width for n, width in zip(tokens, widths, strict=True))
    assert needs.bank_bytes_per_reference == expected
    assert needs.bank_bytes == 4 * expected
    assert not needs.is_transformer
    assert needs.cpu_bytes("fp32") == (
        (45 << 20) + round(1.5 * encoder.stat().st_size) + (24 << 20) + 200 * 96 * 96 + 4 * expected
    )


def test_an_empty_environment_is_told_what_to_install(doctor: Doctor, empty_box: Box) -> None:
    done = doctor(box=empty_box)

    assert done.code == 1
    assert '      pip install "cff-edge[cpu]"' in done.out.splitlines()
    assert "problem  ONNX Runtime is not installed" in done.out


def _truncate(folder: Path) -> None:
    (folder / "text.safetensors").write_bytes(b"short")


def _unlink(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _break_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "must have"),
        (_unlink, "must be a bundle"),
        (_break_json, "must be JSON"),
        (shutil.rmtree, "must be a bundle"),
    ],
)
def test_a_refused_bundle_is_a_finding(
    bundle_copy: Path, doctor: Doctor, damage: Callable[[Path], None], words: str
) -> None:
    damage(bundle_copy)

    done = doctor(bundle_copy, "--json")

    report = _strict_json(done.out)
    assert done.code == 1
    assert report["bundle"] is None
    assert report["findings"][0]["sentence"] == "the bundle is refused"
    assert words in report["findings"][0]["reason"]


def test_engines_beside_the_bundle_are_checked(bundle_copy: Path, doctor: Doctor) -> None:
    from cff_runtime.engines.key import EngineKey, graph_sha256, static
    from cff_runtime.engines.record import BuiltEngine
    from cff_runtime.storage import sha256_bytes

    def write(folder: Path, name: str, graph: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"engine")
        sizes = (("image", static(1)),)
        key = EngineKey(graph, "fp32", "tensorrt", "10.3.0", ("8.7",), "Orin", sizes, False)
        BuiltEngine(
            path=folder / name,
            key=key,
            graph_name="encoder.fp32.onnx",
            graph_bytes=1,
            sha256=sha256_bytes(b"engine"),
            n_bytes=6,
            build_seconds=1.0,
            typing="strong",
            n_by_type={},
            n_kept_fp32=0,
            warnings=(),
            notes=(),
            built="2026-01-01",
        ).write_sidecar()

    right = graph_sha256(bundle_copy / "encoder.fp32.onnx")
    write(bundle_copy / "engines", "right.engine", right)
    write(bundle_copy / "engines", "other.engine", "0" * 64)
    write(bundle_copy / "engines", "cut.engine", right)
    (bundle_copy / "engines" / "cut.engine").write_bytes(b"eng")

    engines = _strict_json(doctor(bundle_copy, "--json").out)["engines"]

    reasons = {engine["file"]: engine["reason"] for engine in engines}
    assert reasons["right.engine"] == ""
    assert reasons["other.engine"] == "was built from another graph"
    assert "6 bytes" in reasons["cut.engine"]
    elsewhere = bundle_copy / "elsewhere"
    assert _strict_json(doctor(bundle_copy, "--engines", elsewhere, "--json").out)["engines"] == []
