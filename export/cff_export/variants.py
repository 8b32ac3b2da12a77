"""Further precisions of a finished bundle: build, judge at the gate, repair, keep or refuse.

Only the encoder has precisions. What is judged is what the precision computes: an fp16 graph runs
on the CPU through its emulation (`cff_export.precision`), because ONNX Runtime would compute it in
fp32 there. Every variant enrols the golden references itself, as it will on a box.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cff_export.batch_check import BATCH_SIZES, batch_position_diff
from cff_export.folders import copy_bundle, note_parity, working_folder, write_manifest
from cff_export.golden import FEATURE_IMAGES, N_REFERENCES
from cff_export.parity_page import PARITY_PAGE, ParityEntry, write_parity_page
from cff_export.precision import (
    CalibrationSet,
    Candidate,
    Judgement,
    StageProbe,
    Trial,
    build_candidate,
    calibration_images,
    compare_speed,
    graph_blocks,
    repair,
)
from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, ParityError, UsageError
from cff_runtime.inspector import Inspector
from cff_runtime.manifest import FileEntry, Manifest, Variant
from cff_runtime.parity import ParityReport
from cff_runtime.storage import sha256_file
from cff_runtime.verification import (
    GoldenCheck,
    golden_condition,
    golden_profile,
    verify_bundle,
)

# a rounding to fp16 may turn either way with the batch; a mixed-up batch is far outside
_MAX_BATCH_DIFF = 0.02
_N_TIMINGS = 7
# of fp32's time; less of a gain is within what two runs differ by
_FAST_ENOUGH = 0.9
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a precision that was asked for.

    Attributes
    ----------
    precision : str
    encoder : str
        The graph in the bundle; empty if it was refused.
    kept_fp32 : tuple of str
        Blocks left in fp32.
    refused : str
        Why there is no graph; empty if there is one.
    parity : mapping
        Report of the gate; empty if it was never reached.
    facts : mapping
        How it was built: calibration, repair and its cost, speed.
    checks : tuple of GoldenCheck
        The golden images' maps.
    """

    precision: str
    encoder: str
    kept_fp32: tuple[str, ...]
    refused: str
    parity: Mapping[str, Any]
    facts: Mapping[str, Any]
    checks: tuple[GoldenCheck, ...] = field(repr=False)

    @property
    def summary(self) -> str:
        """The gate's answer in a line."""
        return (
            f"mean cosine {min(self.parity['feature_mean_cosine']):.5f}, score moves by "
            f"{self.parity['score_shift']:.1%} of the way to its threshold, "
            f"{self.parity['verdict_flips']} verdict flips"
        )


def extend_bundle(
    source: Path, out: Path, precisions: Sequence[str], calibration: Sequence[Path] = ()
) -> tuple[Bundle, list[Outcome]]:
    """Add precisions to a bundle, in place where `out` is `source`.

    Parameters
    ----------
    source, out : Path
        Bundles; `out` appears complete or stays as it was.
    precisions : sequence of str
        Of `cff_export.precision.PRECISIONS`; one that the bundle has is built anew.
    calibration : sequence of Path
        Images of good parts; only ``int8-qdq`` needs them.

    Raises
    ------
    UsageError, BundleError
        If `source` is no bundle, or a precision lacks what it needs.
    ImageError
        If a calibration image cannot be read.
    StorageError
        If something cannot be written.
    """
    bundle = Bundle.open(source)
    chosen = None
    if "int8-qdq" in precisions:
        if not calibration:
            raise UsageError("`--calibration` must name images of good parts for int8-qdq")
        chosen = calibration_images(calibration, bundle.manifest.preprocessing)
    with working_folder(out) as work:
        copy_bundle(bundle.path, work)
        manifest, outcomes = add_variants(work, bundle.manifest, precisions, chosen)
        write_manifest(work, manifest)
    return Bundle.open(out), outcomes


def add_variants(
    folder: Path,
    manifest: Manifest,
    precisions: Sequence[str],
    calibration: CalibrationSet | None = None,
) -> tuple[Manifest, list[Outcome]]:
    """Build precisions in a bundle's working folder; return the manifest that names them.

    A precision that cannot pass the gate, or an int8 for the CPU that is not faster, is refused:
    its outcome says why, and the bundle goes without.
    """
    outcomes = []
    for precision in precisions:
        manifest = _without(folder, manifest, precision)
        attempt = _Attempt(folder, manifest, precision, calibration)
        variant, refused = None, ""
        try:
            variant = attempt.run()
        except (ParityError, BackendError) as error:
            log.warning("%s refused: %s", precision, error)
            refused = str(error)
        if variant is None:
            attempt.discard()
        else:
            manifest = dataclasses.replace(
                manifest,
                variants={**manifest.variants, precision: variant},
                files={**manifest.files, **attempt.files},
            )
        outcome = Outcome(
            precision,
            variant.encoder if variant else "",
            attempt.kept,
            refused,
            attempt.parity,
            attempt.facts,
            tuple(attempt.checks),
        )
        outcomes.append(outcome)
        note = {"refused": refused} if refused else {}
        note_parity(folder, precision, {**note, **attempt.parity, "kept_fp32": attempt.kept})
    _write_page(folder, manifest, outcomes)
    return manifest, outcomes


def _without(folder: Path, manifest: Manifest, precision: str) -> Manifest:
    """Take an earlier variant of this precision out of a bundle."""
    if precision not in manifest.variants:
        return manifest
    encoder = manifest.variants[precision].encoder
    gone = {encoder, f"{encoder}.data", golden_profile(precision)}
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    return dataclasses.replace(
        manifest,
        variants={name: v for name, v in manifest.variants.items() if name != precision},
        files={name: entry for name, entry in manifest.files.items() if name not in gone},
    )


def _write_page(folder: Path, manifest: Manifest, outcomes: Sequence[Outcome]) -> None:
    entries = {"fp32": ParityEntry("fp32", manifest.encoder, manifest.parity)}
    for name, variant in manifest.variants.items():
        entries[name] = ParityEntry(
            name, variant.encoder, variant.parity, (), variant.kept_fp32, "", variant.facts
        )
    for outcome in outcomes:
        entries[outcome.precision] = ParityEntry(
            outcome.precision,
            outcome.encoder,
            outcome.parity,
            outcome.checks,
            outcome.kept_fp32,
            outcome.refused,
            outcome.facts,
        )
    write_parity_page(folder / PARITY_PAGE, f"Bundle {manifest.id[:12]}", list(entries.values()))


class _Attempt:
    """One precision: its candidate graphs and what the gate said of them."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        precision: str,
        calibration: CalibrationSet | None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.precision = precision
        self.calibration = calibration
        bundle = Bundle(folder, manifest)
        self.condition = golden_condition(bundle)
        self.expected = bundle.tensors(manifest.golden)
        self.source = bundle.file(manifest.encoder)
        self.work = folder / f".{precision}"
        self.files: dict[str, FileEntry] = {}
        self.kept: tuple[str, ...] = ()
        self.parity: Mapping[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.checks: list[GoldenCheck] = []
        self._probe: StageProbe | None = None

    def run(self) -> Variant:
        """Build, repair where need be, and take the graph into the bundle.

        Raises
        ------
        ParityError
            If no choice of blocks passes the gate, or int8 is not faster.
        """
        self.work.mkdir()
        log.info("%s: building and judging the encoder", self.precision)
        found = repair(
            graph_blocks(self.source, self.precision),
            self._build,
            self._judge,
            self._quick,
            self._tell,
        )
        self.kept = found.kept
        if found.n_trials > 1:  # profile, report and maps are those of the last trial
            self._judge(found.candidate)
        self.facts = {**found.candidate.facts, "repair": found.to_dict()}
        graph = found.candidate.graph
        if self.precision == "int8":
            self._require_faster(graph)
        view = self._view(graph)
        for path in _with_data(graph):
            path.replace(self.folder / path.name)
        self._clean()
        return Variant(graph.name, view.id, self.kept, self.facts, self.parity)

    def _tell(self, trial: Trial) -> None:
        """Log a trial of a repair; the first alone is the normal case."""
        if trial.number == 1 and trial.judgement.passed:
            return
        measured = trial.purpose.endswith("alone low")
        failures = "" if measured else "; ".join(trial.judgement.failures)
        log.info(
            "%s: trial %d, %s (%d kept): %s",
            self.precision,
            trial.number,
            trial.purpose,
            trial.n_kept,
            failures or f"error {trial.judgement.error:.1e}",
        )

    def discard(self) -> None:
        """Remove what the attempt wrote."""
        self._clean()
        (self.folder / golden_profile(self.precision)).unlink(missing_ok=True)

    def _clean(self) -> None:
        for path in self.work.glob("*"):
            path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self.work.rmdir()

    def _build(self, kept: Collection[str]) -> Candidate:
        images = None if self.calibration is None else self.calibration.images
        return build_candidate(self.precision, self.source, self.work, kept, images, self.condition)

    def _judge(self, candidate: Candidate) -> Judgement:
        """Enrol the golden references and pass the gate with them, in this precision."""
        bundle = self._runnable(candidate)
        backend = open_backend("onnxruntime", bundle, {})
        references = [self.expected[f"resized_{index}"] for index in range(N_REFERENCES)]
        path = self.folder / golden_profile(self.precision)
        self.checks = []
        try:
            profile = Inspector(bundle, backend).enroll(references, "golden")
            path.unlink(missing_ok=True)
            profile.save(path)
            report = verify_bundle(_with_file(bundle, path), backend, checks=self.checks)
        except BackendError:  # scores that are not finite; the probe says of which stage
            return self._quick(candidate)
        return self._with_batches(report, candidate, backend)

    def _with_batches(
        self, report: ParityReport, candidate: Candidate, backend: Backend
    ) -> Judgement:
        failures = list(report.failures)
        parity = report.to_dict()
        del backend  # not two sessions of a ViT-L's 1.2 GB
        if candidate.facts.get("batch") != 1:
            resized = [self.expected[f"resized_{i}"] for i in range(max(BATCH_SIZES))]
            images = np.stack(resized)
            diff = batch_position_diff(candidate.runnable, images, self.condition, relative=True)
            parity["batch_position_max_diff"] = diff if np.isfinite(diff) else None
            parity["batch_position_limit"] = _MAX_BATCH_DIFF
            if not diff <= _MAX_BATCH_DIFF:
                failures.append(f"an image's answers change by {diff:.2e} with its batch")
        self.parity = {**parity, "passed": not failures, "failures": failures}
        error = 1.0 - min(report.feature_mean_cosine)
        return Judgement(not failures, error, tuple(failures))

    def _quick(self, candidate: Candidate) -> Judgement:
        """Judge by the stages' mean cosines on one golden image alone."""
        if self._probe is None:
            image = self.expected[f"resized_{FEATURE_IMAGES[-1]}"]
            alone = () if self.manifest.scorers else (self.manifest.map.output,)
            self._probe = StageProbe(self.source, [image], self.condition, further=alone)
        return self._probe(candidate.runnable)

    def _runnable(self, candidate: Candidate) -> Bundle:
        """Return the bundle with this graph's id, running what the CPU may run of it."""
        view = self._view(candidate.graph)
        name = candidate.runnable.relative_to(self.folder).as_posix()
        bundle = Bundle(self.folder, dataclasses.replace(view, encoder=name))
        return _with_file(bundle, candidate.runnable)

    def _view(self, graph: Path) -> Manifest:
        """Return the manifest as it will be with this graph."""
        self.files = {path.name: _entry(path) for path in _with_data(graph)}
        view = dataclasses.replace(
            self.manifest,
            precision=self.precision,
            encoder=graph.name,
            files={**self.manifest.files, **self.files},
        )
        return dataclasses.replace(view, id=view.compute_id())

    def _require_faster(self, graph: Path) -> None:
        name = self.manifest.condition.input
        feeds = {"image": self.expected["resized_0"][None], name: self.condition}
        timings = compare_speed({"fp32": self.source, self.precision: graph}, feeds, _N_TIMINGS)
        fp32, reduced = timings["fp32"], timings[self.precision]
        self.facts["speed"] = {name: dataclasses.asdict(t) for name, t in timings.items()}
        share = reduced.p50_ms / fp32.p50_ms
        if share > _FAST_ENOUGH:
            raise ParityError(
                f"{self.precision} must take at most {_FAST_ENOUGH:.0%} of fp32's time on this "
                f"CPU, got {share:.0%} ({reduced.p50_ms:.1f} ms against {fp32.p50_ms:.1f} ms, "
                f"medians of {fp32.n})"
            )


def _with_data(graph: Path) -> list[Path]:
    """Return a graph and the file of its weights, if they lie beside it."""
    return [path for path in (graph, graph.with_name(f"{graph.name}.data")) if path.exists()]


def _with_file(bundle: Bundle, path: Path) -> Bundle:
    """Return the bundle with one more file in its manifest."""
    name = path.relative_to(bundle.path).as_posix()
    files = {**bundle.manifest.files, name: _entry(path)}
    return Bundle(bundle.path, dataclasses.replace(bundle.manifest, files=files))


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_file(path), path.stat().st_size)
