"""The reference's thresholds, written from `docs/thresholds.md` and exact binomial sums."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wishes:
    """How to enrol; see `cff_runtime.enrolment`."""

    margin: float = 0.2
    confidence: float | None = None
    max_false_reject: float | None = None
    max_false_accept: float | None = None
    max_bank: int | None = None


def choose_threshold(
    n_parts: int,
    scores: Sequence[float],
    peaks: Sequence[float],
    encoder_scores: Sequence[float | None],
    further: Sequence[float],
    further_peaks: Sequence[float],
    defects: Sequence[float],
    wishes: Wishes,
) -> dict[str, Any]:
    """Return `value`, `review`, `pixel_value`, `expected_false_rejects`, `method`."""
    is_sum = encoder_scores[0] is not None
    confidence = wishes.confidence or 0.95
    limit = _rule_of_thumb(scores, n_parts, wishes.margin)
    expected, method = 1.0, "self-augmentation"
    if n_parts > 1:
        expected, method = (2.0 if is_sum else 1.0) / (n_parts + 1), "leave-one-image-out"
        if is_sum:
            scale = 0.5 / max(peaks)
            largest = max(float(score or 0.0) for score in encoder_scores[:n_parts])
            limit = max(limit, 0.5 * (largest + scale * max(peaks[:n_parts])))
    rank = 1
    if further:
        method = "further-parts"
        n = len(further)
        if wishes.max_false_reject is not None:
            rank = _largest_rank(n, wishes.max_false_reject, confidence)
        supported, rank = rank > 0, max(rank, 1)
        low, low_expected = limit, expected
        limit, expected = sorted(further)[-rank], rank / (n + 1)
        if n < n_parts and (wishes.max_false_reject is None or not supported):
            limit, expected = max(limit, low), min(expected, low_expected)
    value = review = limit
    if wishes.max_false_accept is not None:
        accept_rank = max(_largest_rank(len(defects), wishes.max_false_accept, confidence), 1)
        accept = math.nextafter(sorted(defects)[accept_rank - 1], -math.inf)
        if accept < limit:
            review = accept
        elif wishes.max_false_reject is not None:
            value = review = 0.5 * (limit + accept)
    pixel_value = review
    if list(scores) != list(peaks):
        pixel_value = _rule_of_thumb(peaks, n_parts, wishes.margin)
        if further:
            pixel_value = sorted(further_peaks)[-rank]
    return {
        "value": value,
        "review": review,
        "pixel_value": pixel_value,
        "expected_false_rejects": expected,
        "method": method,
    }


def _rule_of_thumb(values: Sequence[float], n_parts: int, margin: float) -> float:
    base = max(values)
    if n_parts == 1:
        base += 0.42 * abs(base)
    return base + margin / n_parts**2 * abs(base)


def _largest_rank(n: int, share: float, confidence: float) -> int:
    """Return the largest k with P(Binomial(n, share) < k) <= 1 - confidence, 0 if there is none."""
    below, rank = 0.0, 0
    for k in range(1, n + 1):
        below += math.comb(n, k - 1) * share ** (k - 1) * (1.0 - share) ** (n - k + 1)
        if below > 1.0 - confidence:
            break
        rank = k
    return rank
