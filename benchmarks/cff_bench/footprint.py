"""What the runtime takes of a box before it does anything: import time and installed size.

Import time is what `import cff_runtime` adds to NumPy's own import, each time in a new process with
warm file caches. Installed size is the sum of the files of `cff-edge[cpu]` and of everything that
it requires, as they lie here; the packages of the workstation (`cff_edge`, `cff_export`,
`cff_bench`) come along and are counted.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import cff_runtime
from cff_bench.environment import collect_environment
from cff_bench.timing import format_table, summarize
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError

MAX_IMPORT_MS, MAX_SIZE_MIB = 150.0, 350.0
EXTRA = "cpu"
_PROJECT = "cff-edge"
_SOURCES = ("cff_edge", "export/cff_export", "runtime/cff_runtime", "benchmarks")
_MIB = 1 << 20
_TIMED_IMPORT = """
from time import perf_counter
start = perf_counter()
import numpy
middle = perf_counter()
import cff_runtime
print((middle - start) * 1e3, (perf_counter() - middle) * 1e3)
"""


def run_footprint(n: int) -> dict[str, Any]:
    """Import the runtime n times and add up the files that its installation has.

    Returns
    -------
    dict
        ``import_ms`` and ``numpy_ms`` (percentiles), ``packages`` (name, version, MiB, largest
        first), ``size_mib``, the limits and ``environment``, ready for JSON.

    Raises
    ------
    UsageError
        If `n` is below 1.
    MissingDependencyError
        If a package of the installation is missing.
    """
    if n < 1:
        raise UsageError(f"`n` must be at least 1, got {n}")
    environment = collect_environment()
    _time_import()  # file caches
    times = [_time_import() for _ in range(n)]
    closure = _closure(f"{_PROJECT}[{EXTRA}]")
    sizes = {name: _size_of(found) / _MIB for name, found in closure.items()}
    largest_first = sorted(sizes, key=sizes.__getitem__, reverse=True)
    return {
        "extra": EXTRA,
        "numpy_ms": asdict(summarize([numpy_ms for numpy_ms, _ in times])),
        "import_ms": asdict(summarize([own_ms for _, own_ms in times])),
        "import_at_most_ms": MAX_IMPORT_MS,
        "packages": [
            {"name": name, "version": closure[name].version, "mib": sizes[name]}
            for name in largest_first
        ],
        "size_mib": sum(sizes.values()),
        "size_at_most_mib": MAX_SIZE_MIB,
        "environment": environment.to_dict(),
    }


def format_footprint(report: dict[str, Any]) -> str:
    """Return the report as text."""
    rows = [(p["name"], p["version"], f"{p['mib']:.1f}") for p in report["packages"]]
    rows.append(("all", "", f"{report['size_mib']:.1f}"))
    return "\n".join(
        (
            f"import cff_runtime takes {report['import_ms']['p50_ms']:.0f} ms beyond NumPy's "
            f"{report['numpy_ms']['p50_ms']:.0f} ms (median of {report['import_ms']['n']}, at most "
            f"{report['import_at_most_ms']:.0f})",
            f"cff-edge[{report['extra']}] takes {report['size_mib']:.0f} MiB on disk (at most "
            f"{report['size_at_most_mib']:.0f})",
            "",
            format_table(("package", "version", "MiB"), rows),
        )
    )


def too_large(report: dict[str, Any]) -> bool:
    """Say whether a limit is broken."""
    return bool(
        report["import_ms"]["p50_ms"] > report["import_at_most_ms"]
        or report["size_mib"] > report["size_at_most_mib"]
    )


def _time_import() -> tuple[float, float]:
    """Return the milliseconds of NumPy's import and of the runtime's after it."""
    command = [sys.executable, "-c", _TIMED_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"`import cff_runtime` must work in a new process, it says: {last}")
    numpy_ms, own_ms = map(float, done.stdout.split())
    return numpy_ms, own_ms


def _closure(requirement: str) -> dict[str, Distribution]:
    """Return everything that a requirement brings, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(requirement)]
    while todo:
        wanted = todo.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                found[name] = _installed(name)
                todo += _requirements(found[name], extra)
    return found


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            f"package `{name}` must be installed to be measured; run "
            f"`pip install '{_PROJECT}[{EXTRA}]'`"
        ) from error


def _requirements(package: Distribution, extra: str) -> Iterator[Requirement]:
    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None:
            applies = extra == ""
        elif extra:
            applies = requirement.marker.evaluate({"extra": extra}) and (
                not requirement.marker.evaluate({"extra": ""})
            )
        else:
            applies = requirement.marker.evaluate({"extra": ""})
        if applies:
            yield requirement


def _size_of(package: Distribution) -> int:
    paths = {Path(str(package.locate_file(file))).resolve() for file in package.files or []}
    if package.name == _PROJECT and not any(p.match("cff_runtime/__init__.py") for p in paths):
        root = Path(cff_runtime.__file__).parents[2]  # installed as an editable one
        paths |= {path for folder in _SOURCES for path in (root / folder).rglob("*.*")}
    return sum(path.stat().st_size for path in paths if path.is_file())
