"""The probe on boxes laid out as folders: their files, their tools, their Python."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cff_runtime.doctor.box import Box, Reading
from cff_runtime.doctor.facts import Facts, PowerMode
from cff_runtime.doctor.probe import collect_facts

LayOut = Callable[..., Box]
MEMINFO = "MemTotal:        7802432 kB\nMemFree:          301232 kB\nMemAvailable:    5120000 kB\n"
TEGRA = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
)
NVPMODEL_CONF = """# power models
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""
# each question of the doctor, as real tools answer them
DPKG = """case "$*" in
*nvidia-jetpack*) printf '6.2+b77' ;;
*python3-libnvinfer*) echo 'install ok installed 10.3.0.30-1+cuda12.5' ;;
*libnvinfer*) echo 'deinstall ok config-files 8.6.2.3-1'
              echo 'install ok installed 10.3.0.30-1+cuda12.5' ;;
*) exit 1 ;;
esac"""


@pytest.fixture
def lay_out(tmp_path: Path) -> LayOut:
    """Return ``lay_out(files, tools, cuda, onnxruntime, packages)``, which makes a box.

    `tools` are bodies of shell scripts; `cuda` and `onnxruntime` are what its Python answers.
    """

    def make(
        files: Mapping[str, str] | None = None,
        tools: Mapping[str, str] | None = None,
        cuda: object = None,
        onnxruntime: object = None,
        packages: Mapping[str, str] | None = None,
    ) -> Box:
        root, tool_folder, site = (tmp_path / name for name in ("root", "bin", "site"))
        for folder in (root, tool_folder, site):
            folder.mkdir(exist_ok=True)
        for name, text in (files or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for name, version in (packages or {}).items():
            metadata = site / f"{name}-{version}.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        answers = {"ask_cuda.py": cuda, "ask_onnxruntime.py": onnxruntime}
        cases = [f"*{name}) echo '{json.dumps(said)}' ;;" for name, said in answers.items() if said]
        python = f'case "$1" in\n{chr(10).join(cases)}\n*) exit 1 ;;\nesac'
        for name, body in {**(tools or {}), "python": python}.items():
            (tool_folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (tool_folder / name).chmod(0o755)
        return Box(
            root=root,
            path=str(tool_folder),
            python=str(tool_folder / "python"),
            architecture="aarch64",
            python_version="3.10.12",
            package_folders=[str(site)],
            in_virtual_environment=False,
        )

    return make


def test_an_orin_with_jetpack_6_2(lay_out: LayOut, tmp_path: Path) -> None:
    gib = 1 << 30
    box = lay_out(
        files={
            "etc/os-release": 'ID=ubuntu\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "etc/nv_tegra_release": TEGRA,
            "etc/nvpmodel.conf": NVPMODEL_CONF,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit Super\0",
            "proc/cpuinfo": "processor\t: 0\nBogoMIPS : 62.50\n\nprocessor\t: 1\n",
            "proc/meminfo": MEMINFO,
            "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA", "version": "12.6.68"}}',
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        },
        tools={
            "dpkg-query": DPKG,
            "nvpmodel": "echo 'NV Power Mode: 25W'; echo 1",
            "lscpu": "echo 'Architecture: aarch64'; echo 'Model name:   Cortex-A78AE'",
            "nvidia-smi": "echo 'Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A], [N/A], [N/A]'",
        },
        cuda={
            "driver_version": 12060,
            "devices": [{"name": "Orin", "compute_capability": "8.7", "memory_bytes": 7 * gib}],
        },
        onnxruntime={"version": "1.23.2", "providers": ["CPUExecutionProvider"]},
        packages={"numpy": "1.26.4", "tensorrt": "10.3.0", "PyCUDA": "2024.1", "wheel": "0.40"},
    )

    facts = collect_facts(box, tmp_path)

    assert facts.is_jetson
    assert (facts.l4t.value, facts.jetpack.value) == ("36.4.3", "6.2+b77")
    assert facts.board.value == "NVIDIA Jetson Orin Nano Developer Kit Super"
    assert facts.power_mode.value == PowerMode(1, "25W")
    assert facts.power_modes.value == (
        PowerMode(0, "15W"),
        PowerMode(1, "25W"),
        PowerMode(2, "MAXN_SUPER"),
    )
    assert (facts.cuda_driver.value, facts.cuda_toolkit.value) == ("12.6", "12.6.68")
    assert facts.gpu is not None
    assert (facts.gpu.name, facts.gpu.compute_capability) == ("Orin", "8.7")
    assert (facts.gpu.memory_bytes, facts.gpu.persistence) == (7 * gib, None)
    assert facts.driver.value == "540.4.0"
    assert (facts.system_tensorrt.value, facts.system_tensorrt_python) == ("10.3.0.30", True)
    assert (facts.cpu.value, facts.cpu_cores.value) == ("Cortex-A78AE", 2)
    assert facts.memory_bytes.value == 7802432 * 1024
    assert facts.memory_available_bytes.value == 5120000 * 1024
    assert facts.packages == {"numpy": "1.26.4", "pycuda": "2024.1", "tensorrt": "10.3.0"}
    assert facts.onnxruntime.value is not None
    assert facts.onnxruntime.value.providers == ("CPUExecutionProvider",)
    assert facts.distribution.value == "ubuntu"


def test_a_desktop_joins_the_driver_library_and_nvidia_smi(lay_out: LayOut, tmp_path: Path) -> None:
    card = "sys/bus/pci/devices/0000:01:00"
    box = lay_out(
        files={
            f"{card}.0/vendor": "0x10de\n",
            f"{card}.0/class": "0x030000\n",
            f"{card}.1/vendor": "0x10de\n",  # the card's sound
            f"{card}.1/class": "0x040300\n",
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD Ryzen 9\n",
        },
        tools={
            "nvidia-smi": "echo 'NVIDIA GeForce RTX 4090, 535.183.01, 8.9, 24564, Disabled, 210, "
            "3105'",
            "nvcc": "echo 'Cuda compilation tools, release 12.2, V12.2.140'",
        },
        cuda={
            "driver_version": 12020,
            "devices": [
                {
                    "name": "NVIDIA GeForce RTX 4090",
                    "compute_capability": "8.9",
                    "memory_bytes": 25_393_692_672,
                }
            ],
        },
    )

    facts = collect_facts(box, tmp_path)

    assert facts.pci_gpus == 1
    assert (facts.driver.value, facts.cuda_driver.value) == ("535.183.01", "12.2")
    assert facts.cuda_toolkit.value == "12.2"
    gpu = facts.gpu
    assert gpu is not None
    assert (gpu.persistence, gpu.clock_mhz, gpu.clock_max_mhz) == (False, 210, 3105)
    assert gpu.memory_bytes == 25_393_692_672
    assert not facts.is_jetson
    assert facts.l4t == Reading.missing()


def test_an_old_nvidia_smi_is_asked_without_compute_capability(
    lay_out: LayOut, tmp_path: Path
) -> None:
    refusal = 'Field "compute_cap" is not a valid field to query.'
    script = f"""case "$1" in
*compute_cap*) echo '{refusal}'; exit 2 ;;
*) echo 'Tesla T4, 440.33.01, 15109, Enabled, 300, 1590' ;;
esac"""

    facts = collect_facts(lay_out(tools={"nvidia-smi": script}), tmp_path)

    assert facts.gpu is not None
    assert (facts.gpu.name, facts.gpu.compute_capability) == ("Tesla T4", None)
    assert facts.gpu.memory_bytes == 15109 << 20
    assert facts.driver.value == "440.33.01"


def test_an_empty_box_has_reasons_instead_of_values(lay_out: LayOut, tmp_path: Path) -> None:
    facts = collect_facts(lay_out(), tmp_path / "not" / "there")

    assert facts.gpu is None
    assert facts.pci_gpus == 0
    assert facts.nvidia_smi == Reading.missing()
    assert facts.driver == Reading.missing()
    assert facts.packages == {}
    assert facts.onnxruntime.reason == "failed: exit code 1"
    assert facts.disk_free_bytes.value is not None  # of the nearest folder that exists
    assert json.loads(json.dumps(facts.to_dict()))["l4t"] == {"unknown": "not found"}


def test_a_driver_mismatch_is_told_in_nvidia_smis_words(lay_out: LayOut, tmp_path: Path) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 560"
    box = lay_out(
        tools={"nvidia-smi": f"printf '{said}\\n'; exit 18"},
        cuda={"driver_version": 12060, "devices": [], "init_status": 803},
    )

    facts = collect_facts(box, tmp_path)

    assert "Driver/library version mismatch" in facts.nvidia_smi.reason
    assert facts.gpus.reason == "the driver library fails with status 803"


def test_a_gpu_that_programs_may_not_see_is_none(lay_out: LayOut, tmp_path: Path) -> None:
    box = lay_out(
        tools={"nvidia-smi": "echo 'Tesla T4, 580.95.05, 7.5, 15109, Enabled, 300, 1590'"},
        cuda={"driver_version": 13000, "devices": [], "init_status": 100},  # no device
    )

    facts = collect_facts(box, tmp_path)

    assert facts.gpu is None
    assert facts.gpus.reason == "the driver library fails with status 100"
    assert (facts.driver.value, facts.nvidia_smi.value) == ("580.95.05", "works")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"proc/1/cgroup": "0::/kubepods/besteffort/pod1\n"}, "kubepods"),
        ({"proc/1/cgroup": "0::/init.scope\n"}, None),
    ],
)
def test_containers(
    lay_out: LayOut, tmp_path: Path, files: dict[str, str], kind: str | None
) -> None:
    assert collect_facts(lay_out(files), tmp_path).container.value == kind


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 5120000 * 1024),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 5120000 * 1024),
    ],
)
def test_memory_is_what_the_control_group_allows(
    lay_out: LayOut, tmp_path: Path, limit: dict[str, str], expected: int
) -> None:
    facts = collect_facts(lay_out({"proc/meminfo": MEMINFO, **limit}), tmp_path)

    assert facts.memory_available_bytes.value == expected


def test_a_tool_that_hangs_or_babbles_costs_one_fact(lay_out: LayOut, tmp_path: Path) -> None:
    box = lay_out(
        tools={"nvpmodel": "echo what", "slow": "exec /bin/sleep 20", "mute": "true"},
        onnxruntime={"unknown": 1},
    )

    assert box.run("slow", timeout_s=0.2).reason == "no answer within 0 s"
    assert box.run("mute").reason == "gave no answer"
    facts = collect_facts(box, tmp_path)
    assert facts.power_mode.reason == "in an unknown form"
    assert facts.onnxruntime.reason == "gave an unknown answer"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    box = Box(root=tmp_path)

    assert box.read("folder").reason.startswith("cannot be read: ")
    assert box.read("empty").reason == "empty"
    assert box.read("latin").value == "caf�"
    assert box.read("nul\0").reason.startswith("cannot be read")


def test_damaged_package_metadata_is_as_good_as_none(lay_out: LayOut, tmp_path: Path) -> None:
    box = lay_out(packages={"numpy": "2.0"})
    (tmp_path / "site" / "broken-1.dist-info").mkdir()

    assert collect_facts(box, tmp_path).packages == {"numpy": "2.0"}


def _this_box(tmp_path: Path) -> Facts:
    return collect_facts(Box(), tmp_path)


def test_this_box(tmp_path: Path) -> None:
    facts = _this_box(tmp_path)

    runtime = facts.onnxruntime.value
    assert runtime is not None
    assert "CPUExecutionProvider" in runtime.providers
    assert facts.packages["numpy"]
    assert facts.python_version == ".".join(map(str, sys.version_info[:3]))
    assert (facts.cpu_cores.value or 0) >= 1


BROKEN = "raise RuntimeError('no such symbol')"


@pytest.mark.parametrize(
    ("module", "reason"),
    [(BROKEN, "cannot be imported: RuntimeError: no such symbol"), (None, "not found")],
)
def test_an_onnxruntime_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, reason: str
) -> None:
    if module is None:  # what a missing package raises
        module = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\")"
    (tmp_path / "onnxruntime.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert _this_box(tmp_path).onnxruntime.reason == reason


def test_a_provider_whose_library_misses_another_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").write_text(
        "__version__ = '1.31.1'\ndef get_available_providers(): return ['CUDAExecutionProvider']"
    )
    library = next(Path(path) for path in _loaded_libraries() if "libc.so" in path)
    (capi / "libonnxruntime_providers_shared.so").symlink_to(library)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    (tmp_path / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu13" / "lib" / "libcudart.so.13").write_bytes(b"")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    runtime = _this_box(tmp_path).onnxruntime.value

    assert runtime is not None
    assert runtime.load_errors["cuda"].startswith("libonnxruntime_providers_cuda.so: ")
    assert runtime.library_folders == {"libcudart.so.13": str(tmp_path / "nvidia/cu13/lib")}


def _loaded_libraries() -> list[str]:
    text = Path("/proc/self/maps").read_text()
    return [line.split()[-1] for line in text.splitlines() if ".so" in line]


def test_importing_the_doctor_asks_nothing_and_loads_nothing_heavy(
    run_python: Callable[..., Any],
) -> None:
    code = (
        "import sys, cff_runtime.doctor\n"
        "import cff_runtime.doctor.examination\n"
        "print([n for n in ('onnxruntime', 'tensorrt', 'tensorrt_rtx', 'torch') "
        "if n in sys.modules])"
    )

    assert run_python(code).stdout.strip() == "[]"
