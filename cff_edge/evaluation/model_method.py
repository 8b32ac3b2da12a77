"""A training run, or the raw backbone, as a method: PyTorch on frozen features from disk."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.backbones import Backbone
from cff_edge.checkpoint import load_run, restore_head
from cff_edge.config import BackboneConfig, Config, TrainConfig, load_config
from cff_edge.detector import Detector
from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.methods import Judgement, Task
from cff_edge.feature_cache import FeatureCache
from cff_edge.few_shot import (
    FewShotDetector,
    Projection,
    measure_peak_scale,
    transductive_scores,
)
from cff_edge.heads import Head
from cff_edge.models import configured_backbone
from cff_edge.training import resolve_device
from cff_runtime.finishing import image_score
from cff_runtime.imaging import load_image
from cff_runtime.storage import sha256_bytes

_BATCH = 4
_KEPT_BYTES = 1 << 29  # of projections, which a small test set stays below


def open_run(path: Path, overrides: tuple[str, ...], cache: Path) -> "ModelMethod":
    """Load a run of cff-train; the overrides change its configuration.

    Raises
    ------
    UsageError
        If an override is none.
    CheckpointError
        If the run is damaged, or an override asks for another backbone or head.
    """
    _, tensors, facts = load_run(path)
    config = load_config(path / "config.toml", overrides)
    backbone = _backbone(config.backbone, config.train.seed)
    head = restore_head(backbone, config, tensors, facts)
    trained_on = [str(product) for product in facts.get("products", [])]
    text: dict[str, Any] = {
        "kind": "run",
        "run": str(path),
        "calibrator": config.head.calibrator,
        "text_weight": config.head.text_weight,
        "bank": config.head.bank,
        "distance": config.head.distance,
        "text_map": config.head.text_map,
        "trained_on": trained_on,
    }
    return ModelMethod(config, backbone, head, text, cache, has_text=True)


def open_raw(overrides: tuple[str, ...], cache: Path) -> "ModelMethod":
    """Load the backbone of the configuration, without a head and without text.

    Raises
    ------
    UsageError
        If an override is none.
    """
    config = load_config(None, overrides)
    raw = dataclasses.replace(config.head, text_weight=0.0, bank="raw")
    config = dataclasses.replace(config, head=raw)
    backbone = _backbone(config.backbone, config.train.seed)
    widths = [stage.width for stage in backbone.info.stages]
    with torch.random.fork_rng(devices=[]):
        head = Head(widths, 1, "none").eval()  # nothing of it reaches a map; 1 is the cheapest
    facts = {"kind": "raw", "distance": config.head.distance, "trained_on": []}
    return ModelMethod(config, backbone, head, facts, cache, has_text=False)


class ModelMethod:
    """A head on a frozen backbone.

    Parameters
    ----------
    config : Config
    backbone : Backbone
    head : Head
    facts : mapping
        For the provenance; the backbone's are added.
    cache : Path
        Folder of the feature cache.
    has_text : bool
        Whether text vectors play a part.
    """

    # projections of the last test set, of whatever method: (what they are of, batches)
    _kept: ClassVar[tuple[object, list[Projection]] | None] = None

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        head: Head,
        facts: Mapping[str, Any],
        cache: Path,
        has_text: bool,
    ) -> None:
        self._config = config
        self._backbone = backbone
        self._device = resolve_device(config.train.device)
        self._head = head.to(self._device)
        detector = Detector(backbone, self._head).to(self._device).eval()
        self._cache_folder = cache
        self._cache = FeatureCache(cache, detector, self._device)
        self._has_text = has_text
        self._has_text_tower = has_text and backbone.info.has_text_tower
        self._text = functools.lru_cache(maxsize=1)(self._make_text)
        self._facts = {**facts, **self._backbone_facts()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of, for other processes; not what it keeps between cells."""
        parts = (self._config, self._backbone, self._head, self._facts)
        return ModelMethod, (*parts, self._cache_folder, self._has_text)

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """Return the head's and the backbone's facts; all cells have the same."""
        return self._facts

    def judge(self, task: Task) -> Judgement:
        """Fit memory banks to the references and score every test image."""
        references, images = task.reference_paths, task.image_paths
        self._cache.fill([*references, *images])
        detector = FewShotDetector(
            self._backbone.info, self._head, self._config.head, self._text(task.cell.product)
        )
        if references:
            detector.fit(self._cache.load(references))
        maps, text_scores = self._score(detector, images)
        peaks = maps.max(axis=(1, 2)).astype(np.float64)
        if text_scores is None:
            return Judgement(maps, peaks, "peak")
        if not references:
            return Judgement(maps, text_scores, "text")
        if task.image_score == "april_gan_transductive":
            return Judgement(maps, transductive_scores(peaks, text_scores), task.image_score)
        scale = measure_peak_scale(detector, self._cache, [load_image(p) for p in references])
        pairs = zip(peaks, text_scores, strict=True)
        scores = np.array([image_score(peak, text, scale) for peak, text in pairs])
        return Judgement(maps, scores, task.image_score)

    def _score(
        self, detector: FewShotDetector, images: list[Path]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        size = self._backbone.info.image_size
        maps = np.empty((len(images), size, size), np.float32)
        text_scores = []
        start = 0
        for projection in self._projections(detector, images):
            output = detector.search(projection)
            maps[start : start + len(output.maps)] = output.maps.cpu().numpy()
            start += len(output.maps)
            if output.text_scores is not None:
                text_scores.append(output.text_scores.cpu().numpy().astype(np.float64))
        return maps, np.concatenate(text_scores) if text_scores else None

    def _projections(self, detector: FewShotDetector, images: list[Path]) -> Iterator[Projection]:
        """Yield batches; those of the last test set are kept for its other K and draws."""
        files = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in images]
        key = (self._facts["sha256"], files)
        if ModelMethod._kept is not None and ModelMethod._kept[0] == key:
            yield from ModelMethod._kept[1]
            return
        ModelMethod._kept = None
        batches: list[Projection] = []
        n_bytes = 0
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            embedding = self._cache.load_embeddings(batch) if self._has_text_tower else None
            projection = detector.project(self._cache.load(batch), embedding)
            n_bytes += projection.n_bytes
            if n_bytes <= _KEPT_BYTES:
                batches.append(projection)
            yield projection
        if n_bytes <= _KEPT_BYTES:
            ModelMethod._kept = (key, batches)

    def _make_text(self, product: str) -> Tensor:
        if not self._has_text:
            return torch.zeros(self._head.joint_dim, 2)
        return self._backbone.text_vectors(product)

    def _backbone_facts(self) -> dict[str, Any]:
        info = self._backbone.info
        digests = [repr(info), repr(self._config.head)]
        if self._has_text:  # else the head plays no part
            digests += [_sha256(name, tensor) for name, tensor in self._head.state_dict().items()]
        return {
            "backbone": info.name,
            "weights": info.weights,
            "weights_sha256": info.weights_sha256,
            "image_size": info.image_size,
            "sha256": sha256_bytes("\n".join(digests).encode()),
            "has_text_tower": self._has_text_tower,
            "zero_shot": self._has_text_tower,
        }


def _sha256(name: str, tensor: Tensor) -> str:
    return sha256_bytes(name.encode() + tensor.detach().cpu().numpy().tobytes())


@functools.lru_cache(maxsize=2)
def _backbone(config: BackboneConfig, seed: int) -> Backbone:
    """Load a backbone; methods that share one share it in memory."""
    return configured_backbone(Config(backbone=config, train=TrainConfig(seed=seed)))
