"""The encoder's engine and its buffers: inputs that all images share, outputs for each encoding.

An encoding's features stay on the device until nobody holds them: other threads may encode
meanwhile. So outputs come from a pool of *slots*, which grows to as many as are in use at once and
then allocates nothing more. With a CUDA graph every slot has its own, because a graph keeps the
addresses that it was recorded with.

Nothing here locks: see `cff_runtime.backends.device_stream`.
"""

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends.device_buffers import Buffers, aligned
from cff_runtime.backends.device_stream import DeviceStream
from cff_runtime.backends.tensorrt_engine import TensorRTEngine
from cff_runtime.cuda import DeviceImage
from cff_runtime.errors import BackendError


@dataclass(eq=False)
class _Slot:
    """Device memory of one encoding's outputs: name -> address."""

    addresses: dict[str, int]
    graph: Any = None


class Lease:
    """A slot in use; it goes back to the pool when the last array of it goes."""

    def __init__(self, slot: _Slot, free: "deque[_Slot]", backend: Any) -> None:
        self.slot = slot
        self.backend = backend  # lives as long as its arrays
        weakref.finalize(self, free.append, slot)


class DeviceArray:
    """A float32 array in device memory, dense; offers the CUDA Array Interface.

    Attributes
    ----------
    shape : tuple of int
    address : int
    """

    def __init__(self, shape: tuple[int, ...], address: int, lease: Lease) -> None:
        self.shape, self.address, self.lease = shape, address, lease

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. No stream: the backend waited for it. Hold the array while you read it.

        Raises
        ------
        BackendError
            If the backend was closed, which gave the memory back.
        """
        self.lease.backend.require_open()
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }


class Encoder:
    """Runs the encoder's engine.

    Parameters
    ----------
    stream : DeviceStream
    buffers : Buffers
    engine : TensorRTEngine
    record_graph : bool
        Whether every slot gets a CUDA graph.
    """

    def __init__(
        self,
        stream: DeviceStream,
        buffers: Buffers,
        engine: TensorRTEngine,
        record_graph: bool,
    ) -> None:
        self._device, self._stream, self._handle = stream.device, stream.stream, stream.handle
        self._buffers = buffers
        self._engine, self._record_graph = engine, record_graph
        self._outputs = {n: t for n, t in engine.tensors.items() if not t.is_input}
        inputs = {n: t.n_bytes for n, t in engine.tensors.items() if t.is_input}
        self._inputs = {n: buffers.allocate(size, "an image") for n, size in inputs.items()}
        self._host_inputs = {n: buffers.pin(size) for n, size in inputs.items()}
        self._host_outputs = {
            n: buffers.pin(t.n_bytes)
            for n, t in self._outputs.items()
            if not n.startswith("features_")
        }
        self._free: deque[_Slot] = deque()
        self.slots: list[_Slot] = []
        self._abandoned: list[int] = []

    def free_abandoned(self) -> None:
        """Give back what a failed slot left; the stream must be idle."""
        while self._abandoned:
            self._buffers.free(self._abandoned.pop())

    def take_slot(self, backend: Any) -> Lease:
        """Return a free slot; makes one if there is none."""
        try:
            slot = self._free.popleft()
        except IndexError:
            slot = self._make_slot()
        return Lease(slot, self._free, backend)

    def stage_image(self, image: NDArray[np.uint8] | DeviceImage) -> None:
        """Put an image [H,W,3] on the stream: from the host, or within the device."""
        if isinstance(image, DeviceImage):
            if image.stream is not None:
                self._device.follow(self._stream, image.stream)
            n_bytes = self._engine.tensors["image"].n_bytes
            self._device.within_device(self._inputs["image"], image.address, n_bytes, self._stream)
        else:
            self._stage("image", image)

    def stage_condition(self, name: str, condition: NDArray[np.float32]) -> None:
        """Put the condition, which the input `name` takes, on the stream."""
        self._stage(name, condition)

    def run(self, slot: _Slot) -> None:
        """Put the encoder and the copies of its small outputs on the stream."""
        if slot.graph is not None:
            self._device.launch(slot.graph, self._stream)
        else:
            self._enqueue(slot)
        for name, target in self._host_outputs.items():
            self._device.to_host(target, slot.addresses[name], self._stream)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a copy of an output that was copied to the host; the stream must be idle."""
        shape = self._outputs[name].shape
        array: NDArray[np.float32] = self._host_outputs[name].view(np.float32).reshape(shape)
        return array.copy()

    def array(self, name: str, lease: Lease) -> DeviceArray:
        """Return an output that stays on the device."""
        return DeviceArray(self._outputs[name].shape, lease.slot.addresses[name], lease)

    def graph_steps(self) -> list[Callable[[], None]]:
        """Return the calls that give the graphs back, which the engine must outlive."""
        graphs = [slot.graph for slot in self.slots if slot.graph is not None]
        for slot in self.slots:
            slot.graph = None
        return [partial(self._device.destroy_graph, graph) for graph in graphs]

    def _stage(self, name: str, array: NDArray[Any]) -> None:
        pinned = self._host_inputs[name]
        np.copyto(pinned.view(array.dtype).reshape(array.shape), array)
        self._device.to_device(self._inputs[name], pinned, self._stream)

    def _enqueue(self, slot: _Slot) -> None:
        self._engine.enqueue({**self._inputs, **slot.addresses}, self._handle)

    def _make_slot(self) -> _Slot:
        """Allocate outputs in one block and run once, as CUDA graphs want it.

        TensorRT Developer Guide, "CUDA Graphs": enqueue once before capture, so that the context
        has done what it does at its first run only.
        """
        offsets, n_bytes = {}, 0
        for name, tensor in self._outputs.items():
            offsets[name] = n_bytes
            n_bytes += aligned(tensor.n_bytes)
        block = self._buffers.allocate(n_bytes, "the encoder's outputs")
        slot = _Slot({name: block + offset for name, offset in offsets.items()})
        try:
            self._enqueue(slot)
            self._device.synchronize(self._stream)
            if self._record_graph:
                slot.graph = self._capture(slot)
        except BaseException:
            self._abandoned.append(block)  # it may still be written: see `free_abandoned`
            raise
        self.slots.append(slot)
        return slot

    def _capture(self, slot: _Slot) -> Any:
        self._device.begin_capture(self._stream)
        try:
            self._enqueue(slot)
        except BaseException:
            # a stream stays in capture until it is ended, and what was captured is of no use
            with suppress(BackendError):
                self._device.destroy_graph(self._device.end_capture(self._stream))
            raise
        return self._device.end_capture(self._stream)
