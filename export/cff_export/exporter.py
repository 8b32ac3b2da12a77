"""Export: fold, write graphs, golden answers and manifest, pass the parity gate, rename."""

import dataclasses
import datetime
import importlib.metadata
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from cff_edge.backbones import Backbone
from cff_edge.config import Config
from cff_edge.detector import Detector
from cff_edge.heads import Head
from cff_export.batch_check import MAX_BATCH_DIFF, batch_position_diff
from cff_export.folders import check_target, list_files, note_parity, working_folder, write_manifest
from cff_export.fused_encoder import FusedEncoder, folded_input
from cff_export.golden import (
    FEATURE_IMAGES,
    GOLDEN_NAMES,
    GOLDEN_ROLES,
    N_REFERENCES,
    draw_golden_images,
)
from cff_export.graphs import write_encoder, write_scorer
from cff_export.head_chains import fold_head
from cff_export.parity_page import PARITY_PAGE, ParityEntry, write_parity_page
from cff_export.passes import StageChain
from cff_export.reference import (
    ReferenceEncoding,
    encode_reference,
    in_basis,
    reference_map,
)
from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import CheckpointError, ParityError, UsageError
from cff_runtime.finishing import image_score
from cff_runtime.inspector import DEFAULT_TEXT_NAME, Inspector
from cff_runtime.manifest import Manifest, Stage, TextInfo
from cff_runtime.parity import ParityLimits, ParityReport
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.storage import atomic_write
from cff_runtime.verification import GoldenCheck, golden_profile, verify_bundle

ENCODER = "encoder.fp32.onnx"
TEXT_FILE = "text.safetensors"
EXPECTED = "golden/expected.safetensors"
# what rounding may do to a feature; a wrong basis is far outside
_MAX_OUTSIDE_BASIS = 1e-4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSettings:
    """What may be chosen at export.

    Attributes
    ----------
    text_names : tuple of str
        Class words whose text vectors the bundle carries, besides ``object``.
    text_weight : float or None
        Weight of the text map; the training configuration's if None.
    limits : ParityLimits or None
        Of the parity gate; those of `verify_bundle` if None.
    replace : bool
        Replace a bundle that stands at the same place.
    """

    text_names: tuple[str, ...] = ()
    text_weight: float | None = None
    limits: ParityLimits | None = None
    replace: bool = False


def export_bundle(
    backbone: Backbone,
    head: Head,
    config: Config,
    out: Path,
    settings: ExportSettings | None = None,
    trained_on: Sequence[str] = (),
) -> Bundle:
    """Write a bundle; it appears at `out` complete and checked, or not at all.

    Parameters
    ----------
    backbone : Backbone
        On the CPU. A text tower is released once the text vectors are made.
    head : Head
        In eval mode, on the CPU.
    config : Config
        Of the training run.
    out : Path
        Folder to write.
    settings : ExportSettings, optional
    trained_on : sequence of str
        Products that the head was trained on, for the manifest.

    Returns
    -------
    Bundle

    Raises
    ------
    UsageError
        If `out` exists and `replace` is not set, the text weight is no weight, or the head's text
        map is of summed features, which graphs do not compute.
    CheckpointError
        If the head holds NaN or infinity.
    ParityError
        If the exported graphs leave the parity limits; nothing is written.
    StorageError
        If the files cannot be written; nothing is left behind.
    """
    settings = settings or ExportSettings()
    _check_arguments(head, config, out, settings)
    with working_folder(out) as work:
        _Export(backbone, head, config, settings, trained_on, work).run()
    return Bundle.open(out)


def _check_arguments(head: Head, config: Config, out: Path, settings: ExportSettings) -> None:
    if config.head.text_map != "maps":
        raise UsageError(
            f'`head.text_map` must be "maps" to be exported, got "{config.head.text_map}"; '
            "train a head with it, the graphs have no other text map"
        )
    weight = settings.text_weight
    if weight is not None and not 0 <= weight < math.inf:
        raise UsageError(f"`text_weight` must be 0 or more and finite, got {weight}")
    for name, tensor in head.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"`{name}` of the head must be finite, it holds NaN or infinity; train again with "
                "a smaller learning rate"
            )
    check_target(out, settings.replace)


class _Export:
    """One export into a working folder."""

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        config: Config,
        settings: ExportSettings,
        trained_on: Sequence[str],
        work: Path,
    ) -> None:
        self.backbone = backbone
        self.info = backbone.info
        self.head = head
        self.config = config
        self.settings = settings
        self.trained_on = list(trained_on)
        self.work = work
        weight = settings.text_weight
        self.text_weight = config.head.text_weight if weight is None else weight
        self.preprocessing = Preprocessing(self.info.image_size, self.info.image_size)
        self.grids = [stage.grid for stage in self.info.stages]
        self.bank = config.head.bank

    def run(self) -> None:
        """Write everything and pass the gate."""
        names = tuple(dict.fromkeys((DEFAULT_TEXT_NAME, *self.settings.text_names)))
        vectors = {name: self._text_vectors(name) for name in names}
        atomic_write(self.work / TEXT_FILE, save(vectors))
        text = vectors[DEFAULT_TEXT_NAME]
        release = getattr(self.backbone, "release_text_tower", None)
        if release is not None:
            release()  # a ViT-L's text tower is half a gigabyte that nothing needs any more
        images = draw_golden_images()
        resized = [self.preprocessing(image) for image in images]
        log.info("running the reference in PyTorch on %d golden images", len(images))
        detector = Detector(self.backbone, self.head, self.bank).eval()
        expected = encode_reference(detector, resized, text)
        chains, passes = self._write_graphs()
        manifest = self._manifest(chains, passes, names)
        backend = open_backend("onnxruntime", Bundle(self.work, manifest), {})
        self._write_golden(manifest, backend, images, resized, expected, chains)
        manifest = dataclasses.replace(manifest, files=list_files(self.work))
        log.info("parity gate: ONNX Runtime against PyTorch")
        checks: list[GoldenCheck] = []
        report = verify_bundle(Bundle(self.work, manifest), backend, self.settings.limits, checks)
        del backend  # the next check opens the encoder again: not two of a ViT-L's 1.2 GB
        batch_diff = batch_position_diff(self.work / ENCODER, np.stack(resized), text)
        parity = self._gate(report, batch_diff)
        note_parity(self.work, manifest.precision, parity)
        entry = ParityEntry(manifest.precision, ENCODER, parity, checks)
        write_parity_page(self.work / PARITY_PAGE, f"Bundle {manifest.id[:12]}", [entry])
        write_manifest(self.work, dataclasses.replace(manifest, parity=parity))

    def _text_vectors(self, name: str) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.backbone.text_vectors(name).numpy()
        return np.ascontiguousarray(vectors)

    def _write_graphs(self) -> tuple[list[StageChain], list[dict[str, object]]]:
        chains, passes = fold_head(self.head)
        log.info("exporting the encoder to ONNX")
        with folded_input(self.backbone) as folded:
            encoder = FusedEncoder(self.backbone, chains, folded, self.bank)
            graph_passes = write_encoder(
                encoder, self.info.image_size, self.info.joint_dim, self.work / ENCODER
            )
        for stage, (width, grid) in enumerate(zip(self._widths(chains), self.grids, strict=True)):
            write_scorer(grid[0] * grid[1], width, self.work / _scorer(stage))
        passes += [
            {"pass": "fold_normalization", "applied": True, "reason": folded.reason},
            {"pass": "fold_text", "applied": True, "reason": "one text vector instead of two"},
            *graph_passes.records(),
        ]
        return chains, passes

    def _widths(self, chains: Sequence[StageChain]) -> list[int]:
        """C_s of every stage: the chain's output, or the token itself where the bank is raw."""
        if self.bank == "raw":
            return [stage.width for stage in self.info.stages]
        return [chain.width for chain in chains]

    def _write_golden(
        self,
        manifest: Manifest,
        backend: Backend,
        images: Sequence[NDArray[np.uint8]],
        resized: Sequence[NDArray[np.uint8]],
        expected: Sequence[ReferenceEncoding],
        chains: Sequence[StageChain],
    ) -> None:
        """Write golden images, the profile of the good ones, and the expected answers."""
        folder = self.work / "golden"
        folder.mkdir()
        inspector = Inspector(Bundle(self.work, manifest), backend)
        profile = inspector.enroll(list(resized[:N_REFERENCES]), "golden", DEFAULT_TEXT_NAME)
        profile.save(self.work / golden_profile(manifest.precision))
        answers: dict[str, NDArray[np.float32] | NDArray[np.uint8]] = {
            "roles": np.array(GOLDEN_ROLES, np.uint8)
        }
        for index, encoding in enumerate(expected):
            Image.fromarray(images[index]).save(folder / GOLDEN_NAMES[index])
            answers[f"resized_{index}"] = resized[index]
            for stage, chain in enumerate(chains):
                basis = None if self.bank == "raw" else chain.basis
                inside, outside = in_basis(encoding.features[stage], basis)
                if outside > _MAX_OUTSIDE_BASIS:
                    raise ParityError(f"features of stage {stage} leave the folded space")
                if index in FEATURE_IMAGES:
                    answers[f"features_{stage}_{index}"] = np.ascontiguousarray(inside)
            anomaly_map = reference_map(
                encoding,
                expected[:N_REFERENCES],
                self.grids,
                self.text_weight,
                self.config.head.distance,
            )
            peak = float(anomaly_map.max())
            score = image_score(peak, encoding.text_score, profile.peak_scale)
            answers[f"map_{index}"] = anomaly_map.astype(np.float32)
            answers[f"text_map_{index}"] = np.ascontiguousarray(encoding.text_map)
            answers[f"score_{index}"] = np.array([score], np.float32)
            if encoding.text_score is not None:
                answers[f"text_score_{index}"] = np.array([encoding.text_score], np.float32)
        atomic_write(self.work / EXPECTED, save(answers))

    def _gate(self, report: ParityReport, batch_diff: float) -> dict[str, object]:
        failures = list(report.failures)
        if not batch_diff <= MAX_BATCH_DIFF:
            failures.append(f"an image's answers change by {batch_diff:.2e} with its batch")
        if failures:
            raise ParityError("the export left the parity gate: " + "; ".join(failures))
        batch = {"batch_position_max_diff": batch_diff, "batch_position_limit": MAX_BATCH_DIFF}
        return {**report.to_dict(), **batch}

    def _manifest(
        self,
        chains: Sequence[StageChain],
        passes: list[dict[str, object]],
        text_names: tuple[str, ...],
    ) -> Manifest:
        stages = tuple(
            Stage(info.tap, info.grid, width)
            for info, width in zip(self.info.stages, self._widths(chains), strict=True)
        )
        manifest = Manifest(
            id="",
            precision="fp32",
            encoder=ENCODER,
            scorers=tuple(_scorer(stage) for stage in range(len(stages))),
            preprocessing=self.preprocessing,
            stages=stages,
            joint_dim=self.info.joint_dim,
            distance=self.config.head.distance,
            text=TextInfo(TEXT_FILE, text_names, self.text_weight, self.info.has_text_tower),
            golden=EXPECTED,
            files={},
            backbone=dataclasses.asdict(self.info),
            head={
                "calibrator": self.config.head.calibrator,
                "bank": self.bank,
                "trained_on": self.trained_on,
                "epochs": [
                    self.config.train.projector_epochs,
                    self.config.train.calibrator_epochs,
                ],
            },
            parity={},
            passes=tuple(passes),
            tools=_tool_versions(),
            licences={"backbone": self.info.licence},
            notes=tuple(self._notes()),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        manifest = dataclasses.replace(manifest, files=list_files(self.work))
        return dataclasses.replace(manifest, id=manifest.compute_id())

    def _notes(self) -> list[str]:
        notes = []
        if self.info.weights == "random":
            notes.append(
                "random backbone weights: for latency and parity only, results mean nothing"
            )
        if self.trained_on:
            notes.append(
                "the head was trained on images of the products in `head.trained_on`; "
                "their licence may bind its use"
            )
        return notes


def _scorer(stage: int) -> str:
    return f"scorer_{stage}.fp32.onnx"


def _tool_versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__), "onnxruntime": str(ort.__version__)}
    for package in ("cff-edge", "onnx", "numpy", "pillow"):
        versions[package] = importlib.metadata.version(package)
    return versions
