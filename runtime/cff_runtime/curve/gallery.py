"""Every image encoded once per condition, and its distances to each good part alone.

The nearest row of the memory bank of several references is the nearest over the references, so that
the cosines to each good part alone tell the map of an image under any choice of references:

nearest(image, {a, b}) = max(nearest(image, {a}), nearest(image, {b}))      per token, exact

Encoding dominates; repeated draws cost only maxima and maps. Where the condition is a template,
which the references choose, an image is encoded again for each template that comes up.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding
from cff_runtime.finishing import fuse_maps, map_statistic
from cff_runtime.manifest import Manifest
from cff_runtime.product_check import mean_features
from cff_runtime.templates import Conditions
from cff_runtime.thresholds import N_AUGMENTATIONS, augmentations, without_border


@dataclass(frozen=True, eq=False)
class Probe:
    """An image against every good part alone.

    Attributes
    ----------
    nearest : ndarray of shape (n_good, sum of N_s), float32
        Largest cosine to the tokens of each good part, stage after stage; (n_good, 0) where nothing
        is searched.
    map : ndarray of shape (H, W), float32, or None
        The encoder's; None where it depends on the references.
    score : float or None
        The encoder's, if it gives one.
    pixels : ndarray of shape (H, W, 3), uint8, or None
        To encode it again; None where that is never needed.
    """

    nearest: NDArray[np.float32]
    map: NDArray[np.float32] | None
    score: float | None
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Answer:
    """What some references make of an image: map maximum, map statistic and encoder's score."""

    peak: float
    value: float
    score: float | None


class Gallery:
    """All images that a curve is drawn from.

    Parameters
    ----------
    manifest : Manifest
    good : sequence of n Probe
        The good parts; each may be a reference or held out.
    augmented : sequence of n sequences of Probe
        Augmentations of each good part, for the threshold.
    defective : sequence of Probe
    encode : callable, optional
        Encodes the pixels of a probe with the template of some good part, given by its index.
    template : callable, optional
        From references to that index; for probes without a map.
    """

    def __init__(
        self,
        manifest: Manifest,
        good: Sequence[Probe],
        augmented: Sequence[Sequence[Probe]],
        defective: Sequence[Probe],
        encode: Callable[[NDArray[np.uint8], int | None], Encoding] | None = None,
        template: Callable[[Sequence[int]], int | None] = lambda references: None,
    ) -> None:
        self.manifest = manifest
        self.good, self.defective = tuple(good), tuple(defective)
        self.augmented = tuple(tuple(probes) for probes in augmented)
        self._encode, self._template = encode, template
        self._answers: dict[tuple[Any, ...], Answer] = {}

    def answer(self, probe: Probe, references: Sequence[int], is_augmented: bool = False) -> Answer:
        """Return what comes of an image against some good parts as references."""
        if probe.map is not None:
            return self._finish(probe, probe.map, probe.score, references, is_augmented)
        assert self._encode is not None and probe.pixels is not None
        template = self._template(references)
        # where nothing is searched, references of one template are of one answer
        banks = tuple(sorted(references)) if probe.nearest.size else ()
        key = (id(probe), template, banks, is_augmented)
        if key not in self._answers:
            found = self._encode(probe.pixels, template)
            self._answers[key] = self._finish(
                probe, found.map, found.score, references, is_augmented
            )
        return self._answers[key]

    def _finish(
        self,
        probe: Probe,
        encoder_map: NDArray[np.float32],
        score: float | None,
        references: Sequence[int],
        is_augmented: bool,
    ) -> Answer:
        manifest = self.manifest
        stages = manifest.searched
        nearest = []
        if stages:
            best = probe.nearest[list(references)].max(axis=0)
            nearest = np.split(best, np.cumsum([stage.n_tokens for stage in stages])[:-1])
        anomaly_map = fuse_maps(
            nearest,
            [stage.grid for stage in stages],
            encoder_map,
            manifest.map.weight,
            manifest.distance,
        )
        seen = without_border(anomaly_map) if is_augmented else anomaly_map
        return Answer(float(seen.max()), map_statistic(seen, manifest.score.statistic), score)


def n_encodings(manifest: Manifest, n_good: int, n_defective: int) -> int:
    """Return how many images `build_gallery` encodes, augmentations among them."""
    if not manifest.scorers and manifest.condition.source == "reference":
        return n_good
    return n_good * (1 + N_AUGMENTATIONS) + n_defective


def build_gallery(
    backend: Backend,
    manifest: Manifest,
    good: Sequence[NDArray[np.uint8]],
    defective: Iterable[NDArray[np.uint8]],
    condition: NDArray[np.float32] | None,
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
    condition : ndarray of the condition's shape, float32, or None
        Of a class word, where the manifest says that it comes from one.
    encoded : callable, optional
        Called after each image.
    """
    conditions = Conditions(manifest.condition, condition)

    def encode(image: NDArray[np.uint8]) -> Encoding:
        encoding = backend.encode(image, conditions.values(None))
        encoded()
        return encoding

    encodings = [encode(image) for image in good]
    banks = [_take_in(backend, manifest, conditions, encoding) for encoding in encodings]

    def probe(image: NDArray[np.uint8], encoding: Encoding | None = None) -> Probe:
        again = conditions.is_chosen
        if again and not manifest.scorers:
            return Probe(np.empty((len(good), 0), np.float32), None, None, image)
        if encoding is None:
            encoding = encode(image)
        nearest = np.stack([_search_all(backend, encoding, bank) for bank in banks])
        if again:
            return Probe(nearest, None, None, image)
        return Probe(nearest, encoding.map, encoding.score)

    parts = [probe(image, own) for image, own in zip(good, encodings, strict=True)]
    del encodings  # their features are the largest thing here, beside the banks
    return Gallery(
        manifest,
        parts,
        [[probe(moved) for moved in augmentations(image)] for image in good],
        [probe(image) for image in defective],
        lambda pixels, key: backend.encode(pixels, conditions.values(key)),
        conditions.key,
    )


def _take_in(
    backend: Backend, manifest: Manifest, conditions: Conditions, encoding: Encoding
) -> list[Any]:
    """Return a good part's own memory banks; its features may become a template."""
    features = [backend.download(handle) for handle in encoding.features]
    if conditions.stage is not None:
        conditions.add(features[conditions.stage], mean_features(features)[conditions.stage])
    return [backend.upload_bank(rows) for rows in features[: len(manifest.scorers)]]


def _search_all(backend: Backend, encoding: Encoding, bank: Sequence[Any]) -> NDArray[np.float32]:
    pairs = enumerate(zip(encoding.features, bank, strict=True))
    return np.concatenate([backend.search(stage, own, other) for stage, (own, other) in pairs])
