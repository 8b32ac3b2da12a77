import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cff_bench import cli, latency, table6
from cff_bench.folded_heads import HeadShape
from cff_runtime.errors import BundleError, MissingDependencyError


@pytest.fixture
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table6, "PAPER_SHAPE", HeadShape(16, 4, 10, 32))


def replace_command(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run)
    monkeypatch.setattr(cli, "_build_parser", lambda: parser)


@pytest.mark.usefixtures("small_heads")
def test_table6_prints_the_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reports" / "table6.json"
    arguments = ["table6", "-n", "2", "--warmup", "0", "--threads", "1", "--json", str(path)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "linear folded onnxruntime / none folded onnxruntime" in captured.out
    assert captured.err == ""
    report = json.loads(path.read_text())
    assert set(report) == {"rows", "ratios", "environment", "settings"}
    assert report["settings"]["n"] == 2
    assert report["settings"]["threads"] == 1


def test_latency_passes_its_arguments_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[latency.LatencySettings] = []

    def run(settings: latency.LatencySettings) -> dict[str, Any]:
        seen.append(settings)
        return {"total": 1}

    monkeypatch.setattr(latency, "run_latency", run)
    monkeypatch.setattr(latency, "format_latency", lambda report: f"report {report['total']}")
    path = tmp_path / "latency.json"
    arguments = ["latency", "b", "--profile", "p", "--image", "i.png", "-n", "3", "--warmup", "0"]
    arguments += ["--provider", "cuda", "--json", str(path)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "report 1\n"
    assert json.loads(path.read_text()) == {"total": 1}
    assert seen == [
        latency.LatencySettings(
            Path("b"), Path("p"), Path("i.png"), 3, 0, "onnxruntime", {"provider": "cuda"}
        )
    ]


def test_missing_bundle_is_an_error_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["latency", str(tmp_path / "nothing"), "--profile", str(tmp_path / "p")]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_errors_give_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise BundleError("`x` must be whole")

    replace_command(monkeypatch, run)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "error: `x` must be whole\n"


def test_interrupt_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    replace_command(monkeypatch, run)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("package", "extra"), [("torch", "train"), ("onnx", "export"), ("onnxruntime", "bench")]
)
def test_missing_package_names_the_extra(
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("cff_bench.table6", "cff_bench.folded_heads"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["table6", "-n", "1"]) == 1
    captured = capsys.readouterr()
    assert f"`{package}`" in captured.err
    assert f"cff-edge[{extra}]" in captured.err


def test_other_missing_modules_are_bugs_and_stay_visible() -> None:
    with pytest.raises(ModuleNotFoundError), cli.naming_the_extra():
        raise ModuleNotFoundError("no module", name="cff_bench.nothing")
    with pytest.raises(MissingDependencyError), cli.naming_the_extra():
        raise ModuleNotFoundError("no module", name="torch.nn")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["table6", "-n", "0"],
        ["table6", "-n", "many"],
        ["table6", "--warmup", "-1"],
        ["table6", "--threads", "0"],
        ["latency", "bundle"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_unwritable_json_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    def run(args: argparse.Namespace) -> int:
        cli.write_json(tmp_path / "file" / "report.json", {})
        return 0

    replace_command(monkeypatch, run)
    assert cli.main([]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("cff-bench ")
