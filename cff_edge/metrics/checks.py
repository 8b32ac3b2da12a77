"""What labels, scores, masks and maps must be before anything is counted."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cff_runtime.errors import DatasetError


def checked_scores(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
    """Return `labels` and `scores`, both of shape (n,), as arrays.

    Raises
    ------
    DatasetError
        If a shape is wrong, a score is not finite, or only one class is present.
    """
    truth, values = _array("labels", labels, np.bool_), _array("scores", scores)
    if truth.ndim != 1:
        raise DatasetError(
            f"`labels` must be one bool an image, [n], got {truth.shape}; flatten it"
        )
    _check_values("scores", values, "labels", truth)
    _check_classes("labels", truth, "images")
    return truth, values


def checked_maps(
    masks: ArrayLike, maps: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
    """Return `masks` and `maps`, both of shape (n, H, W), as arrays; no copy where they are ones.

    Raises
    ------
    DatasetError
        If a shape is wrong, a map is not finite, or only one class of pixels is present.
    """
    truth, values = _array("masks", masks, np.bool_), _array("maps", maps)
    if truth.ndim != 3:
        raise DatasetError(
            f"`masks` must be a stack of masks, [n, H, W], got {truth.shape}; "
            "stack all test images of the product"
        )
    _check_values("maps", values, "masks", truth)
    _check_classes("masks", truth, "pixels")
    return truth, values


def check_labels_fit(labels: NDArray[np.bool_], masks: NDArray[np.bool_]) -> None:
    """Refuse another number of masks, and a good image whose mask marks a defect.

    A defective image with an empty mask is let through: a mask may vanish when it is made smaller.
    """
    if len(labels) != len(masks):
        raise DatasetError(
            f"`masks` must be one an image, {len(labels)} as in `labels`, got {len(masks)}; "
            "pass both for the same images"
        )
    wrong = np.flatnonzero(masks.any(axis=(1, 2)) & ~labels)
    if wrong.size:
        raise DatasetError(
            f"`masks` must be empty where `labels` is False, got {int(masks[wrong[0]].sum())} "
            f"defective pixels in image {wrong[0]}; pass labels and masks in the same order"
        )


def _array(name: str, values: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
    try:
        array = np.asarray(values, dtype=dtype)
    except ValueError as error:
        raise DatasetError(
            f"`{name}` must be one array, got parts of different shapes ({error}); "
            "bring all images to one size"
        ) from error
    return array


def _check_values(name: str, values: NDArray[Any], other: str, truth: NDArray[np.bool_]) -> None:
    if values.shape != truth.shape:
        raise DatasetError(
            f"`{name}` must have the shape of `{other}`, {truth.shape}, got {values.shape}; "
            "pass both for the same images at one size"
        )
    if values.dtype.kind not in "fiub":
        raise DatasetError(f"`{name}` must be numbers, got {values.dtype}; convert to float32")
    n_bad = values.size - int(np.isfinite(values).sum())
    if n_bad:
        raise DatasetError(
            f"`{name}` must be finite, got {n_bad} NaN or infinite of {values.size}; "
            "look for a fault in the detector that made them"
        )


def _check_classes(name: str, truth: NDArray[np.bool_], what: str) -> None:
    n_defective = int(truth.sum())
    if n_defective in (0, truth.size):
        raise DatasetError(
            f"`{name}` must hold good and defective {what}, got {n_defective} defective of "
            f"{truth.size}; evaluate on a test set with both"
        )
