"""Whole inspections side by side: this project, its own PyTorch path, and other people's ways.

Every contestant lives in a process of its own (`cff_bench.peers.worker`). They take turns, one
inspection each per round, so that whatever else the machine does hits all of them alike. A missing
package, or a contestant that is not defined for a backbone, is a dash with its reason.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_bench.environment import collect_environment, package_version
from cff_bench.peers.contest import Contest, subject_key
from cff_bench.peers.contestants import ANOMALIB, EAGER, REDUCED, REFERENCE, contestant_names
from cff_bench.peers.figures import checks_of, plots_of, series_of, tables_of
from cff_bench.peers.subject import Subject, choose_subject
from cff_bench.peers.turns import PAUSE_MS, contestants, take_turns
from cff_bench.precision.facts import bundle_facts
from cff_bench.report.document import Report
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, UsageError

INSIDE = (
    "from a decoded RGB image in memory to score and anomaly map: resizing, network, its map, "
    "memory bank; ours also finds regions, a verdict and checks of the product; batch 1"
)
_LIBRARIES_BYTES = 1_000_000_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeersSettings:
    """What to measure.

    Attributes
    ----------
    bundle : Path
    profile : Path or None
        Of the product; None takes the bundle's golden images as references.
    run : Path or None
        Training run behind `bundle`, so that PyTorch has its head and answers can be compared.
    image : Path or None
        Part to inspect; None takes the profile's first reference, or a golden image.
    full_bundle : Path or None
        Another one to measure as well, of a network that takes seconds, with golden images.
    n, full_n : int
        Timed rounds, of `bundle` and of `full_bundle`.
    warmup : int
        Rounds before them, beside the two inspections that every process begins with.
    threads : int
    names : tuple of str
        Contestants; empty takes all.
    anomalib_python : Path or None
        Interpreter of the environment that anomalib lives in.
    command : tuple of str
        The command line, for the report.
    """

    bundle: Path
    profile: Path | None
    run: Path | None
    image: Path | None
    full_bundle: Path | None
    n: int
    full_n: int
    warmup: int
    threads: int
    names: tuple[str, ...] = ()
    anomalib_python: Path | None = None
    command: tuple[str, ...] = ()


def run(settings: PeersSettings) -> Report:
    """Let the contestants inspect.

    Raises
    ------
    UsageError
        If a count is out of range, a name is no contestant, or this project's fp32 is left out.
    CffError
        Whatever opening bundle, profile and image raises.
    """
    if settings.n < 1 or settings.full_n < 1 or settings.warmup < 0:
        raise UsageError(
            "`-n` and `--full-n` must be at least 1 and `--warmup` at least 0, got "
            f"{settings.n}, {settings.full_n} and {settings.warmup}"
        )
    if settings.names and REFERENCE not in settings.names:
        raise UsageError(f"`--only` must hold {REFERENCE!r}, which the others are compared with")
    environment = collect_environment()  # before the run: its own load is not the machine's
    chosen = (settings.bundle, settings.profile, settings.run, settings.image)
    subject = choose_subject(*chosen, settings.threads)
    contests = []
    with tempfile.TemporaryDirectory(prefix="cff-peers-") as folder:
        contests.append(_hold(subject, settings, settings.n, Path(folder)))
        if settings.full_bundle is not None:
            further = choose_subject(settings.full_bundle, None, None, None, settings.threads)
            with tempfile.TemporaryDirectory(prefix="cff-peers-") as full_folder:
                contests.append(_hold(further, settings, settings.full_n, Path(full_folder)))
                return _report(settings, contests, environment.to_dict())
        return _report(settings, contests, environment.to_dict())


def _hold(subject: Subject, settings: PeersSettings, n: int, folder: Path) -> Contest:
    bundle = Bundle.open(subject.bundle)
    manifest = bundle.manifest
    known = contestant_names(manifest)
    unknown = [name for name in settings.names if name not in known]
    if unknown and settings.full_bundle is None:
        raise UsageError(f"`--only` must be of {', '.join(known)}, got {unknown[0]!r}")
    names = [name for name in known if not settings.names or name in settings.names]
    # a network that is gone through twice as large as its graph, and the libraries
    graph = manifest.files[manifest.encoder].n_bytes
    need = dict.fromkeys(names, 2 * graph + _LIBRARIES_BYTES)
    python = settings.anomalib_python
    interpreters = {} if python is None else {ANOMALIB: python}
    subject.save(folder)
    with contestants(names, folder, settings.threads, need, interpreters) as started:
        contest = Contest(subject_key(manifest), manifest, subject, started)
        lost = [one for one in started if one.name == REFERENCE and one.absent is not None]
        if lost:
            raise BackendError(f"`{REFERENCE}` must run, to compare with, but {lost[0].absent}")
        log.info("%s: %d contestants, %d rounds", contest.key, len(contest.took_part), n)
        take_turns(contest.took_part, n, settings.warmup)
    return contest


def _report(
    settings: PeersSettings, contests: Sequence[Contest], environment: dict[str, Any]
) -> Report:
    packages = {**environment["packages"], "openvino": package_version("openvino")}
    return Report(
        kind="peers",
        title="Peers: whole inspections on this machine, in one run",
        command=list(settings.command),
        environment={**environment, "packages": packages},
        settings={
            "n": settings.n,
            "full_n": settings.full_n if settings.full_bundle is not None else None,
            "warmup": settings.warmup,
            "threads": settings.threads,
            "batch": 1,
            "pause_ms": PAUSE_MS,
            "inside": INSIDE,
        },
        series=[series for contest in contests for series in series_of(contest)],
        tables=[table for contest in contests for table in tables_of(contest)],
        plots=[plot for contest in contests for plot in plots_of(contest)],
        checks=[check for contest in contests for check in checks_of(contest)],
        notes=[note for contest in contests for note in _notes(contest)],
        facts={contest.key: _facts(contest) for contest in contests},
    )


def _facts(contest: Contest) -> dict[str, Any]:
    subject = contest.subject
    return {
        "bundle": bundle_facts(subject.bundle, contest.manifest),
        "bundle_id": contest.manifest.id,
        "n_references": len(subject.references),
        "bank_rows": [
            len(subject.references) * stage.n_tokens for stage in contest.manifest.searched
        ],
        "image_px": list(subject.image.shape[:2]),
        "trained_head": subject.run is not None,
        "absent": {one.name: one.absent for one in contest.contestants if one.absent is not None},
    }


def _notes(contest: Contest) -> list[str]:
    subject, key = contest.subject, contest.key
    height, width = subject.image.shape[:2]
    notes = [
        f"{key}: K = {len(subject.references)}, image {width} x {height} px, decoded beforehand.",
        *(f"{key}: {note}." for note in contest.manifest.notes),
    ]
    names = {one.name for one in contest.took_part}
    if EAGER in names and not contest.has_head:
        notes.append(
            f"{key}: PyTorch has an untrained detector, which costs the same; with `--run` it has "
            "the bundle's weights and its map is compared."
        )
    if REDUCED in names:
        notes.append(
            f"{key}: `{EAGER}` searches banks as `cff_edge.Detector` gives them; `{REDUCED}` is "
            "`cff_edge.FewShotDetector`, the path of cff-eval, which borrows the exporter's fold "
            "of the rank for its banks."
        )
    reasons: dict[str, list[str]] = {}
    for one in contest.contestants:
        if one.absent is not None:
            reasons.setdefault(one.absent, []).append(one.name)
    notes += [f"{key}: {', '.join(names)} did not run: {why}" for why, names in reasons.items()]
    return notes
