"""Choosing the thresholds of a profile, and saying what they promise.

Each reference is scored against the memory bank of the *other* references (leave one image out),
and so are gentle augmentations of it, which stand for how a good part may lie or be lit next
time; the border of an augmented image, partly invented, does not count. With a single reference
there is no other bank: only its augmentations are scored, against its own bank.

Without further parts a rule of thumb sets the threshold (`cff_runtime.thresholds.rule`); with K > 1
it is never below the largest score of a reference left out, so that equation (3) of
`cff_runtime.thresholds.bounds` promises expected false rejects of at most 1 / (K + 1). Where the
encoder gives a score it is never below the limit of equation (4), for 2 / (K + 1).

Further good parts, scored like any later part, carry a bound of their own, equations (1) and (2):
the threshold is the largest of their scores or, if a wish `max_false_reject` permits, the lowest of
them that keeps it with the confidence. Fewer parts than references, and no wish: both rules, the
higher threshold.

Defective parts bound the false accepts in the same way, from below: what lies under the j-th
smallest of m scores passes, which promises a share of upper_share(j - 1, m). Where both wishes fit
one threshold it lies halfway between their limits; where they do not, each keeps its own, and what
lies between is for *review*. Each bound holds with the confidence, both at once with 2 y - 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cff_runtime.errors import UsageError
from cff_runtime.thresholds.bounds import (
    DEFAULT_CONFIDENCE,
    largest_rank,
    parts_needed,
    percent,
    require_share,
    upper_share,
)
from cff_runtime.thresholds.card import Evidence, Risk, make_card
from cff_runtime.thresholds.rule import DEFAULT_MARGIN, default_limit, text_apart_limit
from cff_runtime.thresholds.threshold import Threshold, rank_largest

_MOST_PARTS = 10**7  # more are not worth asking for


@dataclass(frozen=True)
class _Side:
    """One limit: the score, what it promises, and whether that is what was wished."""

    limit: float
    expected: float
    bound: float | None
    supported: bool
    statement: str
    rank: int = 1


def choose_threshold(
    scores: Sequence[float],
    peaks: Sequence[float],
    n_parts: int,
    margin: float = DEFAULT_MARGIN,
    *,
    further: Sequence[float] = (),
    further_peaks: Sequence[float] = (),
    defects: Sequence[float] = (),
    max_false_reject: float | None = None,
    max_false_accept: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    hashes: Mapping[str, Sequence[str]] | None = None,
    at: str | None = None,
    has_encoder_score: bool = True,
) -> Threshold:
    """Set the thresholds from the scores and map maxima of good parts; see the module.

    Parameters
    ----------
    scores, peaks : sequence of float
        Of the references left out (if K > 1), then of the augmentations. Equal where the score is
        the map's maximum.
    n_parts : int
        K.
    margin : float
        Of the rule of thumb; raises the threshold.
    further, further_peaks : sequence of float
        Scores and map maxima of good parts that are not references. The maxima are needed where
        the score is not the map's maximum.
    defects : sequence of float
        Scores of defective parts.
    max_false_reject, max_false_accept : float, optional
        Wishes, inside (0, 1).
    confidence : float
        y, inside (0, 1).
    hashes : mapping, optional
        sha256 of the images of ``further`` and ``defective`` parts, for the card.
    at : str, optional
        Date of the card; now if not given.
    has_encoder_score : bool
        Whether scores that are not the maxima are so because the encoder gives one, and not
        because they are another statistic of the map.

    Raises
    ------
    UsageError
        If a score is not finite, there is none, a wish is not inside (0, 1), or false accepts are
        to be bounded without defective parts.
    """
    scores, peaks, further, further_peaks, defects = (
        _finite(name, values)
        for name, values in (
            ("scores", scores),
            ("peaks", peaks),
            ("further", further),
            ("further_peaks", further_peaks),
            ("defects", defects),
        )
    )
    if not scores or not peaks:
        raise UsageError("`scores` and `peaks` must hold at least one good part's, got none")
    require_share("confidence", confidence)
    if max_false_accept is not None and not defects:
        raise UsageError(
            "`max_false_accept` must come with scores of defective parts, got none; "
            "give their images (`--defects`)"
        )
    of_maximum = scores == peaks
    is_sum = has_encoder_score and not of_maximum
    evidence = Evidence.of(
        scores, n_parts, further, further_peaks, defects, hashes, of_maximum, is_sum
    )
    low, expected = default_limit(scores, n_parts, margin), 1.0
    if n_parts > 1:
        expected = (2.0 if is_sum else 1.0) / (n_parts + 1)
        if is_sum:
            low = max(low, text_apart_limit(scores[:n_parts], peaks[:n_parts], peaks))
    if further:
        reject = _from_further(low, expected, further, n_parts, max_false_reject, confidence)
    else:
        reject = _from_references(low, expected, n_parts, max_false_reject, confidence)
    accept = _from_defects(defects, max_false_accept, confidence)
    value, review, statement = _combine(reject, accept, max_false_reject is not None, evidence)
    pixel_value = review
    if not of_maximum:
        pixel_value = (
            rank_largest(further_peaks, min(reject.rank, len(further_peaks)))
            if further_peaks
            else default_limit(peaks, n_parts, margin)
        )
    risk = Risk(
        reject.expected,
        reject.bound,
        None if accept is None else accept.bound,
        reject.supported and (accept is None or accept.supported),
    )
    wishes = {
        "max_false_reject": max_false_reject,
        "max_false_accept": max_false_accept,
        "confidence": confidence,
        "margin": margin,
    }
    without = "leave-one-image-out" if n_parts > 1 else "self-augmentation"
    method = "further-parts" if further else without
    return Threshold(
        value=value,
        pixel_value=pixel_value,
        method=method,
        n_parts=n_parts,
        scores=scores,
        peaks=peaks,
        expected_false_rejects=reject.expected,
        statement=statement,
        review=review,
        card=make_card(method, n_parts, evidence, wishes, risk, at),
    )


def _finite(name: str, values: Sequence[float]) -> tuple[float, ...]:
    plain = tuple(float(value) for value in values)
    for value in plain:
        if not math.isfinite(value):
            raise UsageError(f"`{name}` must be finite, got {value}; run `cff-run verify`")
    return plain


def _from_references(
    limit: float, expected: float, n_parts: int, wish: float | None, confidence: float
) -> _Side:
    if n_parts > 1:
        statement = (
            f"expected false rejects <= {percent(expected)}: the most that {n_parts} good "
            "parts can promise, if the next ones are made and lit alike; more parts tighten it"
        )
    else:
        statement = "one good part supports no promise about false rejects; enrol at least two"
    if wish is not None:
        statement += (
            f". False rejects <= {percent(require_share('max_false_reject', wish))} with "
            f"{_confident(confidence)} need {_needed(wish, confidence)} further good parts that "
            "are not references, got none"
        )
    return _Side(limit, expected, None, wish is None, statement)


def _from_further(
    low: float,
    low_expected: float,
    further: Sequence[float],
    n_parts: int,
    wish: float | None,
    confidence: float,
) -> _Side:
    """Return the limit of n further parts; `low` and `low_expected` are the references'."""
    n = len(further)
    rank = 1
    if wish is not None:
        require_share("max_false_reject", wish)
        rank = largest_rank(n, wish, confidence)
    supported = rank > 0
    rank = max(rank, 1)
    limit = rank_largest(further, rank)
    expected = rank / (n + 1)
    if n < n_parts and (wish is None or not supported):
        limit = max(limit, low)
        expected = min(expected, low_expected)
    bound = upper_share(rank - 1, n, confidence)
    statement = (
        f"false rejects <= {percent(bound)} with {_confident(confidence)} from {_count(n, 'good')} "
        f"beside the references (expected: <= {percent(expected)})"
    )
    least = upper_share(0, n, confidence)
    if not supported and wish is not None:
        statement += (
            f"; <= {percent(wish)} cannot be promised from {n}, it takes "
            f"{_needed(wish, confidence)} parts"
        )
    elif rank > 1:
        statement += f"; a higher threshold could promise <= {percent(least)}"
    else:
        more = parts_needed(bound / 2.0, confidence) - n
        statement += f"; {more} more would halve it"
    return _Side(limit, expected, bound, supported, statement, rank)


def _from_defects(defects: Sequence[float], wish: float | None, confidence: float) -> _Side | None:
    if wish is None:
        return None
    require_share("max_false_accept", wish)
    m = len(defects)
    rank = largest_rank(m, wish, confidence)
    supported, rank = rank > 0, max(rank, 1)
    limit = math.nextafter(sorted(defects)[rank - 1], -math.inf)
    bound = upper_share(rank - 1, m, confidence)
    statement = (
        f"false accepts <= {percent(bound)} with {_confident(confidence)} from "
        f"{_count(m, 'defective')}"
    )
    if not supported:
        statement += (
            f"; <= {percent(wish)} cannot be promised from {m}, it takes "
            f"{_needed(wish, confidence)} parts"
        )
    return _Side(limit, rank / (m + 1), bound, supported, statement, rank)


def _combine(
    reject: _Side, accept: _Side | None, may_rise: bool, evidence: Evidence
) -> tuple[float, float, str]:
    """Return threshold, review threshold and statement."""
    if accept is None:
        return reject.limit, reject.limit, reject.statement
    statement = f"{reject.statement}. {_capital(accept.statement)}"
    if accept.limit >= reject.limit:
        value = 0.5 * (reject.limit + accept.limit) if may_rise else reject.limit
        return value, value, statement
    low, high = accept.limit, reject.limit
    n_good = sum(low < score <= high for score in evidence.further or evidence.references)
    n_bad = sum(low < score <= high for score in evidence.defective)
    statement += (
        f". No single threshold keeps both: parts between are for review, of those shown "
        f"{_count(n_good, 'good')} and {n_bad} defective"
    )
    return high, low, statement


def _needed(share: float, confidence: float) -> str:
    """Say how many parts a promise takes, in a number that can be made."""
    if -math.log1p(-confidence) / share > _MOST_PARTS:
        return f"more than {_MOST_PARTS}"
    return str(parts_needed(share, confidence))


def _confident(confidence: float) -> str:
    return f"{100.0 * confidence:.6g}% confidence"


def _count(n: int, kind: str) -> str:
    return f"{n} {kind} part{'' if n == 1 else 's'}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
