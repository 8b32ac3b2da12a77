"""Bundles with a raw memory bank (APRIL-GAN): the graphs against the unfolded detector."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cff_edge.backbones import Backbone
from cff_edge.config import Config, load_config
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.few_shot import FewShotDetector, measure_peak_scale
from cff_edge.heads import Head
from cff_export import ExportSettings, export_bundle
from cff_runtime import Bundle, Inspector
from cff_runtime.errors import UsageError

Photo = NDArray[np.uint8]
REFERENCES = ("face", "face, moved")


@dataclass(frozen=True)
class Case:
    """A bundle and what it was made from."""

    backbone: Backbone
    head: Head
    config: Config
    bundle: Bundle


@pytest.fixture(scope="module", params=[("vit", "none"), ("lite", "affine")], ids="-".join)
def case(
    request: pytest.FixtureRequest,
    lite_backbone: Backbone,
    vit_backbone: Backbone,
    vit_name: str,
    make_head: Callable[..., Head],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """A tiny vision transformer as APRIL-GAN has it, and the pyramid with calibrators."""
    family, calibrator = request.param
    backbone = lite_backbone if family == "lite" else vit_backbone
    name = ["backbone.name=efficientnet-lite0", "train.calibrator_map=text"]
    if family == "vit":
        name = [f"backbone.name={vit_name}", "backbone.weights=random"]
    config = load_config(None, [*name, f"head.calibrator={calibrator}", "head.bank=raw"])
    head = make_head(backbone, calibrator)
    out: Path = tmp_path_factory.mktemp("raw") / family
    bundle = export_bundle(backbone, head, config, out, ExportSettings(), ["ring"])
    return Case(backbone, head, config, bundle)


def _resized(case: Case, photos: dict[str, Photo]) -> Photo:
    side = case.backbone.info.image_size
    return np.stack(
        [
            np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
            for photo in photos.values()
        ]
    )


def test_features_are_the_raw_tokens(case: Case, photos: dict[str, Photo]) -> None:
    manifest = case.bundle.manifest
    widths = [stage.width for stage in case.backbone.info.stages]
    assert [stage.width for stage in manifest.stages] == widths
    assert manifest.head["bank"] == "raw"
    assert manifest.parity["passed"] is True
    images = _resized(case, photos)
    text = case.backbone.text_vectors("object")
    session = ort.InferenceSession(
        str(case.bundle.path / manifest.encoder), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"image": images, "text": text.numpy()})
    by_name = dict(zip((o.name for o in session.get_outputs()), found, strict=True))
    info = case.backbone.info
    pixels = (images - np.array(info.mean)) / np.array(info.std)
    with torch.inference_mode():
        batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        stages, _ = case.backbone.module(batch)
        calibrated = Detector(case.backbone, case.head).eval()(torch.from_numpy(images), text)
    for stage, tokens in enumerate(stages):
        raw = tokens.double().numpy()
        raw /= np.linalg.norm(raw, axis=-1, keepdims=True)
        assert np.abs(by_name[f"features_{stage}"] - raw).max() <= 1e-4
    # the head plays its part in the text map as ever
    expected = calibrated.text_map.double().numpy()
    assert expected.std() > 0.01
    assert np.abs(by_name["text_map"] - expected).max() <= 1e-3


def test_inspection_equals_the_few_shot_detector(
    case: Case, photos: dict[str, Photo], tmp_path: Path
) -> None:
    detector = Detector(case.backbone, case.head).eval()
    cache = FeatureCache(tmp_path, detector, torch.device("cpu"))
    text = case.backbone.text_vectors("object")
    few_shot = FewShotDetector(case.backbone.info, case.head, case.config.head, text)
    references = [photos[name] for name in REFERENCES]
    few_shot.fit(cache.encode(references)[0])
    inspector = Inspector.open(case.bundle.path)
    profile = inspector.enroll(references, "face")
    scale = measure_peak_scale(few_shot, cache, references)
    assert profile.peak_scale == pytest.approx(scale, rel=1e-3)
    for photo in photos.values():
        stages, embedding = cache.encode([photo])
        expected = few_shot.score(stages, embedding)
        result = inspector.inspect(photo, profile)
        np.testing.assert_allclose(result.anomaly_map, expected.maps[0], atol=1e-3)
        if expected.text_scores is None:
            assert result.text_score is None
        else:
            assert result.text_score == pytest.approx(float(expected.text_scores[0]), abs=1e-3)


def test_summed_features_are_refused(case: Case, tmp_path: Path) -> None:
    config = load_config(None, ["head.text_map=features"])
    with pytest.raises(UsageError, match=r'`head\.text_map` must be "maps" to be exported, got'):
        export_bundle(case.backbone, case.head, config, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
