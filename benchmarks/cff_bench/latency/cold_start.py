"""What the first part of a shift waits for: processes of their own that open and inspect once.

Steps, one after the other: `interpreter` (until the process runs Python of its own), `import` (the
runtime and the backend's packages), `verify` (manifest and the SHA-256 of every file), `load`
(graphs, made ready to run), `profile`, `first` (the first inspection, the image's decoding and the
upload of the memory banks in it). Files are in the system's cache: the bundle was read before.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cff_bench.latency.configurations import Configuration
from cff_bench.latency.images import NOISE_SEED, NOISE_SIDE_PX, ImageSource
from cff_bench.latency.settings import LatencySettings
from cff_runtime.errors import BackendError

STEPS = ("interpreter", "import", "verify", "load", "profile", "first")
TIMEOUT_S = 600
_SCRIPT = Path(__file__).with_name("cold_start_process.py")


@dataclass(frozen=True)
class ColdStart:
    """One process.

    Attributes
    ----------
    steps_ms : dict of str to float
        In the order of `STEPS`.
    peak_bytes : int or None
        Largest resident memory of the process; None where the system does not tell.
    """

    steps_ms: dict[str, float]
    peak_bytes: int | None

    @property
    def total_ms(self) -> float:
        """From the start of the process to the first result."""
        return sum(self.steps_ms.values())


def measure_cold_starts(
    configurations: Sequence[Configuration], source: ImageSource, settings: LatencySettings
) -> dict[str, list[ColdStart]]:
    """Start `cold_starts` processes per configuration, in turns; return them by name.

    Raises
    ------
    BackendError
        If a process fails.
    """
    found: dict[str, list[ColdStart]] = {one.name: [] for one in configurations}
    for _ in range(settings.cold_starts):
        for one in configurations:
            found[one.name].append(_start(one, source, settings))
    return found


def _start(
    configuration: Configuration, source: ImageSource, settings: LatencySettings
) -> ColdStart:
    task = {
        "bundle": str(configuration.bundle),
        "precision": configuration.precision,
        "backend": settings.backend,
        "options": dict(settings.options),
        "profile": str(configuration.profile_path),
        "image": None if source.path is None else str(source.path),
        "noise_side_px": NOISE_SIDE_PX,
        "noise_seed": NOISE_SEED,
        "spawned_ns": time.monotonic_ns(),  # CLOCK_MONOTONIC, the same in every process
    }
    command = [sys.executable, str(_SCRIPT), json.dumps(task)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"a process that opens `{configuration.bundle}` must inspect within {TIMEOUT_S} s, it "
            "did not; leave cold starts out with `--cold-starts 0`"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(
            f"`{configuration.bundle}` must open in a process of its own, it says: {last}; "
            "leave cold starts out with `--cold-starts 0`"
        )
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    steps = {step: float(answer["steps_ms"][step]) for step in STEPS}
    return ColdStart(steps, answer["peak_bytes"])
