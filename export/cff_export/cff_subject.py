"""CFF and APRIL-GAN as the exporter sees them: text vectors, a folded head, memory banks."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from cff_edge.backbones import Backbone
from cff_edge.checkpoint import load_run, restore_head
from cff_edge.config import Config
from cff_edge.detector import Detector
from cff_edge.heads import Head
from cff_edge.models import configured_backbone
from cff_export.fused_encoder import FusedEncoder, folded_input
from cff_export.graphs import write_encoder, write_scorer
from cff_export.head_chains import fold_head
from cff_export.reference import (
    ReferenceEncoding,
    encode_reference,
    in_basis,
    searched_map,
)
from cff_export.subject import (
    ExportSettings,
    Images,
    Subject,
    SubjectFacts,
    Trained,
    WrittenGraphs,
)
from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.errors import ParityError, UsageError
from cff_runtime.inspector import DEFAULT_TEXT_NAME
from cff_runtime.manifest import Stage
from cff_runtime.storage import atomic_write

TEXT_FILE = "text.safetensors"
# what rounding may do to a feature; a wrong basis is far outside
_MAX_OUTSIDE_BASIS = 1e-4


class CffSubject:
    """A head on a backbone; see `cff_export.subject.Subject`."""

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        config: Config,
        settings: ExportSettings,
        trained_on: Sequence[str],
    ) -> None:
        weight = settings.text_weight
        _check(config, weight)
        self._backbone = backbone
        self._head = head
        self._bank = config.head.bank
        self._names = tuple(dict.fromkeys((DEFAULT_TEXT_NAME, *settings.text_names)))
        self._chains, self._fold_records = fold_head(head)
        info = backbone.info
        widths = [chain.width for chain in self._chains]
        if self._bank == "raw":  # the token itself
            widths = [stage.width for stage in info.stages]
        self.facts = SubjectFacts(
            info=info,
            stages=tuple(
                Stage(stage.tap, stage.grid, width)
                for stage, width in zip(info.stages, widths, strict=True)
            ),
            distance=config.head.distance,
            map=MapOutput("text_map", config.head.text_weight if weight is None else weight),
            score=ScoreOutput("text_score" if info.has_text_tower else None, "max"),
            head={
                "model": config.model.name,
                "calibrator": config.head.calibrator,
                "bank": self._bank,
                "trained_on": list(trained_on),
                "trained_split": "test",
                "epochs": [config.train.projector_epochs, config.train.calibrator_epochs],
            },
        )

    def condition(self, work: Path, references: Images) -> tuple[Condition, NDArray[np.float32]]:
        """Write the text vectors of every class word; golden images have those of ``object``."""
        vectors = {name: self._text_vectors(name) for name in self._names}
        atomic_write(work / TEXT_FILE, save(vectors))
        release = getattr(self._backbone, "release_text_tower", None)
        if release is not None:
            release()  # a ViT-L's text tower is half a gigabyte that nothing needs any more
        shape = (self.facts.info.joint_dim, 2)
        part = Condition("text", shape, "words", TEXT_FILE, self._names, None, None)
        return part, vectors[DEFAULT_TEXT_NAME]

    def write_graphs(self, encoder: Path) -> WrittenGraphs:
        """Write the encoder with its head folded, and a scorer for every stage."""
        info = self.facts.info
        with folded_input(self._backbone) as folded:
            module = FusedEncoder(self._backbone, self._chains, folded, self._bank)
            graph_passes = write_encoder(module, info.image_size, encoder)
        scorers = []
        for number, stage in enumerate(self.facts.stages):
            scorers.append(f"scorer_{number}.fp32.onnx")
            write_scorer(stage.n_tokens, stage.width, encoder.parent / scorers[-1])
        passes = [
            *self._fold_records,
            {"pass": "fold_normalization", "applied": True, "reason": folded.reason},
            {"pass": "fold_text", "applied": True, "reason": "one text vector instead of two"},
            *graph_passes.records(),
        ]
        return WrittenGraphs(tuple(scorers), tuple(passes))

    def reference(self, images: Images, condition: NDArray[np.float32]) -> list[ReferenceEncoding]:
        """Run the unfolded detector in PyTorch fp32."""
        detector = Detector(self._backbone, self._head, self._bank).eval()
        return encode_reference(detector, images, condition)

    def reference_map(
        self, encoding: ReferenceEncoding, references: Sequence[ReferenceEncoding]
    ) -> NDArray[np.float64]:
        """Search the references' features by brute force."""
        grids = [stage.grid for stage in self.facts.stages]
        return searched_map(encoding, references, grids, self.facts.map.weight, self.facts.distance)

    def exported_features(self, encoding: ReferenceEncoding) -> list[NDArray[np.float32]]:
        """Express the features in the basis that the rank fold chose.

        Raises
        ------
        ParityError
            If they do not lie in it.
        """
        found = []
        for stage, (features, chain) in enumerate(
            zip(encoding.features, self._chains, strict=True)
        ):
            inside, outside = in_basis(features, None if self._bank == "raw" else chain.basis)
            if outside > _MAX_OUTSIDE_BASIS:
                raise ParityError(f"features of stage {stage} leave the folded space")
            found.append(inside)
        return found

    def _text_vectors(self, name: str) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._backbone.text_vectors(name).numpy()
        return np.ascontiguousarray(vectors)


def make_subject(
    backbone: Backbone,
    model: nn.Module,
    config: Config,
    settings: ExportSettings,
    trained_on: Sequence[str],
) -> Subject:
    """Return the subject of a head; see `cff_export.subject.make_subject`."""
    if not isinstance(model, Head):
        raise UsageError(f"`model` must be a head for CFF, got {type(model).__name__}")
    return CffSubject(backbone, model, config, settings, trained_on)


def load_trained(run: Path, weights: str | None) -> Trained:
    """Read a run; see `cff_export.subject.load_trained`."""
    config, tensors, facts = load_run(run)
    backbone = configured_backbone(config, weights)
    products = tuple(str(product) for product in facts.get("products", []))
    return Trained(config, backbone, restore_head(backbone, config, tensors, facts), products)


def _check(config: Config, text_weight: float | None) -> None:
    if config.head.text_map != "maps":
        raise UsageError(
            f'`head.text_map` must be "maps" to be exported, got "{config.head.text_map}"; '
            "train a head with it, the graphs have no other text map"
        )
    if text_weight is not None and not 0 <= text_weight < math.inf:
        raise UsageError(f"`text_weight` must be 0 or more and finite, got {text_weight}")
