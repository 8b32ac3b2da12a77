"""Enrolling a product: from K good parts to a profile."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding
from cff_runtime.coreset import (
    Coreset,
    compress_banks,
    compression_facts,
    leave_one_out_rows,
)
from cff_runtime.errors import UsageError
from cff_runtime.finishing import fuse_maps, image_score, peak_scale_of
from cff_runtime.manifest import Manifest
from cff_runtime.origin import Origin
from cff_runtime.product_check import mean_features, product_limit
from cff_runtime.profile import Profile
from cff_runtime.references import ReferenceImage, pixels_sha256
from cff_runtime.thresholds import (
    DEFAULT_CONFIDENCE,
    N_AUGMENTATIONS,
    augmentations,
    choose_threshold,
    without_border,
)
from cff_runtime.thresholds.bounds import require_share

Images = Sequence[NDArray[np.uint8]]
Progress = Callable[[int, int], None]

_SAMPLES = 1 << 14  # of a map, for the colour scale


def enroll_references(
    backend: Backend,
    manifest: Manifest,
    references: Sequence[ReferenceImage],
    product: str,
    text: NDArray[np.float32],
    text_name: str,
    margin: float,
    progress: Progress | None = None,
    *,
    further: Images = (),
    defects: Images = (),
    wishes: Mapping[str, float | None] = MappingProxyType({}),
    max_bank: int | None = None,
) -> Profile:
    """Build a profile from preprocessed references.

    Parameters
    ----------
    backend : Backend
    manifest : Manifest
    references : sequence of K ReferenceImage
    product : str
    text : ndarray of shape (C, 2), float32
    text_name : str
        Class word that `text` belongs to.
    margin : float
        Of the threshold, see `cff_runtime.thresholds`.
    progress : callable, optional
        Called with (encoded images, images to encode).
    further, defects : sequence of ndarrays of shape (H, W, 3), uint8
        Good and defective parts that only set the threshold.
    wishes : mapping, optional
        Of `choose_threshold`: `max_false_reject`, `max_false_accept`, `confidence`.
    max_bank : int, optional
        Rows that a stage's memory bank may have; a larger one is compressed, see
        `cff_runtime.coreset`.

    Returns
    -------
    Profile
        Without history.

    Raises
    ------
    UsageError
        If a wish is not inside (0, 1), or false accepts are to be bounded without defective parts.
    """
    _require_wishes(wishes, defects)
    encoder = _Encoder(backend, manifest, text, progress)
    n_own = len(references) * (1 + N_AUGMENTATIONS)
    encoder.n_images = n_own + len(further) + len(defects)
    images = [one.pixels for one in references]
    encoder.add_references(images, max_bank)
    scored = encoder.score_references(images)
    further_scored = encoder.score_parts(further)
    defects_scored = encoder.score_parts(defects)

    peak_scale = peak_scale_of(scored.peaks)
    threshold = choose_threshold(
        scored.scores(peak_scale),
        scored.peaks,
        len(references),
        margin,
        further=further_scored.scores(peak_scale),
        further_peaks=further_scored.peaks,
        defects=defects_scored.scores(peak_scale),
        hashes={
            "further": [pixels_sha256(image) for image in further],
            "defective": [pixels_sha256(image) for image in defects],
        },
        max_false_reject=wishes.get("max_false_reject"),
        max_false_accept=wishes.get("max_false_accept"),
        confidence=wishes.get("confidence") or DEFAULT_CONFIDENCE,
    )
    return Profile(
        product=product,
        bundle_id=manifest.id,
        origin=Origin.of(manifest),
        banks=tuple(encoder.kept_banks()),
        means=tuple(encoder.means),
        text=text,
        reference_images=np.stack(images),
        references=tuple(one.reference for one in references),
        threshold=threshold,
        display_range=_display_range(scored.samples, threshold.pixel_value),
        peak_scale=peak_scale,
        text_name=text_name,
        product_limit=product_limit(encoder.means),
        settings={"margin": margin, **wishes, "max_bank": max_bank},
        compression=encoder.compression(),
        history=(),
    )


def _require_wishes(wishes: Mapping[str, float | None], defects: Images) -> None:
    """Refuse at once what `choose_threshold` would refuse once every image is encoded."""
    for name, value in wishes.items():
        if value is not None:
            require_share(name, value)
    if wishes.get("max_false_accept") is not None and not defects:
        raise UsageError(
            "`max_false_accept` must come with defective parts, got none; give their images "
            "(`--defects`)"
        )


class _Scored:
    """What is kept of the maps of some images; the maps of hundreds would fill a small box."""

    def __init__(self, stride: int) -> None:
        self.peaks: list[float] = []
        self.samples: list[NDArray[np.float32]] = []
        self._text_scores: list[float | None] = []
        self._stride = stride

    def add(self, anomaly_map: NDArray[np.float32], text_score: float | None) -> None:
        """Take in a map: its maximum, and every so many-th of its sorted values."""
        values = np.sort(anomaly_map, axis=None)
        self.peaks.append(float(values[-1]))  # NaN sorts last
        self.samples.append(values[self._stride // 2 :: self._stride].copy())
        self._text_scores.append(text_score)

    def extend(self, other: "_Scored") -> None:
        """Append what another holds."""
        self.peaks += other.peaks
        self.samples += other.samples
        self._text_scores += other._text_scores

    def scores(self, peak_scale: float) -> list[float]:
        """Return the image scores."""
        return [
            image_score(peak, text_score, peak_scale)
            for peak, text_score in zip(self.peaks, self._text_scores, strict=True)
        ]


class _Encoder:
    """The references' features, and the banks that images are scored against."""

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        text: NDArray[np.float32],
        progress: Progress | None,
    ) -> None:
        self.n_images = 0
        self.means: list[NDArray[np.float32]] = []
        self._banks: list[NDArray[np.float32]] = []
        self._coresets: tuple[Coreset, ...] = ()
        self._left_out_rows: list[list[NDArray[np.int64]]] = []  # [S][K]
        self._backend = backend
        self._manifest = manifest
        self._text = text
        self._progress = progress
        self._n_encoded = 0
        self._encodings: list[Encoding] = []
        self._single: list[list[object]] = []
        size = manifest.preprocessing.height * manifest.preprocessing.width
        self._stride = max(1, size // _SAMPLES)

    def add_references(self, references: Images, max_bank: int | None) -> None:
        """Encode the references and put their features into the banks, one after the other."""
        stages = self._manifest.stages
        n = len(references)
        self._banks = [np.empty((n * s.n_tokens, s.width), np.float32) for s in stages]
        compressed = max_bank is not None and max(map(len, self._banks)) > max_bank
        self.means = [np.empty((n, s.width), np.float32) for s in stages]
        for index, image in enumerate(references):
            encoding = self._encode(image)
            own = []
            for stage, handle in enumerate(encoding.features):
                n_tokens = stages[stage].n_tokens
                rows = self._banks[stage][index * n_tokens : (index + 1) * n_tokens]
                rows[:] = self._backend.download(handle)
                own.append(rows)
            for stage, mean in enumerate(mean_features(own)):
                self.means[stage][index] = mean
            self._encodings.append(encoding)
            if not compressed:
                self._single.append([self._backend.upload_bank(rows) for rows in own])
        if compressed and max_bank is not None:
            self._compress(max_bank)

    def kept_banks(self) -> list[NDArray[np.float32]]:
        """Return the memory bank of every stage, compressed if that was asked for."""
        if not self._coresets:
            return self._banks
        pairs = zip(self._banks, self._coresets, strict=True)
        return [bank[coreset.rows] for bank, coreset in pairs]

    def compression(self) -> dict[str, Any] | None:
        """Return what the profile says of its compression."""
        if not self._coresets:
            return None
        return compression_facts(self._coresets, self._manifest.distance)

    def score_references(self, references: Images) -> _Scored:
        """Score each reference (K > 1) and its augmentations against the others."""
        own, augmented = _Scored(self._stride), _Scored(self._stride)
        for index, image in enumerate(references):
            banks = self._banks_without(index)
            if len(references) > 1:
                encoding = self._encodings[index]
                own.add(self._map(encoding, banks), encoding.text_score)
            for moved in augmentations(image):
                encoding = self._encode(moved)
                augmented.add(without_border(self._map(encoding, banks)), encoding.text_score)
        self._encodings.clear()  # as large as the banks
        own.extend(augmented)
        return own

    def score_parts(self, images: Images) -> _Scored:
        """Score parts that are no references against all of them."""
        scored = _Scored(self._stride)
        if not images:
            return scored
        banks = [[self._backend.upload_bank(bank)] for bank in self.kept_banks()]
        for image in images:
            encoding = self._encode(image)
            scored.add(self._map(encoding, banks), encoding.text_score)
        return scored

    def _compress(self, max_bank: int) -> None:
        self._coresets = compress_banks(self._banks, max_bank)
        n_references = len(self._encodings)
        if n_references > 1:
            self._left_out_rows = [
                leave_one_out_rows(bank, n_references, coreset)
                for bank, coreset in zip(self._banks, self._coresets, strict=True)
            ]

    def _banks_without(self, index: int) -> list[list[object]]:
        """Return, per stage, uploaded banks that together are the bank without one reference.

        A lone reference is searched against itself.
        """
        if not self._coresets:
            others = [i for i in range(len(self._single)) if i != index] or [index]
            return [[self._single[i][s] for i in others] for s in range(len(self._banks))]
        if not self._left_out_rows:
            return [[self._backend.upload_bank(bank)] for bank in self.kept_banks()]
        return [
            [self._backend.upload_bank(bank[rows[index]])]
            for bank, rows in zip(self._banks, self._left_out_rows, strict=True)
        ]

    def _encode(self, image: NDArray[np.uint8]) -> Encoding:
        encoding = self._backend.encode(image, self._text)
        self._n_encoded += 1
        if self._progress is not None:
            self._progress(self._n_encoded, self.n_images)
        return encoding

    def _map(self, encoding: Encoding, banks: Sequence[Sequence[object]]) -> NDArray[np.float32]:
        """Map of an image against some banks per stage, of which the nearest row counts."""
        nearest = []
        for stage, features in enumerate(encoding.features):
            found = (self._backend.search(stage, features, bank) for bank in banks[stage])
            best = next(found)
            for other in found:
                best = np.maximum(best, other)
            nearest.append(best)
        grids = [stage.grid for stage in self._manifest.stages]
        return fuse_maps(
            nearest,
            grids,
            encoding.text_map,
            self._manifest.text.weight,
            self._manifest.distance,
        )


def _display_range(
    samples: Sequence[NDArray[np.float32]], pixel_value: float
) -> tuple[float, float]:
    """Colour scale with the good parts' median at its start and the threshold in its middle."""
    low = float(np.median(np.concatenate(samples)))
    return low, low + 2.0 * max(pixel_value - low, 1e-6)
