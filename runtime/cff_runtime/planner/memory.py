"""How much memory a process takes that inspects with a profile: asked of one, not estimated."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError
from cff_runtime.manifest import Stage
from cff_runtime.profile import Profile

MeasureMemory = Callable[[Bundle, Profile], int]
_TIMEOUT_S = 600


@dataclass(frozen=True)
class MemoryModel:
    """Bytes of the process: a part of its own and some per byte of the memory bank."""

    fixed_bytes: float
    per_bank_byte: float
    stages: tuple[Stage, ...]
    n_full: tuple[int, ...]

    def predict_bytes(self, max_rows: int) -> float:
        """Return the peak with at most so many rows a stage."""
        n_bytes = bank_bytes(self.stages, self.n_full, max_rows)
        return self.fixed_bytes + self.per_bank_byte * n_bytes


def bank_bytes(stages: Sequence[Stage], n_full: Sequence[int], max_rows: int) -> int:
    """Return the size of the memory banks with at most so many rows a stage, float32."""
    pairs = zip(stages, n_full, strict=True)
    return sum(4 * stage.width * min(max_rows, rows) for stage, rows in pairs)


def fit_memory(
    sizes: Sequence[int], peaks: Sequence[int], stages: Sequence[Stage], n_full: Sequence[int]
) -> MemoryModel:
    """Draw the line through two measurements: rows a stage and peaks in bytes, falling.

    Less than the bank itself a bank cannot take; two equal sizes are one measurement.
    """
    small, large = (bank_bytes(stages, n_full, rows) for rows in (min(sizes), max(sizes)))
    slope = (max(peaks) - min(peaks)) / (large - small) if large > small else 1.0
    slope = max(slope, 1.0)
    return MemoryModel(max(peaks) - slope * large, slope, tuple(stages), tuple(n_full))


def measure_in_process(backend: str, provider: str, threads: int) -> MeasureMemory:
    """Return a function that inspects with a profile in a process of its own.

    The function returns the peak of the resident memory in bytes.

    Raises
    ------
    BackendError
        From the function: if the system does not tell (Linux does), or inspecting fails.
    """

    def measure(bundle: Bundle, profile: Profile) -> int:
        if not Path("/proc/self/status").is_file():
            raise BackendError("memory can be measured on Linux only; leave out `--max-memory`")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "profile.safetensors"
            profile.save(path)
            words = [str(bundle.path), bundle.manifest.precision, str(path)]
            words += [backend, provider, str(threads)]
            command = [sys.executable, "-m", "cff_runtime.planner.memory_probe", *words]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise BackendError(f"memory probe must end within {_TIMEOUT_S} s") from error
        if done.returncode or not done.stdout.strip().isdecimal():
            told = done.stderr.strip()[-200:] or f"exit code {done.returncode}"
            raise BackendError(f"memory probe must inspect two images, got: {told}")
        return int(done.stdout)

    return measure
