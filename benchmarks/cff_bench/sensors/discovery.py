"""The sensors of this machine, and the modes that it is in."""

import os
import re
from pathlib import Path

from cff_bench.sensors.jetson import TegrastatsSource
from cff_bench.sensors.load import LoadSource
from cff_bench.sensors.nvidia_smi import NvidiaSmiSource
from cff_bench.sensors.processor import ClockSource, DevfreqSource, ThermalSource, ThrottleSource
from cff_bench.sensors.quantity import Source
from cff_bench.sensors.rapl import RaplSource
from cff_runtime.doctor.box import Box, Reading

_CPUFREQ = "sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"


def find_sources(box: Box) -> list[Source]:
    """Return every source, those that can tell nothing here among them: they say why.

    Starts `nvidia-smi` and `tegrastats` where there are any; close the sources afterwards.
    """
    return [
        ClockSource(box, _cores()),
        ThrottleSource(box),
        ThermalSource(box),
        RaplSource(box),
        DevfreqSource(box),
        NvidiaSmiSource(box),
        TegrastatsSource(box),
        LoadSource(box),
    ]


def read_modes(box: Box) -> dict[str, Reading[str]]:
    """Return the settings that decide on clocks: frequency governor, power mode, platform profile.

    nvpmodel as in the Jetson Linux Developer Guide, "Supported Modes and Power Efficiency":
    ``NV Power Mode: MODE_15W`` and its number below.
    """
    governors = [box.read(_CPUFREQ.format(core=core)) for core in sorted(_cores())]
    names = sorted({reading.value for reading in governors if reading.value is not None})
    governor = Reading(", ".join(names)) if names else Reading[str].missing("no cpufreq")
    return {
        "frequency governor": governor,
        "turbo off": box.read("sys/devices/system/cpu/intel_pstate/no_turbo"),
        "platform profile": box.read("sys/firmware/acpi/platform_profile"),
        "power mode (nvpmodel)": box.run("nvpmodel", "-q").map(parse_nvpmodel, "unknown form"),
        "GPU power limit": box.run(
            "nvidia-smi", "--query-gpu=power.limit,clocks.max.sm", "--format=csv,noheader"
        ).map(lambda text: "; ".join(text.splitlines())),
    }


def parse_nvpmodel(text: str) -> str | None:
    """Return the mode's name, with its number where there is one."""
    name = re.search(r"NV Power Mode:\s*(\S+)", text)
    number = re.search(r"^\s*(\d+)\s*$", text, re.MULTILINE)
    if name is None:
        return None
    return f"{name[1]} ({number[1]})" if number else name[1]


def _cores() -> set[int]:
    try:
        return set(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return set(range(os.cpu_count() or 1))


def this_box() -> Box:
    """Return the machine that this runs on."""
    return Box(Path("/"))
