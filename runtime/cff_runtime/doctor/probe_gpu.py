"""The NVIDIA GPUs of a box, from the bus, the driver library and nvidia-smi."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from cff_runtime.doctor.box import Box, Reading
from cff_runtime.doctor.facts import Gpu

_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
_FIELDS = (
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "persistence_mode",
    "clocks.sm",
    "clocks.max.sm",
)
# a field that a driver does not know makes nvidia-smi refuse the whole question
_OLD_DRIVER_FIELDS = tuple(name for name in _FIELDS if name != "compute_cap")


def count_pci_gpus(box: Box) -> int:
    """Count NVIDIA's display devices on the PCI bus; a Jetson's GPU is not there."""
    n_gpus = 0
    with contextlib.suppress(OSError):
        for device in sorted((box.root / "sys/bus/pci/devices").iterdir()):
            folder = f"sys/bus/pci/devices/{device.name}"
            is_display = str(box.read(f"{folder}/class")).startswith(_DISPLAY_CLASS)
            n_gpus += is_display and box.read(f"{folder}/vendor").value == _NVIDIA
    return n_gpus


def read_nvidia_smi(box: Box) -> Reading[list[dict[str, str]]]:
    """Return one dict of fields per GPU; a field that a GPU does not have is left out."""
    answer = _query(box, _FIELDS)
    if "not a valid field" in answer.reason.lower():
        return _query(box, _OLD_DRIVER_FIELDS)
    return answer


def _query(box: Box, names: tuple[str, ...]) -> Reading[list[dict[str, str]]]:
    said = box.run("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")
    return said.map(lambda text: _rows(text, names), "in an unknown form")


def _rows(text: str, names: tuple[str, ...]) -> list[dict[str, str]] | None:
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(names):
            return None
        rows.append({n: c for n, c in zip(names, cells, strict=True) if not _is_empty(c)})
    return rows or None


def _is_empty(cell: str) -> bool:
    return not cell or cell.strip("[]").lower() in ("n/a", "not supported", "unknown error")


def read_gpus(
    cuda: Reading[Mapping[str, Any]], smi: Reading[list[dict[str, str]]]
) -> Reading[tuple[Gpu, ...]]:
    """Join what the driver library and nvidia-smi say of the GPUs.

    The library knows a Jetson's GPU, nvidia-smi the clocks. It may be told another order of GPUs
    by variables, so a GPU takes the clocks of one of its own name.
    """
    answer = cuda.value or {}
    if answer.get("init_status"):  # nvidia-smi may list GPUs that no program can use
        return Reading.missing(f"the driver library fails with status {answer['init_status']}")
    rows = smi.value or []
    devices = answer.get("devices", [])
    gpus = [_join(device, rows) for device in devices] or [_from_row(row) for row in rows]
    return Reading(tuple(gpus)) if gpus else Reading.missing("none")


def _join(device: Mapping[str, Any], rows: list[dict[str, str]]) -> Gpu:
    name = str(device.get("name", "unknown"))
    same = next((row for row in rows if row.get("name") == name), {})
    listed = _from_row(same)
    return Gpu(
        name,
        str(device.get("compute_capability", "")) or listed.compute_capability,
        int(device.get("memory_bytes", 0)) or listed.memory_bytes,
        listed.persistence,
        listed.clock_mhz,
        listed.clock_max_mhz,
    )


def _from_row(row: Mapping[str, str]) -> Gpu:
    memory = _number(row.get("memory.total"))
    persistence = row.get("persistence_mode")
    return Gpu(
        name=row.get("name", "unknown"),
        compute_capability=row.get("compute_cap"),
        memory_bytes=None if memory is None else memory * 2**20,
        persistence=None if persistence is None else persistence.lower() == "enabled",
        clock_mhz=_number(row.get("clocks.sm")),
        clock_max_mhz=_number(row.get("clocks.max.sm")),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d+", text) else None
