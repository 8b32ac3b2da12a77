"""Export: fold, write graphs, golden answers and manifest, pass the parity gate, rename."""

import dataclasses
import datetime
import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save
from torch import nn

from cff_edge.backbones import Backbone
from cff_edge.config import Config
from cff_export.batch_check import MAX_BATCH_DIFF, batch_position_diff
from cff_export.folders import check_target, list_files, note_parity, working_folder, write_manifest
from cff_export.golden import (
    FEATURE_IMAGES,
    GOLDEN_NAMES,
    GOLDEN_ROLES,
    N_REFERENCES,
    draw_golden_images,
)
from cff_export.parity_page import PARITY_PAGE, ParityEntry, write_parity_page
from cff_export.reference import ReferenceEncoding, reference_score
from cff_export.subject import ExportSettings, Subject, WrittenGraphs, make_subject
from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.encoder_signature import Condition
from cff_runtime.errors import CheckpointError, ParityError
from cff_runtime.inspector import Inspector
from cff_runtime.manifest import Manifest
from cff_runtime.parity import ParityLimits, ParityReport
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.storage import atomic_write
from cff_runtime.verification import GoldenCheck, golden_profile, verify_bundle

ENCODER = "encoder.fp32.onnx"
EXPECTED = "golden/expected.safetensors"

log = logging.getLogger(__name__)


def export_bundle(
    backbone: Backbone,
    model: nn.Module,
    config: Config,
    out: Path,
    settings: ExportSettings | None = None,
    trained_on: Sequence[str] = (),
    trained_images: Sequence[str] = (),
) -> Bundle:
    """Write a bundle; it appears at `out` complete and checked, or not at all.

    Parameters
    ----------
    backbone : Backbone
        On the CPU. A text tower is released once the text vectors are made.
    model : nn.Module
        What was trained on it, such as a `Head`; in eval mode, on the CPU.
    config : Config
        Of the training run; `config.model.name` says which detector this is.
    out : Path
        Folder to write.
    settings : ExportSettings, optional
    trained_on : sequence of str
        Products that the model was trained on, for the manifest.
    trained_images : sequence of str
        Hashes of pixels, see `cff_export.subject.Trained`.

    Returns
    -------
    Bundle

    Raises
    ------
    UsageError
        If `out` exists and `replace` is not set, or the detector cannot be exported as `settings`
        say.
    CheckpointError
        If the model holds NaN or infinity.
    ParityError
        If the exported graphs leave the parity limits; nothing is written.
    StorageError
        If the files cannot be written; nothing is left behind.
    """
    settings = settings or ExportSettings()
    _check_finite(model)
    subject = make_subject(backbone, model, config, settings, trained_on)
    check_target(out, settings.replace)
    with working_folder(out) as work:
        _Export(subject, trained_on, trained_images, settings.limits, work).run()
    return Bundle.open(out)


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"`{name}` of the trained model must be finite, it holds NaN or infinity; train "
                "again with a smaller learning rate"
            )


class _Export:
    """One export into a working folder."""

    def __init__(
        self,
        subject: Subject,
        trained_on: Sequence[str],
        trained_images: Sequence[str],
        limits: ParityLimits | None,
        work: Path,
    ) -> None:
        self.subject = subject
        self.facts = subject.facts
        self.trained_on = list(trained_on)
        self.trained_images = list(trained_images)
        self.limits = limits
        self.work = work
        side = self.facts.info.image_size
        self.preprocessing = Preprocessing(side, side)

    def run(self) -> None:
        """Write everything and pass the gate."""
        images = draw_golden_images()
        resized = [self.preprocessing(image) for image in images]
        part, condition = self.subject.condition(self.work, resized[:N_REFERENCES])
        log.info("running the reference in PyTorch on %d golden images", len(images))
        expected = self.subject.reference(resized, condition)
        log.info("exporting the encoder to ONNX")
        graphs = self.subject.write_graphs(self.work / ENCODER)
        manifest = self._manifest(graphs, part)
        backend = open_backend("onnxruntime", Bundle(self.work, manifest), {})
        self._write_golden(manifest, backend, images, resized, expected)
        manifest = dataclasses.replace(manifest, files=list_files(self.work))
        log.info("parity gate: ONNX Runtime against PyTorch")
        checks: list[GoldenCheck] = []
        report = verify_bundle(Bundle(self.work, manifest), backend, self.limits, checks)
        del backend  # the next check opens the encoder again: not two of a ViT-L's 1.2 GB
        batch_diff = batch_position_diff(self.work / ENCODER, np.stack(resized), condition)
        parity = self._gate(report, batch_diff)
        note_parity(self.work, manifest.precision, parity)
        entry = ParityEntry(manifest.precision, ENCODER, parity, checks)
        write_parity_page(self.work / PARITY_PAGE, f"Bundle {manifest.id[:12]}", [entry])
        write_manifest(self.work, dataclasses.replace(manifest, parity=parity))

    def _write_golden(
        self,
        manifest: Manifest,
        backend: Backend,
        images: Sequence[NDArray[np.uint8]],
        resized: Sequence[NDArray[np.uint8]],
        expected: Sequence[ReferenceEncoding],
    ) -> None:
        """Write golden images, the profile of the good ones, and the expected answers."""
        folder = self.work / "golden"
        folder.mkdir()
        inspector = Inspector(Bundle(self.work, manifest), backend)
        profile = inspector.enroll(list(resized[:N_REFERENCES]), "golden")
        profile.save(self.work / golden_profile(manifest.precision))
        answers: dict[str, NDArray[np.float32] | NDArray[np.uint8]] = {
            "roles": np.array(GOLDEN_ROLES, np.uint8)
        }
        for index, encoding in enumerate(expected):
            Image.fromarray(images[index]).save(folder / GOLDEN_NAMES[index])
            answers[f"resized_{index}"] = resized[index]
            features = self.subject.exported_features(encoding)
            if index in FEATURE_IMAGES:
                for stage, rows in enumerate(features):
                    answers[f"features_{stage}_{index}"] = np.ascontiguousarray(rows)
            found = self.subject.reference_map(encoding, expected[:N_REFERENCES])
            score = reference_score(
                found, self.facts.score.statistic, encoding.score, profile.peak_scale
            )
            answers[f"map_{index}"] = found.astype(np.float32)
            answers[f"encoder_map_{index}"] = np.ascontiguousarray(encoding.map)
            answers[f"score_{index}"] = np.array([score], np.float32)
            if encoding.score is not None:
                answers[f"encoder_score_{index}"] = np.array([encoding.score], np.float32)
        atomic_write(self.work / EXPECTED, save(answers))

    def _gate(self, report: ParityReport, batch_diff: float) -> dict[str, object]:
        failures = list(report.failures)
        if not batch_diff <= MAX_BATCH_DIFF:
            failures.append(f"an image's answers change by {batch_diff:.2e} with its batch")
        if failures:
            raise ParityError("the export left the parity gate: " + "; ".join(failures))
        batch = {"batch_position_max_diff": batch_diff, "batch_position_limit": MAX_BATCH_DIFF}
        return {**report.to_dict(), **batch}

    def _manifest(self, graphs: WrittenGraphs, condition: Condition) -> Manifest:
        facts = self.facts
        manifest = Manifest(
            id="",
            precision="fp32",
            encoder=ENCODER,
            scorers=graphs.scorers,
            preprocessing=self.preprocessing,
            stages=facts.stages,
            distance=facts.distance,
            condition=condition,
            map=facts.map,
            score=facts.score,
            golden=EXPECTED,
            files={},
            backbone=dataclasses.asdict(facts.info),
            head={**facts.head, "trained_images": self.trained_images},
            parity={},
            passes=graphs.passes,
            tools=_tool_versions(),
            licences={"backbone": facts.info.licence},
            notes=tuple(self._notes()),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        manifest = dataclasses.replace(manifest, files=list_files(self.work))
        return dataclasses.replace(manifest, id=manifest.compute_id())

    def _notes(self) -> list[str]:
        notes = []
        if self.facts.info.weights == "random":
            notes.append(
                "random backbone weights: for latency and parity only, results mean nothing"
            )
        if self.trained_on:
            notes.append(
                "the head was trained on images of the products in `head.trained_on`; "
                "their licence may bind its use"
            )
        return notes


def _tool_versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__), "onnxruntime": str(ort.__version__)}
    for package in ("cff-edge", "onnx", "numpy", "pillow"):
        versions[package] = importlib.metadata.version(package)
    return versions
