"""Which graph is faster on this CPU: medians of interleaved runs.

The graphs take turns, so that another process or a changing clock slows all of them alike.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends.cpu_session import CpuSession
from cff_runtime.errors import UsageError


@dataclass(frozen=True)
class Timing:
    """Median time of one run of a graph, in milliseconds, over `n` runs."""

    p50_ms: float
    n: int


def compare_speed(
    graphs: Mapping[str, Path],
    feeds: Mapping[str, NDArray[Any]],
    n: int = 20,
    warmup: int = 3,
    threads: int = 0,
) -> dict[str, Timing]:
    """Time graphs in ONNX Runtime on the CPU, with the runtime's session options.

    Parameters
    ----------
    graphs : mapping of str to Path
    feeds : mapping of str to ndarray
        Inputs of every graph.
    n, warmup : int
        Rounds that count, and rounds before them that do not.
    threads : int
        Of one operator; 0 lets ONNX Runtime choose, as the runtime does.

    Raises
    ------
    UsageError
        If `n` is below 1.
    BackendError
        If a graph cannot be loaded.
    """
    if n < 1:
        raise UsageError(f"`n` must be at least 1 round, got {n}")
    sessions = {name: CpuSession(path, threads) for name, path in graphs.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(warmup + n):
        for name, session in sessions.items():
            start = time.perf_counter_ns()
            session.run(None, dict(feeds))
            times_ms[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: Timing(float(np.median(times[warmup:])), n) for name, times in times_ms.items()}
