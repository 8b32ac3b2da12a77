"""Reading all sources now and then while something else is measured.

Samples are taken at both ends of a phase and, in a long one, about once a second from a thread of
its own. What that thread costs is measured with its own clock of processor time; it waits longer
where a sample is dear, so that it stays below a hundredth of a core. Tools that run beside it are
counted as well; a report says so where all of it takes more.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cff_bench.sensors.quantity import Source

INTERVAL_S = 1.0
MAX_SHARE_OF_CORE = 0.005  # of sampling itself; half of what is promised


@dataclass(frozen=True)
class Sample:
    """Values at one moment; an edge is one at either end of a phase, when nothing runs."""

    at_s: float
    phase: str
    values: Mapping[str, float]
    is_edge: bool = False


class Sampler:
    """Samples sources in phases; use it in a ``with`` statement.

    Parameters
    ----------
    sources : sequence of Source
        Closed at the end.
    interval_s : float

    Attributes
    ----------
    samples : list of Sample
        In the order taken.
    spent_s : float
        Processor time of all samples.
    """

    def __init__(self, sources: Sequence[Source], interval_s: float = INTERVAL_S) -> None:
        self.sources = tuple(sources)
        self.samples: list[Sample] = []
        self.spent_s = 0.0
        self._interval_s = interval_s
        self._started_s = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> "Sampler":
        self._started_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources:
            source.close()

    @property
    def share_of_core(self) -> float:
        """Processor time of sampling, tools among it, over the time that has passed."""
        spent_s = self.spent_s + sum(source.spent_s for source in self.sources)
        return spent_s / max(time.monotonic() - self._started_s, 1e-9)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Sample at both ends of the block and while it runs."""
        ended = threading.Event()
        self._take(name, is_edge=True)
        thread = threading.Thread(target=self._repeat, args=(name, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._take(name, is_edge=True)

    def rest(self, name: str, seconds: float) -> None:
        """Sample while nothing is done."""
        with self.phase(name):
            time.sleep(seconds)

    def _repeat(self, name: str, ended: threading.Event) -> None:
        wait_s = self._interval_s
        while not ended.wait(wait_s):
            wait_s = max(self._interval_s, self._take(name) / MAX_SHARE_OF_CORE)

    def _take(self, phase: str, is_edge: bool = False) -> float:
        """Take a sample; return the processor time that it cost."""
        with self._lock:
            before_s = time.thread_time()
            values: dict[str, float] = {}
            for source in self.sources:
                values.update(source.read())
            self.samples.append(Sample(time.monotonic(), phase, values, is_edge))
            cost_s = time.thread_time() - before_s
            self.spent_s += cost_s
        return cost_s
