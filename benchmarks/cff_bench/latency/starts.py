"""The rounds, split over processes that start one after the other.

Memory layout and the placement of pages are drawn anew for every process, and move its timings by
more than its rounds scatter. A process opens everything, warms up, says that it is ready, and
measures its share of the rounds when told to; the clock runs inside it. Meanwhile the sensors are
read here, where nothing else is done: no bundle is open, so that memory is held once.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cff_bench.latency.configurations import Configuration, close_all, open_configurations
from cff_bench.latency.images import image_sources
from cff_bench.latency.rounds import WarmUp, measure_rounds, warm_up
from cff_bench.latency.settings import LatencySettings
from cff_bench.sensors import Sampler
from cff_bench.sensors.load import LoadSource, own_cpu_seconds
from cff_bench.sensors.quantity import GAUGE, Source
from cff_bench.sensors.sampler import Sample
from cff_bench.sensors.summary import WHILE
from cff_runtime.doctor.box import Box
from cff_runtime.errors import BackendError, CffError

_STAT_STATE, _STAT_UTIME, _STAT_STIME = 3, 14, 15  # proc(5) counts from 1


@dataclass(frozen=True)
class Start:
    """What one process measured.

    Attributes
    ----------
    warm : WarmUp
    timings, device : list of list of dict
        As those of `Configuration`, one list per configuration.
    """

    warm: WarmUp
    timings: list[list[dict[str, float]]]
    device: list[list[dict[str, float]]]


class OwnTime:
    """Processor time that is ours: this process, and the one that measures for it."""

    def __init__(self) -> None:
        self.pid: int | None = None

    def __call__(self) -> float:
        """Return seconds; of the child alone where the system tells them."""
        return own_cpu_seconds() + (_cpu_seconds(self.pid) if self.pid is not None else 0.0)


def count_as_own(sources: Sequence[Source], box: Box, own: OwnTime) -> list[Source]:
    """Return the sources, the processor time of a start no more that of others."""
    return [LoadSource(box, own) if isinstance(one, LoadSource) else one for one in sources]


def measure_starts(settings: LatencySettings, sampler: Sampler, own: OwnTime) -> list[Start]:
    """Measure the rounds of every start, in phases `while` of the sampler.

    Raises
    ------
    CffError
        Whatever opening, loading and inspecting raise there.
    BackendError
        If a process ends without an answer.
    """
    starts, n_before = [], 0
    for n in settings.rounds_of_starts:
        starts.append(run_start(settings, n, n_before, sampler, own))
        n_before += n
    return starts


def run_start(
    settings: LatencySettings, n: int, n_before: int, sampler: Sampler, own: OwnTime
) -> Start:
    """Start a process, let it measure n rounds, and return what it found."""
    context = multiprocessing.get_context("spawn")  # a new program, no copy of this one
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, settings, n, n_before), daemon=True)
    process.start()
    there.close()
    try:
        _receive(here, settings)  # ready
        own.pid = process.pid
        with sampler.phase(WHILE):
            here.send(None)
            answer = _receive(here, settings)
    finally:
        own.pid = None
        here.close()  # a process that still waits ends
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()
    if not isinstance(answer, Start):
        raise BackendError(f"`{settings.bundle}` must be measured by each start, got no timings")
    return answer


def join_starts(configurations: Sequence[Configuration], starts: Sequence[Start]) -> WarmUp:
    """Leave the timings of all starts with the configurations, in order; return the warm-up."""
    for index, configuration in enumerate(configurations):
        configuration.timings = [row for one in starts for row in one.timings[index]]
        configuration.device = [row for one in starts for row in one.device[index]]
    stable = [one.warm.is_stable for one in starts]
    return WarmUp(
        max(one.warm.rounds for one in starts),
        sum(one.warm.seconds for one in starts),
        None if None in stable else all(stable),
    )


def without_gaps(samples: Sequence[Sample], sources: Sequence[Source]) -> list[Sample]:
    """Return samples whose phases `while` follow on each other.

    What a counter counted between two starts, while the next one opened and warmed up, and the
    time that this took, are taken out.
    """
    counters = {q.name for source in sources for q in source.quantities if q.kind != GAUGE}
    joined: list[Sample] = []
    last: Sample | None = None
    gap_s, skipped, is_inside = 0.0, dict.fromkeys(counters, 0.0), False
    for sample in samples:
        if sample.phase != WHILE:
            joined.append(sample)
            continue
        if sample.is_edge and not is_inside and last is not None:
            gap_s = sample.at_s - last.at_s
            told = counters & set(sample.values) & set(last.values)
            skipped |= {name: sample.values[name] - last.values[name] for name in told}
        is_inside = not is_inside if sample.is_edge else is_inside
        last = replace(sample, at_s=sample.at_s - gap_s, values=_less(sample.values, skipped))
        joined.append(last)
    return joined


def _less(values: Mapping[str, float], skipped: Mapping[str, float]) -> dict[str, float]:
    return {name: value - skipped.get(name, 0.0) for name, value in values.items()}


def _work(connection: Connection, settings: LatencySettings, n: int, n_before: int) -> None:
    """Open, warm up, measure: in the process of one start."""
    try:
        connection.send(_measure(connection, settings, n, n_before))
    except CffError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # nobody waits for it any more


def _measure(connection: Connection, settings: LatencySettings, n: int, n_before: int) -> Start:
    sources = image_sources(settings.images)
    with tempfile.TemporaryDirectory(prefix="cff-bench-") as folder:
        configurations = open_configurations(settings, Path(folder))
        try:
            warm = warm_up(configurations, sources, settings.warmup, settings.warmup_limit_s)
            connection.send("ready")
            connection.recv()
            measure_rounds(configurations, sources, n, n_before)
        finally:
            close_all(configurations)
    return Start(warm, [one.timings for one in configurations], [o.device for o in configurations])


def _receive(connection: Connection, settings: LatencySettings) -> Any:
    """Return what a process says, or raise the error that it tells."""
    try:
        answer = connection.recv()
    except EOFError:
        raise BackendError(
            f"each start must open and inspect with `{settings.bundle}`, its process ended without "
            "a word; measure in this one with `--starts 1`"
        ) from None
    if isinstance(answer, CffError):
        raise answer
    return answer


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        words = text.rpartition(")")[2].split()
        ticks = sum(int(words[field - _STAT_STATE]) for field in (_STAT_UTIME, _STAT_STIME))
        return ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError, IndexError):
        return 0.0
