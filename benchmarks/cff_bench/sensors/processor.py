"""Clocks, throttling and temperature of the processor, from the kernel's files.

- `cpufreq/scaling_cur_freq`, kHz (kernel documentation, "CPU Performance Scaling"). A virtual
  machine has none; the constant in its `/proc/cpuinfo` is not a clock and is not told as one.
- `thermal_throttle/*_throttle_count` (sysfs-devices-system-cpu; x86 only): how often a core or its
  package was slowed down because it was hot.
- `/sys/class/thermal/thermal_zone*/{type,temp}`, thousandths of a degree (kernel documentation,
  "Generic Thermal Sysfs driver").
- `/sys/class/devfreq/*/cur_freq`, Hz: among others the GPU of a Jetson.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from cff_bench.sensors.quantity import COUNT, FileSource, Quantity
from cff_runtime.doctor.box import Box

CLOCK, CLOCK_LOWEST = "cpu_clock", "cpu_clock_lowest"
THROTTLED = "cpu_throttled"
_CPU = "sys/devices/system/cpu"


class ClockSource(FileSource):
    """Clocks of the cores that this process may use."""

    def __init__(self, box: Box, cores: Iterable[int]) -> None:
        super().__init__()
        self._box = box
        self._files = [f"{_CPU}/cpu{core}/cpufreq/scaling_cur_freq" for core in sorted(cores)]
        readings = [box.read(name).map(float) for name in self._files]
        self._files = [
            name for name, one in zip(self._files, readings, strict=True) if one.value is not None
        ]
        reason = "" if self._files else _no_clock(readings[0].reason if readings else "not found")
        self._add(Quantity(CLOCK, "processor clock, mean of cores", "MHz", "cpufreq"), reason)
        self._add(Quantity(CLOCK_LOWEST, "processor clock, slowest core", "MHz", "cpufreq"), reason)

    def read(self) -> Mapping[str, float]:
        """Return the mean and the lowest clock now."""
        told = (self._box.read(name).map(float).value for name in self._files)
        clocks = [khz / 1e3 for khz in told if khz is not None]
        if not clocks:
            return {}
        return {CLOCK: sum(clocks) / len(clocks), CLOCK_LOWEST: min(clocks)}


class ThrottleSource(FileSource):
    """How often cores and packages were slowed down because they were hot."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box
        pattern = f"{_CPU}/cpu[0-9]*/thermal_throttle/*_throttle_count"
        self._files = _existing(box, pattern)
        reason = "" if self._files else "not found: no thermal_throttle"
        self._add(
            Quantity(THROTTLED, "times slowed down by heat", "times", "thermal_throttle", COUNT),
            reason,
        )

    def read(self) -> Mapping[str, float]:
        """Return the sum of all counts."""
        counts = [self._box.read(name).map(float).value for name in self._files]
        known = [count for count in counts if count is not None]
        return {THROTTLED: sum(known)} if known else {}


class ThermalSource(FileSource):
    """Thermal zones."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box
        self._zones: dict[str, str] = {}
        for file in _existing(box, "sys/class/thermal/thermal_zone*/temp"):
            kind = box.read(f"{Path(file).parent}/type").value or "unnamed"
            number = re.sub(r"\D", "", Path(file).parent.name)
            name = f"temperature_{kind}_{number}"
            self._zones[name] = file
            # a zone that is powered down fails with "Resource temporarily unavailable"
            reason = box.read(file).map(float).reason
            self._add(Quantity(name, f"temperature, {kind}", "°C", "thermal zone"), reason)
        if not self._zones:
            self._add(
                Quantity("temperature", "temperature", "°C", "thermal zone"),
                "not found: no thermal zone",
            )

    def read(self) -> Mapping[str, float]:
        """Return the temperature of every zone."""
        told = {name: self._box.read(file).map(float).value for name, file in self._zones.items()}
        return {name: value / 1e3 for name, value in told.items() if value is not None}


class DevfreqSource(FileSource):
    """Clocks of other devices; tells nothing where there are none."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box
        self._devices: dict[str, str] = {}
        for file in _existing(box, "sys/class/devfreq/*/cur_freq"):
            device = Path(file).parent.name
            name = f"clock_{device}"
            self._devices[name] = file
            reason = box.read(file).map(float).reason
            self._add(Quantity(name, f"clock of {device}", "MHz", "devfreq"), reason)

    def read(self) -> Mapping[str, float]:
        """Return the clock of every device."""
        told = {n: self._box.read(file).map(float).value for n, file in self._devices.items()}
        return {name: hertz / 1e6 for name, hertz in told.items() if hertz is not None}


def _no_clock(reason: str) -> str:
    return "not found: no cpufreq" if reason == "not found" else reason


def _existing(box: Box, pattern: str) -> list[str]:
    """Return the files of a pattern below the box's root, without the root."""
    try:
        return sorted(str(path.relative_to(box.root)) for path in box.root.glob(pattern))
    except OSError:
        return []
