"""TensorRT engines directly: encoder and scorers on one stream, banks resident on the device.

Nothing here has run on a GPU yet. Its host side (order of calls, addresses, lifetimes, errors) is
tested against a recording double, its calls against the signatures of the real packages; what has
run where is in `docs/gpu.md`, and `make gpu-evidence` writes it down.
"""

from contextlib import suppress
from pathlib import Path

from cff_runtime.backends.tensorrt_backend import DEFAULT_MEMORY_MB, TensorRTBackend
from cff_runtime.backends.tensorrt_gate import choose_engines, pass_gate
from cff_runtime.bundle import Bundle
from cff_runtime.cuda import open_device
from cff_runtime.engines import ENGINES_FOLDER, EngineSettings, EngineStore
from cff_runtime.engines.flavours import load_flavour
from cff_runtime.engines.gpu import find_gpu
from cff_runtime.errors import BackendError, UsageError

MAX_MEMORY_MB = 1 << 20


def open_backend(
    bundle: Bundle,
    flavour: str = "tensorrt",
    memory_mb: int = DEFAULT_MEMORY_MB,
    graph: bool = False,
    cuda: str = "auto",
    engines: str = "",
    tf32: bool = False,
) -> "TensorRTBackend":
    """Open a bundle's engines on this box's GPU; new ones must pass the gate first.

    Parameters
    ----------
    bundle : Bundle
    flavour : {'tensorrt', 'tensorrt-rtx'}
    memory_mb : int
        Most MiB of the GPU's memory for memory banks.
    graph : bool
        Replay the encoder as a CUDA graph: one launch instead of one per kernel.
    cuda : {'auto', 'cuda-python', 'pycuda'}
        Package for device memory.
    engines : str
        Folder of the engines; ``engines`` in the bundle if empty.
    tf32 : bool
        Take engines built with ``--tf32``.

    Raises
    ------
    UsageError
        If an option is none of these, or the bundle's precision is one for the CPU.
    BackendError
        If there is no GPU, an engine is missing, damaged or of another box, cannot be opened, or
        does not give the golden answers.
    MissingDependencyError
        If TensorRT or a package for device memory is not installed.
    """
    if not 1 <= memory_mb <= MAX_MEMORY_MB:
        raise UsageError(f"`memory_mb` must be 1 to {MAX_MEMORY_MB}, got {memory_mb}")
    settings = EngineSettings(flavour, tf32=tf32)
    loaded = load_flavour(flavour)
    gpu = find_gpu()
    if gpu is None:
        raise BackendError(
            "backend `tensorrt` must have an NVIDIA GPU and its driver, none was found; "
            "see `cff-run doctor`, or choose `--backend onnxruntime`"
        )
    store = EngineStore(Path(engines) if engines else bundle.path / ENGINES_FOLDER)
    chosen = choose_engines(bundle, settings, store, gpu)
    backend = TensorRTBackend(bundle, loaded, chosen, open_device(cuda), memory_mb, graph)
    try:
        if chosen.pending:
            pass_gate(bundle, backend, store, chosen.pending, gpu)
    except BaseException:
        with suppress(BackendError):  # the first reason is the one to tell
            backend.close()
        raise
    return backend
