"""The report of `cff-bench latency`: series, tables, plots and notes out of what was measured."""

from statistics import median
from typing import TYPE_CHECKING, Any

from cff_bench.latency.cold_start import STEPS
from cff_bench.latency.figures import device_timings, stage_timings
from cff_bench.latency.plots import build_plots
from cff_bench.latency.tables import build_tables
from cff_bench.report.document import Check, Report, Series
from cff_bench.sensors import SensorRow, judge_quietness

if TYPE_CHECKING:
    from cff_bench.latency.measurement import Measured

ROUNDS, COLD, STREAMS = "rounds", "cold starts", "streams"
# share of one inspection that searching memory banks of this many references may take, by encoder
CHECKED_REFERENCES = 4
MAX_SEARCH_SHARE = {"open_clip:ViT-L-14-336": 0.10, "efficientnet-lite0": 0.30}
_MAX_SAMPLER_SHARE = 0.01


def build_report(measured: "Measured") -> Report:
    """Return the report of a measurement."""
    sensors = {"sensors": [_sensor_facts(row) for row in measured.sensors]}
    return Report(
        kind="latency",
        title="Latency of one inspection",
        command=list(measured.settings.command),
        environment={**measured.environment, **sensors},
        settings=measured.settings.to_dict(),
        series=_series(measured),
        tables=build_tables(measured),
        plots=build_plots(measured),
        checks=_checks(measured),
        notes=_notes(measured),
        facts=_facts(measured),
    )


def key(measured: "Measured", name: str, what: str) -> str:
    """Return the stable name of a series: without the configuration where there is one alone."""
    return what if len(measured.configurations) == 1 else f"{name}/{what}"


def starts_of(measured: "Measured") -> list[int]:
    """Return the rounds of every start; nothing where they were measured in one process."""
    settings = measured.settings
    return settings.rounds_of_starts if settings.starts > 1 else []


def energy_per_inspection(measured: "Measured") -> list[tuple[str, float]]:
    """Return (meter, joules) of every meter of watts, over all inspections of the timed rounds."""
    n_inspections = measured.settings.n * len(measured.configurations)
    return [
        (row.title, row.during * measured.seconds / n_inspections)
        for row in measured.sensors
        if row.unit == "W" and isinstance(row.during, float)
    ]


def _series(measured: "Measured") -> list[Series]:
    found = []
    of_starts = starts_of(measured)
    for one, facts in zip(measured.configurations, measured.facts, strict=True):
        for stage, values in stage_timings(one, facts["not_told_apart"]).items():
            role = "total" if stage == "total" else ""
            name = key(measured, one.name, f"latency/{stage}")
            found.append(Series(name, "ms", values, ROUNDS, role, starts=of_starts))
        for call, values in device_timings(one).items():
            name = key(measured, one.name, f"device/{call}")
            found.append(Series(name, "ms", values, ROUNDS, starts=of_starts))
    for (name, n_streams), turns in measured.streams.items():
        rates = [turn.per_second for turn in turns]
        label = key(measured, name, f"throughput/{n_streams}")
        found.append(Series(label, "images/s", rates, STREAMS))
    for name, starts in measured.cold.items():
        for step in STEPS if starts else ():
            values = [start.steps_ms[step] for start in starts]
            found.append(Series(key(measured, name, f"cold/{step}"), "ms", values, COLD))
        if starts:
            totals = [start.total_ms for start in starts]
            found.append(Series(key(measured, name, "cold/total"), "ms", totals, COLD))
    return found


def _checks(measured: "Measured") -> list[Check]:
    """Return what holds for the searches of the shipped encoders with four references."""
    checks = []
    for one, facts in zip(measured.configurations, measured.facts, strict=True):
        limit = MAX_SEARCH_SHARE.get(str(one.inspector.bundle.manifest.backbone.get("name")))
        if limit is not None and one.profile.n_references == CHECKED_REFERENCES:
            share = next(s["share"] for s in facts["stages"] if s["name"] == "search")
            name = f"{key(measured, one.name, 'search')}, share of an inspection"
            checks.append(Check.of(name, share, limit))
    return checks


def _facts(measured: "Measured") -> dict[str, Any]:
    """Return what scripts read: the first configuration as it is, and all of them."""
    first = measured.facts[0]
    quiet, _ = judge_quietness(measured.sensors, measured.environment["cores_logical"] or 1)
    return {
        **{name: value for name, value in first.items() if name != "name"},
        "cold_start": _cold_facts(measured, first["name"]),
        "image": measured.images[0],
        "images": measured.images,
        "warm_up": {
            "rounds": measured.warm.rounds,
            "seconds": measured.warm.seconds,
            "is_stable": measured.warm.is_stable,
        },
        "starts": starts_of(measured),
        "quiet": quiet,
        "sampler_share_of_core": measured.sampler_share,
        "energy_j": dict(energy_per_inspection(measured)),
        "engines": measured.engines,
        "configurations": measured.facts,
    }


def _cold_facts(measured: "Measured", name: str) -> dict[str, Any] | None:
    """Return medians under the names that scripts know, and the peak of memory."""
    starts = measured.cold[name]
    if not starts:
        return None
    steps = {step: median(start.steps_ms[step] for start in starts) for step in STEPS}
    peaks = [start.peak_bytes for start in starts if start.peak_bytes is not None]
    return {
        "n": len(starts),
        "interpreter_ms": steps["interpreter"],
        "import_ms": steps["import"],
        "verify_ms": steps["verify"],
        "load_ms": steps["load"],
        "open_ms": median(s.steps_ms["verify"] + s.steps_ms["load"] for s in starts),
        "profile_ms": steps["profile"],
        "first_ms": steps["first"],
        "total_ms": median(start.total_ms for start in starts),
        "peak_memory_mb": median(peaks) / 1e6 if peaks else None,
    }


def _notes(measured: "Measured") -> list[str]:
    notes = list(judge_quietness(measured.sensors, measured.environment["cores_logical"] or 1)[1])
    notes += _start_notes(measured)
    if measured.sampler_share > _MAX_SAMPLER_SHARE:
        notes.append(
            f"Reading the sensors took {measured.sampler_share:.1%} of a core, more than the 1 % "
            "that is promised."
        )
    for meter, joules in energy_per_inspection(measured):
        notes.append(
            f"{meter}: {joules:.3g} J an inspection over the timed rounds, idle power included."
        )
    if len(measured.images) > 1:
        notes.append(f"{len(measured.images)} images take turns, one a round.")
    for one, facts in zip(measured.configurations, measured.facts, strict=True):
        if one.enrolled_here:
            notes.append(
                f"`{one.name}` inspects with a profile that was enrolled for it here, from the "
                f"{facts['profile']['n_references']} references of the one that was given."
            )
    for note in dict.fromkeys(
        note for facts in measured.facts for note in facts["bundle"]["notes"]
    ):
        notes.append(f"The bundle says: {note}.")
    return notes


def _start_notes(measured: "Measured") -> list[str]:
    """Return how many processes measured, and whether their timings were stable by then."""
    warm, starts = measured.warm, starts_of(measured)
    notes, of_each = [], ""
    if starts:
        each = " or ".join(str(n) for n in dict.fromkeys(starts))
        notes.append(
            f"{len(starts)} processes, started one after the other, measured {each} rounds each: "
            "what differs between two starts is in the samples."
        )
        of_each = f", the most that one of the {len(starts)} starts took"
    if warm.is_stable is False:
        notes.append(
            f"Warm-up ended after {warm.rounds} rounds ({warm.seconds:.0f} s) without timings "
            "that are stable: what follows may still drift."
        )
    elif warm.is_stable:
        notes.append(f"Timings were stable after {warm.rounds} rounds of warm-up{of_each}.")
    return notes


def _sensor_facts(row: SensorRow) -> dict[str, Any]:
    told = {
        name: getattr(row, name)
        for name in ("name", "title", "unit", "source", "before", "during", "after", "reason")
    }
    return {**told, "lowest": row.lowest, "highest": row.highest}
