"""Enrolling a product: from K good parts to a profile."""

import datetime
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding
from cff_runtime.finishing import fuse_maps, image_score, peak_scale_of
from cff_runtime.manifest import Manifest
from cff_runtime.profile import Profile
from cff_runtime.thresholds import (
    N_AUGMENTATIONS,
    Threshold,
    augmentations,
    choose_threshold,
    without_border,
)

Progress = Callable[[int, int], None]


def enroll_references(
    backend: Backend,
    manifest: Manifest,
    references: Sequence[NDArray[np.uint8]],
    product: str,
    text: NDArray[np.float32],
    text_name: str,
    margin: float,
    progress: Progress | None = None,
) -> Profile:
    """Build a profile from preprocessed references [H,W,3], uint8.

    Parameters
    ----------
    backend : Backend
    manifest : Manifest
    references : sequence of K ndarrays of shape (H, W, 3), uint8
    product : str
    text : ndarray of shape (C, 2), float32
    text_name : str
        Class word that `text` belongs to.
    margin : float
        Of the threshold, see `cff_runtime.thresholds`.
    progress : callable, optional
        Called with (encoded images, images to encode).

    Returns
    -------
    Profile
    """
    n_images = len(references) * (1 + N_AUGMENTATIONS)
    n_encoded = 0

    def encode(image: NDArray[np.uint8]) -> Encoding:
        nonlocal n_encoded
        encoding = backend.encode(image, text)
        n_encoded += 1
        if progress is not None:
            progress(n_encoded, n_images)
        return encoding

    encodings = [encode(image) for image in references]
    features = [[backend.download(handle) for handle in e.features] for e in encodings]
    single = [[backend.upload_bank(bank) for bank in stages] for stages in features]
    probes = list(enumerate(encodings)) if len(references) > 1 else []
    maps = [_left_out_map(backend, manifest, single, *probe) for probe in probes]
    text_scores = [encoding.text_score for _, encoding in probes]
    for index, image in enumerate(references):
        for augmented in augmentations(image):
            encoding = encode(augmented)
            whole = _left_out_map(backend, manifest, single, index, encoding)
            maps.append(without_border(whole))
            text_scores.append(encoding.text_score)

    peaks = [float(anomaly_map.max()) for anomaly_map in maps]
    peak_scale = peak_scale_of(peaks)
    scores = [
        image_score(peak, text_score, peak_scale)
        for peak, text_score in zip(peaks, text_scores, strict=True)
    ]
    threshold = choose_threshold(scores, peaks, len(references), margin)
    return Profile(
        product=product,
        bundle_id=manifest.id,
        banks=tuple(np.concatenate(stage) for stage in zip(*features, strict=True)),
        text=text,
        n_references=len(references),
        threshold=threshold,
        display_range=_display_range(maps, threshold),
        peak_scale=peak_scale,
        text_name=text_name,
        history=({"action": "enroll", "n_references": len(references), "at": _now()},),
    )


def _left_out_map(
    backend: Backend,
    manifest: Manifest,
    single: Sequence[Sequence[object]],
    index: int,
    encoding: Encoding,
) -> NDArray[np.float32]:
    """Map of an image made from reference `index`, against the banks of the others.

    The bank of several references is searched reference by reference and the maximum taken,
    which is the same and lets each be left out. A lone reference is searched against itself.
    """
    others = [i for i in range(len(single)) if i != index] or [index]
    nearest = [
        np.max(
            [backend.search(stage, encoding.features[stage], single[i][stage]) for i in others],
            axis=0,
        )
        for stage in range(len(manifest.stages))
    ]
    grids = [stage.grid for stage in manifest.stages]
    return fuse_maps(nearest, grids, encoding.text_map, manifest.text.weight, manifest.distance)


def _display_range(
    maps: Sequence[NDArray[np.float32]], threshold: Threshold
) -> tuple[float, float]:
    """Colour scale with the good parts' median at its start and the threshold in its middle."""
    low = float(np.median(np.concatenate([anomaly_map.ravel() for anomaly_map in maps])))
    return low, low + 2.0 * max(threshold.pixel_value - low, 1e-6)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
