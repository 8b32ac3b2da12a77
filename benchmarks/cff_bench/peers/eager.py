"""This project's own detector end to end in PyTorch, as a user of `cff_edge` would write it.

Image in memory -> resize -> trunk, head and text map -> search of the memory bank -> map and score.
The classes are those that `cff-eval` judges with (`cff_edge.few_shot`): unfolded projectors and
calibrators, and banks written in the space that they span, which is part of them. Compiled means
`torch.compile` with its defaults around the same steps, warmed up outside every timing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_bench.peers.answer import Answer, Stopwatch
from cff_bench.precision.eager import rebuild_detector
from cff_edge.checkpoint import load_run
from cff_edge.config import HeadConfig
from cff_edge.detector import Detector
from cff_edge.few_shot import FewShotDetector, Projection
from cff_runtime.finishing import image_score
from cff_runtime.manifest import Manifest


class EagerInspection:
    """A detector with fitted memory banks.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle whose network is meant.
    run : Path or None
        Of the training run that the bundle was made from; without it the head is untrained, which
        costs the same and answers otherwise.
    text : ndarray of shape (C, 2), float32
    references : sequence of K ndarrays of shape (h, w, 3), uint8
    peak_scale : float
        Of the image score, see `cff_runtime.finishing`.
    compiled : bool
    """

    def __init__(
        self,
        manifest: Manifest,
        run: Path | None,
        text: NDArray[np.float32],
        references: Sequence[NDArray[np.uint8]],
        peak_scale: float,
        compiled: bool,
    ) -> None:
        detector = rebuild_detector(manifest)
        if run is not None:
            detector.head.load_state_dict(load_run(run)[1])
        self._preprocessing = manifest.preprocessing
        self._peak_scale = peak_scale
        self._encode: Callable[[Tensor], tuple[list[Tensor], Tensor | None]] = _Encode(detector)
        self._scorer = FewShotDetector(
            detector.info, detector.head, _head_config(manifest), torch.from_numpy(text)
        )
        stages = [self._tokens(image)[0] for image in references]
        self._scorer.fit([torch.cat(stage) for stage in zip(*stages, strict=True)])
        self._project = self._scorer.project
        self._search: Callable[[Projection], Tensor] = self._map_of
        if compiled:
            self._encode = torch.compile(self._encode)
            self._project = torch.compile(self._project)
            self._search = torch.compile(self._search)

    @torch.no_grad()
    def inspect(self, image: NDArray[np.uint8]) -> Answer:
        """Inspect an RGB image [h,w,3], uint8, from memory to score and map."""
        watch = Stopwatch()
        resized = self._preprocessing(image)
        watch.lap("preprocess")
        tokens, embedding = self._encode(torch.from_numpy(resized)[None])
        projection = self._project(tokens, embedding)
        watch.lap("encode")
        anomaly_map = self._search(projection)
        watch.lap("search")
        scores = projection.text_scores
        text_score = None if scores is None else float(scores[0])
        score = image_score(float(anomaly_map.max()), text_score, self._peak_scale)
        watch.lap("finish")
        return Answer(score, anomaly_map.numpy(), watch.stages_ms)

    @torch.no_grad()
    def _tokens(self, image: NDArray[np.uint8]) -> tuple[list[Tensor], Tensor | None]:
        return self._encode(torch.from_numpy(self._preprocessing(image))[None])

    def _map_of(self, projection: Projection) -> Tensor:
        return self._scorer.search(projection).maps[0]


class _Encode(torch.nn.Module):
    """Normalisation and trunk: uint8 images [B,H,W,3] to raw tokens and embeddings."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return S stages [B,N_s,E_s] and the embedding [B,C], or None without a text tower."""
        stages, embedding = self.detector.trunk(self.detector.normalize(images))
        return stages, embedding


def _head_config(manifest: Manifest) -> HeadConfig:
    """Return how the bundle's head scores, as the training configuration words it."""
    head = manifest.head
    return HeadConfig(
        calibrator=head["calibrator"],
        bank=head["bank"],
        distance=manifest.distance,
        text_map=head.get("text_map", "maps"),
        text_weight=manifest.text.weight,
    )
