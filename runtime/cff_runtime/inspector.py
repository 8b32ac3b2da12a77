"""The runtime's front door: open a bundle, enrol products, inspect parts."""

import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.drift.measures import picture_measures
from cff_runtime.enrolment import Progress, enroll_references
from cff_runtime.errors import ProfileError, UsageError
from cff_runtime.finishing import fuse_maps, image_score, map_statistic
from cff_runtime.imaging import load_image
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.product_check import mean_features, reference_distances
from cff_runtime.profile import Profile
from cff_runtime.profile_history import now_utc, record
from cff_runtime.references import Reference, ReferenceImage, find_reference, pixels_sha256
from cff_runtime.regions import find_regions
from cff_runtime.result import Result
from cff_runtime.thresholds import DEFAULT_MARGIN, MAX_MARGIN

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
        *,
        further: Sequence[ImageLike] = (),
        defects: Sequence[ImageLike] = (),
        wishes: Mapping[str, float | None] = MappingProxyType({}),
        max_bank: int | None = None,
    ) -> Profile:
        """Make a profile from K good parts.

        Parameters
        ----------
        images : sequence of K paths or ndarrays of shape (h, w, 3), uint8
            Good parts, K >= 1.
        product : str
            Name of the product.
        text_name : str, optional
            Class word of the condition; the product's name if the bundle has it, else
            ``object``. None for a bundle whose condition is a reference's.
        margin : float
            Raises the threshold, see `cff_runtime.thresholds`.
        progress : callable, optional
            Called with (encoded images, images to encode).
        further, defects : sequence of images, as `images`
            Further good parts and defective ones: not remembered, they only set the threshold.
        wishes : mapping, optional
            ``max_false_reject``, ``max_false_accept`` and ``confidence``, see
            `cff_runtime.thresholds.choose_threshold`.
        max_bank : int, optional
            Rows that a stage's memory bank may have; a larger one is compressed.

        Raises
        ------
        UsageError
            If there is no image, the product has no name, the text name is unknown or the bundle
            takes none, or `max_bank` is given and it searches no memory bank.
        ImageError
            If an image cannot be used.
        """
        _require_images(images)
        if not product.strip():
            raise UsageError("`product` must be a name, got an empty one")
        if not 0 <= margin <= MAX_MARGIN:  # NaN fails too
            raise UsageError(f"`margin` must be 0 to {MAX_MARGIN:g}, got {margin}")
        known = self.bundle.manifest.condition.names
        if text_name is None and known:
            text_name = product if product in known else DEFAULT_TEXT_NAME
        profile = enroll_references(
            self._backend,
            self.bundle.manifest,
            self._prepare_all(images),
            product,
            None if text_name is None else self.bundle.condition_of_word(text_name),
            text_name or "",
            margin,
            progress,
            further=self._pixels(further),
            defects=self._pixels(defects),
            wishes=wishes,
            max_bank=max_bank,
        )
        return record(profile, "enroll", {"n_references": profile.n_references})

    def add_normals(
        self,
        profile: Profile,
        images: Sequence[ImageLike],
        progress: Progress | None = None,
        *,
        further: Sequence[ImageLike] = (),
        defects: Sequence[ImageLike] = (),
    ) -> Profile:
        """Append good parts to a profile and set its threshold again, as it was set before.

        The profile is made anew from the images that it holds and the new ones.

        Parameters
        ----------
        profile : Profile
            Of this bundle; stays as it is.
        images : sequence of paths or ndarrays of shape (h, w, 3), uint8
            Good parts, at least one.
        progress, further, defects
            As in `enroll`. Further parts that set the threshold before are not in the profile
            and count only if they are given again.

        Raises
        ------
        UsageError
            If there is no image.
        ProfileMismatchError
            If the profile belongs to another bundle, precision or preprocessing.
        ProfileError
            If the images that it holds are damaged.
        ImageError
            If an image cannot be used.
        """
        _require_images(images)
        kept = self._stored(profile)
        new = self._prepare_all(images)
        extended = self._enroll_again(profile, [*kept, *new], progress, further, defects)
        return record(extended, "add-normals", {"added": [one.reference.name for one in new]})

    def remove_reference(
        self,
        profile: Profile,
        which: str,
        progress: Progress | None = None,
        *,
        further: Sequence[ImageLike] = (),
        defects: Sequence[ImageLike] = (),
    ) -> Profile:
        """Take a reference out of a profile and set its threshold again; see `add_normals`.

        Parameters
        ----------
        which : str
            Name or number of the reference, from 1.

        Raises
        ------
        UsageError
            If there is no such reference, or no other one.
        """
        index = find_reference(profile.references, which)
        kept = self._stored(profile)
        removed = kept.pop(index)
        if not kept:
            raise UsageError("a profile must keep at least one reference, this is the last one")
        smaller = self._enroll_again(profile, kept, progress, further, defects)
        return record(smaller, "remove", {"removed": [removed.reference.name]})

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
        measures = picture_measures(resized)
        clock.append(perf_counter_ns())
        encoding = self._backend.encode(resized, profile.condition)
        clock.append(perf_counter_ns())
        result = self.judge(encoding, profile, (pixels.shape[0], pixels.shape[1]))
        stages_ms = _milliseconds(("preprocess", "encode"), clock)
        stages_ms |= result.stages_ms
        return dataclasses.replace(result, measures=measures, stages_ms=stages_ms)

    def judge(self, encoding: Encoding, profile: Profile, size: tuple[int, int]) -> Result:
        """Search the memory banks, where there are any, and decide; the second half of `inspect`.

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
            for stage, (features, bank) in enumerate(zip(encoding.features, banks, strict=False))
        ]
        clock.append(perf_counter_ns())
        grids = [stage.grid for stage in manifest.stages[: len(banks)]]
        anomaly_map = fuse_maps(
            nearest, grids, encoding.map, manifest.map.weight, manifest.distance
        )
        value = map_statistic(anomaly_map, manifest.score.statistic)
        score = image_score(value, encoding.score, profile.peak_scale)
        limits = profile.threshold
        regions = find_regions(anomaly_map, limits.pixel_value, size)
        features = [self._backend.download(handle) for handle in encoding.features]
        apart = reference_distances(mean_features(features), profile.means)
        clock.append(perf_counter_ns())
        return Result(
            score=score,
            verdict=limits.verdict(score),
            threshold=limits.value,
            anomaly_map=anomaly_map,
            regions=regions,
            text_score=encoding.score,
            stages_ms=_milliseconds(("search", "finish"), clock),
            review_threshold=limits.review if limits.review < limits.value else None,
            warning=_product_warning(float(apart.sum(axis=0).min()), profile),
            stage_distances=tuple(apart.min(axis=1).tolist()),
        )

    def _enroll_again(
        self,
        profile: Profile,
        references: Sequence[ReferenceImage],
        progress: Progress | None,
        further: Sequence[ImageLike],
        defects: Sequence[ImageLike],
    ) -> Profile:
        settings = dict(profile.settings)
        max_bank = settings.pop("max_bank", None)
        enrolled = enroll_references(
            self._backend,
            self.bundle.manifest,
            references,
            profile.product,
            profile.condition,
            profile.condition_name,
            settings.pop("margin", None) or 0.0,
            progress,
            further=self._pixels(further),
            defects=self._pixels(defects),
            wishes=settings,
            max_bank=None if max_bank is None else int(max_bank),
        )
        return dataclasses.replace(enrolled, history=profile.history)

    def _stored(self, profile: Profile) -> list[ReferenceImage]:
        """Return the images of a profile of this bundle."""
        profile.require_bundle(self.bundle.manifest)
        stored = []
        for reference, pixels in zip(profile.references, profile.reference_images, strict=True):
            if pixels_sha256(pixels) != reference.sha256:
                raise ProfileError(
                    f"image of reference {reference.name!r:.80} must have the hash that the "
                    "profile names, and has another; the file was changed, enrol the product again"
                )
            stored.append(ReferenceImage(reference, pixels))
        return stored

    def _prepare_all(self, images: Sequence[ImageLike]) -> list[ReferenceImage]:
        resize, at = self.bundle.manifest.preprocessing, now_utc()
        prepared = []
        for number, image in enumerate(images, start=1):
            given = _as_array(image)
            pixels = resize(given)
            name = Path(image).name if isinstance(image, Path | str) else f"image {number}"
            size = (given.shape[1], given.shape[0])
            reference = Reference(name, pixels_sha256(pixels), at, size)
            prepared.append(ReferenceImage(reference, pixels))
        return prepared

    def _pixels(self, images: Sequence[ImageLike]) -> list[NDArray[np.uint8]]:
        return [self.bundle.manifest.preprocessing(_as_array(image)) for image in images]

    def _device_banks(self, profile: Profile) -> list[Any]:
        """Upload a profile's memory banks once; they go when the profile goes."""
        with self._banks_lock:
            if profile not in self._banks:
                profile.require_bundle(self.bundle.manifest)
                self._banks[profile] = [self._backend.upload_bank(b) for b in profile.banks]
            return self._banks[profile]


def _product_warning(distance: float, profile: Profile) -> str | None:
    if distance <= profile.product_limit:
        return None
    return (
        f"looks like another product than `{profile.product}`: as a whole it differs from the "
        f"references by {distance:.1f}, usual is {profile.product_limit:.1f} at most"
    )


def _require_images(images: Sequence[ImageLike]) -> None:
    if isinstance(images, str | Path):
        raise UsageError(f"`images` must be a list of images, got the path {str(images)!r}")
    if len(images) == 0:
        raise UsageError("`images` must hold at least one good part, got none")


def _milliseconds(names: Sequence[str], clock_ns: Sequence[int]) -> dict[str, float]:
    spans = zip(names, clock_ns, clock_ns[1:], strict=False)
    return {name: (end - start) / 1e6 for name, start, end in spans}


def _as_array(image: ImageLike) -> NDArray[np.uint8]:
    return load_image(image) if isinstance(image, Path | str) else image
