"""What a latency figure needs beside it: machine, clocks, threads and versions.

Nothing here fails. What cannot be found out is None, so that a report can be made on any box.
"""

import importlib
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = (
    "cff-edge",
    "numpy",
    "opencv-python",
    "pillow",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "torchvision",
    "open_clip_torch",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "pycuda",
    "cuda-python",
)
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
)
_COMMAND_TIMEOUT_S = 10
_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Environment:
    """Facts about the machine and the process at one moment; None is unknown.

    Attributes
    ----------
    date_utc : str
        ISO 8601.
    board : str or None
        Name of a single-board computer, such as a Jetson, from its device tree.
    cpu_model, gpu : str or None
        Names; `gpu` is ``none`` without nvidia-smi, also on a Jetson of an older JetPack.
    cores_logical, cores_available : int or None
        Logical cores of the machine; physical cores this process may use, see `available_cores`.
    ram_gib : float or None
        Memory of the machine.
    is_virtual : bool or None
        Whether a hypervisor runs this machine, as an x86 processor tells it.
    cpu_mhz, cpu_mhz_max : float or None
        Clock of the first core now, and its upper limit. A virtual machine without cpufreq tells a
        constant in place of the clock, which is left out.
    cpu_governor, power_mode : str or None
        Frequency governor; nvpmodel's mode on a Jetson.
    load_average : tuple of float or None
        Over 1, 5 and 15 minutes.
    packages : dict of str to str or None
        Installed versions.
    onnxruntime_providers : tuple of str or None
        Execution providers of the installed ONNX Runtime.
    thread_variables : dict of str to str or None
        Environment variables that set the number of threads.
    """

    date_utc: str
    board: str | None
    cpu_model: str | None
    cores_logical: int | None
    cores_available: int
    ram_gib: float | None
    is_virtual: bool | None
    cpu_mhz: float | None
    cpu_mhz_max: float | None
    cpu_governor: str | None
    power_mode: str | None
    load_average: tuple[float, ...] | None
    gpu: str | None
    os: str | None
    kernel: str | None
    machine: str | None
    python: str
    packages: Mapping[str, str | None]
    onnxruntime_providers: tuple[str, ...] | None
    thread_variables: Mapping[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts, ready for JSON."""
        return asdict(self)


def collect_environment() -> Environment:
    """Look at the machine. Imports ONNX Runtime where it is installed, and no other package."""
    return Environment(
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        board=_read(Path("/proc/device-tree/model")),
        cpu_model=_cpu_model(),
        cores_logical=os.cpu_count(),
        cores_available=available_cores(),
        ram_gib=_ram_gib(),
        is_virtual=_is_virtual(),
        cpu_mhz=_cpu_mhz(),
        cpu_mhz_max=_khz_as_mhz(_CPU / "cpu0/cpufreq/scaling_max_freq"),
        cpu_governor=_read(_CPU / "cpu0/cpufreq/scaling_governor"),
        power_mode=_command("nvpmodel", "-q"),
        load_average=_load_average(),
        gpu=_gpu(),
        os=_os_name(),
        kernel=platform.release() or None,
        machine=platform.machine() or None,
        python=platform.python_version(),
        packages={name: package_version(name) for name in PACKAGES},
        onnxruntime_providers=_onnxruntime_providers(),
        thread_variables={name: os.environ.get(name) for name in THREAD_VARIABLES},
    )


def available_cores() -> int:
    """Return how many physical cores this process may use, at least 1.

    Cores of its affinity, two hyper-threads counted as one, and not more than a container's
    processor quota.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 1
    # a core is named by its list of hyper-threads; without one every logical core counts
    names = {
        _read(_CPU / f"cpu{index}/topology/thread_siblings_list") or str(index) for index in allowed
    }
    quota = _quota_cores()
    return max(1, len(names) if quota is None else min(len(names), math.ceil(quota)))


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution without importing it, or None."""
    try:
        return importlib.metadata.version(name)
    except Exception:  # damaged metadata raises many things, none of them matter here
        return None


def _quota_cores() -> float | None:
    """Return the processor quota of the control group (version 2, else 1) in cores."""
    root = Path("/sys/fs/cgroup")
    limit = _read(root / "cpu.max")
    if limit is None:
        quota = _read(root / "cpu/cpu.cfs_quota_us")
        limit = f"{quota} {_read(root / 'cpu/cpu.cfs_period_us')}"
    try:
        quota_us, period_us = (float(part) for part in limit.split())
        return quota_us / period_us if quota_us > 0 else None
    except (ValueError, ZeroDivisionError):  # "max", or no control group
        return None


def _cpu_model() -> str | None:
    model = _cpuinfo("model name")
    if model:
        return model
    # ARM's /proc/cpuinfo holds numbers only; lscpu knows their names
    for line in (_command("lscpu") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model name":
            return value.strip()
    return platform.processor() or None


def _cpu_mhz() -> float | None:
    mhz = _khz_as_mhz(_CPU / "cpu0/cpufreq/scaling_cur_freq")
    if mhz is not None:
        return mhz
    return None if _is_virtual() else _number(_cpuinfo("cpu MHz"))


def _is_virtual() -> bool | None:
    flags = _cpuinfo("flags")
    return None if flags is None else "hypervisor" in flags.split()


def _cpuinfo(key: str) -> str | None:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _khz_as_mhz(path: Path) -> float | None:
    khz = _number(_read(path))
    return None if khz is None else khz / 1e3


def _ram_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):
        return None


def _load_average() -> tuple[float, ...] | None:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return platform.system() or None


def _gpu() -> str | None:
    fields = "name,driver_version,memory.total,clocks.sm,power.limit"
    try:
        answer = _run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    except FileNotFoundError:
        return "none"
    except (OSError, subprocess.SubprocessError):
        return None  # installed, but it gives no answer
    return "; ".join(answer.splitlines()) or None


def _onnxruntime_providers() -> tuple[str, ...] | None:
    try:
        return tuple(importlib.import_module("onnxruntime").get_available_providers())
    except Exception:  # a broken install must not cost the report
        return None


def _command(*command: str) -> str | None:
    try:
        return _run(*command) or None
    except (OSError, subprocess.SubprocessError):
        return None


def _run(*command: str) -> str:
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_COMMAND_TIMEOUT_S
    )
    return finished.stdout.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip(" \n\0") or None
    except OSError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
