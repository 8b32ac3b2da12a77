"""Encoding and searching with TensorRT engines; see `cff_runtime.backends.tensorrt`.

How threads, failures and lifetimes go together is said in `cff_runtime.backends.device_stream`.
"""

import atexit
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends.device_buffers import MIB, Buffers
from cff_runtime.backends.device_stream import DeviceStream, Step
from cff_runtime.backends.protocol import Encoding
from cff_runtime.backends.tensorrt_banks import DeviceBank, ResidentBanks
from cff_runtime.backends.tensorrt_encoder import DeviceArray, Encoder
from cff_runtime.backends.tensorrt_engine import (
    TensorRTEngine,
    encoder_tensors,
    make_runtime,
    scorer_tensors,
)
from cff_runtime.backends.tensorrt_gate import ChosenEngines
from cff_runtime.bundle import Bundle
from cff_runtime.cuda import CudaDevice, read_device_image
from cff_runtime.engines.flavours import Flavour
from cff_runtime.engines.key import BANK_ROWS
from cff_runtime.errors import BackendError, UsageError

DEFAULT_MEMORY_MB = 1024
_BELOW_ANY_COSINE = -2.0
_NO_COSINE = 1.5  # or more either way, see `search`


class TensorRTBackend:
    """A bundle's engines on one GPU; may be used from several threads.

    Parameters
    ----------
    bundle : Bundle
    flavour : Flavour
    engines : ChosenEngines
    device : CudaDevice
        Closed with the backend.
    memory_mb : int
    graph : bool

    Raises
    ------
    BackendError, UsageError
        If an engine cannot be opened, there is too little memory or no graph to be had.
        Everything that was taken is given back.
    """

    def __init__(
        self,
        bundle: Bundle,
        flavour: Flavour,
        engines: ChosenEngines,
        device: CudaDevice,
        memory_mb: int = DEFAULT_MEMORY_MB,
        graph: bool = False,
    ) -> None:
        self._title, self._manifest = flavour.title, bundle.manifest
        self._buffers = Buffers(device)
        self._engines: list[TensorRTEngine] = []
        self._runtime: Any = None
        self._stream = DeviceStream(device, flavour.title)
        try:
            with device.current():
                self._open(flavour, engines, graph)
                self._open_banks(memory_mb)
        except BaseException:
            with suppress(BackendError):  # the first reason is the one to tell
                self.close()
            raise
        self._stream.between_calls += [self._banks.free_ended, self._encoder.free_abandoned]
        # TensorRT's objects must go before CUDA does, which ends with the process
        atexit.register(_close, weakref.ref(self))

    def _open(self, flavour: Flavour, engines: ChosenEngines, graph: bool) -> None:
        """Open the engines, and run the encoder once: its first run is slow."""
        device = self._stream.device
        built_in_graph = graph and flavour.name == "tensorrt-rtx"
        record_graph = graph and not built_in_graph
        if record_graph and not device.has_graphs:
            raise UsageError(
                f"`graph` must be off with {device.package}, which has no CUDA graphs; "
                "install cuda-python"
            )
        self._runtime = make_runtime(flavour)
        self._tensors = encoder_tensors(self._manifest)
        path = engines.encoder.path
        encoder = TensorRTEngine(flavour, self._runtime, path, self._tensors, built_in_graph)
        self._engines.append(encoder)
        self._scorers = self._open_scorers(flavour, engines)
        self._encoder = Encoder(self._stream, self._buffers, encoder, record_graph)
        self._encoder.take_slot(self)

    def _open_scorers(self, flavour: Flavour, engines: ChosenEngines) -> list[TensorRTEngine]:
        opened: dict[Any, TensorRTEngine] = {}
        scorers = []
        searched = self._manifest.searched
        for stage, built in zip(searched, engines.scorers, strict=True):
            tensors = scorer_tensors(stage.n_tokens, stage.width, BANK_ROWS)
            if built.path not in opened:
                scorer = TensorRTEngine(flavour, self._runtime, built.path, tensors)
                self._engines.append(scorer)
                opened[built.path] = scorer
            scorers.append(opened[built.path])
        return scorers

    def _open_banks(self, memory_mb: int) -> None:
        """Allocate what a search needs: where it starts, and two vectors [N] to take turns."""
        stages = self._manifest.stages
        widths = {stage.width for stage in stages}
        self._banks = ResidentBanks(self._stream, self._buffers, widths, memory_mb * MIB)
        n_bytes = 4 * max(stage.n_tokens for stage in stages)
        self._start, *self._best = (self._buffers.allocate(n_bytes, "a search") for _ in range(3))
        # on the host, for whatever comes back: cosines [N] or features [N,C]
        self._result = self._buffers.pin(4 * max(s.n_tokens * s.width for s in stages))
        start = self._result[:n_bytes]
        start.view(np.float32)[:] = _BELOW_ANY_COSINE
        self._stream.device.to_device(self._start, start, self._stream.stream)
        self._stream.device.synchronize(self._stream.stream)

    def encode(self, image: NDArray[np.uint8] | Any, condition: NDArray[np.float32]) -> Encoding:
        """Encode an image [H,W,3], uint8, with a condition of the manifest's shape, float32.

        Parameters
        ----------
        image : ndarray, or object with ``__cuda_array_interface__`` of version 3
            On the GPU it is copied within it, once the stream that it names has come so far.
        condition : ndarray

        Raises
        ------
        ImageError
            If an image on the GPU has another dtype, shape or layout.
        BackendError
            If the arrays do not fit or the GPU fails.
        """
        on_gpu = hasattr(image, "__cuda_array_interface__")
        shape: Any = self._tensors["image"].shape[1:]
        staged = read_device_image(image, shape) if on_gpu else self._fitting(image, shape, "uint8")
        manifest = self._manifest
        condition = self._fitting(condition, manifest.condition.shape, "float32")
        with self._stream.working("run the encoder"):
            lease = self._encoder.take_slot(self)
            with self._stream.timed("encode"):
                self._encoder.stage_image(staged)
                self._encoder.stage_condition(manifest.condition.input, condition)
                self._encoder.run(lease.slot)
            encoder_map = self._encoder.read(manifest.map.output)[0]
            name = manifest.score.output
            score = None if name is None else float(self._encoder.read(name)[0])
        stages = range(len(manifest.stages))
        features = tuple(self._encoder.array(f"features_{stage}", lease) for stage in stages)
        return Encoding(features, encoder_map, score)

    def map_on_device(self, encoding: Encoding) -> DeviceArray:
        """Return an encoding's map (1, H, W), float32, where the GPU has it."""
        lease = self._own(encoding.features[0]).lease
        return self._encoder.array(self._manifest.map.output, lease)

    def upload_bank(self, bank: NDArray[np.float32]) -> DeviceBank:
        """Put a memory bank [M_s,C_s] on the device; it leaves when its handle goes.

        Raises
        ------
        BackendError
            If it can never fit into `memory_mb`, or the GPU fails.
        """
        with self._stream.working("upload a bank"):
            return self._banks.add(bank)

    def search(self, stage: int, features: Any, bank: Any) -> NDArray[np.float32]:
        """Return the largest cosine to the bank, [N_s], float32; chunk by chunk on the stream.

        Raises
        ------
        BackendError
            If features and bank do not fit, the GPU fails, or a token has no cosine: TensorRT's
            maximum may drop a NaN, which then shows as the value that a search starts from.
        """
        info, features = self._manifest.stages[stage], self._own(features)
        fits = isinstance(bank, DeviceBank) and bank.owner is self._banks
        if (
            not fits
            or bank.width != info.width
            or features.shape[1:]
            != (
                info.n_tokens,
                info.width,
            )
        ):
            raise BackendError(
                f"{self._title} could not run scorer {stage}: features and bank must be of this "
                f"backend and {info.width} wide, got {getattr(features, 'shape', None)} and "
                f"{getattr(bank, 'width', type(bank).__name__)}"
            )
        with self._stream.working(f"run scorer {stage}"):
            chunks = self._banks.chunks(bank)
            best = self._start
            result = self._result[: 4 * info.n_tokens]
            with self._stream.timed("search"):
                for index, chunk in enumerate(chunks):
                    addresses = {
                        "features": features.address,
                        "bank": chunk,
                        "best_so_far": best,
                        "best": self._best[index % 2],
                    }
                    self._scorers[stage].enqueue(addresses, self._stream.handle)
                    best = addresses["best"]
                self._stream.device.to_host(result, best, self._stream.stream)
            nearest = result.view(np.float32).copy()
        if not (np.abs(nearest) < _NO_COSINE).all():  # NaN fails too
            raise BackendError(
                f"{self._title} gave no cosine for some tokens of stage {stage}: the encoder's "
                "features are not finite; check its precision with `cff-run verify`"
            )
        return nearest

    def download(self, features: Any) -> NDArray[np.float32]:
        """Return features as a float32 array [N_s,C_s] on the host."""
        features = self._own(features)
        _, n_tokens, width = features.shape
        with self._stream.working("download features"):
            result = self._result[: 4 * n_tokens * width]
            self._stream.device.to_host(result, features.address, self._stream.stream)
            self._stream.device.synchronize(self._stream.stream)
            return result.view(np.float32).reshape(n_tokens, width).copy()

    @property
    def times_ms(self) -> dict[str, float]:
        """Time on the GPU of the last `encode` and `search`, between two events."""
        return dict(self._stream.times_ms)

    def require_open(self) -> None:
        """Raise BackendError if the backend was closed."""
        self._stream.require_open()

    def __del__(self) -> None:
        """Close a backend that nobody holds any more."""
        with suppress(Exception):  # at the process's end CUDA may be gone already
            self.close()

    def close(self) -> None:
        """Give everything back; may be called again, and after errors.

        CUDA graphs, then contexts and engines, TensorRT's runtime, memory, events, the stream.

        Raises
        ------
        BackendError
            If something could not be given back on a GPU that works; all else was.
        """
        self._stream.close(self._closing_steps)

    def _closing_steps(self) -> list[Step]:
        graphs = self._encoder.graph_steps() if hasattr(self, "_encoder") else []
        engines = [engine.close for engine in reversed(self._engines)]
        return [*graphs, *engines, self._forget_runtime, *self._buffers.steps()]

    def _forget_runtime(self) -> None:
        self._runtime = None

    def _fitting(self, array: Any, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            got = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
            raise BackendError(
                f"{self._title} could not run the encoder: it takes {dtype} {shape}, got {got}"
            )
        return array

    def _own(self, features: Any) -> DeviceArray:
        if not isinstance(features, DeviceArray) or features.lease.backend is not self:
            raise BackendError("features must be of an encoding of this backend, which is open")
        return features


def _close(reference: "weakref.ref[TensorRTBackend]") -> None:
    """Close a backend that is still there when the process ends."""
    backend = reference()
    if backend is not None:
        with suppress(Exception):  # nobody is left to tell
            backend.close()
