"""The process of one cold start: it imports, opens, inspects, and says what each step took.

Run as a file by `cff_bench.latency.cold_start`, never imported: nothing of the project may be
loaded before its clock starts. Prints one JSON object on the last line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

_FURTHER_INSPECTIONS = 2  # memory is planned in the first run and settles after it
_STATUS = Path("/proc/self/status")


def main(task: dict[str, Any], started_ns: int) -> int:
    """Take every step once and write what it took."""
    marks = [("interpreter", started_ns - int(task["spawned_ns"]))]
    last_ns = time.monotonic_ns()

    def mark(step: str) -> None:
        nonlocal last_ns
        now_ns = time.monotonic_ns()
        marks.append((step, now_ns - last_ns))
        last_ns = now_ns

    from cff_runtime import Inspector, Profile
    from cff_runtime.backends import backend_options, open_backend
    from cff_runtime.bundle import Bundle
    from cff_runtime.errors import CffError
    from cff_runtime.imaging import load_image

    try:
        backend_options(task["backend"])  # imports the backend's packages
        mark("import")
        bundle = Bundle.open(task["bundle"], task["precision"])
        mark("verify")
        backend = open_backend(task["backend"], bundle, task["options"])
        inspector = Inspector(bundle, backend)
        mark("load")
        profile = Profile.load(task["profile"])
        mark("profile")
        image = _noise(task) if task["image"] is None else load_image(task["image"])
        if task["image"] is None:
            last_ns = time.monotonic_ns()  # making noise is no part of it
        inspector.inspect(image, profile)
        mark("first")
        for _ in range(_FURTHER_INSPECTIONS):
            inspector.inspect(image, profile)
    except CffError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    steps = {step: elapsed_ns / 1e6 for step, elapsed_ns in marks}
    sys.stdout.write(f"\n{json.dumps({'steps_ms': steps, 'peak_bytes': _peak_bytes()})}\n")
    return 0


def _noise(task: dict[str, Any]) -> Any:
    import numpy as np

    side = int(task["noise_side_px"])
    rng = np.random.default_rng(int(task["noise_seed"]))
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def _peak_bytes() -> int | None:
    """Return the largest resident memory so far: VmHWM, proc(5)."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    _STARTED_NS = time.monotonic_ns()
    sys.path.pop(0)  # this folder, whose modules must hide no others
    sys.exit(main(json.loads(sys.argv[1]), _STARTED_NS))
