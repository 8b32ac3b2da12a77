"""The project's own detector end to end in PyTorch, as a user of `cff_edge` would write it.

Image in memory -> resize -> `Detector`, unfolded -> cosines to the bank -> map and score. Banks
hold what the detector gives, [M_s,C]. Compiled means `torch.compile` with its defaults around
detector and search.

Reduced is `cff_edge.FewShotDetector`, the path of `cff-eval`: the same answers, with banks written
in the space that they span. That is the exporter's fold of the rank, taken over into PyTorch. It
stands beside, so that what this one fold saves can be told from the rest.

A detector that searches nothing gives its map at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_bench.peers.answer import Answer, Stopwatch
from cff_bench.precision.eager import Unfolded, load_trained_part, rebuild_detector
from cff_edge.config import HeadConfig
from cff_edge.detector import Detection, Detector
from cff_edge.few_shot import FewShotDetector, Projection, distance_map, nearest_cosine
from cff_edge.tfa_net.detector import TfaDetection
from cff_runtime.finishing import image_score, map_statistic
from cff_runtime.manifest import Manifest


class EagerInspection:
    """A detector with filled memory banks.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle whose network is meant.
    run : Path or None
        Of the training run that the bundle was made from; without it the head is untrained, which
        costs the same and answers otherwise.
    condition : ndarray of the condition's shape, float32
    references : sequence of K ndarrays of shape (H, W, 3), uint8
    peak_scale : float
        Of the image score, see `cff_runtime.finishing`.
    kind : {'plain', 'compiled', 'reduced'}
    """

    def __init__(
        self,
        manifest: Manifest,
        run: Path | None,
        condition: NDArray[np.float32],
        references: Sequence[NDArray[np.uint8]],
        peak_scale: float,
        kind: str,
    ) -> None:
        detector = rebuild_detector(manifest)
        if run is not None:
            load_trained_part(detector, manifest, run)
        self._preprocessing = manifest.preprocessing
        self._statistic = manifest.score.statistic
        self._peak_scale = peak_scale
        images = [torch.from_numpy(np.array(image))[None] for image in references]
        given = torch.from_numpy(condition)
        with torch.no_grad():
            self._steps = _steps(detector, manifest, given, images, kind)

    @torch.no_grad()
    def inspect(self, image: NDArray[np.uint8]) -> Answer:
        """Inspect an RGB image [h,w,3], uint8, from memory to score and map."""
        watch = Stopwatch()
        resized = torch.from_numpy(np.array(self._preprocessing(image)))[None]
        watch.lap("preprocess")
        encoding = self._steps.encode(resized)
        watch.lap("encode")
        anomaly_map = self._steps.search(encoding)
        watch.lap("search")
        found = anomaly_map.numpy()
        value = map_statistic(found, self._statistic)
        score = image_score(value, self._steps.score(encoding), self._peak_scale)
        watch.lap("finish")
        return Answer(score, found, watch.stages_ms)


Encoded = Detection | Projection | TfaDetection


class _Steps(Protocol):
    """The halves of an inspection, and the score that the first gives besides."""

    def encode(self, images: Tensor) -> Encoded: ...

    def search(self, encoding: Encoded) -> Tensor: ...

    def score(self, encoding: Encoded) -> float | None: ...


def _steps(
    detector: Unfolded,
    manifest: Manifest,
    condition: Tensor,
    references: Sequence[Tensor],
    kind: str,
) -> _Steps:
    if not isinstance(detector, Detector):
        return _Unsearched(detector, manifest, condition, kind == "compiled")
    if kind == "reduced":
        return _Reduced(detector, manifest, condition, references)
    return _Plain(detector, manifest, condition, references, kind == "compiled")


class _Unsearched:
    """A reference detector whose map is the answer."""

    def __init__(
        self, detector: nn.Module, manifest: Manifest, condition: Tensor, compiled: bool
    ) -> None:
        self._detector = detector
        self._condition = condition
        self._weight = manifest.map.weight
        if compiled:
            self._detector.compile()

    def encode(self, images: Tensor) -> Encoded:
        """Return features and anomaly map."""
        detection: TfaDetection = self._detector(images, self._condition)
        return detection

    def search(self, encoding: Encoded) -> Tensor:
        """Return the anomaly map [H,W]."""
        assert isinstance(encoding, TfaDetection)
        return self._weight * encoding.anomaly_map[0]

    def score(self, encoding: Encoded) -> None:
        """Return none: the map's statistic is the score."""


class _Plain:
    """The reference detector and its banks as they are."""

    def __init__(
        self,
        detector: Detector,
        manifest: Manifest,
        text: Tensor,
        references: Sequence[Tensor],
        compiled: bool,
    ) -> None:
        found = [detector(image, text).features for image in references]
        banks = [torch.cat([rows[0] for rows in stage]) for stage in zip(*found, strict=True)]
        self._detector: nn.Module = detector
        self._text = text
        self._search: nn.Module = _Search(manifest, banks)
        if compiled:
            self._detector.compile()
            self._search.compile()

    def encode(self, images: Tensor) -> Encoded:
        """Return unit features, text map and text score."""
        detection: Detection = self._detector(images, self._text)
        return detection

    def search(self, encoding: Encoded) -> Tensor:
        """Return the anomaly map [H,W]."""
        assert isinstance(encoding, Detection)
        anomaly_map: Tensor = self._search(encoding.features, encoding.text_map)
        return anomaly_map

    def score(self, encoding: Encoded) -> float | None:
        """Return the text score, if there is one."""
        assert isinstance(encoding, Detection)
        return None if encoding.text_score is None else float(encoding.text_score[0])


class _Search(nn.Module):
    """Features [1,N_s,C] and text map [1,H,W] to the anomaly map [H,W]."""

    def __init__(self, manifest: Manifest, banks: Sequence[Tensor]) -> None:
        super().__init__()
        self.banks = list(banks)
        self.grids = [stage.grid for stage in manifest.stages]
        self.size = (manifest.preprocessing.height, manifest.preprocessing.width)
        self.distance = manifest.distance
        self.text_weight = manifest.map.weight

    def forward(self, features: Sequence[Tensor], text_map: Tensor) -> Tensor:
        """Add the stages' distance maps and the weighted text map."""
        total = self.text_weight * text_map
        for queries, bank, grid in zip(features, self.banks, self.grids, strict=True):
            nearest = nearest_cosine(queries, bank)
            total = total + distance_map(nearest, grid, self.size, self.distance)
        return total[0]


class _Reduced:
    """Trunk and `FewShotDetector`, as `cff-eval` has them."""

    def __init__(
        self, detector: Detector, manifest: Manifest, text: Tensor, references: Sequence[Tensor]
    ) -> None:
        self._detector = detector
        head = manifest.head
        config = HeadConfig(
            calibrator=head["calibrator"],
            bank=head["bank"],
            distance=manifest.distance,
            text_weight=manifest.map.weight,
        )
        self._scorer = FewShotDetector(detector.info, detector.head, config, text)
        stages = [self._tokens(image)[0] for image in references]
        self._scorer.fit([torch.cat(stage) for stage in zip(*stages, strict=True)])

    def encode(self, images: Tensor) -> Encoded:
        """Return unit features, text map and text score."""
        return self._scorer.project(*self._tokens(images))

    def search(self, encoding: Encoded) -> Tensor:
        """Return the anomaly map [H,W]."""
        assert isinstance(encoding, Projection)
        return self._scorer.search(encoding).maps[0]

    def score(self, encoding: Encoded) -> float | None:
        """Return the text score, if there is one."""
        assert isinstance(encoding, Projection)
        return None if encoding.text_scores is None else float(encoding.text_scores[0])

    def _tokens(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        stages, embedding = self._detector.trunk(self._detector.normalize(images))
        return stages, embedding
