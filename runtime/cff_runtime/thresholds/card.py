"""The calibration card: what a threshold was set from, what it promises, and on which premises.

A mapping that is kept in the profile as JSON:

date          UTC, ISO 8601
method        as `Threshold.method`
n             how many ``references``, ``augmentations``, ``further`` good and ``defective`` parts
scores        ``references`` (left out), ``augmentations``, ``further``, ``defective``; where the
              score is not the map's maximum also ``further_peaks``, map maxima
score         what it is: ``maximum`` of the map, ``map`` for another statistic of it, or ``sum`` of
              maximum and encoder's score
data          sha256 of the preprocessed pixels of ``further`` and ``defective``, where known
wishes        ``max_false_reject``, ``max_false_accept`` (null if not wished), ``confidence``
risk          ``expected_false_rejects``, ``false_rejects`` and ``false_accepts`` (bounds that hold
              with the confidence; null where there is none), ``supported``: whether every wish is
assumptions   sentences
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXCHANGEABLE = (
    "later good parts are made, lit and taken like those behind this threshold; a new batch, lamp "
    "or lens is not covered"
)
LEFT_OUT = (
    "references are scored against the other references, which makes the bound pessimistic; it "
    "holds for the mean over enrolments and for a memory bank that was not compressed"
)
SUM_APART = (
    "the encoder's score and the map are bounded each by itself, which doubles the bound until it "
    "rests on further good parts"
)
SAME_PROFILE = (
    "further parts are scored with this memory bank and are in it neither now nor later; after a "
    "change of the bank they must be scored again"
)
DEFECTS_ALIKE = (
    "later defects are like those shown; of kinds that were not shown nothing is promised"
)
IN_SIGHT = (
    "the threshold was chosen with the scores in sight; the confidence is shared out among all "
    "choices"
)


@dataclass(frozen=True)
class Risk:
    """What is promised, each figure an upper bound.

    Attributes
    ----------
    expected_false_rejects : float
        Of the mean share of good parts rejected; 1 where nothing is promised.
    false_rejects : float or None
        Of the share of good parts rejected, with the confidence.
    false_accepts : float or None
        Of the share of defective parts passed, with the confidence.
    supported : bool
        Whether all wishes are.
    """

    expected_false_rejects: float
    false_rejects: float | None = None
    false_accepts: float | None = None
    supported: bool = True


@dataclass(frozen=True)
class Evidence:
    """The scores behind a threshold.

    Attributes
    ----------
    references, augmentations : tuple of float
        Of the references left out (none for K = 1) and of the augmentations.
    further, defective : tuple of float
        Of further good parts and of defective ones, never in the memory bank.
    further_peaks : tuple of float
        Map maxima of further good parts; they count where the score is not the maximum.
    hashes : mapping of str to sequence of str
        sha256 of the preprocessed pixels of ``further`` and ``defective``, where known.
    of_maximum, is_sum : bool
        Whether the scores are the maps' maxima, and whether the encoder's have a share in them.
    """

    references: tuple[float, ...]
    augmentations: tuple[float, ...]
    further: tuple[float, ...] = ()
    defective: tuple[float, ...] = ()
    further_peaks: tuple[float, ...] = ()
    hashes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    of_maximum: bool = True
    is_sum: bool = False

    @classmethod
    def of(
        cls,
        scores: Sequence[float],
        n_parts: int,
        further: Sequence[float],
        further_peaks: Sequence[float],
        defects: Sequence[float],
        hashes: Mapping[str, Sequence[str]] | None,
        of_maximum: bool,
        is_sum: bool,
    ) -> "Evidence":
        """Part the references' scores: those left out come first, if K > 1."""
        n_left_out = n_parts if n_parts > 1 else 0
        return cls(
            references=tuple(scores[:n_left_out]),
            augmentations=tuple(scores[n_left_out:]),
            further=tuple(further),
            defective=tuple(defects),
            further_peaks=tuple(further_peaks),
            hashes=hashes or {},
            of_maximum=of_maximum,
            is_sum=is_sum,
        )


def make_card(
    method: str,
    n_references: int,
    evidence: Evidence,
    wishes: Mapping[str, float | None],
    risk: Risk,
    at: str | None = None,
) -> dict[str, Any]:
    """Return a calibration card, ready for JSON.

    Parameters
    ----------
    method : str
    n_references : int
        K.
    evidence : Evidence
    wishes : mapping
        See the module's list.
    risk : Risk
    at : str, optional
        Date; now if not given.
    """
    scores = {
        "references": list(evidence.references),
        "augmentations": list(evidence.augmentations),
        "further": list(evidence.further),
        "defective": list(evidence.defective),
    }
    counts = {name: len(values) for name, values in scores.items()}
    if not evidence.of_maximum:
        scores["further_peaks"] = list(evidence.further_peaks)
    return {
        "date": at or now(),
        "method": method,
        "n": {**counts, "references": n_references},
        "scores": scores,
        "score": "sum" if evidence.is_sum else "maximum" if evidence.of_maximum else "map",
        "data": {name: list(hashes) for name, hashes in evidence.hashes.items()},
        "wishes": dict(wishes),
        "risk": {
            "expected_false_rejects": risk.expected_false_rejects,
            "false_rejects": risk.false_rejects,
            "false_accepts": risk.false_accepts,
            "supported": risk.supported,
        },
        "assumptions": _assumptions(method, evidence, risk),
    }


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _assumptions(method: str, evidence: Evidence, risk: Risk) -> list[str]:
    said = [EXCHANGEABLE]
    if evidence.further:
        said.append(SAME_PROFILE)
    elif evidence.references:
        said.append(LEFT_OUT)
        if evidence.is_sum:
            said.append(SUM_APART)
    if method == "by-hand":
        said.append(IN_SIGHT)
    if risk.false_accepts is not None:
        said.append(DEFECTS_ALIKE)
    return said
