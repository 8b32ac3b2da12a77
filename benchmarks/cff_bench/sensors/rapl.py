"""Watts of processor and memory from the energy counters of `/sys/class/powercap`.

Kernel documentation, "Power Capping Framework": every zone has a `name` and `energy_uj`, a counter
of microjoules that begins again after `max_energy_range_uj`. Since CVE-2020-8694 only root may read
it. `package-*` is a socket; `core`, `uncore` and `dram` are zones within it or beside it, so watts
of several zones must not be added up.
"""

from collections.abc import Mapping
from pathlib import Path

from cff_bench.sensors.quantity import RATE, FileSource, Quantity
from cff_runtime.doctor.box import Box

_FOLDER = "sys/class/powercap"
_SOURCE = "RAPL"


class RaplSource(FileSource):
    """Energy counters, unwrapped."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box
        self._zones: dict[str, str] = {}
        self._range_uj: dict[str, float] = {}
        self._last_uj: dict[str, float] = {}
        self._turns_uj: dict[str, float] = {}
        for folder in _zones(box):
            zone = box.read(f"{folder}/name").value or Path(folder).name
            name = f"watts_{Path(folder).name}"
            reading = box.read(f"{folder}/energy_uj").map(float)
            denied = "ermission denied" in reading.reason
            reason = "only root may read it (CVE-2020-8694)" if denied else reading.reason
            self._add(Quantity(name, f"power, {zone}", "W", _SOURCE, RATE), reason)
            if reading.value is not None:
                self._zones[name] = folder
                limit = box.read(f"{folder}/max_energy_range_uj").map(float).value
                self._range_uj[name] = limit or 0.0
        if not self.quantities:
            self._add(
                Quantity("watts_cpu", "power of the processor", "W", _SOURCE, RATE),
                "not found: no powercap zone",
            )

    def read(self) -> Mapping[str, float]:
        """Return joules since boot of every zone, or since the first reading where it wrapped."""
        joules = {}
        for name, folder in self._zones.items():
            counter = self._box.read(f"{folder}/energy_uj").map(float).value
            if counter is None:
                continue
            if counter < self._last_uj.get(name, counter):
                if not self._range_uj[name]:  # it wrapped, and nobody knows where
                    continue
                self._turns_uj[name] = self._turns_uj.get(name, 0.0) + self._range_uj[name]
            self._last_uj[name] = counter
            joules[name] = (counter + self._turns_uj.get(name, 0.0)) / 1e6
        return joules


def _zones(box: Box) -> list[str]:
    """Return the folders of zones; `intel-rapl` serves AMD's processors as well."""
    try:
        found = box.root.glob(f"{_FOLDER}/intel-rapl:*")
        return sorted(str(path.relative_to(box.root)) for path in found)
    except OSError:
        return []
