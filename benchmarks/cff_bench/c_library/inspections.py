"""What ``inspections.c`` does, with the Python runtime: the same arguments, the same answers."""

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from cff_runtime import Inspector, Profile


def main(arguments: Sequence[str]) -> int:
    """Inspect an image as often as standard input says."""
    bundle, profile_path, pixels_path, width, height, threads = arguments
    pixels = np.frombuffer(Path(pixels_path).read_bytes(), np.uint8)
    image = pixels.reshape(int(height), int(width), 3)
    profile = Profile.load(profile_path)
    inspector = Inspector.open(bundle, options={"threads": int(threads)})
    _say("ready")
    for line in sys.stdin:
        for _ in range(int(line)):
            start = perf_counter_ns()
            result = inspector.inspect(image, profile)
            total_ms = (perf_counter_ns() - start) / 1e6
            times = (total_ms, *result.stages_ms.values())
            sys.stdout.write(" ".join((repr(result.score), *(f"{ms:.6f}" for ms in times))) + "\n")
        _say("done")
    return 0


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
