"""`cff-run engine`, and the engines of a whole bundle."""

import argparse
import dataclasses
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cff_runtime import Bundle
from cff_runtime.engines import EngineSettings, EngineStore, build_bundle_engines, static
from cff_runtime.engines.command import ProgressLine, add_engine_parser, shown_progress
from cff_runtime.errors import BackendError, CffError, UsageError

pytest.importorskip("tensorrt_rtx")

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever box this runs on."""
    for module in ("builder", "store", "validity"):
        monkeypatch.setattr(f"cff_runtime.engines.{module}.find_gpu", lambda: None)


@pytest.fixture
def run() -> Run:
    """Return ``run(*arguments)``, which parses and runs as `cff-run` does."""

    def call(*arguments: object) -> int:
        parser = argparse.ArgumentParser()
        add_engine_parser(parser.add_subparsers(required=True))
        parsed = parser.parse_args(["engine", *map(str, arguments)])
        code: int = parsed.command(parsed)
        return code

    return call


@pytest.fixture
def options(lite_bundle: Bundle, tmp_path: Path) -> list[object]:
    """A bundle, and a folder for its engines outside of it."""
    return [lite_bundle.path, "--flavour", "tensorrt-rtx", "--engines", tmp_path / "engines"]


def test_a_bundle_is_built_checked_and_found_again(
    options: list[object], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(*options, "--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("missing  encoder.fp32.onnx  no engine was built yet; would be")

    assert run(*options, "--compute-capability", "8.6,8.9") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [Path(line.split()[0]).name.split(".")[0] for line in lines]
    assert names == ["encoder", "scorer_0", "scorer_1", "scorer_2", "scorer_3"]
    assert all(" MB  " in line and " s  " in line and " FLOAT" in line for line in lines)
    assert "INT64" not in lines[0]  # shapes are no precision

    assert run(*options, "--compute-capability", "8.6", "--check") == 0
    assert capsys.readouterr().out.count("not accepted yet") == 5
    assert run(*options, "--compute-capability", "8.9") == 0
    assert capsys.readouterr().out.count("there already") == 5
    assert len(list((tmp_path / "engines").glob("*.engine"))) == 5


def test_a_damaged_engine_stops_the_command_until_rebuild(
    options: list[object], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options += ["--compute-capability", "8.6"]
    run(*options)
    path = next((tmp_path / "engines").glob("scorer_1*.engine"))
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()

    assert run(*options, "--check") == 1
    assert "REFUSED  scorer_1.fp32.onnx" in capsys.readouterr().out
    with pytest.raises(BackendError, match=r"it has \d+; build it again with `--rebuild`"):
        run(*options)
    assert run(*options, "--rebuild", "--json") == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert [engine["reused"] for engine in engines] == [False] * 5
    assert run(*options, "--check") == 0


def test_json_carries_the_sidecar_and_the_reason(
    options: list[object], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options += ["--compute-capability", "8.6", "--json"]

    run(*options, "--check")
    missing = json.loads(capsys.readouterr().out)["engines"][0]
    run(*options, "--batch-profile", "1,4,8", "--workspace-mib", "256", "--tf32")
    encoder = json.loads(capsys.readouterr().out)["engines"][0]

    assert missing["engine"] is None
    assert missing["reason"] == "no engine was built yet"
    assert encoder["key"]["sizes"] == {"image": [1, 4, 8]}
    assert encoder["key"]["tf32"] is True
    assert encoder["key"]["precision"] == "fp32"
    assert json.loads(Path(f"{encoder['path']}.json").read_text())["key"] == encoder["key"]


def test_engines_lie_in_the_bundle_by_default(
    bundle_copy: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle_copy, "--flavour", "tensorrt-rtx", "--compute-capability", "8.6")

    assert len(list((bundle_copy / "engines").glob("*.engine"))) == 5
    Bundle.open(bundle_copy)  # and the bundle is still one
    assert capsys.readouterr().out


def test_equal_scorers_share_one_engine(
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    tmp_path: Path,
) -> None:
    shutil.copy(bundle_copy / "scorer_0.fp32.onnx", bundle_copy / "scorer_1.fp32.onnx")
    edit_manifest(bundle_copy, rehash=True)
    calls: list[tuple[str, float]] = []

    engines = build_bundle_engines(
        Bundle.open(bundle_copy),
        EngineSettings("tensorrt-rtx", ("8.6",)),
        lambda graph, _phase, done, _left_s: calls.append((graph, done)),
    )

    assert [engine.graph_name.split(".")[0] for engine in engines] == [
        "encoder",
        "scorer_0",
        "scorer_2",
        "scorer_3",
    ]
    assert [graph for graph, done in calls if done == 1.0] == [
        engine.graph_name for engine in engines
    ]
    assert engines[1].key.sizes == (("bank", static(1024)),)
    store = EngineStore(bundle_copy / "engines")
    assert store.find(engines[1].key, "scorer_1.fp32.onnx") == store.find(engines[1].key)


def test_int8_for_the_cpu_is_refused_with_what_to_use_instead(lite_bundle: Bundle) -> None:
    int8 = dataclasses.replace(lite_bundle.manifest, precision="int8")

    with pytest.raises(UsageError, match=r"quantised for the CPU; .* --precision int8-qdq"):
        build_bundle_engines(Bundle(lite_bundle.path, int8), EngineSettings("tensorrt-rtx"))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--flavour", "rtx"], 2, "one of tensorrt, tensorrt-rtx, got 'rtx'"),
        (["--flavour", "tensorrt-rtx", "--batch", "0"], 2, "`image` must be .* got 0"),
        (["--flavour", "tensorrt-rtx", "--batch-profile", "1,8"], 2, "numbers MIN,OPT,MAX"),
        (["--flavour", "tensorrt-rtx", "--compute-capability", "9.0"], 2, "offers, 7.5, .*9.0"),
        (["--flavour", "tensorrt-rtx", "--precision", "fp8"], 2, "`precision` must be one of"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    arguments: list[str], exit_code: int, message: str, lite_bundle: Bundle, run: Run
) -> None:
    with pytest.raises(CffError, match=message) as caught:
        run(lite_bundle.path, *arguments)

    assert caught.value.exit_code == exit_code


def test_tensorrt_that_is_not_installed_names_the_extra(
    lite_bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(CffError, match=r"install cff-edge\[tensorrt\] with pip"):
        run(lite_bundle.path, "--flavour", "tensorrt")


def test_tensorrts_own_log_is_for_debugging_only(
    options: list[object],
    run: Run,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG, logger="cff_runtime.engines.logs"):
        run(*options, "--compute-capability", "8.6")

    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert any("Engine generation completed" in message for message in caplog.messages)
    assert capfd.readouterr().err == ""


class Terminal:
    def __init__(self, is_terminal: bool) -> None:
        self.text = ""
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_a_terminal_shows_phase_seconds_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine()

    line("encoder.fp32.onnx", "parsing", 0.0, None)
    line.draw()
    line("encoder.fp32.onnx", "Timing graph nodes", 0.25, 30.4)
    line.draw()
    line("encoder.fp32.onnx", "done", 1.0, 0.0)
    line.draw()

    drawn = [part.strip() for part in terminal.text.split("\r")]
    assert drawn == [
        "",
        "encoder.fp32.onnx  0 s  parsing",
        "encoder.fp32.onnx  0 s  Timing graph nodes  25 %, about 30 s left",
        "",
        "",
    ]


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("cff_runtime.engines.command._QUIET_INTERVAL_S", 0.01)

    with shown_progress() as line:
        line("encoder.fp32.onnx", "Timing graph nodes", 0.5, None)
        while terminal.text.count("\n") < 2:
            time.sleep(0.01)

    assert set(map(str.strip, terminal.text.splitlines())) == {
        "encoder.fp32.onnx  0 s  Timing graph nodes"
    }
