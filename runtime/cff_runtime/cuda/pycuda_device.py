"""The device protocol through PyCUDA, for JetPacks that cuda-python has no package for.

PyCUDA wraps the driver API and has no CUDA graphs. Sections named below are those of PyCUDA's
"Device Interface" reference, and of NVIDIA's "CUDA Driver API" behind it. A thread must have the
context on its stack to use it.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cff_runtime.cuda.protocol import PinnedArray
from cff_runtime.errors import BackendError, MissingDependencyError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of the driver API


def open_device(index: int = 0) -> "PycudaDevice":
    """Open a GPU.

    Raises
    ------
    MissingDependencyError
        If PyCUDA, or the driver's library, cannot be loaded.
    BackendError
        If CUDA does not start.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"`pycuda` cannot be imported ({error}); install cff-edge[tensorrt] with pip"
        ) from error
    return PycudaDevice(driver, index)


class PycudaDevice:
    """A GPU through PyCUDA.

    Parameters
    ----------
    driver : module
        ``pycuda.driver``; of no type that a checker knows.
    index : int
    """

    package = "pycuda"
    has_graphs = False

    def __init__(self, driver: Any, index: int) -> None:
        self._driver = driver
        self._allocations: dict[int, Any] = {}
        with _named("init"):
            driver.init()
            # Devices and Contexts, retain_primary_context: the context that TensorRT uses, too
            self._context = driver.Device(index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Devices and Contexts, Context.push and pop (cuCtxPushCurrent, cuCtxPopCurrent)."""
        with _named("Context.push"):
            self._context.push()
        try:
            yield
        finally:
            with _named("Context.pop"):
                self._driver.Context.pop()

    def close(self) -> None:
        """Devices and Contexts, Context.detach (cuDevicePrimaryCtxRelease)."""
        with _named("Context.detach"):
            self._context.detach()

    def allocate(self, n_bytes: int) -> int | None:
        """Global Device Memory, mem_alloc (cuMemAlloc); MemoryError is an answer here."""
        with _named("mem_alloc"):
            try:
                allocation = self._driver.mem_alloc(n_bytes)
            except self._driver.MemoryError:
                return None
        address = int(allocation)
        self._allocations[address] = allocation  # freed when it goes
        return address

    def free(self, address: int) -> None:
        """Global Device Memory, DeviceAllocation.free (cuMemFree)."""
        with _named("DeviceAllocation.free"):
            self._allocations.pop(address).free()

    def allocate_pinned(self, n_bytes: int) -> PinnedArray:
        """Pagelocked Host Memory, pagelocked_empty (cuMemHostAlloc)."""
        with _named("pagelocked_empty"):
            array: PinnedArray = self._driver.pagelocked_empty(n_bytes, "uint8")
            return array

    def free_pinned(self, array: PinnedArray) -> None:
        """Pagelocked Host Memory, HostAllocation.free of the array's base (cuMemFreeHost)."""
        allocation: Any = array.base
        with _named("HostAllocation.free"):
            allocation.free()

    def to_device(self, address: int, source: PinnedArray, stream: Any) -> None:
        """Unstructured Memory Transfers, memcpy_htod_async (cuMemcpyHtoDAsync)."""
        with _named("memcpy_htod_async"):
            self._driver.memcpy_htod_async(address, source, stream)

    def to_host(self, target: PinnedArray, address: int, stream: Any) -> None:
        """Unstructured Memory Transfers, memcpy_dtoh_async (cuMemcpyDtoHAsync)."""
        with _named("memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(target, address, stream)

    def within_device(self, target: int, source: int, n_bytes: int, stream: Any) -> None:
        """Unstructured Memory Transfers, memcpy_dtod_async (cuMemcpyDtoDAsync)."""
        with _named("memcpy_dtod_async"):
            self._driver.memcpy_dtod_async(target, source, n_bytes, stream)

    def create_stream(self) -> Any:
        """Concurrency and Streams, Stream (cuStreamCreate)."""
        with _named("Stream"):
            return self._driver.Stream(_NON_BLOCKING)

    def stream_handle(self, stream: Any) -> int:
        """Concurrency and Streams, Stream.handle."""
        return int(stream.handle)

    def follow(self, stream: Any, foreign: int) -> None:
        """Devices and Contexts, Context.synchronize: PyCUDA cannot name a foreign stream.

        It waits on the host for all streams, which is more than is asked for.
        """
        with _named("Context.synchronize"):
            self._driver.Context.synchronize()

    def synchronize(self, stream: Any) -> None:
        """Concurrency and Streams, Stream.synchronize (cuStreamSynchronize)."""
        with _named("Stream.synchronize"):
            stream.synchronize()

    def destroy_stream(self, stream: Any) -> None:
        """Nothing to call: PyCUDA destroys a stream (cuStreamDestroy) when its object goes."""

    def create_event(self) -> Any:
        """Concurrency and Streams, Event (cuEventCreate)."""
        with _named("Event"):
            return self._driver.Event()

    def record(self, event: Any, stream: Any) -> None:
        """Concurrency and Streams, Event.record (cuEventRecord)."""
        with _named("Event.record"):
            event.record(stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Concurrency and Streams, Event.time_till (cuEventElapsedTime)."""
        with _named("Event.time_till"):
            return float(start.time_till(end))

    def destroy_event(self, event: Any) -> None:
        """Nothing to call: PyCUDA destroys an event (cuEventDestroy) when its object goes."""

    def begin_capture(self, stream: Any) -> None:
        """Not in PyCUDA."""
        raise BackendError("PyCUDA has no CUDA graphs; install cuda-python or leave `graph` off")

    def end_capture(self, stream: Any) -> Any:
        """Not in PyCUDA."""
        raise BackendError("PyCUDA has no CUDA graphs; install cuda-python or leave `graph` off")

    def launch(self, graph: Any, stream: Any) -> None:
        """Not in PyCUDA."""
        raise BackendError("PyCUDA has no CUDA graphs; install cuda-python or leave `graph` off")

    def destroy_graph(self, graph: Any) -> None:
        """Nothing to give back: there are none."""


@contextmanager
def _named(call: str) -> Iterator[None]:
    """Turn PyCUDA's errors, which have no common base that is safe to name, into ours."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"PyCUDA's {call} failed: {error}; check the GPU with `cff-run doctor`"
        ) from error
