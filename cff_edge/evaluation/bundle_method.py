"""An exported bundle as a method: judged through `cff_runtime`, as it runs on a box."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.methods import Judgement, Task
from cff_edge.few_shot import transductive_scores
from cff_runtime import Inspector
from cff_runtime.storage import sha256_bytes

_BACKEND = "onnxruntime"


class BundleMethod:
    """Enrols the references and inspects every test image.

    Raises
    ------
    UsageError, BundleError, BackendError, MissingDependencyError
        If the bundle cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # as many threads as PyTorch would take, so that workers side by side do not fight
        self._inspector = Inspector.open(path, _BACKEND, {"threads": torch.get_num_threads()})

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """Return the bundle's id, backbone and head.

        The id covers graphs and preprocessing; the hash covers conditions of words as well.
        """
        manifest = self._inspector.bundle.manifest
        condition = manifest.condition
        digests = manifest.id
        if condition.file is not None:
            digests += manifest.files[condition.file].sha256
        facts: dict[str, Any] = {
            "kind": "bundle",
            "bundle": str(self._path),
            "id": manifest.id,
            "backend": _BACKEND,
            "precision": manifest.precision,
            "backbone": manifest.backbone.get("name"),
            "weights": manifest.backbone.get("weights"),
            "calibrator": manifest.head.get("calibrator"),
            "text_weight": manifest.map.weight,
            "distance": manifest.distance,
            "image_size": manifest.preprocessing.width,
            "sha256": sha256_bytes(digests.encode()),
            "has_text_tower": manifest.score.output is not None,
            "zero_shot": False,
            "trained_on": list(manifest.head.get("trained_on", [])),
            "trained_split": manifest.head.get("trained_split", "test"),
        }
        if manifest.score.output is not None and condition.names:
            named = cell.product in condition.names
            facts["text_name"] = cell.product if named else "object"
        return facts

    def judge(self, task: Task) -> Judgement:
        """Enrol and inspect, one image at a time."""
        profile = self._inspector.enroll(task.reference_paths, task.cell.product)
        results = [self._inspector.inspect(path, profile) for path in task.image_paths]
        maps = np.stack([result.anomaly_map for result in results])
        scores = np.array([result.score for result in results], np.float64)
        text_scores = [r.text_score for r in results if r.text_score is not None]
        if not text_scores:
            statistic = self._inspector.bundle.manifest.score.statistic
            return Judgement(maps, scores, "peak" if statistic == "max" else statistic)
        if task.image_score == "april_gan_transductive":
            scores = transductive_scores(maps.max(axis=(1, 2)), np.array(text_scores))
        return Judgement(maps, scores, task.image_score)
