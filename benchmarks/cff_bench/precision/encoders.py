"""The encoders that are timed and weighed: one network in PyTorch and in ONNX Runtime.

Each is a call that takes one image of the network's size, in memory, to features, map and score.
They do the same work on the same image.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.manifest import Manifest
from cff_runtime.verification import golden_condition

EAGER = "pytorch eager fp32"
NOISE_SEED = 0


def onnxruntime_name(precision: str) -> str:
    """Return the name of a bundle's encoder in ONNX Runtime, such as ``onnxruntime int8``."""
    return f"onnxruntime {precision}"


def load_encoder(name: str, bundle: Bundle, threads: int) -> Callable[[], object]:
    """Load an encoder.

    Parameters
    ----------
    name : str
        `EAGER`, the unfolded detector as `cff_edge` runs it, or `onnxruntime_name` of a precision.
    bundle : Bundle
    threads : int
        Of one operator in ONNX Runtime; PyTorch's are a setting of the process.

    Returns
    -------
    callable
        Encodes a seeded noise image.

    Raises
    ------
    UsageError
        If the bundle has no such precision, or its backbone cannot be built in PyTorch.
    BackendError
        If ONNX Runtime cannot load the graph.
    """
    image, condition = noise_pixels(bundle.manifest), golden_condition(bundle)
    if name == EAGER:
        # PyTorch comes with this import: what a graph needs is weighed without it
        from cff_bench.precision.eager import load_eager

        return load_eager(bundle.manifest, image, condition)
    view = bundle.view(name.removeprefix(onnxruntime_name("")))
    backend = open_backend("onnxruntime", view, {"threads": threads})
    return lambda: backend.encode(image, condition)


def noise_pixels(manifest: Manifest) -> NDArray[np.uint8]:
    """Return a seeded noise image [H,W,3], uint8, of the network's size."""
    shape = (manifest.preprocessing.height, manifest.preprocessing.width, 3)
    return np.random.default_rng(NOISE_SEED).integers(0, 256, shape, dtype=np.uint8)
