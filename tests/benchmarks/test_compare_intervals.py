"""Intervals against SciPy, and their coverage on simulated series that depend on themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cff_bench.compare import intervals
from cff_bench.compare.intervals import (
    MedianScatter,
    block_length,
    dependence,
    independent_samples,
    median_scatter,
    paired_ratio_scatter,
    percentile_interval,
    ratio_interval,
    student_t,
)

PAIRS = 300
Array = NDArray[np.float64]


def timings(rng: np.random.Generator, n: int, correlation: float, spread: float = 0.03) -> Array:
    """Return skewed timings around 10 whose logs follow an autoregressive series."""
    noise = rng.standard_normal(n + 100)
    series = np.zeros(n + 100)
    for index in range(1, n + 100):
        series[index] = correlation * series[index - 1] + noise[index]
    gaussian = series[100:] * np.sqrt(1 - correlation**2)
    return 10 * np.exp(spread * gaussian)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 99])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.9995])
def test_quantiles_of_students_t_are_scipys(freedom: int, probability: float) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_t(probability, freedom + 0.9) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "correlation"), [(60, 0.0), (60, 0.6), (120, 0.8)])
def test_intervals_hold_in_95_of_100(
    n: int, correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "N_RESAMPLES", 300)
    rng = np.random.default_rng(3)
    held = slower = found = 0
    for _ in range(PAIRS):
        a = median_scatter(timings(rng, n, correlation).tolist())
        b = median_scatter(timings(rng, n, correlation).tolist())
        interval = ratio_interval(a, b)
        assert interval.low is not None and interval.high is not None
        held += interval.low <= 1 <= interval.high
        slower += interval.low > 1
        # the very same figures 4 % slower
        planted = ratio_interval(a, MedianScatter(b.log_median + np.log(1.04), b.error, b.freedom))
        found += planted.low is not None and planted.low > 1
    # 300 draws at 95 %: 92 % to 98 % in 98 of 100 seeds
    assert 0.92 <= held / PAIRS <= 0.985
    assert slower / PAIRS <= 0.05
    if correlation == 0.0:
        assert found / PAIRS >= 0.95


def test_formulas_for_independent_samples_would_not_hold() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(PAIRS):
        a, b = (np.log(timings(rng, 120, 0.8)) for _ in range(2))
        error = np.sqrt(np.pi / 2 * (a.var() + b.var()) / 120)
        held += abs(np.median(b) - np.median(a)) <= 1.96 * error
    assert held / PAIRS < 0.75


def test_the_scatter_of_a_median_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(0)
    errors = [median_scatter(timings(rng, 400, 0.0).tolist()).error for _ in range(20)]
    assert np.mean(errors) == pytest.approx(0.03 * np.sqrt(np.pi / 2 / 400), rel=0.1)


def test_dependence_is_found() -> None:
    rng = np.random.default_rng(1)
    for correlation in (0.3, 0.6, 0.8):
        found = np.mean([dependence(timings(rng, 300, correlation)) for _ in range(40)])
        assert found == pytest.approx(correlation, abs=0.05)
    assert dependence(np.full(50, 3.0)) == 0.0
    assert dependence(np.tile([1.0, 2.0], 30)) == 0.0  # alternating


def test_blocks_grow_with_dependence_and_are_bounded() -> None:
    assert block_length(120, 0.0) == 1
    lengths = [block_length(120, correlation) for correlation in (0.2, 0.5, 0.8, 0.97)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 20  # a sixth
    assert block_length(3, 0.9) == 1


def test_the_same_samples_give_one() -> None:
    values = timings(np.random.default_rng(2), 50, 0.3).tolist()
    scatter = median_scatter(values)
    interval = ratio_interval(scatter, scatter)
    assert interval.value == 1.0
    assert interval.low is not None and interval.high is not None
    assert interval.low < 1 < interval.high
    assert median_scatter(values) == scatter  # seeded


def test_constant_samples_have_no_width() -> None:
    interval = ratio_interval(median_scatter([2.0] * 20), median_scatter([3.0] * 20))
    assert (interval.low, interval.value, interval.high) == pytest.approx((1.5, 1.5, 1.5))


def test_what_hits_both_leaves_a_paired_ratio() -> None:
    rng = np.random.default_rng(4)
    common = timings(rng, 200, 0.95, 0.2)
    reference = common * np.exp(0.01 * rng.standard_normal(200))
    values = 1.5 * common * np.exp(0.01 * rng.standard_normal(200))
    paired = paired_ratio_scatter(reference.tolist(), values.tolist())
    apart = np.hypot(
        median_scatter(reference.tolist()).error, median_scatter(values.tolist()).error
    )
    assert np.exp(paired.log_median) == pytest.approx(np.median(values) / np.median(reference))
    assert paired.error < apart / 5


def test_the_interval_of_a_percentile_is_scipys_binomial() -> None:
    values = np.random.default_rng(5).permutation(np.arange(1.0, 201.0))
    above = (values > np.percentile(values, 95)).astype(float)
    n = int(independent_samples(above))
    found = percentile_interval(values.tolist(), 95)
    low = stats.binom.ppf(0.025, n, 0.95) / n * 200
    high = (stats.binom.ppf(0.975, n, 0.95) + 1) / n * 200
    assert found.value == pytest.approx(np.percentile(values, 95))
    assert found.low == pytest.approx(low, abs=1.01)
    assert found.high == pytest.approx(high, abs=1.01)


def test_percentiles_hold_in_95_of_100() -> None:
    rng = np.random.default_rng(6)
    truth = 10 * np.exp(0.03 * stats.norm.ppf(0.95))
    held = 0
    for _ in range(PAIRS):
        found = percentile_interval(timings(rng, 200, 0.4).tolist(), 95)
        held += (found.low or 0) <= truth <= (found.high or np.inf)
    assert held / PAIRS >= 0.92


def test_few_samples_have_no_upper_end() -> None:
    found = percentile_interval([float(value) for value in range(20)], 95)
    assert found.high is None and found.low is not None
    assert percentile_interval([3.0], 95).low is None
