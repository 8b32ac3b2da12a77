"""A recording double of the device protocol and of TensorRT's runtime objects. No backend.

It is stricter than a GPU. Work on a stream is kept until somebody waits for the stream, and reads
its inputs then, so that a forgotten wait gives wrong numbers here. Memory in use must not be freed,
nothing twice, no address outside of an allocation. Engines are computed with ONNX Runtime.
"""

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_runtime.errors import BackendError

FIRST_ADDRESS = 0x7F0000000000
DTYPES = {"tensor(uint8)": ("UINT8", np.uint8), "tensor(float)": ("FLOAT", np.float32)}


class Work:
    """Something on a stream: what it touches, and what it does when its time comes."""

    def __init__(self, name: str, touches: list[int], run: Callable[[], None]) -> None:
        self.name, self.touches, self.run = name, touches, run


class RecordingDevice:
    """The device protocol on byte arrays.

    `fail_at` is the number of the call that fails; with `sticky` all after it fail as well, as a
    lost CUDA context does. `memory_bytes` is how much there is.
    """

    package = "double"

    def __init__(self, has_graphs: bool = True, memory_bytes: int = 1 << 30) -> None:
        self.has_graphs, self.memory_bytes = has_graphs, memory_bytes
        self.calls: list[tuple[Any, ...]] = []
        self.n_counted, self.fail_at, self.sticky = 0, -1, False
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.freed: list[int] = []
        self.streams: dict[int, list[Work]] = {}
        self.events: set[str] = set()
        self.graphs: dict[str, list[Work]] = {}
        self.captured: list[Work] | None = None
        self.foreign: dict[int, Callable[[], None]] = {}
        self.n_closed = 0
        self._next = FIRST_ADDRESS
        self._names = iter(range(1, 1 << 20))
        self._thread = threading.local()
        self._users: set[int] = set()

    # what tests ask

    @property
    def used_bytes(self) -> int:
        return sum(map(len, self.blocks.values()))

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]

    def assert_nothing_left(self) -> None:
        assert not self.blocks and not self.pinned, (self.blocks.keys(), self.pinned.keys())
        assert not self.streams and not self.events and not self.graphs
        assert len(self.freed) == len(set(self.freed))
        assert self.captured is None
        assert self.n_closed == 1

    def count(self, name: str, *facts: Any) -> None:
        """Record a call; fail if it is its turn."""
        self.calls.append((name, *facts))
        index = self.n_counted
        self.n_counted += 1
        if index == self.fail_at or (self.sticky and 0 <= self.fail_at < index):
            raise BackendError(f"CUDA's {name} failed: injected")

    # device protocol

    @contextmanager
    def current(self) -> Iterator[None]:
        self.count("current")
        self._thread.depth = getattr(self._thread, "depth", 0) + 1
        assert not self._users - {threading.get_ident()}, "two threads at once"
        self._users.add(threading.get_ident())
        try:
            yield
        finally:
            self._thread.depth -= 1
            if not self._thread.depth:
                self._users.discard(threading.get_ident())

    def close(self) -> None:
        self.n_closed += 1
        self.count("close")

    def allocate(self, n_bytes: int) -> int | None:
        self._enter("allocate", n_bytes)
        assert n_bytes > 0
        if self.used_bytes + n_bytes > self.memory_bytes:
            return None
        address, self._next = self._next, self._next + -(-n_bytes // 256) * 256 + 256
        self.blocks[address] = np.full(n_bytes, 0xA5, np.uint8)
        return address

    def free(self, address: int) -> None:
        assert address not in self.freed, "freed twice"
        assert address in self.blocks, "freed, and never allocated"
        assert not self._in_use(address), "freed while in use"
        self.freed.append(address)  # an attempt counts: nobody tries again
        self._enter("free", address)
        del self.blocks[address]

    def allocate_pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        self._enter("allocate_pinned", n_bytes)
        array = np.full(n_bytes, 0x5A, np.uint8)
        self.pinned[array.ctypes.data] = array
        return array

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        address = array.ctypes.data
        assert address in self.pinned, "freed twice, or a view"
        assert not self._in_use(address), "freed while in use"
        del self.pinned[address]
        self._enter("free_pinned", address)

    def to_device(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        host = self._pinned_block(source)
        target = self._bytes(address, source.nbytes)

        def run() -> None:
            target[:] = source

        self._put("to_device", stream, [self._block_of(address), host], run, address, source.nbytes)

    def to_host(self, target: NDArray[np.uint8], address: int, stream: Any) -> None:
        host = self._pinned_block(target)
        source = self._bytes(address, target.nbytes)

        def run() -> None:
            target[:] = source

        self._put("to_host", stream, [self._block_of(address), host], run, address, target.nbytes)

    def within_device(self, target: int, source: int, n_bytes: int, stream: Any) -> None:
        into, from_ = self._bytes(target, n_bytes), self._bytes(source, n_bytes)

        def run() -> None:
            into[:] = from_

        blocks = [self._block_of(target), self._block_of(source)]
        self._put("within_device", stream, blocks, run, target, source, n_bytes)

    def create_stream(self) -> int:
        self._enter("create_stream")
        stream = next(self._names)
        self.streams[stream] = []
        return stream

    def stream_handle(self, stream: int) -> int:
        return stream

    def follow(self, stream: int, foreign: int) -> None:
        self._put("follow", stream, [], self.foreign.pop(foreign, lambda: None), foreign)

    def synchronize(self, stream: int) -> None:
        self._enter("synchronize", stream)
        self._forbid_capture()
        pending, self.streams[stream] = self.streams[stream], []
        for work in pending:
            work.run()

    def destroy_stream(self, stream: int) -> None:
        # an idle stream: only a failed wait may have left work behind
        assert not self.streams.pop(stream) or self.fail_at >= 0
        self._enter("destroy_stream", stream)

    def create_event(self) -> str:
        self._enter("create_event")
        event = f"event {next(self._names)}"
        self.events.add(event)
        return event

    def record(self, event: str, stream: int) -> None:
        assert event in self.events
        self._put("record", stream, [], lambda: None, event)

    def elapsed_ms(self, start: str, end: str) -> float:
        self._enter("elapsed_ms", start, end)
        return 0.25

    def destroy_event(self, event: str) -> None:
        self.events.remove(event)
        self._enter("destroy_event", event)

    def begin_capture(self, stream: int) -> None:
        self._enter("begin_capture", stream)
        assert self.captured is None and not self.streams[stream]
        self.captured = []

    def end_capture(self, stream: int) -> str:
        captured, self.captured = self.captured, None
        assert captured is not None
        self._enter("end_capture", stream)
        graph = f"graph {next(self._names)}"
        self.graphs[graph] = captured
        return graph

    def launch(self, graph: str, stream: int) -> None:
        works = self.graphs[graph]

        def run() -> None:
            for work in works:
                work.run()

        touched = [block for work in works for block in work.touches]
        self._put("launch", stream, touched, run, graph)

    def destroy_graph(self, graph: str) -> None:
        del self.graphs[graph]
        self._enter("destroy_graph", graph)

    # inside

    def _enter(self, name: str, *facts: Any) -> None:
        if not getattr(self._thread, "depth", 0):
            assert self.fail_at >= 0, f"{name} without a current device"
            raise BackendError(f"CUDA's {name} failed: no current device")
        if name in ("allocate", "free", "allocate_pinned", "free_pinned"):
            self._forbid_capture()
        self.count(name, *facts)

    def _forbid_capture(self) -> None:
        if self.captured is not None:
            raise BackendError("operation not permitted when stream is capturing")

    def _put(
        self, name: str, stream: int, touches: list[int], run: Callable[[], None], *facts: Any
    ) -> None:
        self._enter(name, *facts)
        work = Work(name, touches, run)
        (self.streams[stream] if self.captured is None else self.captured).append(work)

    def enqueue_engine(self, handle: int, name: str, io: dict[str, int], run: Any) -> None:
        touched = [self._block_of(address) for address in io.values()]
        self._put("enqueue", handle, touched, run, name, dict(io))

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._bytes(address, n_bytes).view(dtype).reshape(shape)

    def _block_of(self, address: int) -> int:
        for start, block in self.blocks.items():
            if start <= address < start + len(block):
                return start
        raise AssertionError(f"address {address:#x} is in no allocation")

    def _bytes(self, address: int, n_bytes: int) -> NDArray[np.uint8]:
        start = self._block_of(address)
        offset = address - start
        assert offset + n_bytes <= len(self.blocks[start]), "beyond the allocation"
        assert offset % 256 == 0 or n_bytes % 4 == 0
        return self.blocks[start][offset : offset + n_bytes]

    def _pinned_block(self, array: NDArray[np.uint8]) -> int:
        address = array.ctypes.data
        for start, block in self.pinned.items():
            if start <= address and address + array.nbytes <= start + len(block):
                return start
        raise AssertionError("host memory of an asynchronous copy must be pinned")

    def _in_use(self, block: int) -> bool:
        pending = [work for works in self.streams.values() for work in works]
        return any(block in work.touches for work in pending) and self.fail_at < 0


def _enum(name: str, *members: str) -> Any:
    make: Any = Enum  # the members are not literals, which a checker wants
    return make(name, list(members))


class Record(SimpleNamespace):
    """What the double of TensorRT did and shall do: `gone` in order, `refuse` a call by name."""


def make_tensorrt(device: RecordingDevice, record: Record, version: str = "10.9.0") -> ModuleType:
    """Return a module with the runtime half of TensorRT's Python API, as far as it is used."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.DataType = _enum("DataType", "FLOAT", "HALF", "UINT8")
    trt.TensorIOMode = _enum("TensorIOMode", "NONE", "INPUT", "OUTPUT")
    severity = _enum("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    trt.ILogger = type("ILogger", (), {"Severity": severity})
    trt.CudaGraphStrategy = _enum("CudaGraphStrategy", "DISABLED", "WHOLE_GRAPH_CAPTURE")
    trt.ComputeCapability = _enum("ComputeCapability", "SM86", "SM89")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            device.count("Runtime")
            self.logger = logger
            weakref.finalize(self, record.gone.append, "runtime")

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            device.count("deserialize")
            if record.refuse == "deserialize":
                severity = trt.ILogger.Severity.ERROR
                self.logger.log(severity, "the engine plan file is not compatible")
                return None
            return Engine(content)

    class Engine:
        def __init__(self, content: bytes) -> None:
            self.graph = content.decode().removeprefix("engine of ")
            self.io = _tensors(self.graph)
            self.num_io_tensors = len(self.io)
            weakref.finalize(self, record.gone.append, f"engine {Path(self.graph).stem}")

        def get_tensor_name(self, index: int) -> str:
            return list(self.io)[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.io[name][0]

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[record.dtype or self.io[name][1]]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if self.io[name][2] else trt.TensorIOMode.OUTPUT

        def create_runtime_config(self) -> Any:
            return SimpleNamespace(cuda_graph_strategy=trt.CudaGraphStrategy.DISABLED)

        def create_execution_context(self, config: Any = None) -> Any:
            device.count("create_execution_context", config and config.cuda_graph_strategy.name)
            return None if record.refuse == "context" else Context(self)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.graph, self.io = engine.graph, engine.io
            self.addresses: dict[str, int] = {}
            weakref.finalize(self, record.gone.append, f"context {Path(self.graph).stem}")

        def set_tensor_address(self, name: str, address: int) -> bool:
            device.count("set_tensor_address", name, address)
            shape, dtype, _ = self.io[name]
            device.view(address, shape, np.uint8 if dtype == "UINT8" else np.float32)
            self.addresses[name] = address
            return record.refuse != "set_tensor_address"

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert set(self.addresses) == set(self.io)
            if record.refuse == "execute":
                return False
            name, addresses = Path(self.graph).stem, dict(self.addresses)
            if name.startswith("scorer"):
                assert addresses["best_so_far"] != addresses["best"], "in and out must differ"
            run = functools.partial(_execute, device, self.graph, self.io, addresses)
            device.enqueue_engine(stream_handle, name, addresses, run)
            return True

    trt.Runtime = Runtime
    return trt


@functools.cache
def _session(graph: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _tensors(graph: str) -> dict[str, tuple[tuple[int, ...], str, bool]]:
    session = _session(graph)
    free = 1 if any(tensor.name == "image" for tensor in session.get_inputs()) else 1024
    found = {}
    for is_input, tensors in ((True, session.get_inputs()), (False, session.get_outputs())):
        for tensor in tensors:
            shape = tuple(side if isinstance(side, int) else free for side in tensor.shape)
            found[tensor.name] = (shape, DTYPES[tensor.type][0], is_input)
    return found


def _execute(device: RecordingDevice, graph: str, io: Any, addresses: dict[str, int]) -> None:
    def array(name: str) -> NDArray[Any]:
        shape, dtype, _ = io[name]
        return device.view(addresses[name], shape, np.uint8 if dtype == "UINT8" else np.float32)

    feeds = {name: array(name).copy() for name, (_, _, is_input) in io.items() if is_input}
    outputs = [name for name, (_, _, is_input) in io.items() if not is_input]
    for name, value in zip(outputs, _session(graph).run(outputs, feeds), strict=True):
        array(name)[:] = value
