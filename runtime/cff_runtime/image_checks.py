"""Do the given reference images look as if they were meant? Warnings, before they do harm.

blurred        variance of the Laplacian below a quarter of the median of the other references
duplicate      within 1.2 grey levels of another reference, averaged over a grid of 64 x 64, or
               mean features almost equal
outlier        its score when left out is more than 1.13 times the largest of the others
wrong product  as a whole nearer to another product, see `cff_runtime.product_check`
wrong size     aspect ratio differs from the others' by more than 2 %
trained on     its pixels are among those that the network was trained on

A check needs others to compare with: one for duplicates, sizes and products, two for sharpness and
three for scores. How often each is wrong on real parts stands in `docs/image_checks.md`.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.product_check import product_distance, product_limit
from cff_runtime.profile import Profile

_LEAST_SHARPNESS = 0.25
_SAME_GREY_LEVELS, _GRID_PX = 1.2, 64
_SAME_FEATURES = 0.1
_OUTLIER_RATIO = 1.13
_SIZE_TOLERANCE = 0.02


@dataclass(frozen=True)
class ImageWarning:
    """What is remarkable about a reference.

    Attributes
    ----------
    number : int
        Of the reference, from 1.
    name : str
        Of its file.
    kind : str
        ``blurred``, ``duplicate``, ``outlier``, ``wrong product``, ``wrong size`` or
        ``trained on``.
    text : str
        What was seen, in a sentence.
    """

    number: int
    name: str
    kind: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}: {self.text}"


def check_references(
    profile: Profile, new: Collection[int] | None = None, trained_images: Collection[str] = ()
) -> list[ImageWarning]:
    """Compare references of a profile with its other references.

    Parameters
    ----------
    profile : Profile
    new : collection of int, optional
        Indices of the references to check, all if not given. The others are taken for good.
    trained_images : collection of str
        Hashes of pixels, of `Manifest.trained_images`.
    """
    checked = sorted(range(profile.n_references) if new is None else new)
    trusted = [index for index in range(profile.n_references) if index not in set(checked)]
    sharpness = [sharpness_of(image) for image in profile.reference_images]
    found = []
    for index in checked:
        others = [other for other in range(profile.n_references) if other != index]
        remarks = [
            _blurred(sharpness, index, others),
            _duplicate(profile, index, others),
            _outlier(profile, index, others),
            _wrong_product(profile, index, trusted or others),
            _wrong_size(profile, index, trusted or others),
            _trained_on(profile, index, trained_images),
        ]
        name = profile.references[index].name
        found += [ImageWarning(index + 1, name, *remark) for remark in remarks if remark]
    return found


def sharpness_of(image: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the grey values of an image [H,W,3], RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


Remark = tuple[str, str] | None


def _blurred(sharpness: list[float], index: int, others: list[int]) -> Remark:
    if len(others) < 2:
        return None
    usual = float(np.median([sharpness[other] for other in others]))
    if sharpness[index] >= _LEAST_SHARPNESS * usual:
        return None
    share = sharpness[index] / usual
    return "blurred", f"it has {share:.0%} of the others' sharpness; focus the camera"


def _duplicate(profile: Profile, index: int, others: list[int]) -> Remark:
    own = profile.references[index]
    for other in others:
        reference = profile.references[other]
        twin = f"reference {other + 1}, {reference.name}"
        if reference.sha256 == own.sha256:
            return "duplicate", f"its pixels are those of {twin}; take another part"
        apart = np.abs(_coarse(profile, index) - _coarse(profile, other)).mean()
        if apart < _SAME_GREY_LEVELS or _distance(profile, index, [other]) < _SAME_FEATURES:
            return "duplicate", f"it shows the same as {twin}; take another part"
    return None


def _coarse(profile: Profile, index: int) -> NDArray[np.float32]:
    """Return the grey values of a reference on a coarse grid, where noise is averaged away."""
    grey = cv2.cvtColor(profile.reference_images[index], cv2.COLOR_RGB2GRAY)
    side = (_GRID_PX, _GRID_PX)
    return cv2.resize(grey, side, interpolation=cv2.INTER_AREA).astype(np.float32)


def _outlier(profile: Profile, index: int, others: list[int]) -> Remark:
    scores = profile.threshold.reference_scores
    if len(others) < 3 or len(scores) != profile.n_references:
        return None
    rest = [scores[other] for other in others]
    if scores[index] <= _OUTLIER_RATIO * max(rest):
        return None
    return "outlier", (
        f"its score against the other references is {scores[index]:.2f}, theirs reach "
        f"{max(rest):.2f}; is the part good?"
    )


def _wrong_product(profile: Profile, index: int, others: list[int]) -> Remark:
    if not others:
        return None
    limit = product_limit([means[others] for means in profile.means])
    distance = _distance(profile, index, others)
    if distance <= limit:
        return None
    return "wrong product", (
        f"as a whole it differs from the others by {distance:.1f}, of one product it is "
        f"{limit:.1f} at most"
    )


def _wrong_size(profile: Profile, index: int, others: list[int]) -> Remark:
    if not others:
        return None
    ratios = [width / height for width, height in (r.size for r in profile.references)]
    usual = float(np.median([ratios[other] for other in others]))
    if abs(ratios[index] / usual - 1.0) <= _SIZE_TOLERANCE:
        return None
    width, height = profile.references[index].size
    return "wrong size", (
        f"{width} x {height} px is another shape than the others' (width / height "
        f"{ratios[index]:.2f}, not {usual:.2f}); it would be distorted, crop it alike"
    )


def _trained_on(profile: Profile, index: int, trained_images: Collection[str]) -> Remark:
    if profile.references[index].sha256 not in trained_images:
        return None
    return "trained on", (
        "the network was trained on this image, its score is too low and the threshold promises "
        "too much; take a part that training has not seen"
    )


def _distance(profile: Profile, index: int, others: list[int]) -> float:
    return product_distance(
        [means[index] for means in profile.means], [means[others] for means in profile.means]
    )


def captions(profile: Profile, warnings: Collection[ImageWarning]) -> Iterator[list[str]]:
    """Yield, for every reference, its warnings as lines for a picture."""
    for number in range(1, profile.n_references + 1):
        yield [f"{one.kind}: {one.text}" for one in warnings if one.number == number]
