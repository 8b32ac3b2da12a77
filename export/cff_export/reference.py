"""What a bundle must give, computed without it: PyTorch features and a float64 brute force."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cff_edge.detector import Detector
from cff_export.passes.chain import Matrix
from cff_runtime.finishing import LOG_SCALE


@dataclass(frozen=True, eq=False)
class ReferenceEncoding:
    """The unfolded detector's answer for one image.

    Attributes
    ----------
    features : list of S ndarrays of shape (N_s, C), float32
        (N_s, E_s) where the memory bank is raw.
    map : ndarray of shape (H, W), float32
        The encoder's own.
    score : float or None
        The encoder's own, where it has one.
    """

    features: list[NDArray[np.float32]]
    map: NDArray[np.float32]
    score: float | None


def encode_reference(
    detector: Detector, images: Sequence[NDArray[np.uint8]], text: NDArray[np.float32]
) -> list[ReferenceEncoding]:
    """Run the unfolded detector in PyTorch fp32, one preprocessed image [H,W,3] at a time."""
    encodings = []
    with torch.inference_mode():
        for image in images:
            found = detector(torch.tensor(image)[None], torch.tensor(text))
            score = None if found.text_score is None else float(found.text_score[0])
            features = [stage[0].numpy() for stage in found.features]
            encodings.append(ReferenceEncoding(features, found.text_map[0].numpy(), score))
    return encodings


def searched_map(
    encoding: ReferenceEncoding,
    references: Sequence[ReferenceEncoding],
    grids: Sequence[tuple[int, int]],
    weight: float,
    distance: str,
) -> NDArray[np.float64]:
    """Anomaly map [H,W] by brute force in float64, upsampled by PyTorch.

    `weight` is that of the encoder's map, `distance` is ``cosine`` or ``log``, see
    `cff_runtime.finishing`.
    """
    height, width = encoding.map.shape
    total = encoding.map.astype(np.float64) * weight
    for stage, grid in enumerate(grids):
        bank = np.concatenate([r.features[stage] for r in references]).astype(np.float64)
        cosine = encoding.features[stage].astype(np.float64) @ bank.T  # [N_s,M_s]
        plane = 1.0 - cosine.max(axis=1)
        if distance == "log":
            plane = np.log(1.0 + np.maximum(plane, 0.0) / LOG_SCALE)
        up = torch.nn.functional.interpolate(
            torch.from_numpy(plane).view(1, 1, *grid),
            (height, width),
            mode="bilinear",
            align_corners=True,
        )
        total += up[0, 0].numpy()
    return total


def reference_score(
    anomaly_map: NDArray[np.float64], statistic: str, score: float | None, peak_scale: float
) -> float:
    """Image score of a map, in float64: its `statistic`, or half of it with the encoder's own."""
    value = float(anomaly_map.std() if statistic == "std" else anomaly_map.max())
    return value if score is None else 0.5 * (score + peak_scale * value)


def in_basis(
    features: NDArray[np.float32], basis: Matrix | None
) -> tuple[NDArray[np.float32], float]:
    """Express joint features [N_s,C] in a chain's output space [N_s,C_s]; without basis as is.

    Returns
    -------
    ndarray of shape (N_s, C_s), float32
    float
        Largest absolute part of a feature outside that space; rounding only, if the fold is right.
    """
    if basis is None:
        return features, 0.0
    inside = features.astype(np.float64) @ basis
    outside = np.abs(features - inside @ basis.T).max()
    return inside.astype(np.float32), float(outside)
