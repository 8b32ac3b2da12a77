"""Every image encoded once, and its distances to each good part alone.

The nearest row of the memory bank of several references is the nearest over the references, so that
the cosines to each good part alone tell the map of an image under any choice of references:

nearest(image, {a, b}) = max(nearest(image, {a}), nearest(image, {b}))      per token, exact

Encoding dominates; repeated draws cost only maxima and maps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding
from cff_runtime.finishing import fuse_maps
from cff_runtime.manifest import Manifest
from cff_runtime.thresholds import N_AUGMENTATIONS, augmentations, without_border


@dataclass(frozen=True, eq=False)
class Probe:
    """An image against every good part alone.

    Attributes
    ----------
    nearest : ndarray of shape (n_good, sum of N_s), float32
        Largest cosine to the tokens of each good part, stage after stage.
    text_map : ndarray of shape (H, W), float32
    text_score : float or None
    """

    nearest: NDArray[np.float32]
    text_map: NDArray[np.float32]
    text_score: float | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """All images that a curve is drawn from.

    Attributes
    ----------
    good : tuple of Probe
        The good parts, n of them; each may be a reference or held out.
    augmented : tuple of tuple of Probe
        Augmentations of each good part, for the threshold.
    defective : tuple of Probe
    """

    manifest: Manifest
    good: tuple[Probe, ...]
    augmented: tuple[tuple[Probe, ...], ...]
    defective: tuple[Probe, ...]

    def peak(self, probe: Probe, references: Sequence[int], is_augmented: bool = False) -> float:
        """Return the maximum of the map of an image against some good parts as references."""
        stages = self.manifest.stages
        best = probe.nearest[list(references)].max(axis=0)
        ends = np.cumsum([stage.n_tokens for stage in stages])
        anomaly_map = fuse_maps(
            np.split(best, ends[:-1]),
            [stage.grid for stage in stages],
            probe.text_map,
            self.manifest.text.weight,
            self.manifest.distance,
        )
        return float((without_border(anomaly_map) if is_augmented else anomaly_map).max())


def n_encodings(n_good: int, n_defective: int) -> int:
    """Return how many images are encoded, augmentations among them."""
    return n_good * (1 + N_AUGMENTATIONS) + n_defective


def build_gallery(
    backend: Backend,
    manifest: Manifest,
    good: Sequence[NDArray[np.uint8]],
    defective: Iterable[NDArray[np.uint8]],
    text: NDArray[np.float32],
    encoded: Callable[[], None] = lambda: None,
) -> Gallery:
    """Encode every image once and search it in each good part.

    Parameters
    ----------
    backend : Backend
    manifest : Manifest
    good : sequence of n ndarrays of shape (H, W, 3), uint8
        Preprocessed good parts.
    defective : iterable of ndarrays of shape (H, W, 3), uint8
        Preprocessed defective parts, read one at a time.
    text : ndarray of shape (C, 2), float32
    encoded : callable, optional
        Called after each image.
    """

    def encode(image: NDArray[np.uint8]) -> Encoding:
        encoding = backend.encode(image, text)
        encoded()
        return encoding

    encodings = [encode(image) for image in good]
    banks = [
        [backend.upload_bank(backend.download(handle)) for handle in encoding.features]
        for encoding in encodings
    ]

    def probe(encoding: Encoding) -> Probe:
        nearest = [_search_all(backend, encoding, bank) for bank in banks]
        return Probe(np.stack(nearest), encoding.text_map, encoding.text_score)

    parts = tuple(probe(encoding) for encoding in encodings)
    del encodings  # their features are the largest thing here, beside the banks
    return Gallery(
        manifest,
        parts,
        tuple(tuple(probe(encode(moved)) for moved in augmentations(image)) for image in good),
        tuple(probe(encode(image)) for image in defective),
    )


def _search_all(backend: Backend, encoding: Encoding, bank: Sequence[Any]) -> NDArray[np.float32]:
    pairs = enumerate(zip(encoding.features, bank, strict=True))
    return np.concatenate([backend.search(stage, own, other) for stage, (own, other) in pairs])
