"""What is chosen from references, further and defective parts, and what is said of it."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from cff_runtime.errors import ProfileError, UsageError
from cff_runtime.thresholds import (
    Threshold,
    choose_threshold,
    move_threshold,
    upper_share,
    upper_share_in_sight,
)

OWN = [1.0, 1.2, 1.1, 1.3, *[1.0] * 16]
FURTHER = [float(v) for v in np.random.default_rng(0).normal(1.0, 0.1, 100)]


def choose(**options: object) -> Threshold:
    return choose_threshold(OWN, OWN, 4, at="2026-01-01T00:00:00+00:00", **options)


def test_without_further_parts_nothing_is_said_with_confidence() -> None:
    threshold = choose()

    assert threshold.value == threshold.review == threshold.pixel_value
    assert threshold.value >= max(OWN[:4])
    assert threshold.card["risk"] == {
        "expected_false_rejects": 0.2,
        "false_rejects": None,
        "false_accepts": None,
        "supported": True,
    }
    assert "confidence" not in threshold.statement


def test_a_wish_that_references_cannot_support_is_answered_with_what_it_takes() -> None:
    threshold = choose(max_false_reject=0.01)

    assert threshold.value == choose().value
    assert threshold.card["risk"]["supported"] is False
    assert "expected false rejects <= 20%" in threshold.statement
    assert "False rejects <= 1% with 95% confidence need 299 further" in threshold.statement
    assert "more than 10000000" in choose(max_false_reject=1e-9).statement


def test_the_largest_further_score_is_the_threshold() -> None:
    threshold = choose(further=FURTHER)

    assert threshold.method == "further-parts"
    assert threshold.value == max(FURTHER)
    assert threshold.expected_false_rejects == 1 / 101
    assert threshold.card["risk"]["false_rejects"] == upper_share(0, 100, 0.95)
    # 1 - 0.05^(1/100) = 0.02951; half of it takes 202 parts
    assert "<= 3% with 95% confidence from 100 good parts" in threshold.statement
    assert "102 more would halve it" in threshold.statement
    assert upper_share(0, 202, 0.95) <= upper_share(0, 100, 0.95) / 2 < upper_share(0, 201, 0.95)


def test_a_wish_takes_the_lowest_threshold_that_keeps_it() -> None:
    threshold = choose(further=FURTHER, max_false_reject=0.08)

    above = sum(score > threshold.value for score in FURTHER)
    assert above == 3  # rank 4: 7.6 %; rank 5 would give 8.9 %
    assert upper_share(3, 100, 0.95) <= 0.08 < upper_share(4, 100, 0.95)
    assert threshold.value in FURTHER
    assert threshold.expected_false_rejects == 4 / 101
    assert "a higher threshold could promise <= 3%" in threshold.statement


def test_a_wish_beyond_the_parts_takes_the_largest_and_says_so() -> None:
    threshold = choose(further=FURTHER, max_false_reject=0.01)

    assert threshold.value == max(FURTHER)
    assert "<= 1% cannot be promised from 100, it takes 299 parts" in threshold.statement
    assert threshold.card["risk"]["supported"] is False


def test_fewer_parts_than_references_cannot_lower_the_threshold() -> None:
    low, high = choose(further=[0.5]), choose(further=[9.0])

    assert low.value == choose().value and low.expected_false_rejects == 0.2
    assert high.value == 9.0


def test_one_further_part_is_a_bound_too() -> None:
    threshold = choose_threshold([1.0] * 4, [1.0] * 4, 1, further=[2.0])

    assert threshold.value == 2.0 and threshold.expected_false_rejects == 0.5
    assert "from 1 good part beside" in threshold.statement


def test_tied_scores_are_not_rejected() -> None:
    threshold = choose(further=[1.5] * 100, max_false_reject=0.2)

    assert threshold.value == 1.5
    assert threshold.verdict(1.5) == "pass"


def test_both_wishes_meet_halfway_where_they_can() -> None:
    threshold = choose(
        further=[1.0] * 60, defects=[3.0] * 60, max_false_reject=0.05, max_false_accept=0.05
    )

    assert threshold.value == threshold.review == pytest.approx(2.0)
    assert threshold.card["risk"]["supported"] is True
    assert "False accepts <= 4.9% with 95% confidence from 60 defective" in threshold.statement


def test_where_they_cannot_what_lies_between_is_for_review() -> None:
    good = [0.01 * n for n in range(100)]  # 0 to 0.99
    bad = [0.5 + 0.01 * n for n in range(100)]
    threshold = choose(further=good, defects=bad, max_false_reject=0.05, max_false_accept=0.05)

    assert threshold.value == pytest.approx(0.98)  # rank 2 of 100
    assert threshold.review == math.nextafter(0.51, -math.inf)
    assert [threshold.verdict(s) for s in (0.5, 0.51, 0.98, 0.99)] == [
        "pass",
        "review",
        "review",
        "reject",
    ]
    assert threshold.pixel_value == threshold.review
    assert sum(s <= threshold.review for s in bad) == 1
    assert "No single threshold keeps both" in threshold.statement
    assert "48 good parts and 48 defective" in threshold.statement


def test_false_accepts_alone_leave_the_reject_threshold() -> None:
    low = choose(defects=[0.5] * 60, max_false_accept=0.05)
    high = choose(defects=[5.0] * 60, max_false_accept=0.05)

    assert low.value == high.value == high.review == choose().value
    assert low.review == math.nextafter(0.5, -math.inf)


def test_false_accepts_need_defective_parts() -> None:
    with pytest.raises(UsageError, match="`--defects`"):
        choose(max_false_accept=0.05)


@pytest.mark.parametrize("name", ["further", "defects", "further_peaks"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_must_be_finite(name: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"`{name}` must be finite"):
        choose(**{name: [1.0, bad]})
    with pytest.raises(UsageError, match="at least one"):
        choose_threshold([], [], 1)


@pytest.mark.parametrize("name", ["max_false_reject", "confidence"])
@pytest.mark.parametrize("bad", [0.0, 1.0, 5.0, float("nan")])
def test_wishes_must_be_shares(name: str, bad: float) -> None:
    for further in ([], FURTHER):
        with pytest.raises(UsageError, match=f"`{name}` must be above 0"):
            choose(further=further, **{name: bad})


def test_a_text_tower_bounds_text_and_map_apart() -> None:
    """Score (t + c m) / 2 with c = 0.5 / 4: t = 0.2 and 0.6, m = 4 and 2."""
    scores, peaks = [0.35, 0.425], [4.0, 2.0]
    threshold = choose_threshold(scores, peaks, 2, margin=0.0)

    assert threshold.value == pytest.approx(0.5 * (0.6 + 0.125 * 4.0))
    assert threshold.expected_false_rejects == pytest.approx(2 / 3)
    assert threshold.pixel_value == 4.0
    moved = move_threshold(threshold, reject=0.5)
    assert moved.expected_false_rejects == 1.0 and moved.pixel_value == 4.0


def test_the_text_tower_s_promise_holds_though_the_largest_score_would_break_it() -> None:
    rng = np.random.default_rng(0)
    n_trials, broken, largest = 4000, 0, 0
    for _ in range(n_trials):
        points, text = rng.standard_cauchy((4, 3)), rng.random(4)
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        peaks = apart[:, :3].min(axis=1)
        scores = 0.5 * (text + 0.5 / peaks[:3].max() * peaks)
        rule = choose_threshold(list(scores[:3]), list(peaks[:3]), 3, margin=0.0, at="now")
        broken += scores[3] > rule.value
        largest += scores[3] > scores[:3].max()
    assert largest / n_trials > 0.26 > 1 / 4  # the bound without a text tower
    assert broken / n_trials < 2 / 4


def test_with_a_text_tower_further_maxima_set_the_pixel_threshold() -> None:
    threshold = choose_threshold(
        OWN, [2 * s for s in OWN], 4, further=FURTHER, further_peaks=[5.0, *[3.0] * 99]
    )

    assert threshold.value == max(FURTHER) and threshold.pixel_value == 5.0
    assert threshold.card_scores("further_peaks")[0] == 5.0


def test_the_card_is_plain_json_and_says_everything() -> None:
    threshold = choose(
        further=np.array(FURTHER), hashes={"further": ["ab"] * 100}, max_false_reject=0.05
    )

    card = json.loads(json.dumps(threshold.card))

    assert card == threshold.card
    assert card["date"] == "2026-01-01T00:00:00+00:00"
    assert card["n"] == {"references": 4, "augmentations": 16, "further": 100, "defective": 0}
    assert card["scores"]["references"] == OWN[:4] and card["scores"]["further"] == FURTHER
    assert card["data"] == {"further": ["ab"] * 100}
    assert card["wishes"]["max_false_reject"] == 0.05
    assert any("made, lit and taken like" in line for line in card["assumptions"])


def test_a_threshold_survives_json() -> None:
    threshold = choose(further=FURTHER, defects=[0.9, 1.0], max_false_accept=0.5)

    assert Threshold.from_dict(json.loads(json.dumps(asdict(threshold)))) == threshold


def test_an_entry_of_an_earlier_version_has_no_band() -> None:
    fields = json.loads(json.dumps(asdict(choose())))
    del fields["review"], fields["card"]

    threshold = Threshold.from_dict(fields)

    assert threshold.review == threshold.value and threshold.card == {}
    assert threshold.card_scores("further") == ()


@pytest.mark.parametrize(
    ("name", "bad"),
    [("review", 99.0), ("review", "low"), ("card", []), ("value", float("nan"))],
)
def test_damaged_entries_are_refused(name: str, bad: object) -> None:
    with pytest.raises(ProfileError):
        Threshold.from_dict({**json.loads(json.dumps(asdict(choose()))), name: bad})


@pytest.mark.parametrize(
    "card", [{"scores": []}, {"scores": {"further": [None]}}, {"data": 3}, {"wishes": 3}]
)
def test_damaged_cards_are_refused(card: dict[str, object]) -> None:
    with pytest.raises(ProfileError):
        move_threshold(replace(choose(), card=card), reject=2.0)


def test_moved_by_hand_the_risk_is_stated_anew() -> None:
    before = choose(further=FURTHER, defects=[0.9, 2.0, 2.5])
    limit = sorted(FURTHER)[-3]

    after = move_threshold(before, reject=limit, review=0.95)

    assert (after.value, after.review, after.method) == (limit, 0.95, "by-hand")
    assert after.card["risk"]["false_rejects"] == upper_share_in_sight(2, 100, 0.95)
    assert after.card["risk"]["false_accepts"] == upper_share_in_sight(1, 3, 0.95)
    assert "2 of 100 further good parts are above it" in after.statement
    assert after.card["scores"] == before.card["scores"]
    assert move_threshold(before, reject=9.0).expected_false_rejects == 1 / 101


def test_below_the_references_nothing_is_promised() -> None:
    before = choose()

    assert move_threshold(before, reject=1.3).expected_false_rejects == 0.2
    assert move_threshold(before, reject=1.29).expected_false_rejects == 1.0
    assert "nothing is promised" in move_threshold(before, reject=1.29).statement


def test_the_band_stays_where_it_was_if_it_can() -> None:
    banded = move_threshold(choose(), reject=2.0, review=1.5)

    assert move_threshold(banded, reject=3.0).review == 1.5
    assert move_threshold(banded, reject=1.2).review == 1.2
    assert move_threshold(choose(), reject=3.0).review == 3.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "must be given"),
        ({"reject": float("nan")}, "`reject` must be a score of at most"),
        ({"review": float("-inf")}, "`review` must be a score of at most"),
        ({"review": 99.0}, "give `--reject` as well"),
        ({"reject": 1.0, "confidence": 2.0}, "`confidence`"),
    ],
)
def test_wrong_moves_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        move_threshold(choose(), **options)


@pytest.mark.parametrize("score", [1e7, -1e7, float("nan"), float("inf")])
def test_a_threshold_that_no_score_reaches_cannot_be_set(score: float) -> None:
    threshold = choose_threshold([1.0, 1.2], [1.0, 1.2], 1)
    with pytest.raises(UsageError, match="`reject` must be a score of at most 1000000"):
        move_threshold(threshold, reject=score)
