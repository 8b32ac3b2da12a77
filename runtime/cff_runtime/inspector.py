"""The runtime's front door: open a bundle, enrol products, inspect parts."""

import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.enrolment import Progress, enroll_references
from cff_runtime.errors import UsageError
from cff_runtime.finishing import fuse_maps, image_score
from cff_runtime.imaging import load_image
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.profile import Profile
from cff_runtime.regions import find_regions
from cff_runtime.result import Result
from cff_runtime.thresholds import DEFAULT_MARGIN

DEFAULT_TEXT_NAME = "object"

ImageLike = NDArray[np.uint8] | Path | str


class Inspector:
    """A bundle, loaded. May be used from several threads at once.

    Attributes
    ----------
    bundle : Bundle
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self._backend = backend
        self._banks: weakref.WeakKeyDictionary[Profile, list[Any]] = weakref.WeakKeyDictionary()
        self._banks_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        backend: str = "onnxruntime",
        options: Mapping[str, Any] | None = None,
        precision: str = DEFAULT_PRECISION,
    ) -> "Inspector":
        """Verify a bundle and load its graphs.

        Parameters
        ----------
        bundle : path
            Folder made by ``cff-export``.
        backend : {'onnxruntime'}
        options : mapping, optional
            Of the backend: ``provider`` and ``threads`` for ``onnxruntime``.
        precision : str
            Of the encoder, one that the bundle holds.

        Raises
        ------
        UsageError, BundleError, BackendError, MissingDependencyError
        """
        opened = Bundle.open(bundle, precision)
        return cls(opened, open_backend(backend, opened, options or {}))

    def enroll(
        self,
        images: Sequence[ImageLike],
        product: str,
        text_name: str | None = None,
        margin: float = DEFAULT_MARGIN,
        progress: Progress | None = None,
    ) -> Profile:
        """Make a profile from K good parts.

        Parameters
        ----------
        images : sequence of K paths or ndarrays of shape (h, w, 3), uint8
            Good parts, K >= 1.
        product : str
            Name of the product.
        text_name : str, optional
            Class word of the text vectors; the product's name if the bundle has it, else
            ``object``.
        margin : float
            Raises the threshold, see `cff_runtime.thresholds`.
        progress : callable, optional
            Called with (encoded images, images to encode).

        Raises
        ------
        UsageError
            If there is no image, the product has no name or the text name is unknown.
        ImageError
            If an image cannot be used.
        """
        if isinstance(images, str | Path):
            raise UsageError(f"`images` must be a list of images, got the path {str(images)!r}")
        if len(images) == 0:
            raise UsageError("`images` must hold at least one good part, got none")
        if not product.strip():
            raise UsageError("`product` must be a name, got an empty one")
        if not 0 <= margin < float("inf"):  # NaN fails too
            raise UsageError(f"`margin` must be 0 or more and finite, got {margin}")
        manifest = self.bundle.manifest
        if text_name is None:
            text_name = product if product in manifest.text.names else DEFAULT_TEXT_NAME
        text = self.bundle.text_vectors(text_name)
        references = [manifest.preprocessing(_as_array(image)) for image in images]
        return enroll_references(
            self._backend, manifest, references, product, text, text_name, margin, progress
        )

    def inspect(self, image: ImageLike, profile: Profile) -> Result:
        """Inspect one image.

        Parameters
        ----------
        image : path or ndarray of shape (h, w, 3), uint8
            RGB.
        profile : Profile

        Returns
        -------
        Result

        Raises
        ------
        ProfileMismatchError
            If the profile belongs to another bundle.
        ImageError
            If the image cannot be used.
        BackendError
            If the backend fails or gives a score that is not finite.
        """
        pixels = _as_array(image)
        clock = [perf_counter_ns()]
        resized = self.bundle.manifest.preprocessing(pixels)
        clock.append(perf_counter_ns())
        encoding = self._backend.encode(resized, profile.text)
        clock.append(perf_counter_ns())
        result = self.judge(encoding, profile, (pixels.shape[0], pixels.shape[1]))
        stages_ms = _milliseconds(("preprocess", "encode"), clock)
        return dataclasses.replace(result, stages_ms={**stages_ms, **result.stages_ms})

    def judge(self, encoding: Encoding, profile: Profile, size: tuple[int, int]) -> Result:
        """Search the memory banks and decide; `inspect` without preprocessing and encoder.

        Parameters
        ----------
        encoding : Encoding
            Of this inspector's backend.
        profile : Profile
        size : tuple of int
            Height and width in pixels of the image, which regions are told in.

        Raises
        ------
        ProfileMismatchError, BackendError
            As `inspect`.
        """
        manifest = self.bundle.manifest
        banks = self._device_banks(profile)
        clock = [perf_counter_ns()]
        nearest = [
            self._backend.search(stage, features, bank)
            for stage, (features, bank) in enumerate(zip(encoding.features, banks, strict=True))
        ]
        clock.append(perf_counter_ns())
        grids = [stage.grid for stage in manifest.stages]
        anomaly_map = fuse_maps(
            nearest, grids, encoding.text_map, manifest.text.weight, manifest.distance
        )
        score = image_score(float(anomaly_map.max()), encoding.text_score, profile.peak_scale)
        limits = profile.threshold
        regions = find_regions(anomaly_map, limits.pixel_value, size)
        clock.append(perf_counter_ns())
        return Result(
            score=score,
            verdict=limits.verdict(score),
            threshold=limits.value,
            anomaly_map=anomaly_map,
            regions=regions,
            text_score=encoding.text_score,
            stages_ms=_milliseconds(("search", "finish"), clock),
            review_threshold=limits.review if limits.review < limits.value else None,
        )

    def _device_banks(self, profile: Profile) -> list[Any]:
        """Upload a profile's memory banks once; they go when the profile goes."""
        with self._banks_lock:
            if profile not in self._banks:
                profile.require_bundle(self.bundle.manifest)
                self._banks[profile] = [self._backend.upload_bank(b) for b in profile.banks]
            return self._banks[profile]


def _milliseconds(names: Sequence[str], clock_ns: Sequence[int]) -> dict[str, float]:
    spans = zip(names, clock_ns, clock_ns[1:], strict=False)
    return {name: (end - start) / 1e6 for name, start, end in spans}


def _as_array(image: ImageLike) -> NDArray[np.uint8]:
    return load_image(image) if isinstance(image, Path | str) else image
