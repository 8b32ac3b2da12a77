"""Enrolling a product: from K good parts to a profile."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend
from cff_runtime.enrolment_encoder import Images, PartEncoder, Progress
from cff_runtime.errors import UsageError
from cff_runtime.finishing import peak_scale_of
from cff_runtime.manifest import Manifest
from cff_runtime.origin import Origin
from cff_runtime.product_check import product_limit
from cff_runtime.profile import Profile
from cff_runtime.references import ReferenceImage, pixels_sha256
from cff_runtime.templates import Conditions
from cff_runtime.thresholds import DEFAULT_CONFIDENCE, choose_threshold
from cff_runtime.thresholds.bounds import require_share

__all__ = ["Images", "Progress", "enroll_references"]


def enroll_references(
    backend: Backend,
    manifest: Manifest,
    references: Sequence[ReferenceImage],
    product: str,
    condition: NDArray[np.float32] | None,
    condition_name: str,
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
    condition : ndarray of the condition's shape, float32, or None
        Of a class word, where the manifest says that it comes from one; others take no notice of
        it and choose a reference.
    condition_name : str
        The class word.
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
        If a wish is not inside (0, 1), false accepts are to be bounded without defective parts,
        the condition of a class word is missing, or there is no memory bank for `max_bank`.
    """
    _require_wishes(wishes, defects)
    encoder = PartEncoder(backend, manifest, Conditions(manifest.condition, condition), progress)
    encoder.expect(len(references), len(further) + len(defects))
    images = [one.pixels for one in references]
    encoder.add_references(images, max_bank)
    template, condition = encoder.condition()
    if template is not None:
        condition_name = references[template].reference.name
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
        has_encoder_score=manifest.score.output is not None,
    )
    return Profile(
        product=product,
        bundle_id=manifest.id,
        origin=Origin.of(manifest),
        banks=tuple(encoder.kept_banks()),
        means=tuple(encoder.means),
        condition=condition,
        reference_images=np.stack(images),
        references=tuple(one.reference for one in references),
        threshold=threshold,
        display_range=_display_range(scored.samples, threshold.pixel_value),
        peak_scale=peak_scale,
        condition_name=condition_name,
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


def _display_range(
    samples: Sequence[NDArray[np.float32]], pixel_value: float
) -> tuple[float, float]:
    """Colour scale with the good parts' median at its start and the threshold in its middle."""
    low = float(np.median(np.concatenate(samples)))
    return low, low + 2.0 * max(pixel_value - low, 1e-6)
