"""How fast this machine moves memory, within its caches and beyond them.

`copy` is c = a, counted as two times its bytes; `triad` is a = b + s c, counted as three times.
A write that first fetches its line costs more than it is counted for, as in STREAM. Arrays grow
with the threads, so that a thread's part is the same however many there are.
"""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cff_bench.roofline.gemm import torch_threads

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
BEYOND = "memory"  # the level of arrays that no cache holds
_LARGE = 64 << 20  # of one array where no cache is known
_MAX_ARRAY = 256 << 20
_CALL_BYTES = 32 << 20  # of one thread, moved by one call: its start must not count


@dataclass(frozen=True)
class Transfer:
    """One way to move memory.

    Attributes
    ----------
    kind : {"copy", "triad"}
    level : str
        Where the arrays of all threads fit: ``L2``, ``L3`` or ``memory``.
    threads : int
    moved_bytes : int
        By one call, as counted above.
    run : callable
    """

    kind: str
    level: str
    threads: int
    moved_bytes: int
    run: Callable[[], object]

    @property
    def name(self) -> str:
        """Stable key, such as ``memory/copy/L3/2``."""
        return f"memory/{self.kind}/{self.level}/{self.threads}"


def cache_bytes() -> dict[str, tuple[int, int]]:
    """Return the size of the unified caches, and how many cores share each; empty if unknown."""
    caches = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            level = (folder / "level").read_text().strip()
            size = (folder / "size").read_text().strip()
            sharing = _count_cores((folder / "shared_cpu_list").read_text())
        except (OSError, ValueError):
            continue
        if kind == "Unified" and size.endswith("K") and size[:-1].isdigit():
            caches[f"L{level}"] = (int(size[:-1]) << 10, sharing)
    return caches


def build_transfers(threads: int, caches: dict[str, tuple[int, int]]) -> list[Transfer]:
    """Return a copy for each level, and a triad beyond the caches where PyTorch is installed.

    Within a cache a call of PyTorch's would measure how fast its threads start.
    """
    has_torch = importlib.util.find_spec("torch") is not None
    transfers = []
    for level, array_bytes in array_sizes(threads, caches).items():
        kinds = ("copy", "triad") if has_torch and level == BEYOND else ("copy",)
        for kind in kinds:
            n_arrays = {"copy": 2, "triad": 3}[kind]
            repeats = max(1, _CALL_BYTES // (n_arrays * array_bytes))
            make = {"copy": _copy_call, "triad": _triad_call}[kind]
            moved = n_arrays * array_bytes * repeats * threads
            run = make(threads, array_bytes, repeats)
            transfers.append(Transfer(kind, level, threads, moved, run))
    return transfers


def array_sizes(threads: int, caches: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Return the bytes of one array of one thread, by the level that holds all arrays.

    A quarter of a thread's share of a cache for three arrays; beyond the last one, each thread's
    arrays are four times the cache, all threads together.
    """
    sizes = {}
    for level, (size, sharing) in caches.items():
        sizes[level] = size // min(threads, sharing) // 4 // 64 * 64
    largest = max((size for size, _ in caches.values()), default=_LARGE // 4)
    sizes[BEYOND] = min(_MAX_ARRAY, max(_LARGE, 4 * largest)) // threads // 64 * 64
    return sizes


def _copy_call(threads: int, array_bytes: int, repeats: int) -> Callable[[], object]:
    """Return a call in which each host thread copies an array of its own."""
    pairs = [[np.ones(array_bytes // 4, np.float32) for _ in range(2)] for _ in range(threads)]

    def copy(pair: list[NDArray[np.float32]]) -> None:
        for _ in range(repeats):
            np.copyto(pair[0], pair[1])  # without the interpreter's lock

    if threads == 1:
        return lambda: copy(pairs[0])
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(copy, pairs))


def _triad_call(threads: int, array_bytes: int, repeats: int) -> Callable[[], object]:
    """Return a call in which PyTorch's threads share out arrays for all of them."""
    import torch

    a, b, c = (torch.ones(threads * array_bytes // 4) for _ in range(3))

    def triad() -> None:
        with torch_threads(threads):
            for _ in range(repeats):
                torch.add(b, c, alpha=3.0, out=a)

    return triad


def _count_cores(text: str) -> int:
    """Return how many are in a kernel's list such as ``0-3,8``."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return max(1, count)
