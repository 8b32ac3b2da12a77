"""Timing: warm-up until stable, then rounds in which every configuration has its turn.

The clock starts when nothing is in flight (the inspection before has returned arrays of the host)
and stops when a result has been returned, which consists of host arrays as well: a device has
finished by then. Each round begins with another configuration, so that a machine that grows warm or
busy does so for all of them alike.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from time import perf_counter, perf_counter_ns
from typing import TypeVar

from cff_bench.latency.configurations import Configuration
from cff_bench.latency.images import ImageSource
from cff_bench.latency.settings import STREAM_TURNS
from cff_bench.timing import UntilStable

_T = TypeVar("_T")


@dataclass(frozen=True)
class WarmUp:
    """How it went; of several starts, the most rounds of one and the seconds of all.

    Attributes
    ----------
    rounds : int
    seconds : float
    is_stable : bool or None
        None where a number of rounds was asked for.
    """

    rounds: int
    seconds: float
    is_stable: bool | None


@dataclass(frozen=True)
class StreamTurn:
    """One turn of several threads that inspect at the same time.

    Attributes
    ----------
    per_second : float
        Inspections of all threads together.
    totals_ms : list of float
        Of every inspection.
    """

    per_second: float
    totals_ms: list[float]


def inspect_once(configuration: Configuration, source: ImageSource) -> dict[str, float]:
    """Inspect one image; return milliseconds of every stage that can be told, and of `total`."""
    configuration.backend.take_times_ms()  # of a call before this one
    image, decode_ms = timed(source.read)
    result, inspect_ms = timed(
        lambda: configuration.inspector.inspect(image, configuration.profile)
    )
    told = configuration.backend.take_times_ms()
    configuration.device.append(told)
    return {
        "decode": decode_ms,
        **result.stages_ms,
        "other": inspect_ms - sum(result.stages_ms.values()),
        "total": decode_ms + inspect_ms,
    }


def warm_up(
    configurations: Sequence[Configuration],
    sources: Sequence[ImageSource],
    at_least: int,
    limit_s: float,
) -> WarmUp:
    """Inspect until the latest totals of every configuration differ no more from those before.

    Parameters
    ----------
    configurations : sequence of Configuration
    sources : sequence of ImageSource
    at_least : int
        Rounds.
    limit_s : float
        Longest time beyond them; 0 takes exactly `at_least`.
    """
    rule = UntilStable()
    totals: list[list[float]] = [[] for _ in configurations]
    start_s = perf_counter()
    deadline_s, rounds = start_s + limit_s, 0
    while True:
        if rounds == at_least:
            deadline_s = perf_counter() + limit_s
        if rounds >= at_least:
            seconds = perf_counter() - start_s
            if not limit_s:
                return WarmUp(rounds, seconds, None)
            if rounds and all(rule.is_stable(values) for values in totals):
                return WarmUp(rounds, seconds, True)
            if perf_counter() >= deadline_s:
                return WarmUp(rounds, seconds, False)
        source = sources[rounds % len(sources)]
        for configuration, values in zip(configurations, totals, strict=True):
            values.append(inspect_once(configuration, source)["total"])
        rounds += 1


def measure_rounds(
    configurations: Sequence[Configuration],
    sources: Sequence[ImageSource],
    n: int,
    n_before: int = 0,
) -> None:
    """Time n rounds; the timings are left with the configurations.

    Turns of images and configurations go on from `n_before` rounds of other starts.
    """
    for configuration in configurations:
        configuration.timings, configuration.device = [], []
    for index in range(n_before, n_before + n):
        source = sources[index % len(sources)]
        first = index % len(configurations)
        for configuration in (*configurations[first:], *configurations[:first]):
            configuration.timings.append(inspect_once(configuration, source))


def measure_streams(
    configurations: Sequence[Configuration],
    sources: Sequence[ImageSource],
    streams: Sequence[int],
    seconds: float,
) -> dict[tuple[str, int], list[StreamTurn]]:
    """Let several threads inspect at the same time, in turns.

    Returns
    -------
    dict
        (name of a configuration, number of threads) -> turns.
    """
    turns: dict[tuple[str, int], list[StreamTurn]] = {}
    for _ in range(STREAM_TURNS if streams else 0):
        for n_streams in streams:
            for configuration in configurations:
                turn = _stream_turn(configuration, sources, n_streams, seconds / STREAM_TURNS)
                turns.setdefault((configuration.name, n_streams), []).append(turn)
    return turns


def timed(function: Callable[[], _T]) -> tuple[_T, float]:
    """Call a function; return what it returns, and its milliseconds."""
    start_ns = perf_counter_ns()
    result = function()
    return result, (perf_counter_ns() - start_ns) / 1e6


def _stream_turn(
    configuration: Configuration, sources: Sequence[ImageSource], n_streams: int, seconds: float
) -> StreamTurn:
    """Let n threads begin together and inspect for so long, each at least once.

    The rate counts from the common start to the end of the last inspection, so that an inspection
    that outlasts the time counts as a whole.
    """
    barrier = Barrier(n_streams)

    def work(stream: int) -> tuple[float, list[float], float]:
        totals: list[float] = []
        barrier.wait()
        start_s = now_s = perf_counter()
        while not totals or now_s < start_s + seconds:
            source = sources[(stream + len(totals)) % len(sources)]
            image = source.read()
            configuration.inspector.inspect(image, configuration.profile)
            before_s, now_s = now_s, perf_counter()
            totals.append(1e3 * (now_s - before_s))
        return start_s, totals, now_s

    with ThreadPoolExecutor(n_streams) as pool:
        done = list(pool.map(work, range(n_streams)))
    elapsed_s = max(end for _, _, end in done) - min(start for start, _, _ in done)
    totals = [total for _, part, _ in done for total in part]
    return StreamTurn(len(totals) / elapsed_s, totals)
