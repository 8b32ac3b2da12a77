"""The published inference against a second writing of it: NumPy, float64, from image to score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from PIL import Image
from scipy.special import erf, softmax
from torch import nn

from cff_bench.peers.april_gan import AprilGan

SIZE_PX, PATCH_PX, WIDTH, HEADS, JOINT = 42, 14, 32, 2, 16
GRID = (SIZE_PX // PATCH_PX, SIZE_PX // PATCH_PX)
TAPS = (1, 2, 3, 5)
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def visual() -> Any:
    """An image tower of open_clip with random weights, its norms and biases too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tower = VisionTransformer(SIZE_PX, PATCH_PX, WIDTH, 5, HEADS, 2.0, output_dim=JOINT)
        with torch.no_grad():
            for parameter in tower.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return tower.eval()


@pytest.fixture(scope="module")
def projectors() -> list[nn.Linear]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return [nn.Linear(WIDTH, JOINT) for _ in TAPS]


@pytest.fixture(scope="module")
def text() -> NDArray[np.float32]:
    columns = np.random.default_rng(5).standard_normal((JOINT, 2))
    return (columns / np.linalg.norm(columns, axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Three references and a part to inspect, of a size that is no multiple of anything."""
    rng = np.random.default_rng(6)
    return [rng.integers(0, 256, (57, 71, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture
def method(visual: Any, projectors: list[nn.Linear], text: NDArray[np.float32]) -> AprilGan:
    return AprilGan(visual, projectors, TAPS, text, MEAN, STD)


def _double(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def _norm(x: Array, layer: Any) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    return scaled * _double(layer.weight) + _double(layer.bias)


def _linear(x: Array, layer: Any) -> Array:
    return x @ _double(layer.weight).T + _double(layer.bias)


def _attention(x: Array, layer: Any) -> Array:
    joined = x @ _double(layer.in_proj_weight).T + _double(layer.in_proj_bias)
    heads = []
    for q, k, v in zip(
        *(np.split(part, HEADS, axis=1) for part in np.split(joined, 3, 1)), strict=True
    ):
        heads.append(softmax(q @ k.T / np.sqrt(q.shape[1]), axis=1) @ v)
    return _linear(np.concatenate(heads, axis=1), layer.out_proj)


def _tower(visual: Any, image: NDArray[np.uint8]) -> tuple[list[Array], Array]:
    """Raw tokens after every tap, class token dropped, and the image embedding."""
    resized = Image.fromarray(image).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    pixels = (np.asarray(resized, np.float64) / 255 - MEAN) / STD  # [H,W,3]
    kernel = _double(visual.conv1.weight)  # [E,3,14,14]
    patches = [
        np.einsum(
            "eckl,klc->e",
            kernel,
            pixels[y : y + PATCH_PX, x : x + PATCH_PX],
        )
        for y in range(0, SIZE_PX, PATCH_PX)
        for x in range(0, SIZE_PX, PATCH_PX)
    ]
    x = np.stack([_double(visual.class_embedding), *patches])
    x = _norm(x + _double(visual.positional_embedding), visual.ln_pre)
    tokens = []
    for count, block in enumerate(visual.transformer.resblocks, start=1):
        x = x + _attention(_norm(x, block.ln_1), block.attn)
        hidden = _linear(_norm(x, block.ln_2), block.mlp.c_fc)
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        x = x + _linear(hidden, block.mlp.c_proj)
        if count in TAPS:
            tokens.append(x[1:])
    return tokens, _norm(x, visual.ln_post)[0] @ _double(visual.proj)


def _upsample(plane: Array) -> Array:
    """Bilinear with aligned corners, one axis after the other."""
    at = np.linspace(0, GRID[0] - 1, SIZE_PX)
    known = np.arange(GRID[0])
    wide = np.stack([np.interp(at, known, row) for row in plane])
    return np.stack([np.interp(at, known, column) for column in wide.T], axis=1)


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _zero_shot(tokens: Sequence[Array], projectors: Sequence[nn.Linear], text: Array) -> Array:
    total = np.zeros((SIZE_PX, SIZE_PX))
    for stage, projector in zip(tokens, projectors, strict=True):
        logits = 100 * _unit(_linear(stage, projector)) @ text
        planes = np.stack([_upsample(logits[:, side].reshape(GRID)) for side in (0, 1)])
        total += softmax(planes, axis=0)[1]
    return total


def _few_shot(tokens: Sequence[Array], banks: Sequence[Array]) -> Array:
    total = np.zeros((SIZE_PX, SIZE_PX))
    for stage, bank in zip(tokens, banks, strict=True):
        distances = 1 - _unit(stage) @ _unit(bank).T
        total += _upsample(distances.min(axis=1).reshape(GRID))
    return total


def test_map_and_score_equal_a_numpy_writing(
    method: AprilGan,
    visual: Any,
    projectors: list[nn.Linear],
    text: NDArray[np.float32],
    images: list[NDArray[np.uint8]],
) -> None:
    *references, part = images
    method.remember(references)
    answer = method.inspect(part)
    found = [_tower(visual, image)[0] for image in references]
    banks = [np.concatenate([one[stage] for one in found]) for stage in range(len(TAPS))]
    tokens, embedding = _tower(visual, part)
    vectors = text.astype(np.float64)
    few_shot = _few_shot(tokens, banks)
    expected = _zero_shot(tokens, projectors, vectors) + few_shot
    assert few_shot.max() > 0.05  # the search has its say in what is compared
    np.testing.assert_allclose(answer.anomaly_map, expected, atol=2e-4)
    text_score = softmax(100 * _unit(embedding) @ vectors)[1]
    assert answer.score == pytest.approx(0.5 * (text_score + expected.max()), abs=2e-4)


def test_a_reference_against_its_own_bank_is_the_zero_shot_map(
    method: AprilGan,
    visual: Any,
    projectors: list[nn.Linear],
    text: NDArray[np.float32],
    images: list[NDArray[np.uint8]],
) -> None:
    method.remember(images[:1])
    tokens, _ = _tower(visual, images[0])
    expected = _zero_shot(tokens, projectors, text.astype(np.float64))
    np.testing.assert_allclose(method.inspect(images[0]).anomaly_map, expected, atol=2e-4)


def test_the_tower_runs_twice_as_published(
    method: AprilGan, visual: Any, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    method.remember(images[:2])
    calls = []
    forward = visual.forward_intermediates

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options["indices"])
        return forward(*args, **options)

    monkeypatch.setattr(visual, "forward_intermediates", counted)
    answer = method.inspect(images[3])
    assert calls == [[0, 1, 2, 4]] * 2
    assert list(answer.stages_ms) == [
        "preprocess",
        "first pass",
        "text map",
        "second pass",
        "search",
        "finish",
    ]
