"""Clocks, temperature, watts, memory and throttling of NVIDIA's GPUs, from `nvidia-smi`.

nvidia-smi(1) and `nvidia-smi --help-query-gpu`: `--query-gpu=FIELDS --format=csv,noheader,nounits`
writes a line per GPU, `--loop-ms` again and again; `[N/A]` or `[Not Supported]` is a field that a
GPU does not have, and one that a driver does not know refuses the whole question. Why clocks are
lowered is a bit field, `clocks_event_reasons.active`, before driver 535
`clocks_throttle_reasons.active`; its bits are those of nvml.h, nvmlClocksEventReasons.
"""

from collections.abc import Mapping
from contextlib import suppress

from cff_bench.sensors.quantity import FileSource, Quantity
from cff_bench.sensors.tool_stream import ToolStream
from cff_runtime.doctor.box import Box, Reading

_TOOL = "nvidia-smi"
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # new, old
# field -> (name, title, unit)
_GAUGES = {
    "clocks.sm": ("clock", "SM clock", "MHz"),
    "clocks.mem": ("memory_clock", "memory clock", "MHz"),
    "temperature.gpu": ("temperature", "temperature", "°C"),
    "power.draw": ("watts", "power", "W"),
    "utilization.gpu": ("busy", "time with a kernel running", "%"),
    "memory.used": ("memory", "memory in use, all processes", "MiB"),
}
# name -> (title, bits of nvml.h): SwPowerCap and HwPowerBrakeSlowdown; SwThermalSlowdown and
# HwThermalSlowdown; HwSlowdown, which does not say why
_LIMITS = {
    "power_capped": ("slowed down by the power limit", 0x4 | 0x80),
    "heat_capped": ("slowed down by heat", 0x20 | 0x40),
    "hardware_capped": ("slowed down by hardware", 0x8),
}
_EMPTY = ("n/a", "not supported", "unknown error", "gpu is lost", "insufficient permissions")


class NvidiaSmiSource(FileSource):
    """All GPUs that `nvidia-smi` lists.

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
        self._reason_field, first = _ask(box)
        if first.value is None:
            self._add(Quantity("gpu", "GPU", "", _TOOL), _no_gpu(first.reason))
            return
        for line in first.value.splitlines():
            self._take(line)
            self._name_quantities(line)
        command = [_TOOL, *_query(self._reason_field), f"--loop-ms={interval_ms}"]
        with suppress(OSError):  # it ran a moment ago; then the first answer is all there is
            self._stream = ToolStream(command, self._take)

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
        index, values = parse_line(line, self._reason_field)
        self._latest.update({f"gpu{index}_{name}": value for name, value in values.items()})

    def _name_quantities(self, line: str) -> None:
        index, values = parse_line(line, self._reason_field)
        named = {name: (title, unit) for name, title, unit in _GAUGES.values()}
        named |= {name: (title, "share") for name, (title, _) in _LIMITS.items()}
        for name, (title, unit) in named.items():
            reason = "" if name in values else "this GPU or its driver does not tell it"
            self._add(Quantity(f"gpu{index}_{name}", f"GPU {index} {title}", unit, _TOOL), reason)


def parse_line(line: str, reason_field: str = _REASONS[0]) -> tuple[str, dict[str, float]]:
    """Return the index of a GPU and its values by name, without those that it does not tell."""
    fields = ("index", *_GAUGES, *([reason_field] if reason_field else []))
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(fields):
        return "?", {}
    told = dict(zip(fields, cells, strict=True))
    values = {}
    for field, (name, _, _) in _GAUGES.items():
        with suppress(ValueError):
            values[name] = float(told[field])
    active = told.get(reason_field, "")
    if active and active.strip("[]").lower() not in _EMPTY:
        with suppress(ValueError):
            bits = int(active, 16)
            values |= {name: float(bool(bits & mask)) for name, (_, mask) in _LIMITS.items()}
    return told["index"], values


def _ask(box: Box) -> tuple[str, Reading[str]]:
    """Ask once, with the fields that this driver knows; return the field of reasons, too."""
    answer: Reading[str] = Reading.missing()
    for reasons in (*_REASONS, ""):
        answer = box.run(_TOOL, *_query(reasons))
        if "not a valid field" not in answer.reason.lower():
            return reasons, answer
    return "", answer


def _query(reason_field: str) -> list[str]:
    fields = ("index", *_GAUGES, *([reason_field] if reason_field else []))
    return [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]


def _no_gpu(reason: str) -> str:
    return "`nvidia-smi` was not found: no NVIDIA driver" if reason == "not found" else reason
