"""The curve's trials against real enrolments, its estimates against truths known beforehand."""

from collections.abc import Callable
from itertools import combinations
from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Inspector
from cff_runtime.curve.gallery import Answer, Gallery, Probe, build_gallery, n_encodings
from cff_runtime.curve.intervals import Estimate, estimate
from cff_runtime.curve.points import Curve, Point, measure_curve
from cff_runtime.curve.statement import article, ordinal, statement
from cff_runtime.curve.trials import Trial, Trials, draw_orders, run_trial, run_trials
from cff_runtime.encoder_signature import ScoreOutput
from cff_runtime.errors import UsageError
from cff_runtime.inspector import DEFAULT_TEXT_NAME
from cff_runtime.thresholds import DEFAULT_MARGIN

LEVEL_TOLERANCE = 0.02  # of 4000 random orders


@pytest.mark.parametrize("text_tower", [False, True])
@pytest.mark.parametrize("references", [[2], [0, 4], [3, 1, 5]])
def test_a_trial_is_an_enrolment_and_inspections(
    numpy_inspector: Callable[..., Inspector],
    draw_part: Callable[..., NDArray[np.uint8]],
    text_tower: bool,
    references: list[int],
) -> None:
    inspector = numpy_inspector(text_tower)
    manifest, text = (
        inspector.bundle.manifest,
        inspector.bundle.condition_of_word(DEFAULT_TEXT_NAME),
    )
    good = [manifest.preprocessing(draw_part(seed)) for seed in range(6)]
    bad = [manifest.preprocessing(draw_part(50 + seed, True)) for seed in range(2)]
    gallery = build_gallery(inspector._backend, manifest, good, bad, text)

    trial = run_trial(gallery, references, DEFAULT_MARGIN)

    profile = inspector.enroll([good[i] for i in references], "ring")
    assert trial.threshold == pytest.approx(profile.threshold.value, abs=1e-4)
    for index, image in enumerate(good):
        if index in references:
            assert np.isnan(trial.good[index])
        else:
            score = inspector.inspect(image, profile).score
            assert trial.good[index] == pytest.approx(score, abs=1e-4)
    expected = [inspector.inspect(image, profile).score for image in bad]
    assert trial.defective == pytest.approx(expected, abs=1e-4)


def test_every_image_is_encoded_once(
    numpy_inspector: Callable[..., Inspector], good_parts: list[NDArray[np.uint8]]
) -> None:
    inspector = numpy_inspector()
    manifest = inspector.bundle.manifest
    backend: Any = inspector._backend
    encode, calls = backend.encode, []

    def count(image: Any, text: Any) -> Any:
        calls.append(image.tobytes())
        return encode(image, text)

    backend.encode = count
    resized = [manifest.preprocessing(image) for image in good_parts]
    text = inspector.bundle.condition_of_word(DEFAULT_TEXT_NAME)
    n_told = []
    gallery = build_gallery(backend, manifest, resized, resized[:1], text, lambda: n_told.append(1))
    assert len(calls) == len(n_told) == n_encodings(manifest, 4, 1) == 21
    run_trials(gallery, draw_orders(4, 5, 0), 2, DEFAULT_MARGIN)
    assert len(calls) == 21


class PlantedGallery(Gallery):
    """Parts of kinds: a part scores 1 where no reference is of its kind, else 0."""

    def answer(self, probe: Probe, references: Any, is_augmented: bool = False) -> Answer:
        peak = 0.0 if is_augmented else float(probe.nearest[list(references)].max() < 1.0)
        return Answer(peak, peak, None)


def plant(kinds: list[int], n_defective: int = 0) -> PlantedGallery:
    """Augmentations score 0, references left out count only by the margin's rule."""
    same = np.equal.outer(kinds, kinds).astype(np.float32)
    nothing = np.zeros((1, 1), np.float32)
    parts = tuple(Probe(row, nothing, None) for row in same)
    strange = Probe(np.zeros(len(kinds), np.float32), nothing, None)
    manifest: Any = SimpleNamespace(score=ScoreOutput(None, "max"))
    return PlantedGallery(manifest, parts, [[p] for p in parts], [strange] * n_defective)


def flat_trials(kinds: list[int], k: int, n_draws: int, seed: int) -> Trials:
    """Trials of planted parts at a threshold of one half."""
    gallery = plant(kinds)
    draws = []
    for order in draw_orders(len(kinds), n_draws, seed):
        references = order[:k].tolist()
        good = [
            np.nan if i in references else gallery.answer(gallery.good[i], references).peak
            for i in range(len(kinds))
        ]
        draws.append(Trial(0.5, np.array(good), np.array([])))
    return Trials(k, tuple(draws))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_false_rejects_of_kinds_are_hypergeometric(k: int) -> None:
    kinds = [0] * 6 + [1] * 4 + [2] * 2
    n = len(kinds)
    values = flat_trials(kinds, k, 4000, seed=k).rejects()
    # a held-out part of a kind of m is rejected if all k references are of the n - m others
    share = {kind: comb(n - kinds.count(kind), k) / comb(n - 1, k) for kind in set(kinds)}
    truth = np.mean([share[kind] for kind in kinds])
    assert estimate(values, 0).mean == pytest.approx(truth, abs=LEVEL_TOLERANCE)


def test_gains_are_differences_within_a_draw() -> None:
    kinds = [0, 0, 0, 1, 1, 2, 2, 2]
    before, after = (flat_trials(kinds, k, 50, seed=3).rejects() for k in (2, 3))
    gain = after - before
    held_out_of_both = ~np.isnan(after)
    assert np.array_equal(~np.isnan(gain), held_out_of_both)
    assert (gain[held_out_of_both] <= 0.0).all()  # another reference never hurts here
    assert estimate(gain, 0, is_difference=True).mean == pytest.approx(np.nanmean(gain))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """New parts and new draws each time; the truth is that of endlessly many parts."""
    shares = np.array([0.4, 0.3, 0.2, 0.1])

    def truth(k: int) -> float:
        return float((shares * (1.0 - shares) ** k).sum())

    n_held = n_gains = 0
    n_runs, k = 60, 4
    for seed in range(n_runs):
        kinds = np.random.default_rng(seed).choice(4, 16, p=shares).tolist()
        before, after = (flat_trials(kinds, n, 12, seed).rejects() for n in (k, k + 1))
        level = estimate(before, seed)
        gain = estimate(after - before, seed, is_difference=True)
        n_held += level.low <= truth(k) <= level.high
        n_gains += gain.low <= truth(k + 1) - truth(k) <= gain.high
    assert n_held >= 0.75 * n_runs  # 90 % is meant; see the module on what is left out
    assert n_gains >= 0.85 * n_runs


def test_nothing_seen_is_not_nothing_there() -> None:
    values = np.zeros((30, 20, 1))
    found = estimate(values, 0)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1.0 - 0.05 ** (1 / 20))
    assert estimate(values + 1.0, 0).low == pytest.approx(0.05 ** (1 / 20))
    gain = estimate(values, 0, is_difference=True)
    assert -gain.low == gain.high == pytest.approx(1.0 - 0.05 ** (1 / 20))


def test_more_draws_of_the_same_parts_do_not_make_intervals_vanish() -> None:
    kinds = [0] * 5 + [1] * 3
    few, many = (estimate(flat_trials(kinds, 1, n, 0).rejects(), 0) for n in (30, 600))
    assert many.high - many.low > 0.5 * (few.high - few.low)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 5, 9).astype(float), rng.integers(2, 8, 7).astype(float)
    good[[1, 4]] = np.nan
    pairs = [(b > g) + 0.5 * (b == g) for g in good[~np.isnan(good)] for b in bad]
    wins = Trials(2, (Trial(0.0, good, bad),)).wins()
    assert wins.shape == (1, 9, 7)
    assert np.nanmean(wins) == pytest.approx(np.mean(pairs))


def test_orders_are_seeded_permutations() -> None:
    orders = draw_orders(5, 200, 1)
    assert all(sorted(order.tolist()) == list(range(5)) for order in orders)
    again = draw_orders(5, 200, 1)
    assert all(np.array_equal(a, b) for a, b in zip(orders, again, strict=True))
    firsts = {frozenset(order[:2].tolist()) for order in orders}
    assert firsts == {frozenset(pair) for pair in combinations(range(5), 2)}


def curve_of(kinds: list[int], shots: list[int], n_defective: int = 0) -> Curve:
    return measure_curve(plant(kinds, n_defective), shots, 20, DEFAULT_MARGIN, 0)


def test_a_curve_has_the_shots_that_leave_a_part_over() -> None:
    curve = curve_of([0] * 6, [1, 2, 4, 5, 8], n_defective=2)
    assert [point.k for point in curve.points] == [1, 2, 4, 5]
    assert [point.n_held_out for point in curve.points] == [5, 4, 2, 1]
    assert not curve.points[-1].gains
    assert set(curve.points[0].gains) == {"false_rejects", "detection", "auroc"}


@pytest.mark.parametrize(("n_good", "shots"), [(2, [1]), (4, [4, 8])])
def test_too_few_parts_are_refused(n_good: int, shots: list[int]) -> None:
    with pytest.raises(UsageError, match="--good"):
        curve_of([0] * n_good, shots)


def test_what_few_parts_cannot_tell_is_said() -> None:
    told = statement(curve_of([0, 0, 0, 1, 1, 1], [1, 2, 4]))
    assert told.startswith("6 good parts cannot tell what a fifth reference would bring")
    told = statement(curve_of([0, 0, 0], [2]))
    assert (
        told == "3 good parts cannot tell what a third reference would bring: it takes at least 4"
    )


def test_no_false_reject_is_said_with_its_bound() -> None:
    told = statement(curve_of([0] * 20, [4]))
    assert "no false rejects to lower: none with 4" in told
    assert f"at most {100 * (1 - 0.05 ** (1 / 20)):.0f}%" in told


def test_a_clear_gain_is_said_with_its_interval() -> None:
    before, after = Estimate(0.12, 0.05, 0.2, 0.0, 0.3), Estimate(0.08, 0.02, 0.15, 0.0, 0.2)
    gain = Estimate(-0.04, -0.07, -0.01, -0.2, 0.0)
    name = "false_rejects"
    point = Point(4, 16, {name: before}, {name: after}, {name: gain}, 1.0, 0.1)
    told = statement(Curve(20, 0, 30, (point,)))
    assert told == "a fifth reference would lower false rejects from 12% to 8% (by -7 to -1 points)"


def test_ordinals() -> None:
    numbers = (1, 5, 8, 11, 12, 13, 18, 21, 22, 33, 112)
    told = ", ".join(ordinal(number) for number in numbers)
    assert told == ("first, fifth, eighth, eleventh, twelfth, 13th, 18th, 21st, 22nd, 33rd, 112th")
    assert [article(word) for word in ("eighth", "18th", "fifth", "21st")] == [
        "an eighth",
        "an 18th",
        "a fifth",
        "a 21st",
    ]
