"""A Jetson's clocks, temperatures and watts, from `tegrastats`.

NVIDIA Jetson Linux Developer Guide, "Tegrastats Utility", table "Reported Statistics". Spelling
differs between releases: `GR3D_FREQ 45%` or `45%@1300` or `45%@[1300,1299]`, rails as `VDD_IN
4924/4924` (release 32 and 35: mW now and on average) or `VDD_IN 4924mW/4924mW` (from 35.1), sensors
as `cpu@46.3C`. What is read here is what looks the same in all of them; rails keep their names.
`POM_5V_IN`, `VDD_IN` or `VIN` is what the whole module takes.
"""

import re
from collections.abc import Mapping
from contextlib import suppress

from cff_bench.sensors.quantity import FileSource, Quantity
from cff_bench.sensors.tool_stream import ToolStream
from cff_runtime.doctor.box import Box, Reading

_TOOL = "tegrastats"
_FIRST_LINE_S = 5.0
# a temperature never has a rail's shape, and a rail never a temperature's
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z][\w.-]*)@(-?\d+(?:\.\d+)?)C(?!\S)")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?!\S)")
_GPU = re.compile(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+)(?:,\d+)*\]?)?")
_CORES = re.compile(r"CPU \[([^\]]*)\]")
_NOT_RAILS = ("RAM", "SWAP", "IRAM")


class TegrastatsSource(FileSource):
    """What `tegrastats` writes.

    Parameters
    ----------
    box : Box
    interval_ms : int
        How often the tool writes.
    """

    def __init__(self, box: Box, interval_ms: int = 1000) -> None:
        super().__init__()
        self._stream: ToolStream | None = None
        self._latest: dict[str, float] = {}
        first = _first_line(box)
        values = {} if first.value is None else parse_line(first.value)
        if not values:
            reason = first.reason or "in an unknown form"
            if reason == "not found":
                reason = "`tegrastats` was not found: no Jetson"
            self._add(Quantity("jetson", "Jetson", "", _TOOL), reason)
            return
        self._latest = values
        for name in values:
            self._add(Quantity(name, *_title_and_unit(name), _TOOL))
        with suppress(OSError):  # it ran a moment ago; then the first line is all there is
            self._stream = ToolStream([_TOOL, "--interval", str(interval_ms)], self._take)

    def read(self) -> Mapping[str, float]:
        """Return what the tool wrote last; nothing if that is long ago."""
        if self._stream is not None and not self._stream.is_fresh:
            return {}
        return dict(self._latest)

    @property
    def spent_s(self) -> float:
        """Processor time of the tool."""
        return 0.0 if self._stream is None else self._stream.spent_s

    def close(self) -> None:
        """End the tool."""
        if self._stream is not None:
            self._stream.close()

    def _take(self, line: str) -> None:
        self._latest = parse_line(line) or self._latest


def parse_line(line: str) -> dict[str, float]:
    """Return the values of a line by name."""
    values: dict[str, float] = {}
    cores = _CORES.search(line)
    clocks = [int(mhz) for mhz in re.findall(r"\d+%@(\d+)", cores[1] if cores else "")]
    if clocks:
        values["jetson_cpu_clock"] = sum(clocks) / len(clocks)
    gpu = _GPU.search(line)
    if gpu and gpu[1] is not None:
        values["jetson_gpu_busy"] = float(gpu[1])
    if gpu and gpu[2] is not None:
        values["jetson_gpu_clock"] = float(gpu[2])
    for name, celsius in _TEMPERATURE.findall(line):
        values[f"jetson_temperature_{name}"] = float(celsius)
    for name, now_mw, _mean_mw in _RAIL.findall(line):
        if name not in _NOT_RAILS:
            values[f"jetson_watts_{name}"] = int(now_mw) / 1e3
    return values


def _title_and_unit(name: str) -> tuple[str, str]:
    fixed = {
        "jetson_cpu_clock": ("processor clock, mean of cores that are on", "MHz"),
        "jetson_gpu_busy": ("GPU in use", "%"),
        "jetson_gpu_clock": ("GPU clock", "MHz"),
    }
    if name in fixed:
        return fixed[name]
    kind, _, of = name.removeprefix("jetson_").partition("_")
    return (f"temperature, {of}", "°C") if kind == "temperature" else (f"power, {of}", "W")


def _first_line(box: Box) -> Reading[str]:
    """Return one line; the tool repeats by itself and never ends, so its output is cut off."""
    seconds = str(int(_FIRST_LINE_S))
    tool = box.run("sh", "-c", f"command -v {_TOOL} >/dev/null && echo found || true")
    if tool.value is None:
        return Reading.missing()
    said = box.run("sh", "-c", f"timeout {seconds} {_TOOL} --interval 500 | head -n 1")
    return said.map(lambda text: text.splitlines()[0], "gave no answer")
