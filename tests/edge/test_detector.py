"""The reference detector, against brute force in float64."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_edge.backbones import Backbone, BackboneInfo, StageInfo
from cff_edge.detector import Detector, abnormal_map
from cff_edge.heads import Head

Array = NDArray[np.float64]


def _upsample(plane: Array, height: int, width: int) -> Array:
    """Bilinear with aligned corners, pixel by pixel."""
    rows, columns = plane.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v, u = y * (rows - 1) / (height - 1), x * (columns - 1) / (width - 1)
            top, left = min(int(v), max(rows - 2, 0)), min(int(u), max(columns - 2, 0))
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, u = v - top, u - left
            upper = (1 - u) * plane[top, left] + u * plane[top, right]
            lower = (1 - u) * plane[below, left] + u * plane[below, right]
            out[y, x] = (1 - v) * upper + v * lower
    return out


def _softmax_abnormal(normal: Array, abnormal: Array) -> Array:
    top = np.maximum(normal, abnormal)
    a, b = np.exp(normal - top), np.exp(abnormal - top)
    return b / (a + b)


def _unit(array: Array, axis: int = -1) -> Array:
    return array / np.linalg.norm(array, axis=axis, keepdims=True)


def _abnormal_map(features: Array, text: Array, grid: tuple[int, int], size_px: int) -> Array:
    """APRIL-GAN: logits times 100, upsampled, and only then the softmax."""
    logits = [(100.0 * features @ text[:, k]).reshape(grid) for k in range(2)]
    return _softmax_abnormal(*(_upsample(plane, size_px, size_px) for plane in logits))


@pytest.fixture
def features() -> Array:
    """Unit features [2,6,8] on a grid of 2 x 3."""
    return _unit(np.random.default_rng(0).normal(size=(2, 6, 8)))


@pytest.fixture
def text() -> Array:
    """Unit text vectors [8,2], close to each other, so that probabilities are not all 0 or 1."""
    rng = np.random.default_rng(1)
    normal = rng.normal(size=8)
    return _unit(np.stack([normal, normal + 0.05 * rng.normal(size=8)], axis=1), axis=0)


def test_map_equals_brute_force(features: Array, text: Array) -> None:
    got = abnormal_map(torch.from_numpy(features), torch.from_numpy(text), (2, 3), (7, 7))
    assert got.shape == (2, 7, 7)
    for image in range(2):
        expected = _abnormal_map(features[image], text, (2, 3), 7)
        assert 0.01 < expected.min() < expected.max() - 0.1 < 0.89
        np.testing.assert_allclose(got[image], expected, atol=1e-12)


def test_logits_are_upsampled_before_the_softmax(features: Array, text: Array) -> None:
    got = abnormal_map(torch.from_numpy(features), torch.from_numpy(text), (2, 3), (7, 7))
    logits = 100.0 * features[0] @ text
    tokens = _softmax_abnormal(logits[:, 0], logits[:, 1]).reshape(2, 3)
    assert np.abs(got[0].numpy() - _upsample(tokens, 7, 7)).max() > 0.01


def test_every_image_may_have_its_own_text(features: Array, text: Array) -> None:
    texts = np.stack([text, text[:, ::-1]])  # [B,C,2]
    got = abnormal_map(torch.from_numpy(features), torch.from_numpy(texts), (2, 3), (5, 5))
    for image in range(2):
        expected = _abnormal_map(features[image], texts[image], (2, 3), 5)
        np.testing.assert_allclose(got[image], expected, atol=1e-12)


class _Trunk(nn.Module):
    """Two stages by average pooling to grids of 4 x 4 and 2 x 2, and an embedding."""

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        pooled = [nn.functional.avg_pool2d(images, size) for size in (2, 4)]
        tokens = [planes.flatten(2).transpose(1, 2) for planes in pooled]  # [B,N,3]
        return tokens, torch.cat([images.mean(dim=(2, 3)), images.amax(dim=(2, 3))], dim=1)


class _Backbone:
    """A backbone of 8 px with a text tower and C = 6."""

    unpadded_stem = None

    def __init__(self) -> None:
        self.module = _Trunk()
        self.info = BackboneInfo(
            name="pooling",
            weights="none",
            weights_sha256="",
            activation="none",
            image_size=8,
            mean=(120.0, 110.0, 100.0),
            std=(60.0, 65.0, 70.0),
            stages=(StageInfo("pool2", 3, (4, 4)), StageInfo("pool4", 3, (2, 2))),
            joint_dim=6,
            has_text_tower=True,
            licence="none",
        )

    def text_vectors(self, product: str) -> Tensor:
        raise NotImplementedError


def test_whole_detector_equals_brute_force() -> None:
    backbone = _Backbone()
    torch.manual_seed(0)
    head = Head([3, 3], 6, "affine", "default")
    rng = np.random.default_rng(2)
    for calibrator in head.calibrators:
        weight = torch.from_numpy(rng.normal(size=(6, 6)))
        calibrator.load_state_dict({"weight": weight, "bias": torch.from_numpy(rng.normal(size=6))})
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    normal = rng.normal(size=6)
    text = _unit(np.stack([normal, normal + 0.05 * rng.normal(size=6)], axis=1), axis=0)
    detector = Detector(backbone, head).double().eval()
    # `normalize` gives float32, as the trunk reads it; float64 follows from there
    normalized = detector.normalize(torch.from_numpy(images))
    expected = (images.astype(np.float64) - backbone.info.mean) / backbone.info.std
    np.testing.assert_allclose(normalized, expected.transpose(0, 3, 1, 2), atol=1e-6)

    found = detector(torch.from_numpy(images), torch.from_numpy(text))
    state = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    for image in range(2):
        text_map = np.zeros((8, 8))
        for stage, (size, grid) in enumerate(((2, (4, 4)), (4, (2, 2)))):
            blocks = expected[image].reshape(8 // size, size, 8 // size, size, 3)
            tokens = blocks.mean(axis=(1, 3)).reshape(-1, 3)
            for layer in (f"projectors.{stage}", f"calibrators.{stage}"):
                tokens = tokens @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
            unit = _unit(tokens)
            np.testing.assert_allclose(found.features[stage][image].detach(), unit, atol=1e-6)
            text_map += _abnormal_map(unit, text, grid, 8)
        np.testing.assert_allclose(found.text_map[image].detach(), text_map, atol=1e-5)
        planes = expected[image].reshape(-1, 3)
        embedding = _unit(np.concatenate([planes.mean(axis=0), planes.max(axis=0)]))
        logits = 100.0 * embedding @ text
        score = _softmax_abnormal(logits[0], logits[1])
        assert found.text_score is not None
        assert 0.001 < score < 0.999
        assert found.text_score[image].item() == pytest.approx(score, abs=1e-5)


def test_without_a_text_tower_there_is_no_text_score(small_backbone: Backbone) -> None:
    info = small_backbone.info
    head = Head([stage.width for stage in info.stages], info.joint_dim)
    with torch.inference_mode():
        images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
        found = Detector(small_backbone, head).eval()(images, small_backbone.text_vectors("ring"))
    assert found.text_score is None
    assert found.text_map.shape == (2, 64, 64)
    assert [tuple(stage.shape) for stage in found.features] == [
        (2, stage.grid[0] * stage.grid[1], 32) for stage in info.stages
    ]
    for stage in found.features:
        torch.testing.assert_close(stage.norm(dim=-1), torch.ones(stage.shape[:2]))


def test_detection_cannot_be_changed(small_backbone: Backbone) -> None:
    head = Head([stage.width for stage in small_backbone.info.stages], 32)
    with torch.inference_mode():
        images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
        found = Detector(small_backbone, head).eval()(images, small_backbone.text_vectors("ring"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.text_map = found.text_map * 2
