"""Intervals of series that several starts of a process gave: by hand, and their coverage."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cff_bench.compare import intervals
from cff_bench.compare.baseline import BaselineRatio, compare_to_baseline, make_baseline
from cff_bench.compare.budget import judge_budget
from cff_bench.compare.comparison import Comparison, compare_reports
from cff_bench.compare.document import comparison_report
from cff_bench.compare.intervals import (
    median_scatter,
    paired_ratio_scatter,
    percentile_interval,
    ratio_interval,
)
from cff_bench.report.document import MAX_VALUES, Report, Series
from cff_runtime.errors import UsageError

DRAWS = 400
N_STARTS, N_EACH = 5, 20
STARTS = [N_EACH] * N_STARTS
Array = NDArray[np.float64]


def draw(rng: np.random.Generator, between: float = 0.05, within: float = 0.01) -> Array:
    """Return samples around 10: starts that scatter, and samples that scatter about them."""
    start = between * rng.standard_normal((N_STARTS, 1))
    noise = within * rng.standard_normal((N_STARTS, N_EACH))
    return np.asarray(10 * np.exp(start + noise)).ravel()


def test_intervals_hold_where_starts_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "N_RESAMPLES", 60)
    rng = np.random.default_rng(8)
    held = blocks = of_percentiles = 0
    # 95 of 100 parts lie below this over all starts together
    truth = 10 * math.exp(math.hypot(0.05, 0.01) * stats.norm.ppf(0.95))
    for _ in range(DRAWS):
        a, b = draw(rng).tolist(), draw(rng).tolist()
        found = ratio_interval(median_scatter(a, STARTS), median_scatter(b, STARTS))
        assert found.low is not None and found.high is not None
        held += found.low <= 1 <= found.high
        # as many samples of one start, and blocks of them: what one process can tell
        one = [
            10 * np.exp(0.05 * rng.standard_normal() + 0.01 * rng.standard_normal(100))
            for _ in "ab"
        ]
        alone = ratio_interval(*(median_scatter(part.tolist()) for part in one))
        assert alone.low is not None and alone.high is not None
        blocks += alone.low <= 1 <= alone.high
        p95 = percentile_interval(a, 95, starts=STARTS)
        of_percentiles += (p95.low or 0) <= truth <= (p95.high or math.inf)
    # 400 draws at 95 %: 93 % to 97 % in 95 of 100 seeds, and Welch's approximation
    assert 0.92 <= held / DRAWS <= 0.98
    assert blocks / DRAWS < 0.2
    assert of_percentiles / DRAWS >= 0.85


def test_intervals_hold_where_starts_do_not_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "N_RESAMPLES", 100)
    rng = np.random.default_rng(9)
    held = found = 0
    for _ in range(100):
        a, b = (
            median_scatter(draw(rng, between=0.0).tolist(), STARTS),
            median_scatter((1.1 * draw(rng, between=0.0)).tolist(), STARTS),
        )
        interval = ratio_interval(a, b)
        assert interval.low is not None and interval.high is not None
        held += interval.low <= 1.1 <= interval.high
        found += interval.low > 1.05
    assert held >= 93
    assert found == 100


def test_the_interval_by_hand() -> None:
    # medians of the starts: 8, 10, 12.5; logs -0.2231, 0, 0.2231 about log(10)
    a = median_scatter([8.0, 8.0, 8.0, 10.0, 10.0, 12.5, 12.5, 12.5, 12.5], [3, 2, 4])
    step = math.log(1.25)
    assert a.log_median == pytest.approx(math.log(10))
    assert a.error == pytest.approx(math.sqrt(2 * step**2 / (3 * 2)))
    assert (a.freedom, a.n_starts) == (2, 3)
    b = median_scatter([20.0] * 4, [2, 2])
    assert b.error == 0
    found = ratio_interval(b, a)
    half = stats.t.ppf(0.975, 2) * step / math.sqrt(3)
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 * math.exp(-half))
    assert found.high == pytest.approx(0.5 * math.exp(half))
    # t of two degrees of freedom from its table
    assert stats.t.ppf(0.975, 2) == pytest.approx(4.303, abs=5e-4)


def test_two_series_take_welchs_degrees_of_freedom() -> None:
    rng = np.random.default_rng(1)
    x, y = draw(rng, 0.02), draw(rng, 0.06)
    logs = [np.log(np.median(part.reshape(N_STARTS, -1), axis=1)) for part in (x, y)]
    welch = stats.ttest_ind(logs[1], logs[0], equal_var=False)
    freedom = int(welch.df)  # student_t rounds down
    error = math.sqrt(sum(part.var(ddof=1) / N_STARTS for part in logs))
    found = ratio_interval(median_scatter(x.tolist(), STARTS), median_scatter(y.tolist(), STARTS))
    assert found.low is not None
    half = math.log(found.value) - math.log(found.low)
    assert half == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=1e-6)


def test_what_rounds_scatter_is_the_least() -> None:
    rng = np.random.default_rng(2)
    part = draw(rng, 0.0, 0.1)[:N_EACH]
    same = np.tile(part, N_STARTS)  # the starts agree to the last digit
    found = median_scatter(same.tolist(), STARTS)
    inside = median_scatter((same / np.median(part)).tolist())
    assert found.error == inside.error > 0
    assert found.freedom == N_STARTS - 1


def test_a_paired_ratio_scatters_as_its_starts_do() -> None:
    rng = np.random.default_rng(4)
    reference = draw(rng)
    values = reference * np.repeat([1.5, 1.5, 2.0, 1.5, 1.5], N_EACH)
    found = paired_ratio_scatter(reference.tolist(), values.tolist(), STARTS)
    logs = np.log([1.5, 1.5, 2.0, 1.5, 1.5])
    assert found.log_median == pytest.approx(logs.mean())
    assert found.error == pytest.approx(logs.std(ddof=1) / math.sqrt(N_STARTS))
    assert found.freedom == N_STARTS - 1


def test_the_interval_of_a_percentile_reaches_as_far_as_its_starts() -> None:
    values = [float(v) for start in range(4) for v in range(100 * start, 100 * start + 100)]
    found = percentile_interval(values, 50, starts=[100] * 4)
    of_each = np.array([49.5, 149.5, 249.5, 349.5])
    error = math.sqrt(np.sum((of_each - 199.5) ** 2) / (4 * 3))
    half = stats.t.ppf(0.975, 3) * error
    assert found.value == 199.5
    assert (found.low, found.high) == pytest.approx((199.5 - half, 199.5 + half))
    few = percentile_interval([1.0, 2.0, 3.0, 4.0], 95, starts=[2, 2])
    assert few.high is None  # of four samples nothing is told, however they came


def report(rng: np.random.Generator, factor: float = 1.0, starts: Any = tuple(STARTS)) -> Report:
    total, search = factor * draw(rng), draw(rng)
    return Report(
        "latency",
        "T",
        [],
        {},
        {},
        series=[
            Series("total", "ms", total.tolist(), "rounds", "total", starts=list(starts)),
            Series("search", "ms", search.tolist(), "rounds", "reference", starts=list(starts)),
        ],
    )


def note_of(comparison: Comparison) -> str:
    return comparison_report(comparison, [], ["a", "b"], {}).notes[1]


def test_reports_of_starts_are_compared_by_them() -> None:
    rng = np.random.default_rng(5)
    a = report(rng)
    twice = compare_reports([a], [report(rng)], 0.1)
    assert not twice.worse
    assert [(v.starts_a, v.starts_b) for v in twice.verdicts] == [(5, 5), (5, 5)]
    slower = compare_reports([a], [report(rng, 1.6)], 0.1)
    assert [verdict.name for verdict in slower.worse] == ["total"]
    shown = comparison_report(twice, [], ["a", "b"], {})
    assert shown.tables[0].rows[0]["starts"] == "5 / 5"
    assert "differs between two starts of one build is in them" in note_of(twice)


def test_the_note_says_what_one_start_does_not_hold() -> None:
    rng = np.random.default_rng(6)
    alone = report(rng, starts=())
    assert "is not in them" in note_of(compare_reports([alone], [alone], 0.1))
    mixed = note_of(compare_reports([report(rng)], [alone], 0.1))
    assert "is not in them" in mixed
    some = report(rng)
    some.series[1] = Series("search", "ms", alone.series[1].values)
    assert note_of(compare_reports([some], [some], 0.1)).endswith("not in them: search.")


def test_baselines_and_budgets_know_of_starts() -> None:
    rng = np.random.default_rng(7)
    (ratio,) = make_baseline([report(rng)])
    assert (ratio.freedom, ratio.n_starts) == (N_STARTS - 1, N_STARTS)
    found = compare_to_baseline([ratio], [report(rng)], 0.1)
    assert [(v.starts_a, v.starts_b) for v in found.verdicts] == [(5, 5)]
    old = BaselineRatio("latency", "total", "search", 1.0, 0.99, 1.01, 0.005, 9.0, 100)
    found = compare_to_baseline([old], [report(rng)], 0.1)
    assert [(v.starts_a, v.starts_b) for v in found.verdicts] == [(1, 5)]
    (sentence,) = judge_budget([report(rng)], 100.0).sentences
    assert "n = 100 in 5 starts" in sentence and "within the budget" in sentence


def test_starts_go_through_json_and_files_without_them_are_read() -> None:
    data = json.loads(json.dumps(report(np.random.default_rng(0)).to_dict()))
    assert Report.from_dict(data).series[0].starts == STARTS
    for series in data["series"]:
        del series["starts"]
    assert Report.from_dict(data).series[0].starts == []


@pytest.mark.parametrize("starts", [[2, 2], [3, 0], [1.5, 1.5], [-1, 4], "abc", 3])
def test_starts_must_add_up(starts: Any) -> None:
    with pytest.raises(UsageError, match="`starts` of series `a` must be whole numbers"):
        Series("a", "ms", [1.0, 2.0, 3.0], starts=starts)


def test_starts_of_a_long_series_are_thinned_with_it() -> None:
    n = 3 * MAX_VALUES
    series = Series(
        "a", "ms", [0.0] * MAX_VALUES + [1.0] * 2 * MAX_VALUES, starts=[n // 3, 2 * n // 3]
    )
    assert len(series.values) == sum(series.starts) == MAX_VALUES
    assert series.starts[0] == series.values.count(0.0)
    again = Report.from_dict(Report("k", "t", [], {}, {}, series=[series]).to_dict()).series[0]
    assert (again.starts, again.n_measured) == (series.starts, n)
