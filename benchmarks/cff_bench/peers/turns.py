"""Contestants' processes, taking turns: one inspects, the others sleep."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cff_runtime.errors import BackendError

PAUSE_MS = 20.0  # thread pools spin for milliseconds after their work is done
_MEMINFO = Path("/proc/meminfo")
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Contestant:
    """A process that inspects, or the reason why there is none.

    Attributes
    ----------
    name : str
    absent : str or None
        Why it does not take part.
    facts : dict
        ``load_s``, ``first_ms``, ``score``, ``peak_memory_mb``.
    map_file : Path
        The map of its first inspection, for comparison.
    total_ms : list of float
    stages_ms : list of dict
        In the order measured.
    """

    name: str
    map_file: Path
    absent: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    total_ms: list[float] = field(default_factory=list)
    stages_ms: list[dict[str, float]] = field(default_factory=list)
    process: "subprocess.Popen[str] | None" = None

    def inspect(self, timed: bool) -> None:
        """Let it inspect once.

        Raises
        ------
        BackendError
            If its process has died.
        """
        answer = self._ask()
        if timed:
            self.total_ms.append(answer["ms"])
            self.stages_ms.append(answer["stages_ms"])

    def _ask(self) -> dict[str, Any]:
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            raise BackendError(f"`{self.name}` does not take part: {self.absent}")
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("inspect\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise BackendError(f"`{self.name}` must go on inspecting, its process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def contestants(
    names: Sequence[str],
    folder: Path,
    threads: int,
    need_bytes: Mapping[str, int],
    interpreters: Mapping[str, Path],
) -> Iterator[list[Contestant]]:
    """Start the contestants one after the other, and end them afterwards.

    Parameters
    ----------
    names : sequence of str
    folder : Path
        Of the subject; maps are left there.
    threads : int
    need_bytes : mapping of str to int
        Memory that must be free before one is started.
    interpreters : mapping of str to Path
        Of contestants that live in an environment of their own.
    """
    started: list[Contestant] = []
    try:
        for index, name in enumerate(names):
            log.info("loading %s", name)
            contestant = Contestant(name, folder / f"map_{index}.npy")
            started.append(contestant)
            _start(contestant, folder, threads, need_bytes.get(name, 0), interpreters.get(name))
            if contestant.absent is not None:
                log.info("%s does not take part: %s", name, contestant.absent)
        yield started
    finally:
        for contestant in started:
            _stop(contestant)


def take_turns(taking_part: Sequence[Contestant], n: int, warmup: int) -> None:
    """Let every contestant inspect once per round; each round begins with the next one."""
    for index in range(warmup + n):
        first = index % len(taking_part)
        for contestant in (*taking_part[first:], *taking_part[:first]):
            time.sleep(PAUSE_MS / 1e3)
            contestant.inspect(timed=index >= warmup)


def _start(
    contestant: Contestant, folder: Path, threads: int, need: int, interpreter: Path | None
) -> None:
    available = _available_bytes()
    if available is not None and available < need:
        contestant.absent = (
            f"needs about {need / 1e9:.1f} GB of memory beside the others, "
            f"{available / 1e9:.1f} are free"
        )
        return
    if interpreter is not None and not interpreter.is_file():
        contestant.absent = f"`{interpreter}` does not exist"
        return
    python = sys.executable if interpreter is None else str(interpreter)
    words = [contestant.name, str(folder), str(contestant.map_file)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, "-m", "cff_bench.peers.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        contestant.process = process
        line = process.stdout.readline() if process.stdout is not None else ""
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["its process has ended"])[-1]
    facts = json.loads(line) if line else {"absent": last[:200]}
    if "absent" in facts:
        contestant.absent = facts["absent"]
        _stop(contestant)
        contestant.process = None
    else:
        contestant.facts = facts


def _stop(contestant: Contestant) -> None:
    process = contestant.process
    if process is None:
        return
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _available_bytes() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
