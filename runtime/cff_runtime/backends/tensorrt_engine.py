"""One TensorRT engine, opened: its tensors checked, its context, its work put on a stream.

Sections named below are of NVIDIA's "TensorRT Developer Guide", chapter "Python API", part
"Performing Inference", and of its Python API reference (`IExecutionContext`, `ICudaEngine`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.engines.flavours import Flavour
from cff_runtime.engines.logs import collected_log, summarize
from cff_runtime.errors import BackendError
from cff_runtime.manifest import Manifest

# attributes of TensorRT's classes that are used here; a test holds them against the real package
USED = {
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": ("execute_async_v3", "set_tensor_address"),
    "TensorIOMode": ("INPUT",),
}
# of TensorRT-RTX alone
USED_OF_RTX = {
    "ICudaEngine": ("create_runtime_config",),
    "IRuntimeConfig": ("cuda_graph_strategy",),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
}
_ITEM_BYTES = {"UINT8": 1, "FLOAT": 4}


@dataclass(frozen=True)
class Tensor:
    """What an engine's tensor must be.

    Attributes
    ----------
    shape : tuple of int
    dtype : {'UINT8', 'FLOAT'}
    is_input : bool
    """

    shape: tuple[int, ...]
    dtype: str
    is_input: bool

    @property
    def n_bytes(self) -> int:
        """Of a dense array."""
        n_items = 1
        for side in self.shape:
            n_items *= side
        return n_items * _ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.dtype} {self.shape}"


def encoder_tensors(manifest: Manifest) -> dict[str, Tensor]:
    """Return the tensors of a bundle's encoder for one image."""
    height, width = manifest.preprocessing.height, manifest.preprocessing.width
    tensors = {
        "image": Tensor((1, height, width, 3), "UINT8", True),
        manifest.condition.input: Tensor(manifest.condition.shape, "FLOAT", True),
    }
    for stage, info in enumerate(manifest.stages):
        tensors[f"features_{stage}"] = Tensor((1, info.n_tokens, info.width), "FLOAT", False)
    tensors[manifest.map.output] = Tensor((1, height, width), "FLOAT", False)
    if manifest.score.output is not None:
        tensors[manifest.score.output] = Tensor((1,), "FLOAT", False)
    return tensors


def scorer_tensors(n_tokens: int, width: int, chunk_rows: int) -> dict[str, Tensor]:
    """Return the tensors of a scorer for chunks of so many rows."""
    return {
        "features": Tensor((1, n_tokens, width), "FLOAT", True),
        "bank": Tensor((chunk_rows, width), "FLOAT", True),
        "best_so_far": Tensor((n_tokens,), "FLOAT", True),
        "best": Tensor((n_tokens,), "FLOAT", False),
    }


class TensorRTEngine:
    """An engine with one execution context, for one stream.

    Parameters
    ----------
    flavour : Flavour
    runtime : trt.Runtime
    path : Path
    tensors : mapping of str to Tensor
        What it must have, no more and no less.
    built_in_graph : bool
        Whether TensorRT-RTX shall make and replay a CUDA graph by itself.

    Raises
    ------
    BackendError
        If it cannot be opened or has other tensors.
    """

    def __init__(
        self,
        flavour: Flavour,
        runtime: Any,
        path: Path,
        tensors: Mapping[str, Tensor],
        built_in_graph: bool = False,
    ) -> None:
        self._addresses: dict[str, int] = {}
        self.tensors = tensors
        with _said_by_tensorrt(flavour, f"open `{path}`"):
            # Deserializing an Engine: it may be opened by the version that built it alone
            self._engine: Any = runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise BackendError("it is refused")
            _require_tensors(flavour.trt, self._engine, tensors)
            self._context = _make_context(flavour.trt, self._engine, built_in_graph)
            if self._context is None:
                raise BackendError("no execution context, which is how it says out of memory")

    def enqueue(self, addresses: Mapping[str, int], stream_handle: int) -> None:
        """Put one run on a stream; the addresses may be set anew right after.

        IExecutionContext.set_tensor_address for every tensor, then execute_async_v3 (enqueueV3).
        What the addresses point to must stay until the stream has come past it.

        Raises
        ------
        BackendError
            If TensorRT refuses. It says why in its log, at level DEBUG of `logging`.
        """
        for name, address in addresses.items():
            if self._addresses.get(name) == address:
                continue
            self._addresses.pop(name, None)
            if not self._context.set_tensor_address(name, address):
                raise BackendError(f"`set_tensor_address` of `{name}` was refused")
            self._addresses[name] = address
        if not self._context.execute_async_v3(stream_handle):
            raise BackendError("`execute_async_v3` was refused; the log at level DEBUG says why")

    def close(self) -> None:
        """Let the context go, then the engine, which must outlive it; the stream must be idle."""
        self._context = None
        self._engine = None


def _make_context(trt: Any, engine: Any, built_in_graph: bool) -> Any:
    """ICudaEngine.create_execution_context; of TensorRT-RTX, with "Built-in CUDA Graphs"."""
    if not built_in_graph:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def _require_tensors(trt: Any, engine: Any, tensors: Mapping[str, Tensor]) -> None:
    """ICudaEngine.num_io_tensors, get_tensor_name, _shape, _dtype and _mode."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if sorted(names) != sorted(tensors):
        raise BackendError(
            f"it must have the tensors {', '.join(sorted(tensors))}, got {', '.join(sorted(names))}"
        )
    for name, wanted in tensors.items():
        found = Tensor(
            tuple(engine.get_tensor_shape(name)),
            engine.get_tensor_dtype(name).name,
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        )
        if found != wanted:
            raise BackendError(f"`{name}` must be {wanted}, it is {found}")


@contextlib.contextmanager
def _said_by_tensorrt(flavour: Flavour, what: str) -> Iterator[None]:
    """Add what TensorRT logs meanwhile to an error."""
    with collected_log(flavour) as build_log:
        try:
            yield
        except Exception as error:  # pybind11 turns C++'s exceptions into several kinds
            said = summarize(build_log.errors)
            raise BackendError(
                f"{flavour.title} could not {what}: {error}{f' ({said})' if said else ''}; "
                f"build it again with `cff-run engine BUNDLE --flavour {flavour.name} --rebuild`"
            ) from error


def make_runtime(flavour: Flavour) -> Any:
    """Return TensorRT's runtime, which must outlive its engines.

    Raises
    ------
    BackendError
        If it does not start.
    """
    with collected_log(flavour) as build_log:
        try:
            return flavour.trt.Runtime(build_log.logger)
        except Exception as error:  # a null pointer comes as TypeError
            reason = summarize(build_log.errors) or str(error)
            raise BackendError(
                f"{flavour.title} cannot start: {reason}; check the driver of the GPU"
            ) from error
