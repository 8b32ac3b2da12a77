"""A process of its own that inspects a little and says how much memory it took at most.

python -m cff_runtime.planner.memory_probe BUNDLE PRECISION PROFILE BACKEND PROVIDER THREADS
"""

import sys
from pathlib import Path

from cff_runtime.errors import CffError
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile

_STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> int:
    """Inspect a profile's own references; print the peak of the resident memory in bytes."""
    bundle, precision, profile_path, backend, provider, threads = arguments
    try:
        options = {"provider": provider, "threads": int(threads)}
        inspector = Inspector.open(Path(bundle), backend, options, precision)
        profile = Profile.load(profile_path)
        for image in profile.reference_images[:2]:
            inspector.inspect(image, profile)
    except CffError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines = _STATUS.read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    sys.stdout.write(f"{1024 * kibibytes}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
