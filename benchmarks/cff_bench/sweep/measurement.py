"""Measuring the parts of all combinations, a group at a time.

A group is a bundle on a backend. In every round all of its parts are run once, taking turns, every
other round in the reverse order: whatever else the machine does at that moment hits all of them
alike, and a slow drift hits none more than another. Every round is kept as soon as it is over.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any

from cff_bench.environment import collect_environment
from cff_bench.sweep.axes import (
    BACKENDS,
    Axes,
    Combination,
    Part,
    bundle_labels,
    combinations,
    parts_of,
)
from cff_bench.sweep.journal import Journal, Samples
from cff_bench.sweep.subjects import Subject, open_subject
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError
from cff_runtime.storage import sha256_bytes

MAX_BATCH = 64  # of the exported graph
MAX_SHOTS = 64
QUICK = Axes(batches=(1, 2, 4), shots=(1, 4, 16))
QUICK_ROUNDS = 5
_SAY_EVERY_S = 10.0
log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(frozen=True)
class SweepSettings:
    """What to measure.

    Attributes
    ----------
    bundles : tuple of Path
        Made by `cff-export`, such as one network at several image sizes.
    axes : Axes
    n, warmup : int
        Timed rounds of every group and those before them.
    journal : Path or None
        Where rounds are kept; None keeps none.
    command : tuple of str
        The command line, for the report.
    """

    bundles: tuple[Path, ...]
    axes: Axes = field(default_factory=Axes)
    n: int = 20
    warmup: int = 2
    journal: Path | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Group:
    """A bundle on a backend: its combinations, and the times of every part.

    Attributes
    ----------
    label, backend : str
    bundle : Bundle
    cells : list of Combination
    samples : dict of str to list of float
        Milliseconds of every part by its key, n of each.
    n_resumed : int
        Rounds of an earlier, interrupted run.
    """

    label: str
    backend: str
    bundle: Bundle
    cells: list[Combination]
    samples: Samples
    n_resumed: int = 0

    @property
    def name(self) -> str:
        """Key of the group, such as ``efficientnet-lite0-256/onnxruntime/cpu``."""
        return f"{self.label}/{self.backend}"


@dataclass(frozen=True, eq=False)
class Sweep:
    """All that was measured; `left_out` are groups that cannot run here, with the reason."""

    groups: list[Group]
    left_out: list[tuple[str, str, str]]
    environment: dict[str, Any]


def measure_sweep(settings: SweepSettings) -> Sweep:
    """Measure all parts, going on from the journal of an interrupted run.

    Raises
    ------
    UsageError
        If a setting is out of range.
    CffError
        Whatever opening a bundle and running its graphs raise.
    """
    require_settings(settings)
    environment = collect_environment().to_dict()  # before: our own load is not the machine's
    bundles = [Bundle.open(path) for path in settings.bundles]
    journal = Journal(settings.journal)
    groups: list[Group] = []
    left_out: list[tuple[str, str, str]] = []
    n_groups = len(bundles) * len(settings.axes.backends)
    for label, bundle in zip(bundle_labels(bundles), bundles, strict=True):
        for backend in settings.axes.backends:
            try:
                subject = open_subject(backend, bundle)
            except (BackendError, MissingDependencyError) as error:
                left_out.append((label, backend, str(error)))
                log.warning("%s on %s is left out: %s", label, backend, error)
                continue
            number = f"group {len(groups) + len(left_out) + 1} of {n_groups}"
            group = _start_group(settings, journal, environment, (label, backend, bundle), subject)
            _measure_group(settings, journal, environment, group, subject, number)
            groups.append(group)
            del subject  # its memory, before the next one's
    if not groups:
        raise BackendError(
            f"one of `--backends` must run here, none does: {left_out[0][2]}; see `cff-run doctor`"
        )
    journal.finish()
    return Sweep(groups, left_out, environment)


def require_settings(settings: SweepSettings) -> None:
    """Refuse settings that are out of range.

    Raises
    ------
    UsageError
    """
    axes = settings.axes
    if not settings.bundles or len(set(settings.bundles)) < len(settings.bundles):
        raise UsageError("`BUNDLE` must be one or more different folders; name each once")
    for name, values, most in (
        ("batches", axes.batches, MAX_BATCH),
        ("shots", axes.shots, MAX_SHOTS),
        ("threads", axes.threads or (1,), 256),
    ):
        if not values or not all(1 <= value <= most for value in values):
            raise UsageError(f"`--{name}` must be of 1 to {most}, got {list(values)}")
    if not axes.banks or any(bank < 0 for bank in axes.banks):
        raise UsageError(f"`--banks` must be `whole` or rows above 0, got {list(axes.banks)}")
    for backend in axes.backends:
        if backend not in BACKENDS:
            raise UsageError(f"`--backends` must be of {', '.join(BACKENDS)}, got {backend!r}")
    if not axes.backends or settings.n < 1 or settings.warmup < 0:
        raise UsageError(
            "`-n` must be at least 1, `--warmup` at least 0 and `--backends` name one, got "
            f"{settings.n}, {settings.warmup} and {len(axes.backends)}"
        )


def group_identity(bundle: Bundle, environment: Mapping[str, Any]) -> str:
    """Return a hash over the bundle and the machine: rounds of another one do not count."""
    manifest = bundle.manifest
    graphs = [manifest.view(name).encoder for name in manifest.precisions]
    facts = {
        "id": manifest.id,
        "graphs": [manifest.files[name].sha256 for name in graphs if name in manifest.files],
        "machine": [environment.get(name) for name in ("cpu_model", "cores_available", "gpu")],
        "onnxruntime": environment.get("packages", {}).get("onnxruntime"),
        "threads": environment.get("thread_variables"),
    }
    return sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:16]


def missing_parts(parts: Sequence[Part], samples: Samples, n: int) -> list[Part]:
    """Return the parts of which there are fewer than n samples."""
    return [part for part in parts if len(samples.get(part.key, ())) < n]


def _start_group(
    settings: SweepSettings,
    journal: Journal,
    environment: Mapping[str, Any],
    what: tuple[str, str, Bundle],
    subject: Subject,
) -> Group:
    label, backend, bundle = what
    precisions = settings.axes.precisions or bundle.manifest.precisions
    limits = {
        name: subject.batch_limit(name) if name in bundle.manifest.precisions else None
        for name in precisions
    }
    cells = combinations(settings.axes, backend, bundle, limits)
    samples = journal.samples(f"{label}/{backend}", group_identity(bundle, environment))
    wanted = {part.key for part in parts_of(cells)}
    kept = {key: values[: settings.n] for key, values in samples.items() if key in wanted}
    return Group(label, backend, bundle, cells, kept, max(map(len, kept.values()), default=0))


def _measure_group(
    settings: SweepSettings,
    journal: Journal,
    environment: Mapping[str, Any],
    group: Group,
    subject: Subject,
    number: str,
) -> None:
    """Run rounds until every part has its samples."""
    parts = missing_parts(parts_of(group.cells), group.samples, settings.n)
    if not parts:
        return
    log.info("%s, %s: loading what %d parts need", number, group.name, len(parts))
    for part in parts:
        subject.prepare(part)
    identity = group_identity(group.bundle, environment)
    for _ in range(settings.warmup):
        _round(subject, parts)
    n_rounds = settings.n - min(len(group.samples.get(part.key, ())) for part in parts)
    started = said = monotonic()
    for index in range(n_rounds):
        parts = missing_parts(parts, group.samples, settings.n)
        times = _round(subject, parts if index % 2 == 0 else parts[::-1])
        journal.add(group.name, identity, times)
        for key, value in times.items():
            group.samples.setdefault(key, []).append(value)
        if index == 0 or monotonic() - said >= _SAY_EVERY_S:
            said = monotonic()
            left_s = (said - started) / (index + 1) * (n_rounds - index - 1)
            log.info("%s: round %d of %d, %.0f s left", number, index + 1, n_rounds, left_s)


def _round(subject: Subject, parts: Sequence[Part]) -> dict[str, float]:
    times = {}
    for part in parts:
        start_ns = perf_counter_ns()
        result = subject.run(part)
        times[part.key] = (perf_counter_ns() - start_ns) / 1e6
        del result  # freed here: otherwise inside the next part's timing
    return times
