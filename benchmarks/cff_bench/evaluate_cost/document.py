"""Time and memory of the metrics by the number of images, as a report.

In every round every subject runs once on every number of images, taking turns. The maps are made
beforehand and not part of the time; a smaller problem is the beginning of the largest.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from cff_bench.environment import collect_environment
from cff_bench.evaluate_cost.memory import peak_memory_mb
from cff_bench.evaluate_cost.subjects import EVALUATE, SKLEARN, WHAT, load_subject
from cff_bench.evaluate_cost.synthetic import make_problem
from cff_bench.report.document import Column, Plot, PlotSeries, Report, Series, Table
from cff_bench.sweep.fits import MIN_POINTS, LineFit, fit_line, verdict
from cff_bench.timing import summarize
from cff_runtime.errors import UsageError

KIND = "evaluate-cost"
MIN_IMAGES = 3
log = logging.getLogger(__name__)

Key = tuple[str, int]  # subject, images


@dataclass(frozen=True)
class EvaluateCostSettings:
    """What to measure.

    Attributes
    ----------
    counts : tuple of int
        Numbers of images, ascending.
    size : int
        Side of the maps in pixels.
    subjects : tuple of str
        Of `subjects.WHAT`.
    n, warmup : int
        Timed rounds and those before them.
    rival_rounds : int
        Timed rounds of scikit-learn at most, which takes many times longer.
    command : tuple of str
        The command line, for the report.
    """

    counts: tuple[int, ...] = (15, 50, 150)
    size: int = 518
    subjects: tuple[str, ...] = tuple(WHAT)
    n: int = 5
    warmup: int = 1
    rival_rounds: int = 3
    command: tuple[str, ...] = ()


def run(settings: EvaluateCostSettings) -> Report:
    """Measure, and return the report.

    Raises
    ------
    UsageError
        If a setting is out of range.
    """
    _require_settings(settings)
    environment = collect_environment().to_dict()  # before: our own load is not the machine's
    log.info("weighing %d x %d processes", len(settings.subjects), len(settings.counts))
    keys = [(subject, count) for subject in settings.subjects for count in settings.counts]
    memory = {key: peak_memory_mb(*key, settings.size) for key in keys}
    samples = _time(settings, keys)
    fits = list(_fits(settings, samples, memory))
    return Report(
        kind=KIND,
        title="What cff-eval's metrics cost",
        command=list(settings.command),
        environment=environment,
        settings=_settings_facts(settings),
        series=[
            Series(f"{KIND}/{subject}/n{count}", "ms", values, KIND)
            for (subject, count), values in samples.items()
        ],
        tables=[
            _cost_table(settings, samples, memory),
            _fit_table(fits),
        ],
        plots=list(_plots(settings, samples, memory)),
        notes=[
            "One product's images at once, as in a cell of cff-eval; the method's own inspections "
            "are not part of it.",
            "Maps are seeded noise, smooth, with different values in nearly all pixels: every one "
            "of them is a threshold.",
        ],
        facts={"fits": [{"of": of, "verdict": said, **fit.to_dict()} for of, fit, said in fits]},
    )


def _time(settings: EvaluateCostSettings, keys: Sequence[Key]) -> dict[Key, list[float]]:
    largest = make_problem(settings.counts[-1], settings.size)
    computes = {subject: load_subject(subject) for subject in settings.subjects}
    for subject in settings.subjects:  # its first call loads libraries
        computes[subject](make_problem(MIN_IMAGES, 32))
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    for index in range(settings.warmup + settings.n):
        for subject, count in keys:
            # warmed up once by the small problem: a further call would cost minutes
            n_rounds = settings.rival_rounds if subject == SKLEARN else settings.n
            is_timed = settings.warmup <= index < settings.warmup + n_rounds
            if not is_timed and (index >= settings.warmup or subject == SKLEARN):
                continue
            problem = tuple(part[:count] for part in largest)
            start_ns = perf_counter_ns()
            result = computes[subject](problem)  # type: ignore[arg-type]  # slices of one Problem
            elapsed_ms = (perf_counter_ns() - start_ns) / 1e6
            del result
            if is_timed:
                samples[subject, count].append(elapsed_ms)
        log.info("round %d of %d", index + 1, settings.warmup + settings.n)
    return samples


def _cost_table(
    settings: EvaluateCostSettings,
    samples: dict[Key, list[float]],
    memory: dict[Key, tuple[float, float] | None],
) -> Table:
    rows = []
    for (subject, count), values in samples.items():
        summary = summarize(values)
        beyond, arguments = memory[subject, count] or (None, None)
        ours = samples.get((EVALUATE, count))
        rows.append(
            {
                "subject": subject,
                "images": count,
                "p50_ms": summary.p50_ms,
                "min_ms": summary.min_ms,
                "images_s": 1000 * count / summary.p50_ms,
                "ratio": summary.p50_ms / float(np.median(ours)) if ours else None,
                "beyond_mb": beyond,
                "arguments_mb": arguments,
                "n": summary.n,
            }
        )
    columns = [
        Column("subject", "what", "left"),
        Column("images", "images"),
        Column("p50_ms", "p50 ms", spec=".0f"),
        Column("min_ms", "min ms", spec=".0f"),
        Column("images_s", "images/s", spec=".0f"),
        Column("ratio", "of evaluate", spec=".2f"),
        Column("beyond_mb", "peak MB beyond them", spec=".0f"),
        Column("arguments_mb", "arguments MB", spec=".0f"),
        Column("n", "n"),
    ]
    what = "; ".join(f"{name}: {WHAT[name]}" for name in settings.subjects)
    note = f"{what}. Peak memory in a process of its own, one call, beyond its arguments."
    return Table("cost", f"Maps of {settings.size} px", columns, rows, note)


def _fits(
    settings: EvaluateCostSettings,
    samples: dict[Key, list[float]],
    memory: dict[Key, tuple[float, float] | None],
) -> Iterator[tuple[str, LineFit, str]]:
    """Time and memory over the number of images, where there are two or more numbers."""
    counts = settings.counts
    if len(counts) < 2:
        return
    x = [float(count) for count in counts]
    places = [f"{count} images" for count in counts]
    for subject in settings.subjects:
        rounds = list(zip(*(samples[subject, count] for count in counts), strict=True))
        fit = fit_line(x, rounds)
        yield f"{subject}, ms", fit, verdict(fit, "the line", places)
        peaks = [peak[0] for count in counts if (peak := memory[subject, count]) is not None]
        if len(peaks) == len(counts) and min(peaks) > 0:
            fit = fit_line(x, [peaks])
            yield f"{subject}, MB", fit, verdict(fit, "the line", places)


def _fit_table(fits: Sequence[tuple[str, LineFit, str]]) -> Table:
    rows = []
    for of, fit, said in fits:
        low, high = fit.slope_interval or (None, None)
        rows.append(
            {
                "of": of,
                "a": fit.intercept,
                "b": fit.slope,
                "low": low,
                "high": high,
                "r2": fit.r2 if len(fit.x) >= MIN_POINTS else None,
                "residual": fit.largest_residual,
                "verdict": said,
            }
        )
    columns = [
        Column("of", "of", "left"),
        Column("a", "a", spec=".4g"),
        Column("b", "b per image", spec=".4g"),
        Column("low", "b low", spec=".4g"),
        Column("high", "b high", spec=".4g"),
        Column("r2", "R2", spec=".4f"),
        Column("residual", "largest residual", spec=".1%"),
        Column("verdict", "verdict", "left"),
    ]
    note = "a + b images, fitted by least squares of relative residuals; low and high: 95 %."
    return Table("fits", "Growth with the number of images", columns, rows, note)


def _plots(
    settings: EvaluateCostSettings,
    samples: dict[Key, list[float]],
    memory: dict[Key, tuple[float, float] | None],
) -> Iterator[Plot]:
    x = [float(count) for count in settings.counts]
    times = [
        PlotSeries(subject, x, [float(np.median(samples[subject, c])) for c in settings.counts])
        for subject in settings.subjects
    ]
    yield Plot("time", "Time by images", "line", "images", "ms", True, True, times)
    peaks = [
        PlotSeries(subject, x, [(memory[subject, c] or (None,))[0] for c in settings.counts])
        for subject in settings.subjects
    ]
    if any(value is not None for series in peaks for value in series.y):
        title = "Peak memory beyond the arguments"
        yield Plot("memory", title, "line", "images", "MB", True, True, peaks)


def _require_settings(settings: EvaluateCostSettings) -> None:
    if not settings.counts or min(settings.counts) < MIN_IMAGES:
        raise UsageError(
            f"`--images` must be {MIN_IMAGES} or more each, got {list(settings.counts)}"
        )
    for name in settings.subjects:
        if name not in WHAT:
            raise UsageError(f"`--subjects` must be of {', '.join(WHAT)}, got {name!r}")
    counts = (settings.n, settings.rival_rounds, settings.size - 15, len(settings.subjects))
    if min(counts) < 1 or settings.warmup < 0:
        raise UsageError(
            "`-n` and `--rival-rounds` must be at least 1, `--size` 16, `--warmup` 0 and "
            f"`--subjects` name one, got {settings.n}, {settings.rival_rounds}, {settings.size}, "
            f"{settings.warmup} and {len(settings.subjects)}"
        )


def _settings_facts(settings: EvaluateCostSettings) -> dict[str, Any]:
    return {
        "images": list(settings.counts),
        "size_px": settings.size,
        "subjects": list(settings.subjects),
        "n": settings.n,
        "rival_rounds": settings.rival_rounds,
        "warmup": settings.warmup,
    }
