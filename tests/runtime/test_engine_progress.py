"""Progress of a build: estimates, and stopping. No TensorRT is needed."""

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cff_runtime.engines.progress import BuildProgress, interruptible, make_monitor

Call = tuple[str, float, float | None]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """Signals that reach the handler which was there before."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGINT, before)


def test_without_any_knowledge_nothing_is_claimed(clock: Clock) -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call), clock=clock)

    build.start("Building engine", 6)
    clock.now += 0.5
    build.step("Building engine", 3)  # after half a second four of six steps mean nothing
    build.complete()

    assert calls == [("Building engine", 0.0, None), ("Building engine", 0.0, None), ("done", 1, 0)]


def test_time_left_follows_the_slowest_phase(clock: Clock) -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call), clock=clock)

    build.start("Building engine", 2)
    build.step("Building engine", 0)
    build.start("Timing graph nodes", 10)
    clock.now += 20.0
    build.step("Timing graph nodes", 1)

    phase, done, left_s = calls[-1]
    assert phase == "Timing graph nodes"
    # 2 of 10 steps took 20 s: 80 s are left, 20 of 100 are done
    assert (done, left_s) == pytest.approx((0.2, 80.0))


def test_an_earlier_build_tells_the_time_from_the_start(clock: Clock) -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call), expected_s=40.0, clock=clock)

    build.start("parsing")
    clock.now += 10.0
    build.start("Building engine", 6)

    assert calls == [("parsing", 0.0, 40.0), ("Building engine", 0.25, 30.0)]


def test_the_fraction_never_falls_and_is_not_one_before_the_end(clock: Clock) -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call), expected_s=10.0, clock=clock)

    build.start("Timing graph nodes", 1000)
    clock.now += 9.99
    build.step("Timing graph nodes", 0)
    clock.now += 5.0
    build.step("Timing graph nodes", 1)  # longer than expected: much is left

    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(0.99)
    assert calls[-1][2] == pytest.approx(14.99 * 998 / 2)


def test_steps_are_told_five_times_a_second_and_phases_always(clock: Clock) -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call), clock=clock)

    for name in ("Cloning network graph", "Optimizing graph"):
        build.start(name, 100)
        for index in range(100):
            clock.now += 0.01
            build.step(name, index)
        build.finish(name)

    names = [call[0] for call in calls]
    assert names.count("Cloning network graph") == pytest.approx(6, abs=1)
    assert names.count("Optimizing graph") == pytest.approx(6, abs=1)


def test_what_the_callback_raises_is_kept_and_stops_the_build() -> None:
    n_calls = 0

    def fail(*_call: object) -> None:
        nonlocal n_calls
        n_calls += 1
        raise RuntimeError("window was closed")

    build = BuildProgress(fail)

    build.start("Building engine", 2)

    assert not build.step("Building engine", 0)
    assert str(build.failure) == "window was closed"
    assert n_calls == 1


def test_ctrl_c_stops_at_the_next_step_and_is_passed_on_afterwards(interrupts: list[int]) -> None:
    build = BuildProgress(None)
    build.start("Building engine", 2)

    with interruptible(build):
        os.kill(os.getpid(), signal.SIGINT)
        goes_on = build.step("Building engine", 0)
        assert not interrupts

    assert not goes_on
    assert interrupts == [signal.SIGINT]


def test_without_ctrl_c_the_handler_is_restored(interrupts: list[int]) -> None:
    before = signal.getsignal(signal.SIGINT)

    with interruptible(BuildProgress(None)):
        pass

    assert signal.getsignal(signal.SIGINT) is before
    assert not interrupts


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def build() -> None:
        with interruptible(BuildProgress(None)):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()

    assert inside == [before]


def test_a_monitor_needs_the_class_that_tensorrt_8_6_lacks() -> None:
    calls: list[Call] = []
    build = BuildProgress(lambda *call: calls.append(call))

    assert make_monitor(SimpleNamespace(), build) is None
    monitor = make_monitor(SimpleNamespace(IProgressMonitor=object), build)
    monitor.phase_start("Building engine", None, 6)
    assert monitor.step_complete("Building engine", 0)
    monitor.phase_finish("Building engine")
    assert calls[0][0] == "Building engine"
