import numpy as np
import pytest

from cff_bench.timing import format_table, measure_interleaved, summarize
from cff_runtime.errors import UsageError


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).exponential(10.0, 137).tolist()
    summary = summarize(values)
    assert summary.n == 137
    expected = np.percentile(values, [50, 90, 99])
    assert [summary.p50_ms, summary.p90_ms, summary.p99_ms] == pytest.approx(expected)
    assert summary.mean_ms == pytest.approx(np.mean(values))
    assert summary.min_ms == min(values)
    assert summary.throughput == pytest.approx(1000 / np.median(values))


def test_one_timing_is_every_percentile() -> None:
    summary = summarize([4.0])
    assert (summary.p50_ms, summary.p99_ms, summary.min_ms, summary.n) == (4.0, 4.0, 4.0, 1)


def test_no_timing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one timing"):
        summarize([])


def test_callables_take_turns_and_warm_up_is_not_timed() -> None:
    calls: list[str] = []
    summaries = measure_interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, n=3, warmup=2
    )
    assert calls == ["a", "b"] * 5
    assert list(summaries) == ["a", "b"]
    assert {summary.n for summary in summaries.values()} == {3}


def test_time_is_read_around_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = [0]

    def advance(milliseconds: int) -> None:
        clock_ns[0] += milliseconds * 1_000_000

    monkeypatch.setattr("time.perf_counter_ns", lambda: clock_ns[0])
    monkeypatch.setattr("time.sleep", lambda seconds: advance(round(seconds * 1e3)))
    summaries = measure_interleaved(
        {"short": lambda: advance(2), "long": lambda: advance(7)}, n=4, warmup=1, pause_ms=20
    )
    assert summaries["short"].p50_ms == 2.0  # the pause is outside
    assert summaries["long"].p99_ms == 7.0
    assert clock_ns[0] == 5 * (20 + 2 + 20 + 7) * 1_000_000


def test_a_result_is_freed_before_the_next_callable() -> None:
    alive: list[str] = []

    class Result:
        def __init__(self) -> None:
            alive.append("result")

        def __del__(self) -> None:
            alive.pop()

    def expect_none_alive() -> None:
        assert not alive

    measure_interleaved({"makes": Result, "checks": expect_none_alive}, n=2, warmup=0)


@pytest.mark.parametrize(("n", "warmup", "pause_ms"), [(0, 0, 0.0), (1, -1, 0.0), (1, 0, -1.0)])
def test_counts_out_of_range_are_refused(n: int, warmup: int, pause_ms: float) -> None:
    with pytest.raises(UsageError, match="must"):
        measure_interleaved({"a": lambda: None}, n, warmup, pause_ms)


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one callable"):
        measure_interleaved({}, 1, 0)


def test_table_aligns_names_left_and_numbers_right() -> None:
    table = format_table(("stage", "ms"), [("encode", "10.5"), ("x", "2")])
    assert table.splitlines() == ["stage     ms", "encode  10.5", "x          2"]
