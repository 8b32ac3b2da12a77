"""Collect the facts about a box. Nothing here fails: what cannot be read says why."""

import importlib.metadata
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_runtime.doctor.box import Box, Reading
from cff_runtime.doctor.facts import Facts, OnnxRuntime, PowerMode
from cff_runtime.doctor.probe_gpu import count_pci_gpus, read_gpus, read_nvidia_smi

PACKAGES = (
    "cff-edge",
    "cuda-python",
    "numpy",
    "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-gpu",
    "opencv-python",
    "opencv-python-headless",
    "pillow",
    "pycuda",
    "safetensors",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
)
_CGROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_LIMIT = 1 << 60  # what control groups of version 1 write


def collect_facts(box: Box, folder: Path) -> Facts:
    """Look at a box.

    Parameters
    ----------
    box : Box
    folder : path
        Its disk is the one whose free space counts.

    Returns
    -------
    Facts
    """
    cuda = box.ask("ask_cuda.py")
    smi = read_nvidia_smi(box)
    total, available = _memory(box)
    return Facts(
        os_name=_os_release(box, "PRETTY_NAME"),
        distribution=_os_release(box, "ID"),
        kernel=box.read("proc/sys/kernel/osrelease"),
        architecture=box.architecture,
        container=_container(box),
        board=box.read("proc/device-tree/model"),
        cpu=_cpu_name(box),
        cpu_cores=box.read("proc/cpuinfo").map(_count_processors),
        cpu_governor=box.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=total,
        memory_available_bytes=available,
        disk_free_bytes=_disk_free(folder),
        l4t=box.read("etc/nv_tegra_release").map(_l4t_release, "in an unknown form"),
        jetpack=box.run("dpkg-query", "-W", "-f", "${Version}", "nvidia-jetpack"),
        power_mode=box.run("nvpmodel", "-q").map(_power_mode, "in an unknown form"),
        power_modes=box.read("etc/nvpmodel.conf").map(_power_modes),
        pci_gpus=count_pci_gpus(box),
        nvidia_smi=smi.map(lambda _: "works"),
        driver=_driver(box, smi),
        cuda_driver=cuda.map(_cuda_version, _cuda_reason(cuda)),
        cuda_toolkit=_cuda_toolkit(box),
        gpus=read_gpus(cuda, smi),
        system_tensorrt=_debian_tensorrt(box, "libnvinfer[0-9]*"),
        system_tensorrt_python=_debian_tensorrt(box, "python3-libnvinfer").value is not None,
        python_version=box.python_version,
        in_virtual_environment=box.in_virtual_environment,
        packages=_packages(box),
        onnxruntime=_onnxruntime(box),
    )


def _os_release(box: Box, key: str) -> Reading[str]:
    def find(text: str) -> str | None:
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name.strip() == key:
                return value.strip().strip('"') or None
        return None

    return box.read("etc/os-release").map(find)


def _container(box: Box) -> Reading[str]:
    if box.exists(".dockerenv"):
        return Reading("docker")
    if box.exists("run/.containerenv"):
        return Reading("podman")
    control_groups = box.read("proc/1/cgroup").value or ""
    for name in ("kubepods", "docker", "containerd", "lxc"):
        if name in control_groups:
            return Reading(name)
    return Reading.missing("none seen")


def _cpu_name(box: Box) -> Reading[str]:
    named = box.read("proc/cpuinfo").map(lambda text: _field(text, "model name"))
    if named.value is not None:
        return named
    return box.run("lscpu").map(lambda text: _field(text, "Model name"))  # it knows ARM's numbers


def _field(text: str, key: str) -> str | None:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip() or None
    return None


def _count_processors(text: str) -> int | None:
    return len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or None


def _memory(box: Box) -> tuple[Reading[int], Reading[int]]:
    """Return the memory in bytes, and what is free of it: the machine's or the control group's."""

    def kibibytes(key: str) -> Reading[int]:
        return box.read("proc/meminfo").map(
            lambda text: int((_field(text, key) or "").split()[0]) * 1024
        )

    total, available = kibibytes("MemTotal"), kibibytes("MemAvailable")
    for name in _CGROUP_LIMITS:
        limit = box.read(name).map(int).value  # "max" is no number: no limit
        if limit is not None and limit < _NO_LIMIT:
            total, available = _at_most(total, limit), _at_most(available, limit)
    return total, available


def _at_most(reading: Reading[int], limit: int) -> Reading[int]:
    return reading.map(lambda n_bytes: min(n_bytes, limit))


def _disk_free(folder: Path) -> Reading[int]:
    for place in (folder, *folder.absolute().parents):
        try:
            return Reading(shutil.disk_usage(place).free)
        except (OSError, ValueError):  # not there: ask for the folder that would hold it
            continue
    return Reading.missing("cannot be read")


def _l4t_release(text: str) -> str | None:
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def _power_mode(text: str) -> PowerMode | None:
    name = re.search(r"NV Power Mode:\s*(\S+)", text)
    number = re.search(r"^\s*(\d+)\s*$", text, re.MULTILINE)
    return PowerMode(int(number[1]), name[1]) if name and number else None


def _power_modes(text: str) -> tuple[PowerMode, ...] | None:
    pattern = r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)"
    found = re.findall(pattern, text, re.MULTILINE)
    return tuple(PowerMode(int(number), name) for number, name in found) or None


def _driver(box: Box, smi: Reading[list[dict[str, str]]]) -> Reading[str]:
    listed = smi.map(lambda rows: rows[0].get("driver_version"))
    if listed.value is not None:
        return listed
    # the kernel module's own word, also where nvidia-smi is missing
    return box.read("proc/driver/nvidia/version").map(
        lambda text: (re.search(r"(?:Kernel Module.*?)\s(\d+\.\d+(?:\.\d+)?)\s", text) or [None])[1]
    )


def _cuda_version(answer: Mapping[str, Any]) -> str | None:
    number = int(answer["driver_version"])  # 12060 is 12.6
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _cuda_reason(answer: Reading[Mapping[str, Any]]) -> str:
    said = str((answer.value or {}).get("error", ""))
    return "not found" if "cannot open shared object" in said else said or "not told"


def _cuda_toolkit(box: Box) -> Reading[str]:
    def version(text: str) -> str | None:
        number = json.loads(text)["cuda"]["version"]
        return number if isinstance(number, str) else None

    listed = box.read("usr/local/cuda/version.json").map(version)
    if listed.value is not None:
        return listed
    return box.run("nvcc", "--version").map(
        lambda text: (re.search(r"release (\d+\.\d+)", text) or [None])[1]
    )


def _debian_tensorrt(box: Box, pattern: str) -> Reading[str]:
    listed = box.run("dpkg-query", "-W", "-f", "${Status} ${Version}\\n", pattern)

    def version(text: str) -> str | None:
        found = re.search(r"^install ok installed (?:\d+:)?(\d+(?:\.\d+)+)", text, re.MULTILINE)
        return found[1] if found else None

    return Reading.missing() if listed.value is None else listed.map(version)


def _packages(box: Box) -> dict[str, str]:
    """Return name -> version of the installed packages that matter here, without importing one."""
    folders = sys.path if box.package_folders is None else list(box.package_folders)
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=folders):
        try:
            name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
            if name in PACKAGES:
                found.setdefault(name, distribution.version)  # the first on the path is imported
        except Exception:  # damaged metadata raises many things; the package is as good as missing
            continue
    return dict(sorted(found.items()))


def _onnxruntime(box: Box) -> Reading[OnnxRuntime]:
    answer = box.ask("ask_onnxruntime.py")
    if answer.value is not None and "error" in answer.value:
        said = str(answer.value["error"])
        missing = said.startswith("ModuleNotFoundError: No module named 'onnxruntime'")
        return Reading.missing("not found" if missing else f"cannot be imported: {said}")
    return answer.map(_parse_onnxruntime, "gave an unknown answer")


def _parse_onnxruntime(answer: Mapping[str, Any]) -> OnnxRuntime:
    return OnnxRuntime(
        str(answer["version"]),
        tuple(map(str, answer["providers"])),
        dict(answer.get("load_errors", {})),
        dict(answer.get("library_folders", {})),
    )
