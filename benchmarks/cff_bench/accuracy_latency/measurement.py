"""Accuracy and latency of the same artefacts.

Accuracy is `cff-eval`'s: the same references, seeds, test images and metrics, and the mean over
products within a seed, then over seeds. Latency is one whole inspection of an image in memory,
resizing to regions; all artefacts and all K take turns on the same images. A precision that this
CPU can only emulate has its accuracy and no latency.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.accuracy_latency.artefacts import (
    Artefact,
    computed_as,
    judge,
    list_artefacts,
    open_inspector,
)
from cff_bench.environment import collect_environment
from cff_bench.timing import Samples, sample_interleaved
from cff_edge.evaluation.checks import check_files
from cff_edge.evaluation.context import Context, choose_references, read_datasets
from cff_edge.evaluation.references import judged_samples
from cff_edge.evaluation.summary import Row, summarise
from cff_runtime import Inspector, Profile
from cff_runtime.errors import UsageError
from cff_runtime.imaging import load_image

N_IMAGES = 8  # that latency is taken on, in turns
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AccuracyLatencySettings:
    """What to measure.

    Attributes
    ----------
    bundles : tuple of Path
        Made by `cff-export`.
    data : tuple of Path
        Data sets in a layout of `cff_edge.datasets`.
    products, precisions : tuple of str
        Empty takes all.
    shots : tuple of int
        Values of K, ascending.
    seeds : int or None
        Draws of references; None takes `cff-eval`'s.
    references : Path or None
        ``references.json`` of `cff-eval`, for the same draws.
    n, warmup : int
        Timed rounds and those before them.
    threads : int
        Of ONNX Runtime.
    out : Path
        Cells, as `cff-eval` writes them; finished ones are not computed again.
    command : tuple of str
        The command line, for the report.
    """

    bundles: tuple[Path, ...]
    data: tuple[Path, ...]
    products: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    shots: tuple[int, ...] = (1, 2, 4)
    seeds: int | None = None
    references: Path | None = None
    n: int = 50
    warmup: int = 5
    threads: int = 1
    out: Path = Path("build/bench/accuracy-latency")
    command: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Judged:
    """One artefact at one K: what it finds, and how long it takes.

    Attributes
    ----------
    artefact : Artefact
    row : Row
        Means over products and seeds of one data set.
    computed : str
        How its accuracy was computed.
    samples : Samples or None
        Inspections; None where `Artefact.not_timed` says why not.
    """

    artefact: Artefact
    row: Row
    computed: str
    samples: Samples | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """All rows, and what they are about."""

    rows: list[Judged]
    context: Context
    environment: dict[str, Any]
    n_images: dict[str, int]
    warnings: list[str]


def measure(settings: AccuracyLatencySettings) -> Outcome:
    """Judge and time every artefact.

    Raises
    ------
    UsageError
        If a setting is out of range, or a precision unknown.
    DatasetError
        If the data sets or references cannot be used.
    CffError
        Whatever opening, enrolling and inspecting raise.
    """
    if not settings.shots or min(settings.shots) < 1 or settings.n < 1 or settings.warmup < 0:
        raise UsageError(
            "`--shots` and `-n` must be at least 1 and `--warmup` at least 0, got "
            f"{list(settings.shots)}, {settings.n} and {settings.warmup}"
        )
    environment = collect_environment().to_dict()  # before: our own load is not the machine's
    artefacts = list_artefacts(settings.bundles, settings.precisions)
    context = _context(settings, artefacts)
    check_files([sample for dataset in context.datasets.values() for sample in dataset.samples])
    computed, results = {}, []
    for number, artefact in enumerate(artefacts, start=1):
        log.info("accuracy %d of %d: %s", number, len(artefacts), artefact.name)
        found = judge(context, artefact, settings.threads)
        computed[artefact.name] = computed_as(found)
        results += found
    samples = time_inspections(settings, artefacts, context)
    by_name = {artefact.name: artefact for artefact in artefacts}
    summaries = summarise(results)
    rows = [
        Judged(by_name[row.method], row, computed[row.method], samples.get((row.method, row.k)))
        for summary in summaries
        for row in summary.rows
    ]
    n_images = {summary.name: summary.n_images for summary in summaries}
    warnings = sorted({f"{r.method}: {w}" for r in results for w in r.provenance["warnings"]})
    return Outcome(rows, context, environment, n_images, warnings)


def time_inspections(
    settings: AccuracyLatencySettings, artefacts: Sequence[Artefact], context: Context
) -> dict[tuple[str, int], Samples]:
    """Time whole inspections of every artefact at every K, taking turns.

    The part is the first product, with the references of its first draw.
    """
    name, dataset = next(iter(context.datasets.items()))
    product, seed = dataset.products[0], context.seeds[0]
    draw = context.references.of(name, product, seed)[: context.n_references]
    tested = judged_samples(dataset, product, draw)[:N_IMAGES]
    images = [load_image(sample.path) for sample in tested]
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for artefact in artefacts:
        if artefact.not_timed is not None:
            continue
        log.info("latency: enrolling with %s", artefact.name)
        inspector = open_inspector(artefact.bundle, settings.threads)
        for shots in context.shots:
            profile = inspector.enroll([dataset.root / path for path in draw[:shots]], product)
            calls[artefact.name, shots] = _inspecting(inspector, profile, images)
    if not calls:
        return {}
    log.info("latency: %d + %d rounds of %d", settings.warmup, settings.n, len(calls))
    keys = {f"{method} K={shots}": (method, shots) for method, shots in calls}
    named = {key: calls[pair] for key, pair in keys.items()}
    taken = sample_interleaved(named, settings.n, settings.warmup)
    return {keys[key]: samples for key, samples in taken.items()}


def _inspecting(
    inspector: Inspector, profile: Profile, images: Sequence[NDArray[np.uint8]]
) -> Callable[[], object]:
    """Return a call that inspects the next image; called once a round, all get the same one."""
    turns = itertools.cycle(images)
    return lambda: inspector.inspect(next(turns), profile)


def _context(settings: AccuracyLatencySettings, artefacts: Sequence[Artefact]) -> Context:
    datasets = read_datasets(settings.data, settings.products)
    references, seeds = choose_references(
        datasets, settings.shots, settings.seeds, None, settings.references
    )
    return Context(
        methods=tuple(artefact.method for artefact in artefacts),
        datasets=datasets,
        references=references,
        shots=settings.shots,
        seeds=seeds,
        image_score="deployable",
        out=settings.out,
        cache=settings.out / "cache",
        command=settings.command,
    )
