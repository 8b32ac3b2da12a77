"""Walking the chunks of a bank on several host threads, for the same answer as on one.

Every thread takes the next chunk that nobody has taken and keeps a running result of its own. One
operator spread over threads, instead, must wait for all of them at its end, several times a chunk:
where another program holds a core for a moment, everybody waits. Here nobody waits but for a last
chunk, and a thread that never gets to run is not waited for at all.

Who took which chunk depends on timing. The largest of all results does not: maxima are exact, and
the same in any order.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from cff_runtime.backends.core_places import CorePlaces

_Chunk = TypeVar("_Chunk")
_Best = TypeVar("_Best")


class ChunkWalkers(Generic[_Chunk, _Best]):
    """Threads that walk banks; may be shared by several callers at once.

    Parameters
    ----------
    places : CorePlaces
        Of as many threads, the caller's own among them, so that 1 starts none.
    """

    def __init__(self, places: CorePlaces) -> None:
        self._n_helpers = places.n_threads - 1
        self._pool: ThreadPoolExecutor | None = None
        if self._n_helpers > 0:  # threads are started with the first work for them
            self._pool = ThreadPoolExecutor(
                self._n_helpers, "cff-search", initializer=places.place_helper
            )

    def walk(
        self,
        chunks: Sequence[_Chunk],
        start: _Best,
        step: Callable[[_Best, _Chunk], _Best],
    ) -> list[_Best]:
        """Return what `step` makes of the chunks, from `start` on: one result per thread at work.

        Parameters
        ----------
        chunks : sequence
        start : object
            Every thread begins with it.
        step : callable
            Takes a running result and a chunk, and returns the next running result. What it raises
            is raised here.
        """
        left = deque(chunks)  # taking from its end is atomic

        def take_all() -> _Best:
            best = start
            while True:
                try:
                    chunk = left.popleft()
                except IndexError:
                    return best
                best = step(best, chunk)

        helpers: list[Future[_Best]] = []
        if self._pool is not None:
            n_helpers = min(self._n_helpers, len(chunks) - 1)
            helpers = [self._pool.submit(take_all) for _ in range(n_helpers)]
        results = [take_all()]
        # what has not begun by now finds nothing left to do
        results += [helper.result() for helper in helpers if not helper.cancel()]
        return results
