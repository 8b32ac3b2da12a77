"""Thresholds that a person moves: what is still promised then.

The person sees the scores, so that the rank is not fixed beforehand and the bounds of
`upper_share_in_sight` apply. From references alone only what lies at or above their largest score
(where the encoder gives a score, the limit of equation (4) of `bounds`) keeps a promise, the same
as before.
"""

import dataclasses

from cff_runtime.errors import ProfileError, UsageError
from cff_runtime.jsonfields import take
from cff_runtime.thresholds.bounds import (
    DEFAULT_CONFIDENCE,
    percent,
    require_share,
    upper_share_in_sight,
)
from cff_runtime.thresholds.card import Evidence, Risk, make_card
from cff_runtime.thresholds.rule import text_apart_limit
from cff_runtime.thresholds.threshold import MAX_THRESHOLD, Threshold

BY_HAND = "by-hand"


def move_threshold(
    threshold: Threshold,
    reject: float | None = None,
    review: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    at: str | None = None,
) -> Threshold:
    """Set one or both thresholds by hand and state the risk anew from the scores in the card.

    Parameters
    ----------
    threshold : Threshold
        As it was.
    reject : float, optional
        A larger score is rejected. Without `review`, an existing review threshold stays where it
        is below the new one.
    review : float, optional
        A larger score is for review; at most `reject`.
    confidence : float
        y, inside (0, 1).
    at : str, optional
        Date of the card; now if not given.

    Raises
    ------
    UsageError
        If neither is given, one is not finite, or `review` is above `reject`.
    ProfileError
        If the card is damaged.
    """
    require_share("confidence", confidence)
    value = threshold.value if reject is None else reject
    if review is None:
        if reject is None:
            raise UsageError("`reject` or `review` must be given, got neither")
        has_band = threshold.review < threshold.value
        review = min(threshold.review, value) if has_band else value
    for name, given in (("reject", value), ("review", review)):
        if not abs(given) <= MAX_THRESHOLD:  # NaN fails too
            raise UsageError(
                f"`{name}` must be a score of at most {MAX_THRESHOLD:.0f}, got {given}"
            )
    if review > value:
        raise UsageError(
            f"`review` must be at most the reject threshold {value:.6g}, got {review:.6g}; "
            "give `--reject` as well"
        )
    evidence = _evidence_of(threshold)
    kept = _kept_promise(threshold, evidence, value)
    risk, statement = _risk(evidence, kept, value, review, confidence)
    wishes = {
        "max_false_reject": None,
        "max_false_accept": None,
        "confidence": confidence,
        "margin": margin_of(threshold),
    }
    return dataclasses.replace(
        threshold,
        value=value,
        review=review,
        pixel_value=review if evidence.of_maximum else threshold.pixel_value,
        method=BY_HAND,
        expected_false_rejects=risk.expected_false_rejects,
        statement=statement,
        card=make_card(BY_HAND, threshold.n_parts, evidence, wishes, risk, at),
    )


def margin_of(threshold: Threshold) -> float | None:
    """Return the margin that the card names; None if it names none.

    Raises
    ------
    ProfileError
        If the card is damaged.
    """
    wishes = take({"wishes": {}, **threshold.card}, "wishes", dict, ProfileError)
    if wishes.get("margin") is None:
        return None
    return take(wishes, "margin", float, ProfileError)


def has_encoder_score(threshold: Threshold) -> bool:
    """Whether scores that are not the maps' maxima are so because the encoder gives one."""
    return threshold.card.get("score") != "map"


def hashes_of(threshold: Threshold) -> dict[str, list[str]]:
    """Return the sha256 of the images of further and defective parts that the card names.

    Raises
    ------
    ProfileError
        If the card is damaged.
    """
    data = take({"data": {}, **threshold.card}, "data", dict, ProfileError)
    return {name: [str(entry) for entry in take(data, name, list, ProfileError)] for name in data}


def _evidence_of(threshold: Threshold) -> Evidence:
    of_maximum = threshold.scores == threshold.peaks
    return Evidence(
        references=threshold.reference_scores,
        augmentations=threshold.augmentation_scores,
        further=threshold.card_scores("further"),
        defective=threshold.card_scores("defective"),
        further_peaks=threshold.card_scores("further_peaks"),
        hashes=hashes_of(threshold),
        of_maximum=of_maximum,
        is_sum=not of_maximum and has_encoder_score(threshold),
    )


def _kept_promise(threshold: Threshold, evidence: Evidence, value: float) -> float:
    """Return the expected share that the references alone promise for a threshold."""
    n = threshold.n_parts
    if n < 2 or value < max(evidence.references):
        return 1.0
    if not evidence.is_sum:
        return 1.0 / (n + 1)
    limit = text_apart_limit(evidence.references, threshold.peaks[:n], threshold.peaks)
    return 2.0 / (n + 1) if value >= limit else 1.0


def _risk(
    evidence: Evidence, kept: float, value: float, review: float, confidence: float
) -> tuple[Risk, str]:
    """State what two thresholds promise that were chosen with the scores in sight.

    `kept` is what the references alone promise.
    """
    good = evidence.further or evidence.references
    n_above = sum(score > value for score in good)
    bound, expected = None, kept
    if evidence.further:
        bound = upper_share_in_sight(n_above, len(good), confidence)
        # E[p] <= 1 (1 - y) + bound y; a threshold above all scores keeps the bound of the largest
        expected = min(1.0, bound + 1.0 - confidence) if n_above else 1.0 / (len(good) + 1)
    kind = "further good parts" if evidence.further else "references left out"
    said = f"set by hand: {n_above} of {len(good)} {kind} are above it" if good else "set by hand"
    if bound is not None:
        said += f", false rejects <= {percent(bound)} with {100.0 * confidence:.6g}% confidence"
    elif expected < 1.0:
        said += f", expected false rejects <= {percent(expected)}"
    else:
        said += ", nothing is promised about false rejects"
    accepts = None
    if evidence.defective:
        n_passed = sum(score <= review for score in evidence.defective)
        accepts = upper_share_in_sight(n_passed, len(evidence.defective), confidence)
        said += (
            f"; {n_passed} of {len(evidence.defective)} defective parts pass, false accepts <= "
            f"{percent(accepts)} with {100.0 * confidence:.6g}% confidence"
        )
    return Risk(expected, bound, accepts), said
