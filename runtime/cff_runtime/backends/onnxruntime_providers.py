"""Execution providers of ONNX Runtime by name: getting them ready, with no way back to another.

ONNX Runtime's own documents are followed: "Execution Providers" (names and options), `preload_dlls`
of its Python API, "Using a Plugin Execution Provider Library". Run here: `cpu`, and of the others
what they do without a GPU.
"""

import contextlib
import importlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnxruntime as ort

from cff_runtime.errors import BackendError, UsageError

log = logging.getLogger(__name__)

# name -> (provider, device of its buffers)
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "cuda"),
    "nv-tensorrt-rtx": ("NvTensorRTRTXExecutionProvider", "cuda"),
}
# providers that a package of their own brings: module, with get_ep_name() and get_library_path()
PLUG_INS = {"nv-tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx"}
_registered: set[str] = set()


@dataclass(frozen=True)
class Provider:
    """A provider that is ready.

    Attributes
    ----------
    name : str
        Of ONNX Runtime, such as ``CUDAExecutionProvider``.
    device : {'cpu', 'cuda'}
        Where its buffers are. A plug-in's are on the host: the package `onnxruntime` beside it can
        allocate nowhere else.
    options : mapping of str to str
        As given.
    plug_in_devices : tuple
        OrtEpDevice of a plug-in; empty for a provider that ONNX Runtime was built with.
    """

    name: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)
    plug_in_devices: tuple[Any, ...] = ()

    @property
    def is_cpu(self) -> bool:
        """Whether it is ONNX Runtime's own."""
        return self.name == PROVIDERS["cpu"][0]

    def open_session(self, path: str, options: Any) -> Any:
        """Return a session that runs on this provider.

        Raises
        ------
        Exception
            Of ONNX Runtime, of many kinds: among others for an option that it does not know.
        """
        if self.plug_in_devices:
            options.add_provider_for_devices(list(self.plug_in_devices), dict(self.options))
            return ort.InferenceSession(path, options)
        # by default a session that fails prints so and starts again on another provider
        chosen = [(self.name, dict(self.options))] if self.options else [self.name]
        return ort.InferenceSession(path, options, providers=chosen, enable_fallback=0)


def prepare_provider(provider: str, options: Mapping[str, Any] | None = None) -> Provider:
    """Find a provider and load what it needs.

    Parameters
    ----------
    provider : str
        Key of `PROVIDERS`.
    options : mapping, optional
        Of the provider, by ONNX Runtime's names.

    Raises
    ------
    UsageError
        If there is no such provider, or it takes no options.
    BackendError
        If the installed ONNX Runtime does not have it, or its plug-in finds no GPU.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"`provider` must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    name, device = PROVIDERS[provider]
    texts = {str(key): str(value) for key, value in (options or {}).items()}
    if provider == "cpu" and texts:
        raise UsageError(f"provider `cpu` must have no options, got {', '.join(texts)}")
    if name in ort.get_available_providers():
        if device == "cuda":
            preload_libraries()
        return Provider(name, device, texts)
    devices = _plug_in_devices(provider) if provider in PLUG_INS else ()
    if not devices:
        plug_in = PLUG_INS.get(provider, "").replace("_", "-")
        other = f" or {plug_in}" if plug_in else ""
        raise BackendError(
            f"provider `{provider}` must be in the installed ONNX Runtime, which has "
            f"{', '.join(ort.get_available_providers())}; install cff-edge[gpu]{other}, "
            "or choose one"
        )
    return Provider(name, "cpu", texts, devices)


def preload_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where they are installed.

    `preload_dlls` (from 1.21) prints what it does not find; that goes to the log, because stdout
    is for data. What is then really missing shows when the session is opened.
    """
    if not hasattr(ort, "preload_dlls"):
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    if said.getvalue():
        log.debug("ONNX Runtime: %s", said.getvalue().strip())


def _plug_in_devices(provider: str) -> tuple[Any, ...]:
    """Register a plug-in's library, once per process, and return the devices that it found."""
    try:
        plug_in = importlib.import_module(PLUG_INS[provider])
    except ImportError:
        return ()
    if not hasattr(ort, "register_execution_provider_library"):
        raise BackendError(
            f"provider `{provider}` must have ONNX Runtime 1.24 or newer, this is "
            f"{ort.__version__}; install a newer onnxruntime with pip"
        )
    name = plug_in.get_ep_name()
    try:
        if provider not in _registered:
            ort.register_execution_provider_library(name, plug_in.get_library_path())
            _registered.add(provider)
        devices = tuple(device for device in ort.get_ep_devices() if device.ep_name == name)
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise BackendError(
            f"the library of provider `{provider}` must load, and does not: {error}; "
            "check the driver with `cff-run doctor`"
        ) from error
    if not devices:
        raise BackendError(
            f"provider `{provider}` must find a GPU that it supports, it finds none; "
            "see `cff-run doctor`"
        )
    return devices
