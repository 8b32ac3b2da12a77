"""What a search needs in memory beyond the bank, found out in a process of its own.

The kernel's high-water mark of resident memory is set back once bundle and bank are loaded; what
the first searches add to that moment's resident memory is theirs.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError
from cff_runtime.verification import golden_condition

_N_SEARCHES = 3
_RESET_PEAK = "5"
_PROCESS = Path("/proc/self")


def memory_beyond_bank_mb(bundle: Path, shots: Sequence[int], threads: int) -> list[float] | None:
    """Return for each K the peak in MB while all stages are searched, less bundle and bank.

    Parameters
    ----------
    bundle : Path
    shots : sequence of int
        References; each K has a process of its own.
    threads : int
        Of ONNX Runtime.

    Returns
    -------
    list of float or None
        None where the system does not tell.

    Raises
    ------
    BackendError
        If the bundle cannot be loaded or searched there.
    """
    if not (_PROCESS / "clear_refs").exists():
        return None
    peaks = []
    for k in shots:
        command = [sys.executable, "-m", __name__, str(bundle), str(k), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BackendError(f"a search at K = {k} must run in a process of its own: {last}")
        peaks.append(float(done.stdout))
    return peaks


def main(arguments: Sequence[str]) -> int:
    """Load a bundle and a bank of random unit rows, search it, and write the peak in MB."""
    path, shots, threads = arguments
    bundle = Bundle.open(path)
    backend = open_backend("onnxruntime", bundle, {"threads": int(threads)})
    rng = np.random.default_rng(0)
    condition = golden_condition(bundle)
    preprocessing = bundle.manifest.preprocessing
    image = np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)
    features = backend.encode(image, condition).features
    banks = []
    for stage in bundle.manifest.stages:
        rows = rng.standard_normal((int(shots) * stage.n_tokens, stage.width), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        banks.append(backend.upload_bank(rows))
        del rows
    before = _status_bytes("VmRSS")
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    for _ in range(_N_SEARCHES):
        for index, bank in enumerate(banks):
            backend.search(index, features[index], bank)
    sys.stdout.write(f"{(_status_bytes('VmHWM') - before) / 1e6}\n")
    return 0


def _status_bytes(name: str) -> int:
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BackendError(f"`/proc/self/status` must tell {name}, it does not")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
