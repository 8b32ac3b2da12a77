"""A first threshold from normal images only.

Each reference is scored against the memory bank of the *other* references (leave one image out),
and so are gentle augmentations of it, which stand for how a good part may lie or be lit next
time; the border of an augmented image, partly invented, does not count. With a single reference
there is no other bank: only its augmentations are scored, against its own bank.

    threshold = max(scores) + margin * (max(scores) - median(scores))

The margin is 0.25 by default. On 15 products with 4 references (piped, fabric_hsst, ballscrew,
hazelnut_toy; 12 good and 12 defective test parts each; cosine distances) it rejected 8 % of the
good parts and passed 7 % of the defective ones; a margin of 0 gave 11 % and 5 %, one of 0.5 gave
7 % and 12 %.

What may be promised: if the K parts and the next good part are exchangeable, the next part's
score exceeds the largest of K leave-one-out scores with probability at most 1 / (K + 1), whatever
the distribution. Augmentations and the margin raise the threshold and only lower that
probability, but K parts can support no smaller figure; with K = 1 nothing can be promised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import ProfileError
from cff_runtime.jsonfields import take, take_floats

DEFAULT_MARGIN = 0.25

# rotation in degrees, shift in x and y as a share of the side, gain of the grey values
_AUGMENTATIONS = (
    (1.5, 0.01, 0.0, 1.0),
    (-1.5, -0.01, 0.0, 1.0),
    (0.0, 0.0, 0.015, 1.04),
    (0.0, 0.0, -0.015, 0.96),
)
_BORDER_SHARE = 16  # of a side; shift and rotation reach 3 % into it, the features a little more


@dataclass(frozen=True)
class Threshold:
    """The decision rule of a profile and how it was set.

    Attributes
    ----------
    value : float
        A part with a larger image score is rejected.
    pixel_value : float
        Map values above it form regions.
    method : str
        ``leave-one-image-out`` or ``self-augmentation`` (K = 1).
    n_parts : int
        Independent good parts behind it, K.
    scores, peaks : tuple of float
        Image scores and map maxima it was set from, references first, then augmentations.
    expected_false_rejects : float
        Upper bound of the expected share of good parts rejected; 1 where nothing is promised.
    statement : str
        The same in a sentence.
    """

    value: float
    pixel_value: float
    method: str
    n_parts: int
    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    expected_false_rejects: float
    statement: str

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Threshold":
        """Read a profile's entry.

        Raises
        ------
        ProfileError
            If a field is missing or of a wrong type.
        """
        return cls(
            value=take(fields, "value", float, ProfileError),
            pixel_value=take(fields, "pixel_value", float, ProfileError),
            method=take(fields, "method", str, ProfileError),
            n_parts=take(fields, "n_parts", int, ProfileError),
            scores=take_floats(fields, "scores", ProfileError),
            peaks=take_floats(fields, "peaks", ProfileError),
            expected_false_rejects=take(fields, "expected_false_rejects", float, ProfileError),
            statement=take(fields, "statement", str, ProfileError),
        )


def choose_threshold(
    scores: Sequence[float],
    peaks: Sequence[float],
    n_parts: int,
    margin: float = DEFAULT_MARGIN,
) -> Threshold:
    """Set the image and pixel thresholds from the scores and map maxima of good parts.

    Parameters
    ----------
    scores, peaks : sequence of float
        Of the references (if K > 1) and of the augmentations.
    n_parts : int
        K.
    margin : float
        See the module's formula.
    """
    promised = 1.0 / (n_parts + 1) if n_parts > 1 else 1.0
    if n_parts > 1:
        statement = (
            # rounded up: a bound may not be printed smaller than it is
            f"expected false rejects <= {-(-100 // (n_parts + 1))}%: the most that {n_parts} good "
            "parts can promise, if the next ones are made and lit alike; more parts tighten it"
        )
    else:
        statement = "one good part supports no promise about false rejects; enrol at least two"
    return Threshold(
        value=_above(scores, margin),
        pixel_value=_above(peaks, margin),
        method="leave-one-image-out" if n_parts > 1 else "self-augmentation",
        n_parts=n_parts,
        scores=tuple(scores),
        peaks=tuple(peaks),
        expected_false_rejects=promised,
        statement=statement,
    )


def augmentations(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield small fixed rotations, shifts and changes of brightness of an image [H,W,3], uint8."""
    height, width = image.shape[:2]
    for degrees, shift_x, shift_y, gain in _AUGMENTATIONS:
        motion = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
        motion[:, 2] += (shift_x * width, shift_y * height)
        moved = cv2.warpAffine(
            image,
            motion,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        yield np.clip(np.rint(moved * np.float32(gain)), 0, 255).astype(np.uint8)


N_AUGMENTATIONS = len(_AUGMENTATIONS)


def without_border(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a sixteenth of each side off the map [H,W] of an augmented image.

    Moving an image invents what comes in at its border; that is not how a good part varies, and
    it doubled the largest map value of some products.
    """
    height, width = anomaly_map.shape
    y, x = height // _BORDER_SHARE, width // _BORDER_SHARE
    return anomaly_map[y : height - y, x : width - x]


def _above(values: Sequence[float], margin: float) -> float:
    largest = max(values)
    return float(largest + margin * (largest - float(np.median(values))))
