"""The device protocol through cuda-python: ``cuda.bindings.runtime``, CUDA 12 and 13.

cuda-python 12.6 to 12.9 has the module under that name and as ``cuda.cudart``; 13 has the first
alone. Sections named below are chapters of NVIDIA's "CUDA Runtime API" reference. Every function
returns a tuple whose first entry is a ``cudaError_t``.
"""

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cff_runtime.cuda.protocol import PinnedArray
from cff_runtime.errors import BackendError, MissingDependencyError

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
# every function and constant that is used here; a test holds them against the installed package
FUNCTIONS = (
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventRecord",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetErrorName",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaHostAlloc",
    "cudaMalloc",
    "cudaMemcpyAsync",
    "cudaSetDevice",
    "cudaStreamBeginCapture",
    "cudaStreamCreateWithFlags",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
)
CONSTANTS = (
    "cudaError_t",
    "cudaEventDefault",
    "cudaEventDisableTiming",
    "cudaHostAllocDefault",
    "cudaMemcpyKind",
    "cudaStreamCaptureMode",
    "cudaStreamNonBlocking",
    "cudaStream_t",
)


def load_bindings() -> Any:
    """Import the bindings of the CUDA runtime.

    Raises
    ------
    MissingDependencyError
        If neither layout of cuda-python is there.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = error
    raise MissingDependencyError(
        f"`cuda-python` must have one of the modules {', '.join(_MODULES)} ({reason}); "
        "install cuda-python 12.6 or newer with pip"
    )


def open_device(index: int = 0) -> "CudaPythonDevice":
    """Open a GPU.

    Raises
    ------
    BackendError
        If CUDA does not start.
    """
    return CudaPythonDevice(load_bindings(), index)


class CudaPythonDevice:
    """A GPU through cuda-python.

    Parameters
    ----------
    bindings : module
        As from `load_bindings`; of no type that a checker knows.
    index : int
    """

    package = "cuda-python"
    has_graphs = True

    def __init__(self, bindings: Any, index: int) -> None:
        self._cuda = bindings
        self._index = index
        self._pinned: dict[int, int] = {}
        self._call("cudaSetDevice", index)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Device Management, cudaSetDevice: the current device is a fact of the host thread."""
        self._call("cudaSetDevice", self._index)
        yield

    def close(self) -> None:
        """Leave the primary context to the process, which may use it elsewhere."""

    # Memory Management

    def allocate(self, n_bytes: int) -> int | None:
        """Memory Management, cudaMalloc: aligned for any type, 256 bytes in the C++ guide.

        cudaErrorMemoryAllocation is an answer here. It is not sticky; cudaGetLastError (Error
        Handling) clears it, so that a later call does not report it again.
        """
        errors = self._cuda.cudaError_t
        status, address = self._answer("cudaMalloc", n_bytes)
        if status == errors.cudaErrorMemoryAllocation:
            self._answer("cudaGetLastError")
            return None
        self._check("cudaMalloc", status)
        return int(address)

    def free(self, address: int) -> None:
        """Memory Management, cudaFree."""
        self._call("cudaFree", address)

    def allocate_pinned(self, n_bytes: int) -> PinnedArray:
        """Memory Management, cudaHostAlloc with cudaHostAllocDefault."""
        address = int(self._call("cudaHostAlloc", n_bytes, self._cuda.cudaHostAllocDefault))
        block = (ctypes.c_uint8 * n_bytes).from_address(address)
        array: PinnedArray = np.ctypeslib.as_array(block)
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: PinnedArray) -> None:
        """Memory Management, cudaFreeHost."""
        self._call("cudaFreeHost", self._pinned.pop(array.ctypes.data))

    def to_device(self, address: int, source: PinnedArray, stream: Any) -> None:
        """Memory Management, cudaMemcpyAsync; asynchronous as the host's side is page-locked."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: PinnedArray, address: int, stream: Any) -> None:
        """Memory Management, cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def within_device(self, target: int, source: int, n_bytes: int, stream: Any) -> None:
        """Memory Management, cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, n_bytes, kind, stream)

    # Stream Management

    def create_stream(self) -> Any:
        """Stream Management, cudaStreamCreateWithFlags with cudaStreamNonBlocking."""
        return self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    def stream_handle(self, stream: Any) -> int:
        """``cudaStream_t`` as an integer."""
        return int(stream)

    def follow(self, stream: Any, foreign: int) -> None:
        """Event Management, cudaEventRecord; Stream Management, cudaStreamWaitEvent.

        The event may be destroyed at once: cudaEventDestroy lets what waits for it go on. 1 and 2
        are the legacy and the per-thread default stream (API synchronization behavior).
        """
        event = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDisableTiming)
        try:
            self._call("cudaEventRecord", event, self._cuda.cudaStream_t(foreign))
            self._call("cudaStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cudaEventDestroy", event)

    def synchronize(self, stream: Any) -> None:
        """Stream Management, cudaStreamSynchronize; gives errors of earlier launches as well."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: Any) -> None:
        """Stream Management, cudaStreamDestroy."""
        self._call("cudaStreamDestroy", stream)

    # Event Management

    def create_event(self) -> Any:
        """Event Management, cudaEventCreateWithFlags with cudaEventDefault, which has timing."""
        return self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDefault)

    def record(self, event: Any, stream: Any) -> None:
        """Event Management, cudaEventRecord."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Event Management, cudaEventElapsedTime; resolution about half a microsecond."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """Event Management, cudaEventDestroy."""
        self._call("cudaEventDestroy", event)

    # Graph Management

    def begin_capture(self, stream: Any) -> None:
        """Stream Management, cudaStreamBeginCapture, thread-local.

        In the global mode any other thread's cudaMalloc would fail meanwhile.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """Stream Management, cudaStreamEndCapture; Graph Management, cudaGraphInstantiate.

        The executable graph does not need the graph that it was made from (cudaGraphDestroy).
        """
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Graph Management, cudaGraphLaunch."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Graph Management, cudaGraphExecDestroy."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, value = self._answer(name, *arguments)
        self._check(name, status)
        return value

    def _answer(self, name: str, *arguments: Any) -> tuple[Any, Any]:
        """Return the status and, where there is one, the value of a call."""
        try:
            answer = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # 12.x, where the driver's library cannot be loaded
            raise BackendError(
                f"CUDA's {name} failed: {error}; check the driver with `cff-run doctor`"
            ) from error
        return answer[0], answer[1] if len(answer) > 1 else None

    def _check(self, name: str, status: Any) -> None:
        """Error Handling, cudaGetErrorName and cudaGetErrorString."""
        if status == self._cuda.cudaError_t.cudaSuccess:
            return
        kind = _text(self._answer("cudaGetErrorName", status)[1])
        reason = _text(self._answer("cudaGetErrorString", status)[1])
        raise BackendError(
            f"CUDA's {name} failed: {reason} ({kind}); check the GPU with `cff-run doctor`"
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
