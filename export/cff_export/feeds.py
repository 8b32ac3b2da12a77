"""What an encoder's graph is fed with: the image, and a condition under its own name."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_runtime.backends.cpu_session import CpuSession


def feeds(
    session: ort.InferenceSession | CpuSession,
    images: NDArray[np.uint8],
    condition: NDArray[np.float32],
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs by name; the condition is the one that is not ``image``.

    Parameters
    ----------
    session : InferenceSession or CpuSession
        Of an encoder.
    images : ndarray of shape (B, H, W, 3), uint8
    condition : ndarray, float32
    """
    (name,) = [given.name for given in session.get_inputs() if given.name != "image"]
    return {"image": images, name: condition}
