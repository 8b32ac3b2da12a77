"""A contestant in a process of its own, which inspects when it is told to.

Thread pools, memory and packages of one contestant then cannot touch another's, and what it needs
in memory can be told. It speaks JSON, a line at a time: after loading who it is, then a timing for
every line that it reads. The clock runs inside, so that the pipe costs nothing.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import IO, Any

import numpy as np

from cff_bench.peers.contestants import Inspect, load_contestant
from cff_bench.peers.subject import Subject
from cff_runtime.errors import CffError

_RESET_PEAK = "5"
_PROCESS = Path("/proc/self")


def main(arguments: Sequence[str]) -> int:
    """Serve ``NAME FOLDER MAP``: the contestant, the subject's folder, where to leave its map."""
    name, folder, map_file = arguments
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    try:
        inspect, facts = _prepare(name, Path(folder), Path(map_file))
    except (CffError, ImportError) as error:
        _tell(answers, {"absent": str(error)})
        return 0
    _tell(answers, facts)
    for _ in sys.stdin:
        _tell(answers, _timed(inspect))
    return 0


def _prepare(name: str, folder: Path, map_file: Path) -> tuple[Inspect, dict[str, Any]]:
    """Load, inspect once, which compiles and plans memory, then weigh."""
    start = perf_counter()
    inspect = load_contestant(name, Subject.load(folder))
    load_s = perf_counter() - start
    start = perf_counter()
    answer = inspect()
    first_ms = (perf_counter() - start) * 1e3
    np.save(map_file, answer.anomaly_map)
    facts = {"load_s": load_s, "first_ms": first_ms, "score": answer.score}
    return inspect, {**facts, "peak_memory_mb": _peak_mb(inspect)}


def _peak_mb(inspect: Inspect) -> float | None:
    """Return the peak resident memory while it inspects; None where the system does not tell."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return None
    inspect()  # what is planned or compiled in the first run is there by now
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _timed(inspect: Inspect) -> dict[str, Any]:
    start_ns = perf_counter_ns()
    answer = inspect()
    elapsed_ns = perf_counter_ns() - start_ns
    return {"ms": elapsed_ns / 1e6, "stages_ms": answer.stages_ms}


def _tell(answers: IO[str], line: dict[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
