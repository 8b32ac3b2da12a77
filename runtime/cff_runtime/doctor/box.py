"""Looking at a box: read its files, run its tools, never fail, never wait for long."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

NOT_FOUND = "not found"
TOOL_TIMEOUT_S = 10.0
IMPORT_TIMEOUT_S = 60.0  # ONNX Runtime from a slow SD card, by a busy processor
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A value, or why there is none: ``not found``, or what stood in the way."""

    value: T | None
    reason: str = ""

    @classmethod
    def missing(cls, reason: str = NOT_FOUND) -> "Reading[T]":
        """Return a reading without a value."""
        return cls(None, reason)

    def map(self, function: Callable[[T], U | None], otherwise: str = NOT_FOUND) -> "Reading[U]":
        """Return what `function` makes of the value; its None or ValueError is `otherwise`."""
        if self.value is None:
            return Reading(None, self.reason)
        try:
            result = function(self.value)
        except (ValueError, TypeError, LookupError):
            result = None
        return Reading(None, otherwise) if result is None else Reading(result)

    def __str__(self) -> str:
        return self.reason if self.value is None else str(self.value)


@dataclass(frozen=True)
class Box:
    """The machine to look at; tests lay out another one in a folder.

    Attributes
    ----------
    root : Path
        Where ``/proc``, ``/sys`` and ``/etc`` are.
    path : str
        Folders of tools, as in the variable PATH.
    python : str
        Interpreter that is asked about ONNX Runtime and CUDA.
    architecture, python_version : str
    package_folders : sequence of str, optional
        Folders of installed Python packages, ``sys.path`` if not given.
    in_virtual_environment : bool
    """

    root: Path = Path("/")
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    python: str = sys.executable
    architecture: str = platform.machine()
    python_version: str = platform.python_version()
    package_folders: Sequence[str] | None = None
    in_virtual_environment: bool = sys.prefix != sys.base_prefix

    def read(self, name: str) -> Reading[str]:
        """Return the text of the file `name`, a path below the root without leading slash."""
        try:
            with (self.root / name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            return Reading.missing()
        except (OSError, ValueError) as error:
            return Reading.missing(f"cannot be read: {getattr(error, 'strerror', error)}")
        text = data.decode("utf-8", errors="replace").strip(" \n\t\0")
        return Reading(text) if text else Reading.missing("empty")

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder `name` below the root."""
        try:
            return (self.root / name).exists()
        except OSError:
            return False

    def run(self, *command: str, timeout_s: float = TOOL_TIMEOUT_S) -> Reading[str]:
        """Run a tool of the box and return what it wrote to stdout."""
        program = self._find(command[0])
        if program is None:
            return Reading.missing()
        try:
            finished = subprocess.run(
                [program, *command[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": self.path, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            return Reading.missing(f"no answer within {timeout_s:.0f} s")
        except (OSError, ValueError) as error:
            return Reading.missing(f"cannot be run: {getattr(error, 'strerror', error)}")
        output = finished.stdout.strip()
        if finished.returncode != 0:
            said = " ".join((finished.stderr.strip() or output).split())
            return Reading.missing(f"failed: {said or f'exit code {finished.returncode}':.200}")
        return Reading(output) if output else Reading.missing("gave no answer")

    def ask(self, script: str, timeout_s: float = IMPORT_TIMEOUT_S) -> Reading[Mapping[str, Any]]:
        """Run a script of this folder in a Python of its own and return the JSON it printed.

        A driver or package that crashes or hangs takes the child with it, not the report.
        """
        path = Path(__file__).with_name(script)
        answer = self.run(self.python, str(path), timeout_s=timeout_s)
        return answer.map(_last_object, "gave an answer that is no JSON")

    def _find(self, program: str) -> str | None:
        if os.sep in program:
            return program if Path(program).is_file() else None
        for folder in filter(None, self.path.split(os.pathsep)):
            candidate = Path(folder) / program
            if os.access(candidate, os.X_OK) and candidate.is_file():
                return str(candidate)
        return None


def _last_object(text: str) -> Mapping[str, Any] | None:
    answer = json.loads(text.splitlines()[-1])  # libraries may print before
    return answer if isinstance(answer, dict) else None
