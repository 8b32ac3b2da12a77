"""What the TensorRT backend needs from a GPU besides TensorRT itself.

Addresses are plain integers, as TensorRT wants them. Streams, events and graphs are whatever the
package behind them hands out. Every method raises `BackendError` with the call's name and CUDA's
own words; that one failed says nothing about whether the next one works (`cff_runtime.backends.
tensorrt` finds out by asking the stream).

Copies and kernels put on a stream happen later: neither side's memory may be touched, and nothing
freed, before `synchronize`.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# page-locked host memory, [n_bytes]
PinnedArray = NDArray[np.uint8]


class Memory(Protocol):
    """Memory of the GPU, and of the host where the GPU may reach it."""

    def allocate(self, n_bytes: int) -> int | None:
        """Return the address of new device memory, aligned to 256; None if there is too little."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def allocate_pinned(self, n_bytes: int) -> PinnedArray:
        """Return new page-locked host memory."""
        ...

    def free_pinned(self, array: PinnedArray) -> None:
        """Give page-locked memory back; the array must not be touched afterwards."""
        ...


class Copies(Protocol):
    """Asynchronous copies. A host's side must be pinned, or the copy is not asynchronous."""

    def to_device(self, address: int, source: PinnedArray, stream: Any) -> None:
        """Copy all of a pinned array to the device."""
        ...

    def to_host(self, target: PinnedArray, address: int, stream: Any) -> None:
        """Fill a pinned array from the device."""
        ...

    def within_device(self, target: int, source: int, n_bytes: int, stream: Any) -> None:
        """Copy on the device; the ranges must not overlap."""
        ...


class Streams(Protocol):
    """Queues of work. None is the default stream, which would wait for others."""

    def create_stream(self) -> Any:
        """Return a new stream that does not wait for the default stream."""
        ...

    def stream_handle(self, stream: Any) -> int:
        """Return the ``cudaStream_t`` of a stream, as TensorRT takes it."""
        ...

    def follow(self, stream: Any, foreign: int) -> None:
        """Let what comes next on `stream` wait for what is on the stream `foreign` by now."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream has done all of its work; raises what that work ran into."""
        ...

    def destroy_stream(self, stream: Any) -> None:
        """Give an idle stream back."""
        ...


class Events(Protocol):
    """Marks on a stream, for timing."""

    def create_event(self) -> Any:
        """Return a new event that can tell time."""
        ...

    def record(self, event: Any, stream: Any) -> None:
        """Put a mark behind what is on the stream by now."""
        ...

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks that the stream has passed, in ms."""
        ...

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        ...


class Graphs(Protocol):
    """Work that is recorded once and launched again as a whole."""

    has_graphs: bool

    def begin_capture(self, stream: Any) -> None:
        """Record what this thread puts on the stream from now on, instead of doing it."""
        ...

    def end_capture(self, stream: Any) -> Any:
        """Return the graph that was recorded, ready to launch. Ends a failed capture as well."""
        ...

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a graph on a stream."""
        ...

    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back."""
        ...


class CudaDevice(Memory, Copies, Streams, Events, Graphs, Protocol):
    """One GPU."""

    package: str

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU the calling thread's; TensorRT and every method here want it so."""
        ...

    def close(self) -> None:
        """Let the GPU go; everything that was allocated must have been given back."""
        ...
