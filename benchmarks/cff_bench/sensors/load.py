"""Who else uses the processor: other processes, the hypervisor, and how long tasks wait.

`/proc/stat` counts time per state since boot, in ticks of the clock (proc(5)); guest time is part
of user time and not added again. Steal is time in which a hypervisor ran something else while a
task of this machine was ready. `/proc/pressure/cpu` counts the microseconds in which at least one
task waited for a processor (the kernel's "PSI - Pressure Stall Information").
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from cff_bench.sensors.quantity import RATE, FileSource, Quantity
from cff_runtime.doctor.box import Box

OTHERS: Final = "cpu_others"
STEAL: Final = "cpu_steal"
PRESSURE: Final = "cpu_pressure"
LOAD: Final = "load_1min"
_N_STATES = 8  # user nice system idle iowait irq softirq steal


def own_cpu_seconds() -> float:
    """Return the processor time of this process and of the children that it waited for."""
    return sum(os.times()[:4])


class LoadSource(FileSource):
    """`/proc/stat`, `/proc/loadavg` and `/proc/pressure/cpu`.

    Parameters
    ----------
    box : Box
    own_seconds : callable
        Processor time that is ours, so that the rest is that of others.
    ticks_per_second : int, optional
        USER_HZ; asked from the system if not given.
    """

    def __init__(
        self,
        box: Box,
        own_seconds: Callable[[], float] = own_cpu_seconds,
        ticks_per_second: int | None = None,
    ) -> None:
        super().__init__()
        self._box, self._own_seconds = box, own_seconds
        self._ticks = ticks_per_second or _user_hz()
        stat = box.read("proc/stat").map(parse_stat, "in an unknown form")
        load = box.read("proc/loadavg").map(parse_loadavg, "in an unknown form")
        pressure = box.read("proc/pressure/cpu").map(parse_pressure, "in an unknown form")
        for name, title, unit in (
            (OTHERS, "processor time of other processes", "cores"),
            (STEAL, "processor time taken by the hypervisor (steal)", "cores"),
        ):
            self._add(Quantity(name, title, unit, "/proc/stat", RATE), stat.reason)
        self._add(
            Quantity(PRESSURE, "time in which a task waited", "share", "/proc/pressure/cpu", RATE),
            pressure.reason,
        )
        self._add(Quantity(LOAD, "load over 1 minute", "tasks", "/proc/loadavg"), load.reason)

    def read(self) -> Mapping[str, float]:
        """Return seconds of processor time and of waiting since boot, and the load."""
        values: dict[str, float] = {}
        own = self._own_seconds()
        stat = self._box.read("proc/stat").map(parse_stat).value
        if stat is not None:
            busy_ticks, steal_ticks = stat
            values[OTHERS] = busy_ticks / self._ticks - own
            values[STEAL] = steal_ticks / self._ticks
        waited = self._box.read("proc/pressure/cpu").map(parse_pressure).value
        if waited is not None:
            values[PRESSURE] = waited
        load = self._box.read("proc/loadavg").map(parse_loadavg).value
        if load is not None:
            values[LOAD] = load
        return values


def parse_stat(text: str) -> tuple[float, float] | None:
    """Return the ticks of all processors that were busy here, and those that were stolen."""
    found = re.search(r"^cpu\s+(.+)$", text, re.MULTILINE)
    if found is None:
        return None
    states = [float(word) for word in found[1].split()[:_N_STATES]]
    if len(states) < _N_STATES:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = states
    return user + nice + system + irq + softirq, steal


def parse_loadavg(text: str) -> float | None:
    """Return the load over one minute."""
    return float(text.split()[0])


def parse_pressure(text: str) -> float | None:
    """Return the seconds in which some task waited."""
    found = re.search(r"^some\b.*\btotal=(\d+)", text, re.MULTILINE)
    return float(found[1]) / 1e6 if found else None


def _user_hz() -> int:
    try:
        return os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return 100  # what Linux tells on every architecture that this runs on
