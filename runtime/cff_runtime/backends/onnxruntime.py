"""ONNX Runtime, on the CPU or through an execution provider chosen by name.

Run here: CPU. The other providers take the same path (bound buffers on their device); README's
hardware table says which have run.

A bank is searched chunk by chunk, every row in float32. On a CPU chunks are shared out to host
threads, each of which runs the scorer on one core (`cff_runtime.backends.chunk_walkers`); on a
device they follow one another. Doing less work costs more: int8 pre-selection leaves so many pairs
to float32 that comparing these takes longer than comparing all (`cff-bench search` measures it).
For larger banks there is `cff_runtime.coreset`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_runtime.backends.chunk_walkers import ChunkWalkers
from cff_runtime.backends.core_places import CorePlaces
from cff_runtime.backends.cpu_session import session_options
from cff_runtime.backends.onnxruntime_providers import PROVIDERS, Provider, prepare_provider
from cff_runtime.backends.protocol import Encoding
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, UsageError

__all__ = ["PROVIDERS", "OnnxRuntimeBackend", "open_backend"]

CHUNK_ROWS = 1024  # on a device
CPU_CHUNK_ROWS = 512  # few enough to share out, and their cosines stay near the core
MAX_THREADS = 256
_BELOW_ANY_COSINE = -2.0


def open_backend(
    bundle: Bundle,
    provider: str = "cpu",
    threads: int = 0,
    provider_options: Mapping[str, Any] | None = None,
) -> "OnnxRuntimeBackend":
    """Load the bundle's graphs.

    Parameters
    ----------
    bundle : Bundle
    provider : {'cpu', 'cuda', 'tensorrt', 'nv-tensorrt-rtx'}
        Execution provider; there is no fallback to another.
    threads : int
        On the CPU, of one operator of the encoder and of the search; 0 takes what there is.
    provider_options : mapping, optional
        Of the provider, as ONNX Runtime names them; passed on as they are.

    Raises
    ------
    UsageError
        If `provider` or `threads` is none of these, or the provider takes no options.
    BackendError
        If the installed ONNX Runtime has no such provider, does not know an option or cannot load
        a graph.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise UsageError(f"`threads` must be 0 to {MAX_THREADS}, got {threads}")
    return OnnxRuntimeBackend(bundle, prepare_provider(provider, provider_options), threads)


class OnnxRuntimeBackend:
    """A bundle's graphs as ONNX Runtime sessions."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int) -> None:
        manifest = bundle.manifest
        self._device = provider.device
        on_cpu = provider.is_cpu
        self._places = CorePlaces(threads if on_cpu else 1)
        self._encoder = _load(bundle, manifest.encoder, provider, threads, self._places)
        self._chunk_rows = CPU_CHUNK_ROWS if on_cpu else CHUNK_ROWS
        self._walkers: ChunkWalkers[Any, Any] = ChunkWalkers(self._places)
        scorer_threads = 1 if on_cpu else threads
        apart = CorePlaces(1)  # a scorer is run by one thread, wherever that one is
        self._scorers = [
            _load(bundle, name, provider, scorer_threads, apart) for name in manifest.scorers
        ]
        self._feature_names = [f"features_{stage}" for stage in range(len(manifest.stages))]
        self._condition_name, self._map_name = manifest.condition.input, manifest.map.output
        self._score_name = manifest.score.output
        self._start = [
            self._to_device(np.full(stage.n_tokens, _BELOW_ANY_COSINE, np.float32))
            for stage in manifest.searched
        ]

    def encode(self, image: NDArray[np.uint8], condition: NDArray[np.float32]) -> Encoding:
        """Encode an image [H,W,3], uint8, with a condition of the manifest's shape, float32."""
        with _named_errors("the encoder"), self._places.caller():
            binding = self._encoder.io_binding()
            binding.bind_cpu_input("image", np.ascontiguousarray(image)[None])
            binding.bind_cpu_input(self._condition_name, np.ascontiguousarray(condition))
            for name in self._feature_names:
                binding.bind_output(name, self._device)
            binding.bind_output(self._map_name, "cpu")
            if self._score_name is not None:
                binding.bind_output(self._score_name, "cpu")
            self._encoder.run_with_iobinding(binding)
            outputs = binding.get_outputs()
        n_stages = len(self._feature_names)
        score = None if self._score_name is None else float(outputs[n_stages + 1].numpy()[0])
        return Encoding(tuple(outputs[:n_stages]), outputs[n_stages].numpy()[0], score)

    def upload_bank(self, bank: NDArray[np.float32]) -> list[Any]:
        """Put a memory bank [M_s,C_s] on the device in chunks of rows."""
        return [
            self._to_device(np.ascontiguousarray(bank[start : start + self._chunk_rows]))
            for start in range(0, len(bank), self._chunk_rows)
        ]

    def search(self, stage: int, features: Any, bank: Sequence[Any]) -> NDArray[np.float32]:
        """Return the largest cosine to the bank, [N_s], float32; a chunk at a time and thread."""
        scorer = self._scorers[stage]

        def step(best: Any, chunk: Any) -> Any:
            with _named_errors(f"scorer {stage}"):
                binding = scorer.io_binding()
                binding.bind_ortvalue_input("features", features)
                binding.bind_ortvalue_input("bank", chunk)
                binding.bind_ortvalue_input("best_so_far", best)
                binding.bind_output("best", self._device)
                scorer.run_with_iobinding(binding)
                return binding.get_outputs()[0]

        with self._places.caller():
            found = self._walkers.walk(bank, self._start[stage], step)
        # copied, because the memory of an OrtValue may end with it
        results = [best.numpy() for best in found]
        largest: NDArray[np.float32] = np.maximum.reduce(results)  # keeps NaN
        return largest

    def download(self, features: Any) -> NDArray[np.float32]:
        """Return features as a float32 array [N_s,C_s] on the host."""
        array: NDArray[np.float32] = features.numpy()[0]
        return array

    def _to_device(self, array: NDArray[np.float32]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)


@contextlib.contextmanager
def _named_errors(graph: str) -> Iterator[None]:
    """Turn ONNX Runtime's errors, of many kinds and all bare Exceptions, into a BackendError."""
    try:
        yield
    except Exception as error:
        raise BackendError(f"ONNX Runtime could not run {graph}: {error}") from error


def _load(
    bundle: Bundle, name: str, provider: Provider, threads: int, places: CorePlaces
) -> ort.InferenceSession:
    options = session_options(threads, places)
    try:
        session = provider.open_session(str(bundle.file(name)), options)
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise BackendError(f"ONNX Runtime cannot load `{bundle.file(name)}`: {error}") from error
    if session.get_providers()[0] != provider.name:
        raise BackendError(
            f"`{name}` must run on {provider.name}, ONNX Runtime chose "
            f"{session.get_providers()[0]}; check the driver and libraries of this provider"
        )
    return session
