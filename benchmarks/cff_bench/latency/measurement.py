"""One run of `cff-bench latency`: open, warm up, time, stream, start cold, and read the sensors."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_bench.environment import collect_environment
from cff_bench.latency.cold_start import ColdStart, measure_cold_starts
from cff_bench.latency.configurations import (
    Configuration,
    close_all,
    describe_images,
    open_configurations,
)
from cff_bench.latency.engines import engine_builds
from cff_bench.latency.figures import configuration_facts, reasons_of
from cff_bench.latency.images import ImageSource, image_sources
from cff_bench.latency.report import build_report
from cff_bench.latency.rounds import StreamTurn, WarmUp, measure_rounds, measure_streams, warm_up
from cff_bench.latency.settings import LatencySettings
from cff_bench.latency.starts import (
    OwnTime,
    count_as_own,
    join_starts,
    measure_starts,
    without_gaps,
)
from cff_bench.report.document import Report
from cff_bench.sensors import Sampler, SensorRow, find_sources, read_modes, sensor_rows
from cff_bench.sensors.sampler import INTERVAL_S
from cff_bench.sensors.summary import WHILE
from cff_runtime.doctor.box import Box
from cff_runtime.errors import UsageError

_SHORTEST_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Measured:
    """Everything that a report is made of.

    Attributes
    ----------
    settings : LatencySettings
    configurations : list of Configuration
        With their timings.
    facts : list of dict
        As `configuration_facts`, one per configuration.
    images : list of dict
    warm : WarmUp
    streams : dict
        (name, number of threads) -> turns.
    cold : dict
        Name -> processes.
    engines : list of dict
        Rows of all bundles.
    no_engines : str
        Why there is none.
    sensors : list of SensorRow
    sampler_share : float
        Of a core.
    seconds : float
        That the timed rounds took.
    environment : dict
    """

    settings: LatencySettings
    configurations: list[Configuration]
    facts: list[dict[str, Any]]
    images: list[dict[str, Any]]
    warm: WarmUp
    streams: dict[tuple[str, int], list[StreamTurn]]
    cold: dict[str, list[ColdStart]]
    engines: list[dict[str, Any]]
    no_engines: str
    sensors: list[SensorRow]
    sampler_share: float
    seconds: float
    environment: dict[str, Any]


@dataclass(frozen=True)
class _Rounds:
    """The timed rounds, left with the configurations, and what the machine did meanwhile."""

    configurations: list[Configuration]
    warm: WarmUp
    sensors: list[SensorRow]
    sampler_share: float
    seconds: float
    environment: dict[str, Any]


def run(settings: LatencySettings, box: Box | None = None) -> Report:
    """Measure and report.

    Parameters
    ----------
    settings : LatencySettings
    box : Box, optional
        Whose sensors are read; this machine's if not given.

    Raises
    ------
    UsageError
        If a file does not exist.
    CffError
        Whatever opening, loading and inspecting raise.
    """
    return build_report(measure(settings, box))


def measure(settings: LatencySettings, box: Box | None = None) -> Measured:
    """Measure; see `run`."""
    box = box or Box()
    sources = image_sources(settings.images)
    images = describe_images(sources)  # a file that is missing is told before anything is opened
    with tempfile.TemporaryDirectory(prefix="cff-bench-") as folder, ExitStack() as stack:

        def opened() -> list[Configuration]:
            configurations = open_configurations(settings, Path(folder))
            stack.callback(close_all, configurations)
            return configurations

        if settings.starts > 1:
            rounds = _in_starts(settings, box, opened)
        else:
            rounds = _here(settings, box, sources, opened())
        return _measured(settings, sources, images, rounds)


def run_latency(settings: LatencySettings) -> dict[str, Any]:
    """Measure, and return the facts of the report and its environment as one dict, for scripts."""
    report = run(settings)
    return {**report.facts, "settings": report.settings, "environment": report.environment}


def _here(
    settings: LatencySettings,
    box: Box,
    sources: list[ImageSource],
    configurations: list[Configuration],
) -> _Rounds:
    """Measure the rounds in this process."""
    modes = read_modes(box)
    environment = collect_environment().to_dict()
    with Sampler(find_sources(box)) as sampler:
        sampler.rest("before", settings.rest_seconds)
        warm = warm_up(configurations, sources, settings.warmup, settings.warmup_limit_s)
        with sampler.phase(WHILE):
            measure_rounds(configurations, sources, settings.n)
        sampler.rest("after", settings.rest_seconds)
        share = sampler.share_of_core
    sensors = sensor_rows(sampler, modes, read_modes(box))
    return _Rounds(configurations, warm, sensors, share, _seconds(sampler), environment)


def _in_starts(
    settings: LatencySettings, box: Box, opened: Callable[[], list[Configuration]]
) -> _Rounds:
    """Measure the rounds in processes of their own; then open, for what else is measured here."""
    modes = read_modes(box)
    environment = collect_environment().to_dict()
    own = OwnTime()
    sensors = count_as_own(find_sources(box), box, own)
    # a start may last a second, and its clocks are to be read in between as well
    with Sampler(sensors, max(INTERVAL_S / settings.starts, _SHORTEST_INTERVAL_S)) as sampler:
        sampler.rest("before", settings.rest_seconds)
        starts = measure_starts(settings, sampler, own)
        sampler.rest("after", settings.rest_seconds)
        share = sampler.share_of_core
        sampler.samples = without_gaps(sampler.samples, sampler.sources)
    rows = sensor_rows(sampler, modes, read_modes(box))
    configurations = opened()
    warm = join_starts(configurations, starts)
    return _Rounds(configurations, warm, rows, share, _seconds(sampler), environment)


def _seconds(sampler: Sampler) -> float:
    while_s = [sample.at_s for sample in sampler.samples if sample.phase == WHILE]
    return while_s[-1] - while_s[0]


def _measured(
    settings: LatencySettings,
    sources: list[ImageSource],
    images: list[dict[str, Any]],
    rounds: _Rounds,
) -> Measured:
    """Add what is measured besides the rounds."""
    configurations = rounds.configurations
    facts = []
    for one in configurations:
        reasons = reasons_of(one, settings.backend, settings.options)
        facts.append(configuration_facts(one, len(sources), reasons, settings.rounds_of_starts))
    streams = measure_streams(configurations, sources, settings.streams, settings.stream_seconds)
    cold = measure_cold_starts(configurations, sources[0], settings)
    engines, no_engines = _engines(settings)
    return Measured(
        settings=settings,
        configurations=configurations,
        facts=facts,
        images=images,
        warm=rounds.warm,
        streams=streams,
        cold=cold,
        engines=engines,
        no_engines=no_engines,
        sensors=rounds.sensors,
        sampler_share=rounds.sampler_share,
        seconds=rounds.seconds,
        environment=rounds.environment,
    )


def _engines(settings: LatencySettings) -> tuple[list[dict[str, Any]], str]:
    rows: list[dict[str, Any]] = []
    reasons = []
    for bundle in (settings.bundle, *settings.compare_with):
        found, reason = engine_builds(bundle, settings.backend, settings.options)
        rows += [{"bundle": str(bundle), **row} for row in found]
        reasons.append(reason)
    return rows, "" if rows else reasons[0]


def require_streams(texts: str) -> tuple[int, ...]:
    """Return the numbers of ``1,2``.

    Raises
    ------
    UsageError
        If they are none.
    """
    words = [word.strip() for word in texts.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"`--streams` must be whole numbers such as 1,2, got {texts!r:.80}")
    return tuple(dict.fromkeys(int(word) for word in words))
