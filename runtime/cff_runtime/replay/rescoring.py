"""Scoring one part with two profiles, and what became of its verdict.

Scores of two profiles have two thresholds, perhaps two units. They are compared as

relative = score / threshold

so that 1 is the threshold on both sides. A part's shift is the new relative score less the old one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend
from cff_runtime.errors import CffError
from cff_runtime.imaging import load_image
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile
from cff_runtime.replay.known import KnownParts
from cff_runtime.result import Result

VERDICTS = ("pass", "review", "reject")  # from mild to strict


@dataclass(frozen=True, eq=False)
class Side:
    """A profile with the bundle that it runs on.

    Attributes
    ----------
    inspector : Inspector
    backend : Backend
        Of the inspector.
    profile : Profile
    """

    inspector: Inspector
    backend: Backend
    profile: Profile


@dataclass(frozen=True)
class Judgement:
    """What one side says of a part; `relative` is the score over the threshold."""

    score: float
    relative: float
    verdict: str


@dataclass(frozen=True)
class Rescored:
    """A part, judged by both sides.

    Attributes
    ----------
    image : str
        Its path.
    old, new : Judgement
    is_good : bool or None
        What is known of the part.
    """

    image: str
    old: Judgement
    new: Judgement
    is_good: bool | None

    @property
    def shift(self) -> float:
        """How far the relative score moved; up is stricter."""
        return self.new.relative - self.old.relative

    @property
    def is_changed(self) -> bool:
        """Whether the verdict is another."""
        return self.old.verdict != self.new.verdict

    @property
    def is_better(self) -> bool | None:
        """Whether a changed verdict is nearer to what is known of the part; None if unknown."""
        if self.is_good is None or not self.is_changed:
            return None
        is_stricter = VERDICTS.index(self.new.verdict) > VERDICTS.index(self.old.verdict)
        return is_stricter != self.is_good

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        known = {None: None, True: "good", False: "defective"}[self.is_good]
        better = {None: None, True: "better", False: "worse"}[self.is_better]
        return {
            "image": self.image,
            "old": asdict(self.old),
            "new": asdict(self.new),
            "shift": self.shift,
            "known": known,
            "change": better,
        }


@dataclass(frozen=True)
class Failure:
    """A part that could not be scored, and why."""

    image: str
    error: str


@dataclass(frozen=True, eq=False)
class Views:
    """The part's pixels [h,w,3] and both results, for a picture; kept by nobody."""

    image: NDArray[np.uint8]
    old: Result
    new: Result


def relative_score(score: float, threshold: float) -> float:
    """Return a score relative to its threshold, 1 at the threshold.

    A threshold that someone moved to 0 or below has no ratio: there the difference counts.
    """
    return score / threshold if threshold > 0.0 else 1.0 + score - threshold


def rescore(
    images: Iterable[Path], old: Side, new: Side, known: KnownParts
) -> Iterator[tuple[Rescored, Views] | Failure]:
    """Score parts one at a time with both sides.

    A part that cannot be scored gives a `Failure` and is not the end. Where both sides encode
    alike, a part is encoded once.

    Raises
    ------
    ProfileMismatchError
        If a profile does not belong to its bundle.
    """
    for side in (old, new):
        side.profile.require_bundle(side.inspector.bundle.manifest)
    shares = old.inspector is new.inspector and np.array_equal(
        old.profile.condition, new.profile.condition
    )
    for path in images:
        try:
            image = load_image(path)
            if shares:
                results = _judge_both(image, old, new)
            else:
                results = tuple(s.inspector.inspect(image, s.profile) for s in (old, new))
        except (CffError, OSError) as error:
            yield Failure(str(path), str(error))
            continue
        first, second = (_judge(result) for result in results)
        yield Rescored(str(path), first, second, known.is_good(path)), Views(image, *results)


def _judge_both(image: NDArray[np.uint8], old: Side, new: Side) -> tuple[Result, ...]:
    resized = old.inspector.bundle.manifest.preprocessing(image)
    encoding = old.backend.encode(resized, old.profile.condition)
    size = (image.shape[0], image.shape[1])
    return tuple(old.inspector.judge(encoding, side.profile, size) for side in (old, new))


def _judge(result: Result) -> Judgement:
    relative = relative_score(result.score, result.threshold)
    return Judgement(result.score, relative, result.verdict)
