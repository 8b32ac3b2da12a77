"""Findings, their levels and commands; the report's text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cff_runtime.doctor.advice import Finding, advise, can_run
from cff_runtime.doctor.box import Box, Reading
from cff_runtime.doctor.engine_files import EngineFile
from cff_runtime.doctor.facts import Facts, Gpu, OnnxRuntime, PowerMode
from cff_runtime.doctor.matrix import load_matrix
from cff_runtime.doctor.needs import BundleNeeds, PrecisionNeeds
from cff_runtime.doctor.report import write_report
from cff_runtime.doctor.routes import find_routes

GIB = 1 << 30
CPU_PROVIDERS = ("AzureExecutionProvider", "CPUExecutionProvider")
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
RTX = Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 * GIB, persistence=False)
NEEDS = BundleNeeds(
    path="bundle",
    id="0123456789abcdef" * 4,
    schema_version=4,
    backbone="efficientnet-lite0",
    is_transformer=False,
    height=256,
    width=256,
    precisions=(PrecisionNeeds("fp32", "encoder.fp32.onnx", 13 << 20, ()),),
    bank_bytes_per_reference=1 << 20,
    workspace_bytes=30 << 20,
)
Advise = Callable[..., list[Finding]]


@pytest.fixture
def server(tmp_path: Path) -> Facts:
    """A box without GPU whose ONNX Runtime runs."""
    from cff_runtime.doctor.probe import collect_facts

    bare = Box(tmp_path, "", "/no/python", "x86_64", "3.12.3", [], False)
    return replace(
        collect_facts(bare, tmp_path),
        distribution=Reading("ubuntu"),
        packages={"onnxruntime": "1.31.1"},
        onnxruntime=Reading(OnnxRuntime("1.31.1", CPU_PROVIDERS, {}, {})),
        disk_free_bytes=Reading(100 * GIB),
    )


@pytest.fixture
def desktop(server: Facts) -> Facts:
    return replace(
        server,
        pci_gpus=1,
        nvidia_smi=Reading("works"),
        driver=Reading("580.95.05"),
        cuda_driver=Reading("13.0"),
        gpus=Reading((RTX,)),
    )


def _advise(facts: Facts, needs: BundleNeeds | None = None, *engines: EngineFile) -> list[Finding]:
    matrix = load_matrix()
    return advise(facts, needs, matrix, find_routes(facts, needs, matrix), engines)


def _wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "ok"]


def _find(findings: list[Finding], words: str) -> Finding:
    (found,) = [finding for finding in findings if words in finding.sentence]
    return found


def test_nothing_is_wrong_with_a_server_without_gpu(server: Facts) -> None:
    findings = _advise(server)

    assert _wrong(findings) == []
    assert [finding.sentence for finding in findings] == ["ONNX Runtime 1.31.1 runs on the CPU"]


def test_an_empty_environment_is_a_problem(server: Facts) -> None:
    bare = replace(server, packages={}, onnxruntime=Reading.missing())

    (finding,) = _wrong(_advise(bare))

    assert (finding.level, finding.command) == ("problem", 'pip install "cff-edge[cpu]"')


def test_two_onnxruntimes_are_removed_together(server: Facts, desktop: Facts) -> None:
    both = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
    remove = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install "

    with_gpu = _find(_advise(replace(desktop, packages=both)), "both installed")
    without = _find(_advise(replace(server, packages=both)), "both installed")

    assert (with_gpu.level, with_gpu.command) == ("problem", f'{remove}"cff-edge[gpu]"')
    assert (without.level, without.command) == ("warning", f'{remove}"cff-edge[cpu]"')
    assert "issues/26996" in with_gpu.reason


def test_the_plug_in_provider_wants_the_other_onnxruntime(desktop: Facts) -> None:
    packages = {"onnxruntime-gpu": "1.31.1", "onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"}

    finding = _find(_advise(replace(desktop, packages=packages)), "both installed")

    assert "onnxruntime-gpu and onnxruntime-ep-nv-tensorrt-rtx-cu13" in finding.sentence


def test_a_command_is_told_once(desktop: Facts) -> None:
    commands = [finding.command for finding in _advise(desktop) if finding.command]

    assert len(commands) == len(set(commands))
    assert 'pip uninstall -y onnxruntime && pip install "cff-edge[gpu]"' in commands
    assert 'pip install "cff-edge[tensorrt-rtx]"' in commands
    assert "sudo nvidia-smi -pm 1" in commands


def test_a_gpu_without_driver_is_a_problem_outside_a_container(server: Facts) -> None:
    seen = replace(server, pci_gpus=1)

    assert _find(_advise(seen), "GPU cannot be used").level == "problem"
    inside = replace(seen, container=Reading("docker"))
    assert _find(_advise(inside), "GPU cannot be used").level == "warning"


def _orin(server: Facts, mode: PowerMode, modes: tuple[PowerMode, ...] | None) -> Facts:
    return replace(
        server,
        architecture="aarch64",
        python_version="3.10.12",
        l4t=Reading("36.4.3"),
        cuda_driver=Reading("12.6"),
        gpus=Reading((Gpu("Orin", "8.7", 7 * GIB),)),
        power_mode=Reading(mode),
        power_modes=Reading.missing() if modes is None else Reading(modes),
    )


NANO = (PowerMode(0, "15W"), PowerMode(1, "25W"), PowerMode(2, "MAXN_SUPER"))
AGX = (PowerMode(0, "MAXN"), PowerMode(1, "MODE_15W"), PowerMode(2, "MODE_30W"))


@pytest.mark.parametrize(
    ("mode", "modes", "number"),
    [
        (NANO[1], NANO, 2),
        (AGX[2], AGX, 0),
        (NANO[2], NANO, None),
        (PowerMode(1, "10W"), (PowerMode(1, "10W"),), None),
        (NANO[1], None, None),  # without the list no number is guessed
    ],
)
def test_the_power_mode_is_that_boards(
    server: Facts, mode: PowerMode, modes: tuple[PowerMode, ...] | None, number: int | None
) -> None:
    commands = [finding.command for finding in _advise(_orin(server, mode, modes))]

    expected = f"sudo nvpmodel -m {number} && sudo jetson_clocks"
    assert (expected in commands) == (number is not None)
    assert number is not None or not any("nvpmodel" in (c or "") for c in commands)


def test_a_jetson_names_its_jetpack(server: Facts) -> None:
    facts = _orin(server, NANO[2], NANO)

    assert _find(_advise(facts), "JetPack 6.2").level == "ok"
    unknown = replace(facts, l4t=Reading("99.1"))
    assert _find(_advise(unknown), "not in the matrix").level == "warning"
    other = replace(facts, system_tensorrt=Reading("10.7.0.23"))
    assert "10.7.0.23" in _find(_advise(other), "is not the one of JetPack").sentence


# ---- with a bundle


def test_a_bundle_that_runs_nowhere_is_a_problem(server: Facts) -> None:
    small = replace(server, memory_available_bytes=Reading(10 << 20))

    findings = _advise(small, NEEDS)

    finding = _find(findings, "cannot be run here")
    assert finding.level == "problem"
    assert "MiB of memory is free" in finding.reason
    assert not can_run(find_routes(small, NEEDS, load_matrix()))


def test_a_gpu_wants_fp16(desktop: Facts) -> None:
    runtime = OnnxRuntime("1.31.1", GPU_PROVIDERS, {"cuda": "", "tensorrt": ""}, {})
    facts = replace(desktop, onnxruntime=Reading(runtime))

    finding = _find(_advise(facts, NEEDS), "no fp16 encoder")

    assert finding.command == "cff-export bundle --precision fp16"
    fp16 = PrecisionNeeds("fp16", "encoder.fp16-mixed.onnx", 7 << 20, ("trunk",))
    both = replace(NEEDS, precisions=(*NEEDS.precisions, fp16))
    assert not any("no fp16" in finding.sentence for finding in _advise(facts, both))


def test_little_disk_is_told(server: Facts) -> None:
    full = replace(server, disk_free_bytes=Reading(20 << 20))

    assert _find(_advise(full, NEEDS), "of disk are free").sentence.startswith("20 MiB")


def _engine(**changes: Any) -> EngineFile:
    good = EngineFile(
        "e.engine", "encoder.fp32.onnx", "tensorrt-rtx", "1.7.1", "fp32", ("8.9",), True, ""
    )
    return replace(good, **changes)


def test_engines_are_told(server: Facts) -> None:
    bad = _engine(file="f.engine", reason="was built from another graph")

    findings = _advise(server, NEEDS, _engine(), bad)

    assert "accepted" in _find(findings, "`e.engine` fits").sentence
    finding = _find(findings, "`f.engine` does not fit")
    assert (finding.level, finding.reason) == ("warning", "was built from another graph")
    assert finding.command == "cff-run engine bundle --flavour tensorrt-rtx --precision fp32"


# ---- text


def test_the_report_has_four_sections_and_short_lines(desktop: Facts) -> None:
    matrix = load_matrix()
    facts = replace(desktop, packages={f"package-{i}": "1.0" for i in range(20)})
    routes = find_routes(facts, NEEDS, matrix)
    findings = advise(facts, NEEDS, matrix, routes)

    text = write_report(facts, NEEDS, routes, findings, [_engine()])

    lines = text.splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == ["This box", "The bundle", "What will work", "What to mend"]
    assert all(len(line) <= 100 or line.startswith("      pip") for line in lines)
    assert "\033" not in text
    assert f"      {_find(findings, 'onnxruntime cuda').command}" in lines
    assert "efficientnet-lite0, 256 x 256 px" in text
    assert "persistence off" in text


def test_what_is_unknown_says_why(server: Facts) -> None:
    bare = replace(server, onnxruntime=Reading.missing("cannot be imported: ImportError: x"))

    text = write_report(bare, None, [], [])

    assert "ONNX Runtime      cannot be imported: ImportError: x" in text
    assert "NVIDIA driver     not found; nvidia-smi not found" in text
    assert text.endswith("What to mend\n  nothing\n")
