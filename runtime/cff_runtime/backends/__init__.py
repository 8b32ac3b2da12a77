"""Inference backends: one module each, imported when it is opened."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from cff_runtime.backends.protocol import Backend, Encoding
from cff_runtime.bundle import Bundle
from cff_runtime.errors import MissingDependencyError, UsageError

DEFAULT_BACKEND = "onnxruntime"
# name -> (module, extra that installs it); each module has open_backend(bundle, **options).
# Run here: `onnxruntime` on the CPU. `tensorrt` has not run on a GPU: see `docs/gpu.md`.
BACKENDS = {
    "onnxruntime": ("cff_runtime.backends.onnxruntime", "cff-edge[cpu] or cff-edge[gpu]"),
    "tensorrt": (
        "cff_runtime.backends.tensorrt",
        "cff-edge[tensorrt] or cff-edge[tensorrt-rtx]",
    ),
}
BACKEND_HELP = (
    "onnxruntime (default), or tensorrt: engines of `cff-run engine`, not yet run on a GPU"
)


def open_backend(name: str, bundle: Bundle, options: Mapping[str, Any]) -> Backend:
    """Open a bundle's graphs with the backend of that name.

    Raises
    ------
    UsageError
        If the name or an option is unknown.
    BackendError
        If the backend cannot run the bundle.
    MissingDependencyError
        If the backend's package is not installed.
    """
    module = _load(name)
    known = backend_options(name)
    for option in options:
        if option not in known:
            raise UsageError(
                f"option of `{name}` must be one of {', '.join(known)}, got {option!r}"
            )
    backend: Backend = module.open_backend(bundle, **options)
    return backend


def backend_options(name: str) -> dict[str, Any]:
    """Return the options of a backend and their defaults.

    Raises
    ------
    UsageError
        If there is no backend of that name.
    MissingDependencyError
        If its package is not installed.
    """
    parameters = list(inspect.signature(_load(name).open_backend).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def require_backend(name: str) -> None:
    """Check a backend's name; its package need not be installed.

    Raises
    ------
    UsageError
        If there is no backend of that name.
    """
    if name not in BACKENDS:
        raise UsageError(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}")


def _load(name: str) -> Any:
    require_backend(name)
    module_name, extra = BACKENDS[name]
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise MissingDependencyError(
            f"backend `{name}` needs a package that is not installed ({error}); "
            f"install {extra} with pip"
        ) from error


__all__ = [
    "BACKENDS",
    "BACKEND_HELP",
    "DEFAULT_BACKEND",
    "Backend",
    "Encoding",
    "backend_options",
    "open_backend",
    "require_backend",
]
