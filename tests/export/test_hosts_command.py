"""Options of `cff-export` for other hosts: what they write, what they refuse, what they load."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from cff_export import hosts
from cff_export.hosts import add_host_arguments, ep_context, triton_config, write_hosts
from cff_export.hosts import command as command_module
from cff_runtime import Bundle, Profile
from cff_runtime.errors import (
    BackendError,
    CffError,
    MissingDependencyError,
    ProfileMismatchError,
    UsageError,
)


@pytest.fixture
def run(lite_bundle: Bundle, lite_profile: Profile, tmp_path: Path) -> Callable[..., list[str]]:
    """Return ``run(*options)``; `PROFILE` and `OUT` stand for a profile and a folder."""
    profile = tmp_path / "ring.safetensors"
    lite_profile.save(profile)
    parser = argparse.ArgumentParser()
    add_host_arguments(parser)

    def call(*options: str) -> list[str]:
        words = [
            word.replace("PROFILE", str(profile)).replace("OUT", str(tmp_path / "out"))
            for word in options
        ]
        return write_hosts(parser.parse_args(words), lite_bundle)

    return call


def test_nothing_asked_for_writes_nothing(run: Callable[..., list[str]], tmp_path: Path) -> None:
    assert run() == []
    assert not (tmp_path / "out").exists()


def test_standalone(run: Callable[..., list[str]], tmp_path: Path) -> None:
    (line,) = run("--standalone", "OUT/ring.onnx", "--profile", "PROFILE", "--standalone-inputs")
    assert line.startswith(f"{tmp_path / 'out' / 'ring.onnx'}  standalone, any batch, ")
    assert line.endswith("with ring.onnx.inputs.safetensors beside it")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "ring.onnx",
        "ring.onnx.inputs.safetensors",
    ]
    (line,) = run("--standalone", "OUT/b.onnx", "--profile", "PROFILE")
    assert line.endswith(" MB")


def test_triton(run: Callable[..., list[str]], tmp_path: Path) -> None:
    (line,) = run("--triton", "OUT", "--profile", "PROFILE", "--queue-delay-us", "300")
    assert line.startswith(f"{tmp_path / 'out' / 'ring'}  Triton model, max_batch_size 8, ")
    config = (tmp_path / "out" / "ring" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 300" in config
    assert "KIND_GPU" in config
    plan = tmp_path / "ring.plan"
    plan.write_bytes(b"ptrt" + bytes(99))
    options = ["--profile", "PROFILE", "--triton-name", "two", "--plan", str(plan)]
    (line,) = run("--triton", "OUT", *options, "--max-batch", "4")
    assert "max_batch_size 4" in line
    assert line.endswith("the plan itself was not opened")
    options = ["--profile", "PROFILE", "--triton-name", "three", "--triton-device", "cpu"]
    both = run("--triton", "OUT", *options, "--max-batch", "0", "--standalone", "OUT/x.onnx")
    assert ["standalone" in line for line in both] == [True, False]
    assert "KIND_CPU" in (tmp_path / "out" / "three" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("product", "name"),
    [("ring", "ring"), (" M8 nut, zinc ", "M8_nut_zinc"), ("Düse/3", "D_se_3"), ("..a", "a")],
)
def test_names_that_triton_takes(product: str, name: str) -> None:
    assert command_module._model_name(product) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--standalone", "OUT/a.onnx"], r"`--standalone` must have a product's `--profile"),
        (["--triton", "OUT"], r"`--triton` must have a product's `--profile"),
        (["--profile", "PROFILE"], "`--profile` belongs to `--standalone` or `--triton`"),
        (["--standalone-inputs"], "`--standalone-inputs` belongs to `--standalone`"),
        (["--triton-name", "a"], "`--triton-name` belongs to `--triton`"),
        (["--triton-device", "cpu"], "`--triton-device` belongs to `--triton`"),
        (["--max-batch", "4"], "`--max-batch` belongs to `--triton`"),
        (["--queue-delay-us", "4"], "`--queue-delay-us` belongs to `--triton`"),
        (["--plan", "x"], "`--plan` belongs to `--triton`"),
        (["--provider", "tensorrt"], "`--provider` belongs to `--ep-context`"),
        (["--standalone", "OUT/a.onnx", "--profile", "none"], "must be an existing file"),
    ],
)
def test_refused_options(
    run: Callable[..., list[str]], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(*options)
    assert not (tmp_path / "out").exists()


def test_refusals_of_what_is_asked(
    run: Callable[..., list[str]], lite_bundle: Bundle, tmp_path: Path
) -> None:
    stranger = Profile.load(tmp_path / "ring.safetensors")
    object.__setattr__(stranger, "bundle_id", "0" * 64)
    stranger.save(tmp_path / "stranger.safetensors")
    with pytest.raises(ProfileMismatchError):
        run("--standalone", "OUT/a.onnx", "--profile", str(tmp_path / "stranger.safetensors"))
    with pytest.raises(UsageError, match="`--triton-name` must be given"):
        command_module._model_name("螺丝")
    if "TensorrtExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(BackendError, match="written on the box"):
            run("--ep-context", "OUT")


def test_a_missing_package_is_one_sentence(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cff_export.hosts.standalone", None)
    with pytest.raises(MissingDependencyError, match="install onnx, onnx-ir") as caught:
        run("--standalone", "OUT/a.onnx", "--profile", "PROFILE")
    assert isinstance(caught.value, CffError)


def test_choices_are_those_of_the_writers() -> None:
    assert tuple(ep_context.PROVIDERS) == command_module._PROVIDERS
    assert tuple(triton_config.DEVICES) == command_module._DEVICES


def test_help_loads_no_onnx() -> None:
    program = """
import argparse, sys
from cff_export.hosts import add_host_arguments
parser = argparse.ArgumentParser()
add_host_arguments(parser)
parser.format_help()
print([name for name in ("onnx", "onnx_ir", "onnxruntime", "torch") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_exported_names_exist() -> None:
    assert sorted(hosts.__all__) == hosts.__all__ == sorted(hosts._MODULE_OF)
    for name in hosts.__all__:
        assert getattr(hosts, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        _ = hosts.none
