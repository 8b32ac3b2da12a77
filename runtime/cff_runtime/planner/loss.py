"""What a planned profile decides otherwise: on the references and their augmentations.

They are what the box has. References lie in the bank themselves, so that a whole bank scores them
near 0; the score of an augmentation is the nearer to life.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.planner.timing import Inspects
from cff_runtime.profile import Profile
from cff_runtime.replay.rescoring import relative_score
from cff_runtime.thresholds import augmentations


@dataclass(frozen=True)
class Loss:
    """Old against planned profile.

    Attributes
    ----------
    n_images : int
        References and augmentations.
    changed : tuple of str
        Those of another verdict: name, old and new verdict.
    largest_shift, mean_shift : float
        Of the scores relative to their thresholds, new less old; the largest by its size.
    old_threshold, new_threshold : float
    coverage : mapping or None
        What the coreset left out, see `cff_runtime.coreset`; None for a whole bank.
    """

    n_images: int
    changed: tuple[str, ...]
    largest_shift: float
    mean_shift: float
    old_threshold: float
    new_threshold: float
    coverage: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)


def measure_loss(old: tuple[Inspects, Profile], new: tuple[Inspects, Profile]) -> Loss:
    """Inspect the old profile's references and their augmentations with both profiles."""
    changed, shifts = [], []
    profile = old[1]
    for reference, pixels in zip(profile.references, profile.reference_images, strict=True):
        for number, image in enumerate([pixels, *augmentations(pixels)]):
            before, after = (inspector.inspect(image, own) for inspector, own in (old, new))
            shifts.append(
                relative_score(after.score, after.threshold)
                - relative_score(before.score, before.threshold)
            )
            if before.verdict != after.verdict:
                moved = f", augmentation {number}" if number else ""
                changed.append(f"{reference.name}{moved}: {before.verdict} to {after.verdict}")
    return Loss(
        n_images=len(shifts),
        changed=tuple(changed),
        largest_shift=max(shifts, key=abs),
        mean_shift=sum(shifts) / len(shifts),
        old_threshold=profile.threshold.value,
        new_threshold=new[1].threshold.value,
        coverage=new[1].compression,
    )
