"""How far a build is and how long it may still take.

TensorRT tells phases and their steps. How long a step takes it does not know: one may be nearly
the whole build. So the time left comes from the build before, where there was one; else from the
slowest phase in progress, n steps of which k are done after t seconds:

    left = t (n - k) / k

Without either nothing is claimed. The fraction done is elapsed / (elapsed + left).
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# phase, fraction done 0 to 1, seconds left or None
Progress = Callable[[str, float, float | None], None]

_INTERVAL_S = 0.2
_TRUSTED_AFTER_S = 1.0
_NEARLY_DONE = 0.99


@dataclass
class _Phase:
    started_s: float
    n_steps: int
    n_done: int = 0


class BuildProgress:
    """Turns TensorRT's phases into calls of `report`, and carries a wish to stop.

    Parameters
    ----------
    report : Progress or None
        If it raises, the build is cancelled and `failure` holds what it raised: no exception may
        cross TensorRT's C++ code.
    expected_s : float or None
        Duration of an earlier build of this graph.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        report: Progress | None,
        expected_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cancelled = False
        self.interrupted = False
        self.failure: BaseException | None = None
        self._report = report
        self._expected_s = expected_s
        self._clock = clock
        self._started_s = clock()
        self._told_s = float("-inf")
        self._done = 0.0
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.RLock()  # TensorRT calls from threads of its own

    def start(self, name: str, n_steps: int = 1) -> None:
        """Note that a phase of `n_steps` begins."""
        with self._lock:
            self._phases.pop(name, None)
            self._phases[name] = _Phase(self._clock(), max(n_steps, 1))
            self._tell(name)  # each: the next step may take minutes

    def step(self, name: str, index: int) -> bool:
        """Note that step `index`, from 0, is done; return whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].n_done = index + 1
            if self._clock() - self._told_s >= _INTERVAL_S:
                self._tell(name)
            return not self.cancelled

    def finish(self, name: str) -> None:
        """Note that a phase ends."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """Report that all is done."""
        self._call("done", 1.0, 0.0)

    def interrupt(self) -> None:
        """Ask the build to stop, as Ctrl-C does; it stops at its next step."""
        self.interrupted = self.cancelled = True

    def _tell(self, name: str) -> None:
        now = self._clock()
        self._told_s = now
        left_s = self._left_s(now)
        if left_s is not None:
            elapsed = now - self._started_s
            done = min(elapsed / max(elapsed + left_s, 1e-9), _NEARLY_DONE)
            self._done = max(self._done, done)
        self._call(name, self._done, left_s)

    def _left_s(self, now: float) -> float | None:
        if self._expected_s is not None and now - self._started_s < self._expected_s:
            return self._expected_s - (now - self._started_s)
        estimates = [
            (now - phase.started_s) * (phase.n_steps - phase.n_done) / phase.n_done
            for phase in self._phases.values()
            if phase.n_done and now - phase.started_s >= _TRUSTED_AFTER_S
        ]
        return max(estimates, default=None)

    def _call(self, phase: str, done: float, left_s: float | None) -> None:
        if self._report is None or self.failure is not None:
            return
        try:
            self._report(phase, done, left_s)
        except BaseException as error:
            self.failure, self.cancelled = error, True


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """Return an `IProgressMonitor` that feeds `progress`; None where TensorRT has no such thing."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


@contextlib.contextmanager
def interruptible(progress: BuildProgress) -> Iterator[None]:
    """Let Ctrl-C stop a build at its next step instead of raising inside a callback.

    The signal is passed on to the handler that was there before once TensorRT has returned. In
    another thread than the main one Python delivers no signals, and nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if not callable(handler):
        yield
        return
    signal.signal(signal.SIGINT, lambda _number, _frame: progress.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if progress.interrupted:
            signal.raise_signal(signal.SIGINT)
