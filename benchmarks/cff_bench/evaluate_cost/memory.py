"""What the metrics need in memory beyond their arguments, found out in a process of its own.

The kernel's high-water mark of resident memory is set back once the maps are there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cff_bench.evaluate_cost.subjects import load_subject
from cff_bench.evaluate_cost.synthetic import make_problem
from cff_runtime.errors import BackendError

_RESET_PEAK = "5"
_PROCESS = Path("/proc/self")


def peak_memory_mb(subject: str, n_images: int, size: int) -> tuple[float, float] | None:
    """Return the peak beyond the arguments, and the arguments themselves, in MB.

    Parameters
    ----------
    subject : str
        As in `load_subject`.
    n_images, size : int
        As in `make_problem`.

    Returns
    -------
    tuple of float or None
        None where the system does not tell.

    Raises
    ------
    BackendError
        If the process fails.
    """
    if not (_PROCESS / "clear_refs").exists():
        return None
    command = [sys.executable, "-m", __name__, subject, str(n_images), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(
            f"`{subject}` on {n_images} images must run on its own, it failed: {last}"
        )
    beyond, arguments = (float(word) for word in done.stdout.split())
    return beyond, arguments


def main(arguments: Sequence[str]) -> int:
    """Compute once, and write both figures in MB to stdout."""
    name, n_images, size = arguments
    compute = load_subject(name)
    compute(make_problem(3, min(int(size), 32)))  # libraries are loaded with their first call
    problem = make_problem(int(n_images), int(size))
    n_bytes = sum(np.asarray(part).nbytes for part in problem)
    before = _status_bytes("VmRSS")
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    compute(problem)
    sys.stdout.write(f"{(_status_bytes('VmHWM') - before) / 1e6} {n_bytes / 1e6}\n")
    return 0


def _status_bytes(name: str) -> int:
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BackendError(f"`/proc/self/status` must tell {name}, it does not")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
