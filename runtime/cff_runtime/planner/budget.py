"""What an inspection may take: a cycle time, memory, and how often the time must hold."""

import re
from dataclasses import dataclass

from cff_runtime.errors import UsageError

_TIMES_MS = {"ms": 1.0, "s": 1000.0}
_BYTES = {
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
}
MEGABYTE = 1e6


@dataclass(frozen=True)
class Budget:
    """Limits of one inspection; None is no limit.

    Attributes
    ----------
    cycle_ms : float or None
        Milliseconds of an inspection, without reading the file.
    memory_bytes : int or None
        Of the whole process.
    percentile : float
        Share of inspections, in per cent, that must keep the time.
    """

    cycle_ms: float | None
    memory_bytes: int | None
    percentile: float = 99.0


def parse_budget(cycle_time: str | None, max_memory: str | None, percentile: float) -> Budget:
    """Read limits such as ``80ms``, ``0.1s``, ``500MB``, ``2GiB``.

    Raises
    ------
    UsageError
        If neither is given, a unit is missing or a number is out of range.
    """
    if cycle_time is None and max_memory is None:
        raise UsageError("`--cycle-time` or `--max-memory` must be given, or both")
    if not 50.0 <= percentile < 100.0:
        raise UsageError(f"`--percentile` must be 50 or more and below 100, got {percentile}")
    cycle = None if cycle_time is None else _read("cycle-time", cycle_time, _TIMES_MS, "80ms")
    memory = None if max_memory is None else _read("max-memory", max_memory, _BYTES, "500MB")
    return Budget(cycle, None if memory is None else round(memory), percentile)


def _read(name: str, text: str, units: dict[str, float], example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not match or match[2].lower() not in units or float(match[1]) == 0.0:
        raise UsageError(
            f"`--{name}` must be a number above 0 with a unit ({', '.join(units)}) such as "
            f"{example}, got {text!r}"
        )
    return float(match[1]) * units[match[2].lower()]
