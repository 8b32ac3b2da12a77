"""Which core each computing thread runs on, where a backend has all cores to itself.

A woken thread is put behind the one that woke it if the system takes the other cores for busy, as
guests of a hypervisor do with a core that has slept for some milliseconds. Then an encoder's worker
waits for a tick while its caller computes: an inspection every 100 ms took 1.7 times as long as one
after another, on two cores of a virtual machine. Here workers have a core each, from the second
on, and while it computes the caller stays on the first.

With fewer threads than cores nothing is placed: other processes may have the rest, and the system
shares out better. Neither is it outside Linux.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator


class CorePlaces:
    """Cores of the caller and of its workers; may be shared by several callers at once.

    Parameters
    ----------
    threads : int
        Of one operator, the caller's among them; 0 takes what there is.

    Attributes
    ----------
    n_threads : int
        At least 1.
    cores : tuple of int
        One for each thread, the caller's first; empty where nothing is placed.
    """

    def __init__(self, threads: int) -> None:
        allowed = _allowed_cores()
        self.n_threads = threads or len(allowed) or os.cpu_count() or 1
        is_placed = 1 < self.n_threads == len(allowed)
        self.cores = allowed if is_placed else ()
        self._next_helper = itertools.count(1)
        self._first_core = threading.Lock()

    @property
    def affinities(self) -> str:
        """The workers' cores as ONNX Runtime wants them: counted from 1, the caller's left out."""
        return ";".join(str(core + 1) for core in self.cores[1:])

    def place_helper(self) -> None:
        """Put the calling thread, one of a pool's, on the next of the workers' cores for good."""
        if self.cores:
            _move_to({self.cores[1 + (next(self._next_helper) - 1) % (len(self.cores) - 1)]})

    @contextlib.contextmanager
    def caller(self) -> Iterator[None]:
        """Keep the calling thread on the first core for a while; of several callers, one."""
        if not self.cores or not self._first_core.acquire(blocking=False):
            yield
            return
        try:
            before = os.sched_getaffinity(0)
            _move_to({self.cores[0]})
            try:
                yield
            finally:
                _move_to(before)
        finally:
            self._first_core.release()


def _allowed_cores() -> tuple[int, ...]:
    """Return the cores that this thread may use; none where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)
    return () if allowed is None else tuple(sorted(allowed(0)))


def _move_to(cores: set[int]) -> None:
    """Restrict the calling thread; where the cores were taken away since, it stays as it is."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cores)
