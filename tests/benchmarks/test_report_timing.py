"""Raw samples, jitter and the end of warm-up, on a clock of our own."""

import itertools

import numpy as np
import pytest

from cff_bench.timing import UntilStable, measure_interleaved, sample_interleaved, summarize
from cff_runtime.errors import UsageError


class Clock:
    """A callable that takes the times it is given, then the last of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.now_ns)

    def taking(self, times_ms: list[float]) -> "list[float]":
        self.times = list(times_ms)
        return self.times

    def __call__(self) -> None:
        step = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        self.now_ns += round(step * 1e6)


def test_p95_and_jitter() -> None:
    values = np.random.default_rng(0).exponential(10.0, 83).tolist()
    summary = summarize(values)
    assert summary.p95_ms == pytest.approx(np.percentile(values, 95))
    steps = [abs(later - earlier) for earlier, later in itertools.pairwise(values)]
    assert summary.jitter_ms == pytest.approx(sum(steps) / len(steps))
    assert summarize([3.0]).jitter_ms == 0.0


def test_a_slow_drift_is_not_jitter() -> None:
    drift = np.linspace(10, 20, 101).tolist()
    assert summarize(drift).jitter_ms == pytest.approx(0.1)


def test_samples_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.taking([9.0, 1.0, 3.0, 2.0])
    samples = sample_interleaved({"a": clock}, n=3, warmup=1)["a"]
    assert samples.values_ms == [1.0, 3.0, 2.0]
    assert (samples.warmup_rounds, samples.is_stable) == (1, None)
    assert samples.summary.p50_ms == 2.0


def test_warm_up_ends_when_timings_are_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # falls to 10 ms with the 8th round; halves of 4 rounds
    clock.taking([80, 60, 50, 40, 30, 20, 15, 10.0])
    samples = sample_interleaved({"a": clock}, n=5, warmup=UntilStable(window=4))["a"]
    assert samples.is_stable is True
    assert samples.values_ms == [10.0] * 5
    # round 12: medians 17.5 and 10, deviations 5 and 0: 7.5 > 2 * 5 / sqrt(4)
    # round 13: medians 12.5 and 10, deviations 2.5 and 0: 2.5 <= 2 * 2.5 / sqrt(4)
    assert samples.warmup_rounds == 13


def test_noise_does_not_keep_warm_up_going() -> None:
    rng = np.random.default_rng(1)
    rule = UntilStable(window=5)
    ends = []
    for _ in range(200):
        values = (10 * np.exp(0.2 * rng.standard_normal(200))).tolist()
        ends.append(next(n for n in range(1, 201) if rule.is_stable(values[:n])))
    assert min(ends) == 10
    assert np.mean(ends) < 20


def test_warm_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.taking([100.0 * 0.9**index for index in range(300)])  # never stable
    samples = sample_interleaved({"a": clock}, 1, UntilStable(max_rounds=30))["a"]
    assert (samples.warmup_rounds, samples.is_stable) == (30, False)
    clock.taking([1000.0 * 0.9**index for index in range(300)])
    samples = sample_interleaved({"a": clock}, 1, UntilStable(max_s=2.0))["a"]
    assert (samples.warmup_rounds, samples.is_stable) == (3, False)  # 1 + 0.9 + 0.81 s


def test_all_callables_must_be_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.taking([1.0, *[t for t in (90, 80, 70, 60, 50, 40) for t in (t, 1.0)], 1.0])
    count = {"a": 0, "b": 0}

    def call(name: str) -> None:
        count[name] += 1
        clock()

    found = measure_interleaved(
        {"a": lambda: call("a"), "b": lambda: call("b")}, 1, UntilStable(window=2)
    )
    assert count["a"] == count["b"] > 6
    assert found["a"].n == 1


@pytest.mark.parametrize("changes", [{"window": 1}, {"max_rounds": 0}, {"tolerance": -0.1}])
def test_rules_out_of_range_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least"):
        UntilStable(**changes)
