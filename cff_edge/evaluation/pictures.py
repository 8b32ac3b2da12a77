"""Pictures of a cell for the page: part, mask, and heat map on the cell's one colour scale."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_edge.datasets import Sample, load_mask
from cff_runtime.errors import StorageError
from cff_runtime.imaging import load_image
from cff_runtime.overlay import heat_map

N_PICTURES = 6
_SIDE_PX = 256  # of the longer side, at most
_OPACITY = 0.7
_HIGH_QUANTILE = 0.995


def draw_pictures(
    method: str, samples: Sequence[Sample], maps: NDArray[np.float32]
) -> dict[str, bytes]:
    """Draw up to six test images, good ones and defects of every kind.

    Colours mean the same in all pictures of a cell: the scale goes from the median of all maps to
    their 99.5th percentile, never by image, so that a good part stays dark beside a defective one.

    Parameters
    ----------
    method : str
    samples : sequence of n Sample
        All test images of the cell.
    maps : ndarray of shape (n, H, W), float32

    Returns
    -------
    dict of str to bytes
        PNG data by file name, ``<index>_input.png``, ``<index>_mask.png``,
        ``<index>_<method>.png``, where the index counts the cell's test images from 0.
    """
    low, high = (float(value) for value in np.quantile(maps, (0.5, _HIGH_QUANTILE)))
    pictures = {}
    for index in choose_images([sample.defect for sample in samples]):
        image = load_image(samples[index].path)
        scale = min(1.0, _SIDE_PX / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        part = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        mask = load_mask(samples[index], size[1], size[0]).astype(np.uint8) * 255
        values = np.asarray(cv2.resize(maps[index], size), np.float32)
        pictures[f"{index}_input.png"] = _png(part)
        pictures[f"{index}_mask.png"] = _png(mask)
        pictures[f"{index}_{method}.png"] = _png(_blend(part, values, (low, high)))
    return pictures


def choose_images(defects: Sequence[str]) -> list[int]:
    """Choose up to six images by turns from the kinds of defect, good ones first; sorted."""
    by_kind = defaultdict(list)
    for index, defect in enumerate(defects):
        by_kind[defect].append(index)
    kinds = sorted(by_kind, key=lambda kind: (kind != "good", kind))
    turns = chain.from_iterable(zip_longest(*(by_kind[kind] for kind in kinds)))
    return sorted([index for index in turns if index is not None][:N_PICTURES])


def _blend(
    part: NDArray[np.uint8], values: NDArray[np.float32], scale: tuple[float, float]
) -> NDArray[np.uint8]:
    """Lay the heat map over the part in grey, so that all colour is the map's."""
    grey = np.repeat(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    return np.asarray(cv2.addWeighted(grey, 1.0 - _OPACITY, heat_map(values, scale), _OPACITY, 0.0))


def _png(image: NDArray[np.uint8]) -> bytes:
    ok, data = cv2.imencode(".png", image if image.ndim == 2 else image[:, :, ::-1])
    if not ok:
        raise StorageError(f"a picture of shape {image.shape} could not be encoded as PNG")
    return data.tobytes()
