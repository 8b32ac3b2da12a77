"""APRIL-GAN (arXiv 2305.17382) transcribed from its formulas in float64, against our parts.

One small open_clip model of random weights, kept in a file, so that both sides have equal weights:
theirs is run block by block in float64, everything after it is NumPy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip import factory
from safetensors.torch import save_file

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.config import HeadConfig
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.few_shot import (
    FewShotDetector,
    FewShotOutput,
    measure_peak_scale,
    transductive_scores,
)
from cff_edge.heads import Head
from cff_edge.prompts import prompts
from cff_runtime.finishing import image_score

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
SIZE_PX, GRID = 80, (5, 5)
TAPS = (2, 4, 6, 8)
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 64,  # its position embedding is resized to 80 px
        "layers": 8,
        "width": 48,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def april() -> Iterator[Callable[[], Any]]:
    """Return a function that builds the model anew, with the same random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setitem(factory._MODEL_CONFIGS, "tiny-april", MODEL)

        def build() -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                model = open_clip.create_model("tiny-april", force_image_size=SIZE_PX).eval()
                for parameter in model.parameters():  # biases too are to play a part
                    parameter.data += 0.02 * torch.randn_like(parameter)
            return model

        yield build


@pytest.fixture(scope="module")
def backbone(april: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tmp_path_factory.mktemp("weights") / "april.safetensors"
    save_file(april().state_dict(), path)
    return load_backbone("open_clip:tiny-april", str(path), SIZE_PX)


@pytest.fixture(scope="module")
def head(backbone: Backbone) -> Head:
    """Linear layers 48 -> 32 as PyTorch starts them, no calibrators."""
    torch.manual_seed(4)
    return Head([48] * 4, 32, "none", "default").eval()


@pytest.fixture(scope="module")
def photos(draw_part: Callable[..., Image]) -> list[Image]:
    """Three references and five test images, of the network's size: no resize comes between."""
    parts = [draw_part(seed, seed in (3, 5)) for seed in range(8)]
    return [np.ascontiguousarray(part[20:100, 35:115]) for part in parts]


# --- the transcription: april_gan, step by step


def _unit(rows: Array) -> Array:
    return rows / np.sqrt((rows**2).sum(axis=-1, keepdims=True))


def _bilinear(plane: Array, side: int) -> Array:
    """Upsample [h,w] to a square, corner pixels on corner pixels."""
    out = np.zeros((side, side))
    rows, columns = plane.shape
    for y in range(side):
        v = y * (rows - 1) / (side - 1)
        i = min(int(np.floor(v)), rows - 2)
        for x in range(side):
            u = x * (columns - 1) / (side - 1)
            j = min(int(np.floor(u)), columns - 2)
            a, b = v - i, u - j
            out[y, x] = (
                (1 - a) * (1 - b) * plane[i, j]
                + (1 - a) * b * plane[i, j + 1]
                + a * (1 - b) * plane[i + 1, j]
                + a * b * plane[i + 1, j + 1]
            )
    return out


def _softmax_abnormal(normal: Array, abnormal: Array) -> Array:
    return 1.0 / (1.0 + np.exp(normal - abnormal))


def _tokens(model: Any, images: list[Image]) -> tuple[list[Array], Array]:
    """Residual stream after each tap without the class token, and the image features."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = (np.stack(images) / 255.0 - mean) / std
    visual = model.visual
    with torch.no_grad():
        patches = visual.conv1(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
        x = patches.flatten(2).transpose(1, 2)  # [B,N,E]
        cls = visual.class_embedding.expand(len(x), 1, -1)
        x = visual.ln_pre(torch.cat([cls, x], dim=1) + visual.positional_embedding)
        taps = []
        for executed, block in enumerate(visual.transformer.resblocks, start=1):
            x = block(x)
            if executed in TAPS:
                taps.append(x[:, 1:].numpy())
        features = visual.ln_post(x[:, 0]) @ visual.proj
    return taps, features.numpy()


def _text(model: Any, product: str) -> Array:
    tokenizer = open_clip.get_tokenizer("tiny-april")
    columns = []
    for group in prompts(product):
        with torch.no_grad():
            embedded = model.encode_text(tokenizer(group)).numpy()
        columns.append(_unit(_unit(embedded).mean(axis=0)))
    return np.stack(columns, axis=1)


def _zero_shot(taps: list[Array], linears: list[tuple[Array, Array]], text: Array) -> Array:
    total = 0.0
    for tokens, (weight, bias) in zip(taps, linears, strict=True):
        z = 100.0 * _unit(tokens @ weight.T + bias) @ text  # [N,2]
        planes = [_bilinear(z[:, c].reshape(GRID), SIZE_PX) for c in range(2)]
        total = total + _softmax_abnormal(planes[0], planes[1])
    return np.asarray(total)


def _few_shot(taps: list[Array], banks: list[Array]) -> Array:
    total = np.zeros((SIZE_PX, SIZE_PX))
    for tokens, bank in zip(taps, banks, strict=True):
        distance = (1.0 - _unit(tokens) @ _unit(bank).T).min(axis=1)
        total += _bilinear(distance.reshape(GRID), SIZE_PX)
    return total


@dataclass(frozen=True)
class Published:
    """What the transcription says."""

    taps: list[Array]
    embedding: Array
    text: Array
    zero_shot: Array
    few_shot: Array
    probability: Array
    scores: Array


@pytest.fixture(scope="module")
def published(april: Callable[[], Any], head: Head, photos: list[Image]) -> Published:
    model = april().double()
    taps, embedding = _tokens(model, photos)
    text = _text(model, "metal_nut")
    linears = [
        (p.weight.detach().double().numpy(), p.bias.detach().double().numpy())
        for p in head.projectors
    ]
    banks = [tap[:3].reshape(-1, 48) for tap in taps]
    each = [[tap[i] for tap in taps] for i in range(3, 8)]
    zero = np.stack([_zero_shot(image, linears, text) for image in each])
    few = np.stack([_few_shot(image, banks) for image in each])
    logits = 100.0 * _unit(embedding[3:]) @ text
    s_text = _softmax_abnormal(logits[:, 0], logits[:, 1])
    m = (zero + few).max(axis=(1, 2))
    scores = 0.5 * (s_text + (m - m.min()) / (m.max() - m.min()))
    return Published(taps, embedding, text, zero, few, s_text, scores)


# --- ours


@pytest.fixture(scope="module")
def cache(backbone: Backbone, head: Head, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder: Path = tmp_path_factory.mktemp("cache")
    return FeatureCache(folder, Detector(backbone, head).eval(), torch.device("cpu"))


@pytest.fixture(scope="module")
def score(
    backbone: Backbone, cache: FeatureCache, photos: list[Image]
) -> Callable[..., FewShotOutput]:
    """Return ``score(head, bank, fitted=True)``: outputs of the five test images."""
    stages, embedding = cache.encode(photos)
    assert embedding is not None

    def run(head: Head, bank: str = "raw", fitted: bool = True) -> FewShotOutput:
        detector = _detector(backbone, head, bank)
        if fitted:
            detector.fit([stage[:3] for stage in stages])
        return detector.score([stage[3:] for stage in stages], embedding[3:])

    return run


def _detector(backbone: Backbone, head: Head, bank: str) -> FewShotDetector:
    config = HeadConfig("none", "default", 1.0, bank, "cosine")
    return FewShotDetector(backbone.info, head, config, backbone.text_vectors("metal_nut"))


def test_tokens_and_text_vectors(
    backbone: Backbone, cache: FeatureCache, photos: list[Image], published: Published
) -> None:
    stages, embedding = cache.encode(photos)
    assert [stage.tap for stage in backbone.info.stages] == [f"block{tap}" for tap in TAPS]
    for stage, expected in zip(stages, published.taps, strict=True):
        assert stage.shape == (8, 25, 48)
        np.testing.assert_allclose(stage, expected, atol=1e-4)
    assert embedding is not None
    np.testing.assert_allclose(embedding, published.embedding, atol=1e-4)
    text = backbone.text_vectors("metal_nut")
    np.testing.assert_allclose(text, published.text, atol=1e-5)


def test_zero_shot_map_and_text_probability(
    head: Head, score: Callable[..., FewShotOutput], published: Published
) -> None:
    found = score(head, fitted=False)
    assert found.maps.shape == (5, SIZE_PX, SIZE_PX)
    assert 0.1 < published.zero_shot.min() < published.zero_shot.max() < 3.9
    assert published.zero_shot.std() > 0.01
    np.testing.assert_allclose(found.maps, published.zero_shot, atol=1e-4)
    assert found.text_scores is not None
    assert 0.05 < published.probability.min() < published.probability.max() < 0.95
    np.testing.assert_allclose(found.text_scores, published.probability, atol=1e-4)


def test_few_shot_map_and_published_image_score(
    head: Head, score: Callable[..., FewShotOutput], published: Published
) -> None:
    found = score(head)
    assert found.text_scores is not None
    expected = published.zero_shot + published.few_shot
    np.testing.assert_allclose(found.maps, expected, atol=1e-4)
    peaks = found.maps.amax(dim=(1, 2)).numpy()
    scores = transductive_scores(peaks, found.text_scores.numpy())
    np.testing.assert_allclose(scores, published.scores, atol=1e-4)


def test_deployable_image_score(
    april: Callable[[], Any],
    backbone: Backbone,
    head: Head,
    cache: FeatureCache,
    photos: list[Image],
    published: Published,
    score: Callable[..., FewShotOutput],
) -> None:
    from cff_runtime.thresholds import augmentations, without_border

    model = april().double()
    linears = [
        (p.weight.detach().double().numpy(), p.bias.detach().double().numpy())
        for p in head.projectors
    ]
    peaks = []
    for left_out in range(3):
        others = [i for i in range(3) if i != left_out]
        banks = [tap[others].reshape(-1, 48) for tap in published.taps]
        probes = [photos[left_out], *augmentations(photos[left_out])]
        taps, _ = _tokens(model, probes)
        for index in range(len(probes)):
            own = [tap[index] for tap in taps]
            whole = _zero_shot(own, linears, published.text) + _few_shot(own, banks)
            peaks.append((without_border(whole.astype(np.float32)) if index else whole).max())
    expected_scale = 0.5 / max(peaks)
    scale = measure_peak_scale(_detector(backbone, head, "raw"), cache, photos[:3])
    assert scale == pytest.approx(expected_scale, rel=1e-4)
    found = score(head)
    assert found.text_scores is not None
    for i, (anomaly_map, text) in enumerate(zip(found.maps, found.text_scores, strict=True)):
        m = (published.zero_shot + published.few_shot)[i].max()
        expected = 0.5 * (published.probability[i] + expected_scale * m)
        got = image_score(float(anomaly_map.max()), float(text), scale)
        assert got == pytest.approx(expected, abs=1e-4)


def _untrained_cff(head: Head) -> Head:
    cff = Head([48] * 4, 32, "affine", "default").eval()
    cff.projectors.load_state_dict(head.projectors.state_dict())
    return cff


def _same(first: FewShotOutput, second: FewShotOutput) -> bool:
    assert first.text_scores is not None
    assert second.text_scores is not None
    scores = torch.equal(first.text_scores, second.text_scores)
    return scores and torch.equal(first.maps, second.maps)


def test_untrained_calibrators_change_nothing(
    head: Head, score: Callable[..., FewShotOutput], published: Published
) -> None:
    cff = _untrained_cff(head)
    assert _same(score(cff, "calibrated"), score(head, "calibrated"))
    assert _same(score(cff, "calibrated", fitted=False), score(head, "raw", fitted=False))
    for april_gan in (score(cff, "raw"), score(head, "raw")):
        expected = published.zero_shot + published.few_shot
        np.testing.assert_allclose(april_gan.maps, expected, atol=1e-4)
    assert _same(score(cff, "raw"), score(head, "raw"))
    # the projected bank is another thing
    assert (score(cff, "calibrated").maps - score(cff, "raw").maps).abs().max() > 1e-3


def test_one_seed_gives_cff_and_april_gan_the_same_start(
    score: Callable[..., FewShotOutput],
) -> None:
    outputs = []
    for calibrator in ("affine", "none"):
        torch.manual_seed(111)
        outputs.append(score(Head([48] * 4, 32, calibrator, "default").eval(), "calibrated"))
    assert _same(*outputs)


def test_a_reference_is_free_of_anomalies(
    backbone: Backbone, head: Head, cache: FeatureCache, photos: list[Image]
) -> None:
    for bank in ("raw", "calibrated"):
        config = HeadConfig("none", "default", 0.0, bank, "cosine")
        text = backbone.text_vectors("metal_nut")
        detector = FewShotDetector(backbone.info, head, config, text)
        stages, _ = cache.encode(photos[:3])
        detector.fit(stages)
        assert detector.score(stages, None).maps.abs().max() < 2e-6
