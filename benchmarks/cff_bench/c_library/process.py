"""A process that inspects one image again and again, in C or in Python."""

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cff_runtime.errors import BackendError

STAGES = ("total", "preprocess", "encode", "search", "finish")


@dataclass(frozen=True)
class Inspection:
    """One inspection.

    Attributes
    ----------
    score : float
    ms : dict of str to float
        Milliseconds, by the names of `STAGES`.
    """

    score: float
    ms: dict[str, float]


class InspectingProcess:
    """Talks with ``inspections.c`` or ``inspections.py``.

    Parameters
    ----------
    command : sequence of str
    errors : file
        Where it writes its errors.

    Raises
    ------
    BackendError
        If it ends before everything is loaded.
    """

    def __init__(self, command: Sequence[str], errors: IO[bytes]) -> None:
        self._name = Path(command[0]).name
        self._errors = errors
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            self._read("ready")
        except BaseException:
            self.close()
            raise

    def inspect(self, n: int) -> list[Inspection]:
        """Inspect n times.

        Raises
        ------
        BackendError
            If the process ends.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: reading says why
            self._process.stdin.write(f"{n}\n")
            self._process.stdin.flush()
        found = []
        for line in self._read("done"):
            score, *times = map(float, line.split())
            found.append(Inspection(score, dict(zip(STAGES, times, strict=True))))
        return found

    def memory_mb(self) -> dict[str, float]:
        """Return resident memory in MB: ``now``, and its ``peak`` since the start."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        kib = {"now": fields["VmRSS"], "peak": fields["VmHWM"]}
        return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in kib.items()}

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def _read(self, last: str) -> list[str]:
        """Return the lines before the line `last`."""
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            if line.strip() == last:
                return lines
            lines.append(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        raise BackendError(
            f"`{self._name}` must inspect until it is told to stop, it "
            f"ended with {self._process.returncode}: {said[-1] if said else 'no message'}"
        )
