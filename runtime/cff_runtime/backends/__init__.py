"""Inference backends: one module each, imported when it is opened."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from cff_runtime.backends.protocol import Backend, Encoding
from cff_runtime.bundle import Bundle
from cff_runtime.errors import MissingDependencyError, UsageError

# name -> (module, extra that installs it); each module has open_backend(bundle, **options)
BACKENDS = {
    "onnxruntime": ("cff_runtime.backends.onnxruntime", "cff-edge[cpu] or cff-edge[gpu]"),
}


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
    if name not in BACKENDS:
        raise UsageError(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}")
    module_name, extra = BACKENDS[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MissingDependencyError(
            f"backend `{name}` needs a package that is not installed ({error}); "
            f"install {extra} with pip"
        ) from error
    known = list(inspect.signature(module.open_backend).parameters)[1:]
    for option in options:
        if option not in known:
            raise UsageError(
                f"option of `{name}` must be one of {', '.join(known)}, got {option!r}"
            )
    backend: Backend = module.open_backend(bundle, **options)
    return backend


__all__ = ["BACKENDS", "Backend", "Encoding", "open_backend"]
