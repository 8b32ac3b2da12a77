"""The same image must give the same features in every batch size and position."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def batch_position_diff(
    encoder: Path, images: NDArray[np.uint8], text: NDArray[np.float32]
) -> float:
    """Return the largest change of any output of an image between a batch of one and of all.

    Parameters
    ----------
    encoder : Path
        ONNX file.
    images : ndarray of shape (B, H, W, 3), uint8
    text : ndarray of shape (C, 2), float32
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"])
    together = session.run(None, {"image": images, "text": text})
    worst = 0.0
    for position in range(len(images)):
        alone = session.run(None, {"image": images[position : position + 1], "text": text})
        for one, many in zip(alone, together, strict=True):
            diff = np.abs(one[0] - many[position]).max()
            worst = float(np.maximum(worst, diff))  # unlike `max`, it keeps a NaN
    return worst
