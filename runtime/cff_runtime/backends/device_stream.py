"""One stream of a GPU and the lock that guards it.

A call takes the lock, puts its work on the stream, waits for the stream and gives the lock back. So
calls from several threads follow one another, nothing is in flight between two calls, and memory
may be freed there. A call that fails waits for the stream as well; if that fails too, CUDA's
context is lost, and every later call says so.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from cff_runtime.cuda import CudaDevice
from cff_runtime.errors import BackendError

Step = Callable[[], Any]


class DeviceStream:
    """A stream, and the two marks that time what is on it.

    Parameters
    ----------
    device : CudaDevice
        Closed with the stream, and if the stream cannot be made.
    title : str
        Who works on it, for errors.

    Attributes
    ----------
    stream : object
        Of the device protocol.
    handle : int
        As TensorRT takes it.
    between_calls : list of callable
        Called before each call's work, while the stream is idle.
    times_ms : dict of str to float
        GPU time of the last call of each kind.
    is_closed : bool
    """

    def __init__(self, device: CudaDevice, title: str) -> None:
        self.device, self._title = device, title
        self._lock = threading.Lock()
        self._refusal: str | None = None
        self._marks: list[Any] = []
        self.stream: Any = None
        self.between_calls: list[Step] = []
        self.times_ms: dict[str, float] = {}
        self.is_closed = False
        try:
            with device.current():
                self.stream = device.create_stream()
                self.handle = device.stream_handle(self.stream)
                self._marks.append(device.create_event())
                self._marks.append(device.create_event())
        except BaseException:
            with suppress(BackendError):
                self.close(list)
            raise

    def require_open(self) -> None:
        """Raise BackendError if the stream was closed."""
        if self.is_closed:
            raise BackendError("the backend was closed; open it again")

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Hold the lock and the GPU for one call; leave the stream idle, whatever happens.

        Raises
        ------
        BackendError
            If the work fails, naming it, or an earlier failure left nothing to work with.
        """
        with self._lock:
            self.require_open()
            if self._refusal is not None:
                raise BackendError(self._refusal)
            try:
                with self.device.current(), self._settled():
                    for step in self.between_calls:
                        step()
                    yield
            except (BackendError, RuntimeError) as error:
                raise BackendError(f"{self._title} could not {what}: {error}") from error

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Put marks around work, wait for it and note its time on the GPU."""
        start, end = self._marks
        self.device.record(start, self.stream)
        yield
        self.device.record(end, self.stream)
        self.device.synchronize(self.stream)
        self.times_ms[name] = self.device.elapsed_ms(start, end)

    def close(self, steps: Callable[[], Sequence[Step]]) -> None:
        """Wait for the stream, take the caller's steps, then let marks, stream and device go.

        May be called again. A step that fails does not keep the others from being taken.

        Parameters
        ----------
        steps : callable
            Returns what is to be given back; called once, with the lock held.

        Raises
        ------
        BackendError
            If something could not be given back on a GPU that works; all else was.
        """
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            failures: list[BackendError] = []
            with _collected(failures), ExitStack() as stack:
                with _collected(failures):
                    stack.enter_context(self.device.current())
                for step in self._all_steps(steps()):
                    with _collected(failures):
                        step()
            with _collected(failures):
                self.device.close()
            self._marks, self.stream = [], None
        if failures and self._refusal is None:
            raise BackendError(f"the GPU's memory was not all given back: {failures[0]}")

    def _all_steps(self, steps: Sequence[Step]) -> list[Step]:
        marks = [partial(self.device.destroy_event, mark) for mark in self._marks]
        if self.stream is None:
            return [*steps, *marks]
        return [
            partial(self.device.synchronize, self.stream),
            *steps,
            *marks,
            partial(self.device.destroy_stream, self.stream),
        ]

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Wait for the stream after a failure; if that fails, there is no next call."""
        try:
            yield
        except BaseException:
            try:
                self.device.synchronize(self.stream)
            except BackendError as error:
                self._refusal = (
                    f"the GPU cannot be used any more after an earlier error ({error}); close "
                    "this backend and start the process again"
                )
            raise


@contextmanager
def _collected(failures: list[BackendError]) -> Iterator[None]:
    """Note a failure and go on."""
    try:
        yield
    except (BackendError, RuntimeError) as error:
        failures.append(error if isinstance(error, BackendError) else BackendError(str(error)))
