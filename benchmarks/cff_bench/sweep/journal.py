"""The file that an interrupted sweep goes on from: one JSON line per round of a group.

    {"group": "efficientnet-lite0-256/onnxruntime/cpu", "of": "<hash>", "ms": {"<part>": 4.1, ...}}
    {"done": true}

`of` is a hash over the bundle and the machine: lines of another one are not counted. A line that
the interruption cut off is measured again. A finished sweep is not gone on from: the next one
begins a new file, so that no figure is older than the run that reports it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_runtime.errors import StorageError
from cff_runtime.storage import atomic_write

Samples = dict[str, list[float]]


class Journal:
    """Rounds measured so far, in memory and on disk.

    Parameters
    ----------
    path : Path or None
        None keeps nothing on disk.

    Raises
    ------
    StorageError
        If the file cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path is None:
            return
        lines = _read(path)
        if any("done" in line for line in lines):
            lines = []
        self._lines = [line for line in lines if _is_round(line)]
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        atomic_write(path, text.encode())  # whole lines alone, whatever the last run left

    def samples(self, group: str, identity: str) -> Samples:
        """Return the milliseconds of every part of a group, in the order measured."""
        found: Samples = {}
        for line in self._lines:
            if (line["group"], line["of"]) == (group, identity):
                for part, value in line["ms"].items():
                    found.setdefault(part, []).append(value)
        return found

    def add(self, group: str, identity: str, ms: Mapping[str, float]) -> None:
        """Keep one round of a group.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        line = {"group": group, "of": identity, "ms": dict(ms)}
        self._lines.append(line)
        self._append(line)

    def finish(self) -> None:
        """Say that the sweep is complete: the next one begins anew."""
        self._append({"done": True})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(
                f"`{self._path}` must be writable: {error.strerror or error}"
            ) from error


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"`{path}` must be readable: {error.strerror or error}") from error
    lines = []
    for line in text.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            lines.append(fields)
    return lines


def _is_round(line: Mapping[str, Any]) -> bool:
    times = line.get("ms")
    return (
        isinstance(line.get("group"), str)
        and isinstance(line.get("of"), str)
        and isinstance(times, dict)
        and all(isinstance(v, float) and math.isfinite(v) and v > 0 for v in times.values())
    )
