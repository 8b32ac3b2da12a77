"""Encoding and scoring the parts of an enrolment.

A reference is scored against the others, and so are its augmentations: with the others' memory
bank and with the condition that the others make (`cff_runtime.templates`). A lone reference is
judged by itself. An image is encoded again only where its condition is another one.
"""

from collections.abc import Callable, Sequence
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
from cff_runtime.finishing import fuse_maps, image_score, map_statistic
from cff_runtime.manifest import Manifest
from cff_runtime.product_check import mean_features
from cff_runtime.templates import Conditions
from cff_runtime.thresholds import N_AUGMENTATIONS, augmentations, without_border

Images = Sequence[NDArray[np.uint8]]
Progress = Callable[[int, int], None]

_SAMPLES = 1 << 14  # of a map, for the colour scale


class ScoredParts:
    """What is kept of the maps of some images; the maps of hundreds would fill a small box."""

    def __init__(self, stride: int, statistic: str) -> None:
        self.peaks: list[float] = []
        self.samples: list[NDArray[np.float32]] = []
        self._values: list[float] = []
        self._encoder_scores: list[float | None] = []
        self._stride, self._statistic = stride, statistic

    def add(self, anomaly_map: NDArray[np.float32], encoder_score: float | None) -> None:
        """Take in a map: its maximum and statistic, and every so many-th of its sorted values."""
        values = np.sort(anomaly_map, axis=None)
        self.peaks.append(float(values[-1]))  # NaN sorts last
        self.samples.append(values[self._stride // 2 :: self._stride].copy())
        self._values.append(map_statistic(anomaly_map, self._statistic))
        self._encoder_scores.append(encoder_score)

    def extend(self, other: "ScoredParts") -> None:
        """Append what another holds."""
        self.peaks += other.peaks
        self.samples += other.samples
        self._values += other._values
        self._encoder_scores += other._encoder_scores

    def scores(self, peak_scale: float) -> list[float]:
        """Return the image scores."""
        return [
            image_score(value, encoder_score, peak_scale)
            for value, encoder_score in zip(self._values, self._encoder_scores, strict=True)
        ]


class PartEncoder:
    """The references' features and conditions, and the banks that images are scored against.

    Parameters
    ----------
    backend : Backend
    manifest : Manifest
    conditions : Conditions
        Without references yet.
    progress : callable or None
        Called with (encoded images, images to encode).
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        conditions: Conditions,
        progress: Progress | None,
    ) -> None:
        self._n_images = self._n_references = 0
        self.means: list[NDArray[np.float32]] = []
        self._banks: list[NDArray[np.float32]] = []
        self._coresets: tuple[Coreset, ...] = ()
        self._left_out_rows: list[list[NDArray[np.int64]]] = []  # [S][K]
        self._backend = backend
        self._manifest = manifest
        self._conditions = conditions
        self._progress = progress
        self._n_encoded = 0
        self._encodings: list[Encoding] = []
        self._single: list[list[object]] = []
        size = manifest.preprocessing.height * manifest.preprocessing.width
        self._stride = max(1, size // _SAMPLES)

    def expect(self, n_references: int, n_others: int) -> None:
        """Say how many images will be encoded, for the progress."""
        again = n_references if self._conditions.is_chosen and n_references > 1 else 0
        self._n_images = n_references * (1 + N_AUGMENTATIONS) + again + n_others

    def add_references(self, references: Images, max_bank: int | None) -> None:
        """Encode the references and put their features into the banks, one after the other.

        Raises
        ------
        UsageError
            If `max_bank` is given and the bundle has no scorers.
        """
        stages = self._manifest.stages
        searched = self._manifest.searched
        if max_bank is not None and not searched:
            raise UsageError(
                f"`max_bank` must be left out for this bundle, got {max_bank}: it searches no "
                "memory bank"
            )
        n = self._n_references = len(references)
        self._banks = [np.empty((n * s.n_tokens, s.width), np.float32) for s in searched]
        compressed = max_bank is not None and max(map(len, self._banks)) > max_bank
        self.means = [np.empty((n, s.width), np.float32) for s in stages]
        for index, image in enumerate(references):
            encoding = self._encode(image, None)
            own = self._take_in(index, encoding)
            if not self._conditions.is_chosen:
                self._encodings.append(encoding)
            if not compressed:
                banks = own[: len(searched)]
                self._single.append([self._backend.upload_bank(rows) for rows in banks])
        if compressed and max_bank is not None:
            self._compress(max_bank)

    def condition(self) -> tuple[int | None, NDArray[np.float32]]:
        """Return the condition that all references make, and the reference that it is of."""
        key = self._conditions.key(range(self._n_references))
        return key, self._conditions.values(key)

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

    def score_references(self, references: Images) -> ScoredParts:
        """Score each reference (K > 1) and its augmentations against the others."""
        own, augmented = self._scored(), self._scored()
        for index, image in enumerate(references):
            banks, key = self._banks_without(index), self._conditions.key(self._others(index))
            if len(references) > 1:
                encoding = self._encodings[index] if key is None else self._encode(image, key)
                own.add(self._map(encoding, banks), encoding.score)
            for moved in augmentations(image):
                encoding = self._encode(moved, key)
                augmented.add(without_border(self._map(encoding, banks)), encoding.score)
        self._encodings.clear()  # as large as the banks
        own.extend(augmented)
        return own

    def score_parts(self, images: Images) -> ScoredParts:
        """Score parts that are no references against all of them."""
        scored = self._scored()
        if not images:
            return scored
        banks = [[self._backend.upload_bank(bank)] for bank in self.kept_banks()]
        key, _ = self.condition()
        for image in images:
            encoding = self._encode(image, key)
            scored.add(self._map(encoding, banks), encoding.score)
        return scored

    def _take_in(self, index: int, encoding: Encoding) -> list[NDArray[np.float32]]:
        """Put a reference's features into the banks; return them."""
        own = []
        for stage, handle in enumerate(encoding.features):
            features = self._backend.download(handle)
            if stage < len(self._banks):
                n_tokens = self._manifest.stages[stage].n_tokens
                rows = self._banks[stage][index * n_tokens : (index + 1) * n_tokens]
                rows[:] = features
                features = rows
            own.append(features)
        for stage, mean in enumerate(mean_features(own)):
            self.means[stage][index] = mean
            if stage == self._conditions.stage:
                self._conditions.add(own[stage].copy(), mean)
        return own

    def _scored(self) -> ScoredParts:
        return ScoredParts(self._stride, self._manifest.score.statistic)

    def _others(self, index: int) -> list[int]:
        """Return the references without one; a lone one is its own company."""
        return [other for other in range(self._n_references) if other != index] or [index]

    def _compress(self, max_bank: int) -> None:
        self._coresets = compress_banks(self._banks, max_bank)
        if self._n_references > 1:
            self._left_out_rows = [
                leave_one_out_rows(bank, self._n_references, coreset)
                for bank, coreset in zip(self._banks, self._coresets, strict=True)
            ]

    def _banks_without(self, index: int) -> list[list[object]]:
        """Return, per stage, uploaded banks that together are the bank without one reference.

        A lone reference is searched against itself.
        """
        if not self._coresets:
            others = self._others(index)
            return [[self._single[i][s] for i in others] for s in range(len(self._banks))]
        if not self._left_out_rows:
            return [[self._backend.upload_bank(bank)] for bank in self.kept_banks()]
        return [
            [self._backend.upload_bank(bank[rows[index]])]
            for bank, rows in zip(self._banks, self._left_out_rows, strict=True)
        ]

    def _encode(self, image: NDArray[np.uint8], key: int | None) -> Encoding:
        encoding = self._backend.encode(image, self._conditions.values(key))
        self._n_encoded += 1
        if self._progress is not None:
            self._progress(self._n_encoded, self._n_images)
        return encoding

    def _map(self, encoding: Encoding, banks: Sequence[Sequence[object]]) -> NDArray[np.float32]:
        """Map of an image against some banks per stage, of which the nearest row counts."""
        nearest = []
        for stage, of_stage in enumerate(banks):
            features = encoding.features[stage]
            found = (self._backend.search(stage, features, bank) for bank in of_stage)
            best = next(found)
            for other in found:
                best = np.maximum(best, other)
            nearest.append(best)
        manifest = self._manifest
        grids = [stage.grid for stage in manifest.stages[: len(banks)]]
        return fuse_maps(nearest, grids, encoding.map, manifest.map.weight, manifest.distance)
