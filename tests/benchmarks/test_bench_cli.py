import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cff_bench import cli
from cff_runtime.errors import BundleError, MissingDependencyError


def replace_command(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run)
    monkeypatch.setattr(cli, "_build_parser", lambda: parser)


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
    for name in [name for name in sys.modules if name.startswith("cff_bench.table6.")]:
        monkeypatch.delitem(sys.modules, name)
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


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    code = "import sys; from cff_bench.cli import main; sys.exit(main(['footprint', '-n', '1']))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert said == ""
