import json
import subprocess
import sys
from pathlib import Path

import pytest

from cff_bench import environment
from cff_bench.environment import available_cores, collect_environment, package_version


def test_facts_of_this_machine_go_into_json() -> None:
    facts = json.loads(json.dumps(collect_environment().to_dict()))
    assert facts["date_utc"].endswith("+00:00")
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["cores_available"] >= 1
    assert facts["packages"]["numpy"] is not None
    assert "OMP_NUM_THREADS" in facts["thread_variables"]


def test_unknown_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(environment, "_read", lambda path: None)
    monkeypatch.setattr(environment, "_run", fail)
    monkeypatch.setattr("os.getloadavg", fail)
    monkeypatch.setattr("os.sysconf", fail)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.freedesktop_os_release", fail)
    monkeypatch.setattr("platform.system", lambda: "")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    facts = collect_environment().to_dict()
    for name in (
        "board",
        "cpu_model",
        "ram_gib",
        "is_virtual",
        "cpu_mhz",
        "cpu_governor",
        "power_mode",
        "os",
    ):
        assert facts[name] is None, name
    for name in ("load_average", "gpu", "onnxruntime_providers"):
        assert facts[name] is None, name


def test_versions_come_without_imports() -> None:
    code = (
        "import sys; from cff_bench.environment import collect_environment; "
        "collect_environment(); print('torch' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_absent_package_has_no_version() -> None:
    assert package_version("no-such-distribution-of-cff-edge") is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 4),
        ({"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "garbage"}, 4),
    ],
)
def test_quota_limits_the_cores(
    files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(environment, "_read", lambda path: files.get(path.name))
    assert available_cores() == expected


def test_hyper_threads_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {"cpu0": "0,2", "cpu1": "1,3", "cpu2": "0,2", "cpu3": "1,3"}
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(environment, "_read", lambda path: siblings.get(path.parent.parent.name))
    assert available_cores() == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("printf 'NVIDIA A, 570.1\\nNVIDIA B, 570.1\\n'", "NVIDIA A, 570.1; NVIDIA B, 570.1"),
        ("exit 9", None),
        (None, "none"),
    ],
)
def test_gpu_as_nvidia_smi_says(
    body: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if body is not None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert collect_environment().gpu == expected


def test_arm_processor_is_named_by_lscpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_read", lambda path: "processor : 0\nBogoMIPS : 62.50")
    monkeypatch.setattr(
        environment, "_run", lambda *command: "Vendor: ARM\nModel name: Cortex-A78AE"
    )
    assert environment._cpu_model() == "Cortex-A78AE"


@pytest.mark.parametrize(
    ("files", "is_virtual", "mhz"),
    [
        ({"cpuinfo": "cpu MHz : 2596.098\nflags : fpu hypervisor lm"}, True, None),
        ({"cpuinfo": "cpu MHz : 3301.5\nflags : fpu lm"}, False, 3301.5),
        ({"cpuinfo": "flags : hypervisor", "scaling_cur_freq": "2100000"}, True, 2100.0),
        ({"cpuinfo": "BogoMIPS : 62.50"}, None, None),
    ],
)
def test_the_constant_of_a_virtual_machine_is_no_clock(
    files: dict[str, str],
    is_virtual: bool | None,
    mhz: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_read", lambda path: files.get(path.name))
    monkeypatch.setattr(environment, "_run", lambda *command: "")
    facts = collect_environment()
    assert facts.is_virtual is is_virtual
    assert facts.cpu_mhz == mhz
