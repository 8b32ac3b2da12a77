"""What an encoder needs in memory, found out in a process of its own.

The kernel's high-water mark of resident memory is set back after loading: what a loader needs for a
moment, such as a text tower that is freed or a file that is parsed, does not count.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cff_bench.precision.encoders import load_encoder
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError

_N_IMAGES = 2  # ONNX Runtime plans its memory in the first run
_RESET_PEAK = "5"
_PROCESS = Path("/proc/self")


def peak_memory_mb(name: str, bundle: Path, threads: int) -> float | None:
    """Return the peak resident memory in MB while an encoder encodes, libraries and weights in it.

    Parameters
    ----------
    name : str
        As in `load_encoder`.
    bundle : Path
    threads : int
        Of one operator, in PyTorch too.

    Returns
    -------
    float or None
        None where the system does not tell.

    Raises
    ------
    BackendError
        If the encoder cannot be loaded or run there.
    """
    if not (_PROCESS / "clear_refs").exists():
        return None
    command = [sys.executable, "-m", __name__, name, str(bundle), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}  # PyTorch's
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"`{name}` must run in a process of its own, it failed: {last}")
    return float(done.stdout)


def main(arguments: Sequence[str]) -> int:
    """Load an encoder, run it, and write the peak in MB to stdout."""
    name, bundle, threads = arguments
    encode = load_encoder(name, Bundle.open(bundle), int(threads))
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    for _ in range(_N_IMAGES):
        encode()
    sys.stdout.write(f"{_peak_bytes() / 1e6}\n")
    return 0


def _peak_bytes() -> int:
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BackendError("`/proc/self/status` must tell VmHWM, it does not")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
