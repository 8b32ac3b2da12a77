"""The decision rule of a profile: two thresholds, three verdicts, and the card that says why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cff_runtime.errors import ProfileError
from cff_runtime.jsonfields import take, take_floats
from cff_runtime.result import Verdict

# no score comes near: a stage adds at most log(201), CFF's text map its weight
MAX_THRESHOLD = 1e6


@dataclass(frozen=True)
class Threshold:
    """The decision rule of a profile and how it was set.

    Attributes
    ----------
    value : float
        A part with a larger image score is rejected.
    pixel_value : float
        Map values above it form regions. It belongs to `review`: every part that does not pass
        shows where (where the image score is the map's maximum).
    method : str
        ``leave-one-image-out``, ``self-augmentation`` (K = 1), ``further-parts`` or ``by-hand``.
    n_parts : int
        References, K.
    scores, peaks : tuple of float
        Image scores and map maxima of the references left out (K > 1) and of the augmentations,
        in this order.
    expected_false_rejects : float
        Upper bound of the expected share of good parts rejected; 1 where nothing is promised.
    statement : str
        What is promised, in a sentence or two.
    review : float
        A part with a larger score, up to `value`, is for a person to look at; equal to `value`
        where there is no such band.
    card : mapping
        The calibration card, see `cff_runtime.thresholds.card`; empty in profiles made before
        there was one.
    """

    value: float
    pixel_value: float
    method: str
    n_parts: int
    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    expected_false_rejects: float
    statement: str
    review: float
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.review <= self.value:  # NaN fails too
            raise ProfileError(
                f"`review` must be at most the threshold {self.value}, got {self.review}"
            )

    def verdict(self, score: float) -> Verdict:
        """Return what becomes of a part with an image score."""
        if score > self.value:
            return "reject"
        return "review" if score > self.review else "pass"

    @property
    def reference_scores(self) -> tuple[float, ...]:
        """Scores of the references left out; none for K = 1."""
        return self.scores[: self.n_parts] if self.n_parts > 1 else ()

    @property
    def augmentation_scores(self) -> tuple[float, ...]:
        """Scores of the augmentations."""
        return self.scores[len(self.reference_scores) :]

    def card_scores(self, kind: str) -> tuple[float, ...]:
        """Return scores that the card holds of ``further`` good or of ``defective`` parts.

        Raises
        ------
        ProfileError
            If they are no finite numbers.
        """
        scores = self.card.get("scores", {})
        if not isinstance(scores, Mapping):
            raise ProfileError(f"`scores` of the card must be an object, got {scores!r:.80}")
        return take_floats({"scores": scores.get(kind, [])}, "scores", ProfileError)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Threshold":
        """Read a profile's entry; `review` and `card` may be missing, as they once were.

        Raises
        ------
        ProfileError
            If a field is missing or of a wrong type, or `review` is above `value`.
        """
        value = take(fields, "value", float, ProfileError)
        return cls(
            value=value,
            pixel_value=take(fields, "pixel_value", float, ProfileError),
            method=take(fields, "method", str, ProfileError),
            n_parts=take(fields, "n_parts", int, ProfileError),
            scores=take_floats(fields, "scores", ProfileError),
            peaks=take_floats(fields, "peaks", ProfileError),
            expected_false_rejects=take(fields, "expected_false_rejects", float, ProfileError),
            statement=take(fields, "statement", str, ProfileError),
            review=take({"review": value, **fields}, "review", float, ProfileError),
            card=take({"card": {}, **fields}, "card", dict, ProfileError),
        )


def rank_largest(values: Sequence[float], rank: int) -> float:
    """Return the rank-th largest of some values, the largest for rank 1."""
    return sorted(values, reverse=True)[rank - 1]
