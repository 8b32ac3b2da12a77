"""The two packages behind the device protocol: real signatures where one is installed, no GPU."""

import importlib
import inspect
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cff_runtime.backends import tensorrt_engine
from cff_runtime.cuda import cuda_python, open_device, protocol, pycuda_device
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError

# first line of each function's own text: what NVIDIA's package says that it takes
SIGNATURES = {
    "cudaEventCreateWithFlags": ["flags"],
    "cudaEventDestroy": ["event"],
    "cudaEventElapsedTime": ["start", "end"],
    "cudaEventRecord": ["event", "stream"],
    "cudaFree": ["devPtr"],
    "cudaFreeHost": ["ptr"],
    "cudaGetErrorName": ["error"],
    "cudaGetErrorString": ["error"],
    "cudaGetLastError": [],
    "cudaGraphDestroy": ["graph"],
    "cudaGraphExecDestroy": ["graphExec"],
    "cudaGraphInstantiate": ["graph", "flags"],
    "cudaGraphLaunch": ["graphExec", "stream"],
    "cudaHostAlloc": ["size", "flags"],
    "cudaMalloc": ["size"],
    "cudaMemcpyAsync": ["dst", "src", "count", "kind", "stream"],
    "cudaSetDevice": ["device"],
    "cudaStreamBeginCapture": ["stream", "mode"],
    "cudaStreamCreateWithFlags": ["flags"],
    "cudaStreamDestroy": ["stream"],
    "cudaStreamEndCapture": ["stream"],
    "cudaStreamSynchronize": ["stream"],
    "cudaStreamWaitEvent": ["stream", "event", "flags"],
}


@pytest.fixture
def bindings() -> Any:
    return pytest.importorskip("cuda.bindings.runtime")


def _methods(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if inspect.isfunction(value)}


def _protocol_methods() -> set[str]:
    parts = [protocol.Memory, protocol.Copies, protocol.Streams, protocol.Events, protocol.Graphs]
    return {name for part in parts for name in _methods(part) if not name.startswith("_")}


# names and signatures of the real packages


@pytest.mark.parametrize("name", cuda_python.FUNCTIONS)
def test_cuda_python_has_every_function_as_it_is_called(name: str, bindings: Any) -> None:
    text = getattr(bindings, name).__doc__.strip().splitlines()[0]
    taken = re.fullmatch(rf"{name}\((.*)\).*", text)

    assert taken is not None, text
    arguments = [part.split(":")[0].split()[-1] for part in taken[1].split(",") if part.strip()]
    assert arguments == SIGNATURES[name]


def test_the_functions_that_are_called_are_those_that_are_checked() -> None:
    source = Path(inspect.getfile(cuda_python)).read_text()

    called = set(re.findall(r'_(?:call|answer)\(\s*"(\w+)"', source))

    assert called == set(cuda_python.FUNCTIONS) == set(SIGNATURES)
    assert set(re.findall(r"self\._cuda\.(\w+)", source)) == set(cuda_python.CONSTANTS)


def test_cuda_python_has_every_constant(bindings: Any) -> None:
    for name in cuda_python.CONSTANTS:
        assert hasattr(bindings, name), name
    assert bindings.cudaHostAllocDefault == 0 and bindings.cudaStreamNonBlocking == 1
    assert bindings.cudaEventDefault == 0 and bindings.cudaEventDisableTiming == 2
    for member in ("HostToDevice", "DeviceToHost", "DeviceToDevice"):
        assert hasattr(bindings.cudaMemcpyKind, f"cudaMemcpy{member}")
    assert hasattr(bindings.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert int(bindings.cudaError_t.cudaSuccess) == 0
    assert int(bindings.cudaError_t.cudaErrorMemoryAllocation) == 2
    assert int(bindings.cudaStream_t(0x5500)) == 0x5500


def test_tensorrt_rtx_has_every_name_that_is_used() -> None:
    trt = pytest.importorskip("tensorrt_rtx")

    for used in (tensorrt_engine.USED, tensorrt_engine.USED_OF_RTX):
        for kind, names in used.items():
            for name in names:
                assert hasattr(getattr(trt, kind), name), f"{kind}.{name}"
    assert {"FLOAT", "UINT8"} <= set(trt.DataType.__members__)
    texts = {
        "set_tensor_address": ["name: str", "memory: "],
        "execute_async_v3": ["stream_handle: "],
    }
    for name, parts in texts.items():
        text = getattr(trt.IExecutionContext, name).__doc__
        assert all(part in text for part in parts) and "-> bool" in text
    made = trt.ICudaEngine.create_execution_context.__doc__
    assert re.search(r"runtime_config: [\w.]*IRuntimeConfig", made)
    assert "serialized_engine: " in trt.Runtime.deserialize_cuda_engine.__doc__


def test_what_the_engine_calls_is_what_is_checked() -> None:
    source = Path(inspect.getfile(tensorrt_engine)).read_text()
    used = (tensorrt_engine.USED, tensorrt_engine.USED_OF_RTX)
    listed = {name for kinds in used for names in kinds.values() for name in names}

    called = set(re.findall(r"\b(?:engine|_context|runtime|config)\.(\w+)", source))
    called |= set(re.findall(r"trt\.(?:TensorIOMode|CudaGraphStrategy)\.(\w+)", source))

    ours = {"close", "flavours", "logs"}  # modules and methods of this project
    assert called - ours == listed


def test_both_devices_are_whole() -> None:
    wanted = _protocol_methods()

    for kind in (cuda_python.CudaPythonDevice, pycuda_device.PycudaDevice):
        methods = _methods(kind)
        assert wanted <= methods
        for name in wanted:
            part = next(p for p in protocol.CudaDevice.__mro__ if name in vars(p))
            expected = list(inspect.signature(getattr(part, name)).parameters)
            assert list(inspect.signature(getattr(kind, name)).parameters) == expected
            assert (getattr(kind, name).__doc__ or "").strip(), f"{name} names no manual"


def test_every_real_call_on_a_box_without_a_gpu_is_a_backend_error(bindings: Any) -> None:
    """The packages' own answer: `cudaErrorInsufficientDriver`, no crash and no other exception."""
    if bindings.cudaSetDevice(0)[0] == bindings.cudaError_t.cudaSuccess:
        pytest.skip("this box has a GPU")

    with pytest.raises(BackendError, match=r"CUDA's cudaSetDevice failed: .*cff-run doctor"):
        open_device("cuda-python")


def test_cuda_python_takes_every_argument_as_it_is_given(bindings: Any) -> None:
    """Without a driver a call fails in CUDA and not before: its arguments were taken."""
    if bindings.cudaSetDevice(0)[0] == bindings.cudaError_t.cudaSuccess:
        pytest.skip("this box has a GPU; tests/gpu calls all of it")
    device = object.__new__(cuda_python.CudaPythonDevice)
    pinned = np.zeros(64, np.uint8)
    start = pinned.ctypes.data
    vars(device).update(_cuda=bindings, _index=0, _pinned={start: start})
    stream, event = bindings.cudaStream_t(0), bindings.cudaEvent_t(0)
    graph = bindings.cudaGraphExec_t(0)
    calls: dict[str, Any] = {
        "cudaMalloc": lambda: device.allocate(5),
        "cudaFree": lambda: device.free(0x7000),
        "cudaHostAlloc": lambda: device.allocate_pinned(64),
        "cudaFreeHost": lambda: device.free_pinned(pinned),
        "cudaStreamCreateWithFlags": device.create_stream,
        "cudaStreamSynchronize": lambda: device.synchronize(stream),
        "cudaStreamDestroy": lambda: device.destroy_stream(stream),
        "cudaEventCreateWithFlags": device.create_event,
        "cudaEventElapsedTime": lambda: device.elapsed_ms(event, event),
        "cudaEventDestroy": lambda: device.destroy_event(event),
        "cudaEventRecord": lambda: device.record(event, bindings.cudaStream_t(2)),
        "cudaStreamWaitEvent": lambda: device._call("cudaStreamWaitEvent", stream, event, 0),
        "cudaStreamBeginCapture": lambda: device.begin_capture(stream),
        "cudaStreamEndCapture": lambda: device.end_capture(stream),
        "cudaGraphInstantiate": lambda: device._call(
            "cudaGraphInstantiate", bindings.cudaGraph_t(0), 0
        ),
        "cudaGraphDestroy": lambda: device._call("cudaGraphDestroy", bindings.cudaGraph_t(0)),
        "cudaGraphLaunch": lambda: device.launch(graph, stream),
        "cudaGraphExecDestroy": lambda: device.destroy_graph(graph),
        "cudaSetDevice": lambda: device._call("cudaSetDevice", 0),
    }
    copies = [
        lambda: device.to_device(0x7000, pinned, stream),
        lambda: device.to_host(pinned, 0x7000, stream),
        lambda: device.within_device(0x7000, 0x7100, 32, stream),
    ]
    asked = {"cudaGetErrorName", "cudaGetErrorString", "cudaGetLastError", "cudaMemcpyAsync"}
    assert set(calls) | asked == set(cuda_python.FUNCTIONS)

    for name, call in [*calls.items(), *(("cudaMemcpyAsync", copy) for copy in copies)]:
        with pytest.raises(BackendError, match=rf"CUDA's {name} failed: \w+"):
            call()


# cuda-python against a module with its return values


class Bindings:
    """Answers as cuda-python does: a tuple that starts with a status."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        errors = importlib.import_module("enum").IntEnum(
            "cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorOther": 700}
        )
        self.cudaError_t = errors
        self.answers = {
            "cudaGetErrorName": (errors.cudaSuccess, b"cudaErrorOther"),
            "cudaGetErrorString": (errors.cudaSuccess, b"an illegal memory access"),
            **answers,
        }
        kinds = ("HostToDevice", "DeviceToHost", "DeviceToDevice")
        self.cudaMemcpyKind = SimpleNamespace(**{f"cudaMemcpy{kind}": kind for kind in kinds})
        mode = "cudaStreamCaptureModeThreadLocal"
        self.cudaStreamCaptureMode = SimpleNamespace(**{mode: "thread"})
        self.cudaHostAllocDefault = self.cudaEventDefault = 0
        self.cudaStreamNonBlocking, self.cudaEventDisableTiming = 1, 2
        self.cudaStream_t = lambda handle: ("stream", handle)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self.answers.get(name, (self.cudaError_t.cudaSuccess,))

        return call

    def fail(self, name: str, status: str = "cudaErrorOther") -> None:
        self.answers[name] = (getattr(self.cudaError_t, status), None)


def _device(**answers: Any) -> tuple[Any, Bindings]:
    fake = Bindings(**answers)
    device = cuda_python.CudaPythonDevice(fake, 1)
    assert fake.calls == [("cudaSetDevice", 1)]
    fake.calls.clear()
    return device, fake


def test_memory_is_allocated_and_given_back() -> None:
    host = np.zeros(64, np.uint8)
    device, fake = _device(cudaMalloc=(0, 0x7000), cudaHostAlloc=(0, host.ctypes.data))

    address = device.allocate(512)
    pinned = device.allocate_pinned(64)
    pinned[:] = 7
    device.to_device(address, pinned[:16], "stream")
    device.to_host(pinned, address, "stream")
    device.within_device(0x7100, 0x7000, 32, "stream")
    device.free(address)
    device.free_pinned(pinned)

    start = host.ctypes.data
    assert (host == 7).all() and pinned.shape == (64,) and pinned.dtype == np.uint8
    assert fake.calls == [
        ("cudaMalloc", 512),
        ("cudaHostAlloc", 64, 0),
        ("cudaMemcpyAsync", 0x7000, start, 16, "HostToDevice", "stream"),
        ("cudaMemcpyAsync", start, 0x7000, 64, "DeviceToHost", "stream"),
        ("cudaMemcpyAsync", 0x7100, 0x7000, 32, "DeviceToDevice", "stream"),
        ("cudaFree", 0x7000),
        ("cudaFreeHost", start),
    ]


def test_too_little_memory_is_an_answer_and_its_error_is_cleared() -> None:
    device, fake = _device()
    fake.fail("cudaMalloc", "cudaErrorMemoryAllocation")

    assert device.allocate(1 << 40) is None
    assert fake.calls[-1] == ("cudaGetLastError",)


def test_a_graph_is_kept_and_what_it_was_made_from_is_not() -> None:
    device, fake = _device(cudaStreamEndCapture=(0, "graph"), cudaGraphInstantiate=(0, "exec"))

    device.begin_capture("stream")
    graph = device.end_capture("stream")
    device.launch(graph, "stream")
    device.destroy_graph(graph)

    assert fake.calls == [
        ("cudaStreamBeginCapture", "stream", "thread"),
        ("cudaStreamEndCapture", "stream"),
        ("cudaGraphInstantiate", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "exec", "stream"),
        ("cudaGraphExecDestroy", "exec"),
    ]


def test_a_graph_that_cannot_be_instantiated_is_destroyed() -> None:
    device, fake = _device(cudaStreamEndCapture=(0, "graph"))
    fake.fail("cudaGraphInstantiate")

    with pytest.raises(BackendError, match="CUDA's cudaGraphInstantiate failed"):
        device.end_capture("stream")
    assert ("cudaGraphDestroy", "graph") in fake.calls


@pytest.mark.parametrize("failing", [None, "cudaEventRecord", "cudaStreamWaitEvent"])
def test_a_foreign_stream_is_waited_for_on_the_gpu(failing: str | None) -> None:
    device, fake = _device(cudaEventCreateWithFlags=(0, "event"))
    if failing:
        fake.fail(failing)
        with pytest.raises(BackendError, match=failing):
            device.follow("stream", 2)
    else:
        device.follow("stream", 2)
        assert fake.calls[1:3] == [
            ("cudaEventRecord", "event", ("stream", 2)),
            ("cudaStreamWaitEvent", "stream", "event", 0),
        ]
    assert fake.calls[0] == ("cudaEventCreateWithFlags", 2)
    assert ("cudaEventDestroy", "event") in fake.calls


def test_streams_and_events() -> None:
    device, fake = _device(
        cudaStreamCreateWithFlags=(0, 77),
        cudaEventCreateWithFlags=(0, "event"),
        cudaEventElapsedTime=(0, 1.5),
    )

    stream, event = device.create_stream(), device.create_event()
    device.record(event, stream)
    assert device.elapsed_ms(event, event) == 1.5 and device.stream_handle(stream) == 77
    device.synchronize(stream)
    device.destroy_event(event)
    device.destroy_stream(stream)
    with device.current():
        pass
    device.close()

    names = [call[0] for call in fake.calls]
    assert names == [
        *("cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaEventRecord"),
        *("cudaEventElapsedTime", "cudaStreamSynchronize", "cudaEventDestroy"),
        *("cudaStreamDestroy", "cudaSetDevice"),
    ]
    assert fake.calls[0][1] == 1 and fake.calls[1][1] == 0


def test_a_failed_call_names_itself_and_cudas_reason() -> None:
    device, fake = _device()
    fake.fail("cudaStreamSynchronize")

    with pytest.raises(
        BackendError,
        match=r"cudaStreamSynchronize failed: an illegal memory access \(cudaErrorOther\)",
    ):
        device.synchronize("stream")


def test_a_driver_library_that_does_not_load_is_a_backend_error() -> None:
    """What cuda-python 12.8 does without a driver: RuntimeError instead of a status."""
    fake = Bindings()

    def fail(_: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    vars(fake)["cudaSetDevice"] = fail

    with pytest.raises(BackendError, match="cudaSetDevice failed: Failed to dlopen libcuda"):
        cuda_python.CudaPythonDevice(fake, 0)


def test_the_older_layout_of_cuda_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    older = types.ModuleType("cuda.cudart")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", older)
    assert cuda_python.load_bindings() is older

    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(MissingDependencyError, match=r"cuda-python 12\.6 or newer"):
        cuda_python.load_bindings()


# PyCUDA against a module with the names of its documentation


class Driver:
    """``pycuda.driver`` as far as its reference documents what is used here."""

    class MemoryError(Exception):
        pass

    class Context:
        depth = 0

        @staticmethod
        def pop() -> None:
            Driver.Context.depth -= 1

        @staticmethod
        def synchronize() -> None:
            Driver.calls.append(("Context.synchronize",))

    calls: list[tuple[Any, ...]]

    def __init__(self) -> None:
        Driver.calls = []
        Driver.Context.depth = 0

    def init(self) -> None:
        self.calls.append(("init",))

    def Device(self, index: int) -> Any:  # noqa: N802
        def push() -> None:
            Driver.Context.depth += 1

        context = SimpleNamespace(push=push, detach=lambda: self.calls.append(("detach",)))
        return SimpleNamespace(retain_primary_context=lambda: context)

    def Stream(self, flags: int = 0) -> Any:  # noqa: N802
        return SimpleNamespace(handle=0x66, synchronize=lambda: self.calls.append(("wait", flags)))

    def Event(self) -> Any:  # noqa: N802
        def record(stream: Any) -> None:
            self.calls.append(("record", stream.handle))

        return SimpleNamespace(record=record, time_till=lambda _end: 2.5)

    def mem_alloc(self, n_bytes: int) -> Any:
        if n_bytes > 1000:
            raise Driver.MemoryError("cuMemAlloc failed: out of memory")

        class Allocation:
            def __int__(self) -> int:
                return 0x8000

            def free(self) -> None:
                Driver.calls.append(("free",))

        return Allocation()

    def pagelocked_empty(self, shape: int, dtype: str) -> Any:
        base = SimpleNamespace(free=lambda: self.calls.append(("free pinned",)))
        return SimpleNamespace(base=base, nbytes=np.zeros(shape, dtype).nbytes)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("memcpy_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


def test_pycuda_does_the_same() -> None:
    driver = Driver()
    device = pycuda_device.PycudaDevice(driver, 0)
    with device.current():
        assert Driver.Context.depth == 1
        stream, event = device.create_stream(), device.create_event()
        address = device.allocate(100)
        assert address == 0x8000 and device.stream_handle(stream) == 0x66
        assert device.allocate(2000) is None
        pinned = device.allocate_pinned(64)
        device.to_device(address, pinned, stream)
        device.to_host(pinned, address, stream)
        device.within_device(1, 2, 3, stream)
        device.record(event, stream)
        assert device.elapsed_ms(event, event) == 2.5
        device.follow(stream, 5)
        device.synchronize(stream)
        device.free_pinned(pinned)
        device.free(address)
        device.destroy_event(event)
        device.destroy_stream(stream)
    assert Driver.Context.depth == 0
    device.close()

    assert driver.calls == [
        ("init",),
        ("memcpy_htod_async", 0x8000, pinned, stream),
        ("memcpy_dtoh_async", pinned, 0x8000, stream),
        ("memcpy_dtod_async", 1, 2, 3, stream),
        ("record", 0x66),
        ("Context.synchronize",),
        ("wait", 1),
        ("free pinned",),
        ("free",),
        ("detach",),
    ]


def test_pycuda_leaves_no_context_behind_an_error() -> None:
    device = pycuda_device.PycudaDevice(Driver(), 0)

    with pytest.raises(ValueError, match="inside"), device.current():
        raise ValueError("inside")
    assert Driver.Context.depth == 0


def test_pycuda_has_no_graphs_and_says_so() -> None:
    device = pycuda_device.PycudaDevice(Driver(), 0)

    assert not device.has_graphs
    for call in (device.begin_capture, device.end_capture):
        with pytest.raises(BackendError, match="PyCUDA has no CUDA graphs"):
            call("stream")
    with pytest.raises(BackendError, match="PyCUDA has no CUDA graphs"):
        device.launch(None, "stream")


def test_pycudas_errors_are_backend_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()

    def fail() -> None:
        raise OSError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(driver, "init", fail)

    with pytest.raises(BackendError, match="PyCUDA's init failed: cuInit failed"):
        pycuda_device.PycudaDevice(driver, 0)


# choosing


@pytest.mark.parametrize(
    ("installed", "expected"),
    [(("cuda", "pycuda"), "cuda_python"), (("cuda",), "cuda_python"), (("pycuda",), "pycuda")],
)
def test_the_first_package_that_is_installed_is_taken(
    installed: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name in installed else None
    )
    monkeypatch.setattr(cuda_python, "open_device", lambda index: "cuda_python")
    monkeypatch.setattr(pycuda_device, "open_device", lambda index: "pycuda")

    opened: Any = open_device()
    assert opened == expected


def test_a_package_that_is_not_installed_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name == "cuda" else None
    )
    with pytest.raises(MissingDependencyError, match="needs the package pycuda, which is not"):
        open_device("pycuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs the package cuda-python or pycuda"):
        open_device()


def test_an_unknown_package_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="`cuda` must be one of auto, cuda-python, pycuda"):
        open_device("cupy")


def test_pycuda_that_cannot_load_its_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)

    with pytest.raises(MissingDependencyError, match="`pycuda` cannot be imported"):
        pycuda_device.open_device()
