"""What commands cost, remembered over interruptions: one JSON line per command that was run.

    {"step": "train/tfa-net", "epochs": [0, 39], "cpu_s": 160.2, "wall_s": 171.9}

`epochs` says which ones the line is about; those of a command that was killed without warning have
no line, and `Cost.n_epochs` is smaller than what the run has.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.errors import StorageError

COSTS_NAME = "costs.jsonl"


@dataclass(frozen=True)
class Cost:
    """Of all commands of one step together.

    Attributes
    ----------
    cpu_s : float
        Processor time of all threads, user and system.
    wall_s : float
    n_epochs : int
        Epochs that these times are of.
    """

    cpu_s: float
    wall_s: float
    n_epochs: int


class Costs:
    """The lines of one file.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def of(self, step: str, n_epochs: Callable[[], int]) -> Iterator[None]:
        """Write down what the commands inside cost, also when they fail or are interrupted.

        Parameters
        ----------
        step : str
        n_epochs : callable
            Says how many epochs are done.

        Raises
        ------
        StorageError
            If the line cannot be written.
        """
        before, cpu_s, wall_s = n_epochs(), _children_cpu_s(), time.monotonic()
        try:
            yield
        finally:
            line = {
                "step": step,
                "epochs": [before, n_epochs()],
                "cpu_s": _children_cpu_s() - cpu_s,
                "wall_s": time.monotonic() - wall_s,
            }
            self._append(line)

    def total(self, step: str) -> Cost | None:
        """Return what a step has cost so far; None without a line."""
        lines = [line for line in self._read() if line.get("step") == step]
        if not lines:
            return None
        return Cost(
            cpu_s=sum(line["cpu_s"] for line in lines),
            wall_s=sum(line["wall_s"] for line in lines),
            n_epochs=sum(line["epochs"][1] - line["epochs"][0] for line in lines),
        )

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(
                f"`{self._path}` must be writable: {error.strerror or error}"
            ) from error

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that are whole."""
        if not self._path.is_file():
            return
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and {"step", "epochs", "cpu_s", "wall_s"} <= set(line):
                    yield line


def _children_cpu_s() -> float:
    """Processor time of all commands that this process has run and waited for."""
    times = os.times()
    return times.children_user + times.children_system
