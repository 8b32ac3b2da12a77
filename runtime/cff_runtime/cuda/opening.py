"""Choosing between the two packages by what is installed."""

import importlib
import importlib.util

from cff_runtime.cuda.protocol import CudaDevice
from cff_runtime.errors import MissingDependencyError, UsageError

# name -> (module that must be importable, module of ours); the first that is installed is taken
PACKAGES = {
    "cuda-python": ("cuda", "cff_runtime.cuda.cuda_python"),
    "pycuda": ("pycuda", "cff_runtime.cuda.pycuda_device"),
}
AUTOMATIC = "auto"


def open_device(package: str = AUTOMATIC, index: int = 0) -> CudaDevice:
    """Open a GPU through one of `PACKAGES`.

    Parameters
    ----------
    package : {'auto', 'cuda-python', 'pycuda'}
        `auto` takes the first that is installed; there is no fallback when it then fails.
    index : int
        Number of the GPU, as `CUDA_VISIBLE_DEVICES` counts them.

    Raises
    ------
    UsageError
        If there is no package of that name.
    MissingDependencyError
        If it is not installed.
    BackendError
        If CUDA does not start: no driver, no GPU.
    """
    if package not in (AUTOMATIC, *PACKAGES):
        choices = ", ".join((AUTOMATIC, *PACKAGES))
        raise UsageError(f"`cuda` must be one of {choices}, got {package!r}")
    if package == AUTOMATIC:
        package = next((name for name in PACKAGES if _is_installed(name)), "")
    if not package or not _is_installed(package):
        wanted = package or " or ".join(PACKAGES)
        raise MissingDependencyError(
            f"device memory needs the package {wanted}, which is not installed; install "
            "cff-edge[tensorrt-rtx] (cuda-python) or cff-edge[tensorrt] (pycuda) with pip"
        )
    module = importlib.import_module(PACKAGES[package][1])
    device: CudaDevice = module.open_device(index)
    return device


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(PACKAGES[package][0]) is not None
    except ValueError:  # a module without a spec, such as one that is blocked
        return False
