"""TFA-Net as the exporter sees it: a template for a condition, no memory banks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cff_edge.backbones import Backbone
from cff_edge.config import Config
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.maps import anomaly_map
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.run_files import load_tfa_run, run_facts
from cff_export.fused_encoder import folded_input
from cff_export.fused_tfa import FusedTfa
from cff_export.graphs import write_encoder
from cff_export.reference import ReferenceEncoding
from cff_export.subject import (
    ExportSettings,
    Images,
    Subject,
    SubjectFacts,
    Trained,
    WrittenGraphs,
)
from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Stage
from cff_runtime.product_check import mean_features
from cff_runtime.templates import choose_template

_STAGE = 0  # whose features are the template


class TfaSubject:
    """A network on a backbone; see `cff_export.subject.Subject`."""

    def __init__(
        self,
        backbone: Backbone,
        net: TfaNet,
        config: Config,
        settings: ExportSettings,
        trained_on: Sequence[str],
    ) -> None:
        _refuse_words(settings)
        self._backbone = backbone
        self._net = net
        self._options = net.config
        side = net.grid // net.patch
        self.facts = SubjectFacts(
            info=backbone.info,
            stages=(Stage("tokens", (side, side), net.config.width),),
            distance="cosine",  # nothing is searched
            map=MapOutput("anomaly_map", 1.0),
            score=ScoreOutput(None, net.config.score),
            head={
                "model": config.model.name,
                "options": dataclasses.asdict(net.config),
                "trained_on": list(trained_on),
                "trained_split": "train",
                "epochs": [net.config.epochs],
            },
        )

    def condition(self, work: Path, references: Images) -> tuple[Condition, NDArray[np.float32]]:
        """Golden images have the tokens of the reference that is most like the others."""
        stage = self.facts.stages[_STAGE]
        part = Condition(
            input="template",
            shape=(stage.n_tokens, stage.width),
            source="reference",
            file=None,
            names=(),
            stage=_STAGE,
            choice=self._options.template,
        )
        tokens = [self._template(image) for image in references]
        means = np.stack(mean_features(tokens))
        return part, tokens[choose_template(self._options.template, means)]

    def write_graphs(self, encoder: Path) -> WrittenGraphs:
        """Write the encoder; there are no scorers."""
        with folded_input(self._backbone) as folded:
            module = FusedTfa(self._backbone, self._net, folded)
            graph_passes = write_encoder(module, self.facts.info.image_size, encoder)
        passes = (
            {"pass": "fold_normalization", "applied": True, "reason": folded.reason},
            {
                "pass": "fold_upsampling",
                "applied": True,
                "reason": "upsampling and blur of the map are one matrix per axis",
            },
            *graph_passes.records(),
        )
        return WrittenGraphs((), passes)

    def reference(self, images: Images, condition: NDArray[np.float32]) -> list[ReferenceEncoding]:
        """Run the unfolded network in PyTorch fp32, and its map from there on in float64."""
        detector = TfaDetector(self._backbone, self._net).eval()
        template = torch.tensor(condition)
        encodings = []
        with torch.inference_mode():
            for image in images:
                pixels = torch.tensor(image)[None]
                fused = detector.fused(pixels)
                rebuilt = self._net.reconstruct(self._net.tokens(fused), template)
                found = anomaly_map(
                    fused.double(),
                    rebuilt.double(),
                    image.shape[:2],
                    self._options.map,
                    self._options.blur_sigma,
                )
                features = detector.template(pixels)[0].numpy()
                encodings.append(
                    ReferenceEncoding([features], found[0].numpy().astype(np.float32), None)
                )
        return encodings

    def reference_map(
        self, encoding: ReferenceEncoding, references: Sequence[ReferenceEncoding]
    ) -> NDArray[np.float64]:
        """Return the network's own map: nothing is searched."""
        return encoding.map.astype(np.float64) * self.facts.map.weight

    def exported_features(self, encoding: ReferenceEncoding) -> list[NDArray[np.float32]]:
        """Return the tokens as they are."""
        return encoding.features

    def _template(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        detector = TfaDetector(self._backbone, self._net).eval()
        with torch.inference_mode():
            tokens: NDArray[np.float32] = detector.template(torch.tensor(image)[None])[0].numpy()
        return tokens


def make_subject(
    backbone: Backbone,
    model: nn.Module,
    config: Config,
    settings: ExportSettings,
    trained_on: Sequence[str],
) -> Subject:
    """Return the subject of a network; see `cff_export.subject.make_subject`."""
    if not isinstance(model, TfaNet):
        raise UsageError(f"`model` must be a TfaNet, got {type(model).__name__}")
    return TfaSubject(backbone, model, config, settings, trained_on)


def load_trained(run: Path, weights: str | None) -> Trained:
    """Read a run; see `cff_export.subject.load_trained`."""
    config, backbone, net = load_tfa_run(run, weights)
    facts = run_facts(run)
    products, images = (
        tuple(str(entry) for entry in facts.get(name, []))
        for name in ("products", "trained_images")
    )
    return Trained(config, backbone, net, products, images)


def _refuse_words(settings: ExportSettings) -> None:
    for name, value in (
        ("text_names", settings.text_names),
        ("text_weight", settings.text_weight),
    ):
        if value not in ((), None):
            raise UsageError(
                f"`{name}` must be left out for a detector without text vectors, got {value!r}"
            )
