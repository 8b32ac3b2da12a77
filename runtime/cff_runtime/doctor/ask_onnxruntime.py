"""Print as JSON what the installed ONNX Runtime can do. Run in a process of its own: see `Box.ask`.

ONNX Runtime lists the providers that it was built with, also where their libraries are missing. So
each provider's library is loaded here, and what the loader says is kept.
"""

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

_LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
    "nv-tensorrt-rtx": "libonnxruntime_providers_nv_tensorrt_rtx.so",
}
# of NVIDIA's packages: what these libraries link, and what TensorRT's provider links
_WANTED = ("libcu", "libnvrtc", "libnvJitLink", "libnvinfer", "libnvonnxparser")
_FOLDERS = ("nvidia/*/lib/*.so*", "nvidia/*/*/lib/*.so*", "tensorrt_libs/*.so*")


def main() -> None:
    """Import ONNX Runtime and load the libraries of its providers."""
    try:
        module = importlib.import_module("onnxruntime")
        providers = list(module.get_available_providers())
        folder = Path(module.__file__ or "").parent / "capi"
        version = str(module.__version__)
    except Exception as error:  # a broken install raises anything
        answer: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"[:300]}
    else:
        answer = {
            "version": version,
            "providers": providers,
            "load_errors": _load_errors(folder),
            "library_folders": _library_folders(folder.parent.parent),
        }
    sys.stdout.write(json.dumps(answer))


def _load_errors(folder: Path) -> dict[str, str]:
    """Return what the loader says of each provider's library; "" if it loads."""
    answers = {}
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return {}  # a build without provider libraries
    for name, library in _LIBRARIES.items():
        if not (folder / library).is_file():
            continue
        try:
            ctypes.CDLL(str(folder / library))
            answers[name] = ""
        except OSError as error:
            answers[name] = str(error).replace(str(folder) + "/", "")
    return answers


def _library_folders(packages: Path) -> dict[str, str]:
    """Return library name -> folder, of NVIDIA's packages beside ONNX Runtime."""
    return {
        path.name: str(path.parent)
        for pattern in _FOLDERS
        for path in sorted(packages.glob(pattern))
        if path.name.startswith(_WANTED)
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must hide no others
    main()
