"""Fused ONNX graphs against the unfolded PyTorch detector, on photographs.

Two backbone families times three calibrators. Tolerances are those of the parity gate: features
are unit vectors, the text map reaches 4, and an anomaly map 21 plus the weighted text map. The
pyramid sums logarithms of distances, the vision transformer distances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cff_edge.detector import Detection, Detector
from cff_runtime import Inspector

CASES = [(family, kind) for family in ("lite", "vit") for kind in ("none", "affine", "mlp")]
REFERENCES = ("face", "face, moved")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What both sides say about the same photographs, by name."""

    family: str
    case: Any
    names: list[str]
    torch: Detection
    onnx: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def answers(
    request: pytest.FixtureRequest,
    exported: Callable[..., Any],
    photos: dict[str, NDArray[np.uint8]],
) -> Answers:
    case = exported(*request.param)
    side = case.backbone.info.image_size
    resized = np.stack(
        [
            np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
            for photo in photos.values()
        ]
    )
    text = case.backbone.text_vectors("object")
    with torch.inference_mode():
        found = Detector(case.backbone, case.head).eval()(torch.from_numpy(resized), text)
    session = ort.InferenceSession(
        str(case.bundle.path / case.bundle.manifest.encoder), providers=["CPUExecutionProvider"]
    )
    outputs = session.run(None, {"image": resized, "text": text.numpy()})
    names = [output.name for output in session.get_outputs()]
    by_name = dict(zip(names, outputs, strict=True))
    return Answers(request.param[0], case, list(photos), found, by_name)


def test_features(answers: Answers) -> None:
    for stage, reference in enumerate(answers.torch.features):
        expected = reference.double().flatten(0, 1).numpy()  # [B*N,C]
        got = answers.onnx[f"features_{stage}"].astype(np.float64)
        got = got.reshape(-1, got.shape[-1])
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
        if got.shape == expected.shape:
            assert np.abs(got - expected).max() <= 1e-4
        # the rank fold turns the space; every cosine, within and across images, must stay
        assert np.abs(got @ got.T - expected @ expected.T).max() <= 1e-4


def test_the_papers_backbone_sums_distances_and_the_small_one_logarithms(answers: Answers) -> None:
    expected = "log" if answers.family == "lite" else "cosine"
    assert answers.case.bundle.manifest.distance == answers.case.config.head.distance == expected


def test_rank_fold_is_where_it_should_be(answers: Answers) -> None:
    manifest = answers.case.bundle.manifest
    widths = [stage.width for stage in manifest.stages]
    folded = answers.family == "lite" and manifest.head["calibrator"] != "mlp"
    assert widths == ([25, 41, 64, 64] if folded else [manifest.condition.shape[0]] * 4)


def test_text_map_and_score(answers: Answers) -> None:
    expected = answers.torch.text_map.double().numpy()
    assert np.abs(answers.onnx["text_map"] - expected).max() <= 1e-3
    assert expected.std() > 0.01
    score = answers.torch.text_score
    assert (score is None) == (answers.family == "lite") == ("text_score" not in answers.onnx)
    if score is not None:
        assert np.abs(answers.onnx["text_score"] - score.double().numpy()).max() <= 1e-3


def test_anomaly_maps_scores_and_verdicts(
    answers: Answers, photos: dict[str, NDArray[np.uint8]]
) -> None:
    bundle = answers.case.bundle
    inspector = Inspector.open(bundle.path)
    profile = inspector.enroll([photos[name] for name in REFERENCES], "face", margin=0.1)
    rows = [answers.names.index(name) for name in REFERENCES]
    verdicts = set()
    for index, name in enumerate(answers.names):
        expected = _anomaly_map(answers, index, rows)
        result = inspector.inspect(photos[name], profile)
        assert np.abs(result.anomaly_map - expected).max() <= 1e-3, name
        score = expected.max()
        if answers.torch.text_score is not None:
            score = 0.5 * (float(answers.torch.text_score[index]) + profile.peak_scale * score)
        assert result.score == pytest.approx(score, abs=1e-3)
        margin = score - profile.threshold.value
        assert abs(margin) > 1e-3  # no verdict here hangs on a rounding
        assert result.verdict == ("reject" if margin > 0 else "pass"), name
        verdicts.add(result.verdict)
    assert verdicts == {"pass", "reject"}


def _anomaly_map(answers: Answers, index: int, references: list[int]) -> Array:
    """Distances to the references' tokens, upsampled and summed, plus the weighted text map."""
    text_map = answers.torch.text_map[index].double().numpy()
    total = answers.case.config.head.text_weight * text_map
    for stage, info in zip(answers.torch.features, answers.case.backbone.info.stages, strict=True):
        bank = stage[references].double().flatten(0, 1).numpy()
        cosine = stage[index].double().numpy() @ bank.T
        plane = 1.0 - cosine.max(axis=1)
        if answers.case.config.head.distance == "log":
            plane = np.log1p(np.maximum(plane, 0.0) / 0.01)
        grid = plane.reshape(info.grid)
        total = total + _upsample(_upsample(grid, len(total)).T, len(total)).T
    return total


def _upsample(rows: Array, n_out: int) -> Array:
    """Interpolate along the first axis, corners aligned."""
    position = np.arange(n_out) * (len(rows) - 1) / (n_out - 1)
    columns = [np.interp(position, np.arange(len(rows)), column) for column in rows.T]
    return np.stack(columns, axis=1)
