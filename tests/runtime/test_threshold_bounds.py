"""Bounds against SciPy, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from cff_runtime.errors import UsageError
from cff_runtime.thresholds import (
    largest_rank,
    parts_needed,
    percent,
    upper_share,
    upper_share_in_sight,
)
from cff_runtime.thresholds.bounds import binomial_cdf

COUNTS = [(0, 1), (0, 4), (1, 4), (3, 4), (0, 59), (2, 100), (40, 100), (99, 100), (7, 2000)]


@pytest.mark.parametrize(("n_above", "n"), [*COUNTS, (500, 20_000)])
@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.05, 0.5, 0.97, 1 - 1e-9])
def test_the_binomial_sum_agrees_with_scipy(n_above: int, n: int, share: float) -> None:
    expected = stats.binom.cdf(n_above, n, share)

    assert binomial_cdf(n_above, n, share) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_the_binomial_sum_at_its_ends() -> None:
    assert binomial_cdf(5, 5, 0.3) == 1.0
    assert binomial_cdf(0, 5, 0.0) == 1.0
    assert binomial_cdf(4, 5, 1.0) == 0.0
    assert binomial_cdf(-1, 5, 0.5) == 0.0


@pytest.mark.parametrize(("n_above", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_bound_is_clopper_s_and_pearson_s(n_above: int, n: int, confidence: float) -> None:
    bound = upper_share(n_above, n, confidence)

    assert bound == pytest.approx(stats.beta.ppf(confidence, n_above + 1, n - n_above), rel=1e-9)
    assert stats.binom.cdf(n_above, n, bound) <= (1 - confidence) * (1 + 1e-9)


def test_the_bound_by_hand() -> None:
    assert upper_share(0, 1, 0.75) == pytest.approx(0.75)  # (1 - x)^1 = 0.25
    assert upper_share(0, 2, 0.75) == pytest.approx(0.5)  # (1 - x)^2 = 0.25
    assert upper_share(1, 2, 0.75) == pytest.approx(math.sqrt(0.75))  # 1 - x^2 = 0.25
    assert upper_share(2, 2, 0.75) == 1.0
    assert upper_share(0, 0, 0.75) == 1.0


def test_the_bound_grows_with_rejects_and_confidence_and_falls_with_parts() -> None:
    for confidence in (0.8, 0.95):
        by_count = [upper_share(k, 30, confidence) for k in range(31)]
        by_parts = [upper_share(1, n, confidence) for n in range(2, 60)]
        assert by_count == sorted(by_count) and len(set(by_count)) == 31
        assert by_parts == sorted(by_parts, reverse=True)
    assert upper_share(1, 30, 0.8) < upper_share(1, 30, 0.95)


@pytest.mark.parametrize(
    ("share", "confidence", "n"), [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.1, 0.9, 22)]
)
def test_wilks_numbers(share: float, confidence: float, n: int) -> None:
    """59, 299 and 22 are the published sample sizes of one-sided tolerance limits."""
    assert parts_needed(share, confidence) == n
    assert largest_rank(n, share, confidence) == 1
    assert largest_rank(n - 1, share, confidence) == 0


@pytest.mark.parametrize("n", [1, 10, 93, 400])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
def test_the_largest_rank_is_the_last_that_keeps_the_bound(n: int, share: float) -> None:
    keeping = [k for k in range(1, n + 1) if stats.beta.ppf(0.95, k, n - k + 1) <= share]

    assert largest_rank(n, share, 0.95) == (max(keeping) if keeping else 0)
    assert len(keeping) == (max(keeping) if keeping else 0)


def test_a_tiny_share_needs_many_parts_at_once() -> None:
    n = parts_needed(1e-12, 0.95)

    assert n == pytest.approx(-math.log(0.05) * 1e12, rel=1e-6)


def test_what_is_chosen_in_sight_pays_for_every_choice() -> None:
    """The errors of all ranks together stay below 1 - confidence."""
    n, confidence = 12, 0.9
    bounds = [upper_share_in_sight(k, n, confidence) for k in range(n)]
    errors = [stats.binom.cdf(k, n, bound) for k, bound in enumerate(bounds)]

    assert errors == pytest.approx([0.1 / 2 ** (k + 1) for k in range(n)], rel=1e-6)
    assert sum(errors) < 0.1
    assert all(bounds[k] > upper_share(k, n, confidence) for k in range(n))
    assert upper_share_in_sight(80, 100, confidence) == 1.0  # the error is below rounding


@pytest.mark.parametrize("law", ["normal", "cauchy", "ties"])
def test_the_bounds_hold_in_repeated_draws(law: str) -> None:
    """20,000 draws of 25: three standard deviations are 0.005."""
    rng = np.random.default_rng(0)
    draws = rng.standard_cauchy((20_000, 25)) if law == "cauchy" else rng.normal(size=(20_000, 25))
    if law == "ties":
        draws = np.rint(draws)
    above = {
        "normal": stats.norm.sf,
        "cauchy": stats.cauchy.sf,
        "ties": lambda values: stats.norm.sf(values + 0.5),
    }[law]
    ordered = -np.sort(-draws, axis=1)
    for rank in (1, 3):
        shares = above(ordered[:, rank - 1])

        assert (shares <= upper_share(rank - 1, 25, 0.95)).mean() > 0.945
        assert shares.mean() < rank / 26 + 0.003
        if law != "ties":
            assert (shares <= upper_share(rank - 1, 25, 0.95)).mean() < 0.955


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 5.0, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(value: float) -> None:
    for call in (
        lambda: upper_share(0, 5, value),
        lambda: upper_share_in_sight(0, 5, value),
        lambda: largest_rank(5, value, 0.9),
        lambda: parts_needed(0.1, value),
    ):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            call()
    with pytest.raises(UsageError, match="0 or more"):
        upper_share(-1, 5, 0.9)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.2, "20%"),
        (1 / 3, "34%"),
        (0.07, "7%"),
        (0.0497, "5%"),
        (0.00997, "1%"),
        (0.0466, "4.7%"),
        (0.0000123, "0.0013%"),
        (1.0, "100%"),
        (0.0, "0%"),
        (0.0996, "10%"),
    ],
)
def test_bounds_are_rounded_up(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_printed_bound_is_never_smaller_and_near() -> None:
    for share in np.random.default_rng(0).random(2000) ** 4:
        printed = float(percent(float(share))[:-1]) / 100
        assert share * (1 - 1e-8) <= printed <= share * 1.11 + 1e-12
