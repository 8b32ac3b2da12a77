"""The same image must give the same features in every batch size and position."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_export.feeds import feeds

BATCH_SIZES = (2, 3, 4)
# rounding, with room; an image that sees its neighbours changes a hundred times as much
MAX_BATCH_DIFF = 1e-4


def batch_position_diff(
    encoder: Path,
    images: NDArray[np.uint8],
    condition: NDArray[np.float32],
    sizes: Sequence[int] = BATCH_SIZES,
    relative: bool = False,
) -> float:
    """Return the largest change of any output of an image between a batch of one and larger ones.

    Every batch starts at another image, so that an image stands in several positions.

    Parameters
    ----------
    encoder : Path
        ONNX file.
    images : ndarray of shape (n, H, W, 3), uint8
        As many as the largest batch, or more; as many as that are used.
    condition : ndarray, float32
        The encoder's second input.
    sizes : sequence of int
        Batches, ascending.
    relative : bool
        Tell the change of an output that goes beyond 1 as a share of its largest value: what a
        reduced precision rounds off grows with the values, and not all features have unit length.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"])
    images = images[: max(sizes)]
    alone = [session.run(None, feeds(session, image[None], condition)) for image in images]
    largest = [max(1.0, *(float(np.abs(a[i]).max()) for a in alone)) for i in range(len(alone[0]))]
    scales = largest if relative else [1.0] * len(largest)
    worst = 0.0
    for size in sizes:
        members = [(size + position) % len(images) for position in range(size)]
        together = session.run(None, feeds(session, images[members], condition))
        for position, member in enumerate(members):
            for one, many, scale in zip(alone[member], together, scales, strict=True):
                diff = np.abs(one[0] - many[position]).max() / scale
                worst = float(np.maximum(worst, diff))  # unlike `max`, it keeps a NaN
    return worst
