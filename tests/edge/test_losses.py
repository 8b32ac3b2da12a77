"""Losses, against loops in float64 over the formulas of the papers."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.losses import alignment_loss, dice_loss, focal_loss
from cff_runtime.errors import UsageError

Array = NDArray[np.float64]


@pytest.fixture
def maps() -> tuple[Array, NDArray[np.bool_]]:
    """Probabilities in (0, 1) and masks, [3,5,4]; the last image has no defect."""
    rng = np.random.default_rng(0)
    masks = rng.random((3, 5, 4)) < 0.4
    masks[2] = False
    return rng.uniform(0.02, 0.98, (3, 5, 4)), masks


@pytest.fixture
def stages() -> list[Array]:
    """Features of three stages, [2,6,5], far from unit length."""
    return list(np.random.default_rng(1).normal(0.3, 2.0, (3, 2, 6, 5)))


def _focal(probability: Array, masks: NDArray[np.bool_]) -> float:
    """APRIL-GAN: both channels, one-hot clamped to [1e-5, 1 - 1e-5], gamma 2, smooth 1e-5."""
    terms = []
    for p, y in zip(probability.ravel(), masks.ravel(), strict=True):
        channels = (1.0 - p, p)
        one_hot = [1e-5, 1e-5]
        one_hot[int(y)] = 1.0 - 1e-5
        p_true = one_hot[0] * channels[0] + one_hot[1] * channels[1] + 1e-5
        terms.append(-((1.0 - p_true) ** 2) * np.log(p_true))
    return float(np.mean(terms))


def _dice(probability: Array, masks: NDArray[np.bool_]) -> float:
    losses = []
    for p, y in zip(probability, masks, strict=True):
        overlap = sum(a * b for a, b in zip(p.ravel(), y.ravel(), strict=True))
        losses.append(1.0 - (2.0 * overlap + 1.0) / (p.sum() + y.sum() + 1.0))
    return float(np.mean(losses))


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _alignment(
    stages: list[Array], weights: list[float], global_weight: float, scale: str
) -> float:
    n_images, n_tokens = stages[0].shape[:2]
    adjacent = 0.0
    for w, (first, second) in zip(weights, itertools.pairwise(stages), strict=True):
        cosines = [
            _cosine(first[b, n], second[b, n]) for b in range(n_images) for n in range(n_tokens)
        ]
        adjacent += w * (1.0 - float(np.mean(cosines)))
    norms = []
    for b in range(n_images):
        norm = 0.0
        for i, j in itertools.product(range(n_tokens), repeat=2):
            norm += (_cosine(stages[0][b, i], stages[-1][b, j]) - (i == j)) ** 2
        norms.append(norm)
    overall = float(np.mean(norms)) / (n_tokens if scale == "tokens" else 1)
    return adjacent + global_weight * overall


def _tensors(arrays: list[Array]) -> list[Tensor]:
    return [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]


def test_focal_loss_equals_the_formula(maps: tuple[Array, NDArray[np.bool_]]) -> None:
    probability, masks = map(torch.from_numpy, maps)
    assert focal_loss(probability, masks).item() == pytest.approx(_focal(*maps), abs=1e-12)
    assert focal_loss(probability, masks.double()).item() == focal_loss(probability, masks).item()


def test_focal_loss_is_that_of_a_softmax_over_two_channels() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0.0, 8.0, (3, 2, 6, 7))
    masks = rng.random((3, 6, 7)) < 0.3
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    one_hot = np.clip(np.stack([~masks, masks], axis=1).astype(float), 1e-5, 1 - 1e-5)
    p_true = (one_hot * softmax).sum(axis=1) + 1e-5
    expected = np.mean(-((1.0 - p_true) ** 2) * np.log(p_true))
    channels = torch.from_numpy(logits).softmax(dim=1)
    loss = focal_loss(channels[:, 1], torch.from_numpy(masks))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_dice_loss_equals_the_formula(maps: tuple[Array, NDArray[np.bool_]]) -> None:
    probability, masks = map(torch.from_numpy, maps)
    assert dice_loss(probability, masks).item() == pytest.approx(_dice(*maps), abs=1e-12)


def test_a_single_image_is_one_sample(maps: tuple[Array, NDArray[np.bool_]]) -> None:
    # APRIL-GAN squeezes all axes, so that a last batch of one takes rows for samples
    probability, masks = maps[0][:1], maps[1][:1]
    loss = dice_loss(torch.from_numpy(probability), torch.from_numpy(masks)).item()
    assert loss == pytest.approx(_dice(probability, masks), abs=1e-12)
    rows = 1.0 - (2.0 * (probability * masks)[0].sum(-1) + 1.0) / (
        probability[0].sum(-1) + masks[0].sum(-1) + 1.0
    )
    assert abs(loss - rows.mean()) > 0.01


def test_segmentation_losses_vanish_for_a_perfect_map() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.float64)
    mask[0, 1:3, 2:] = 1.0
    assert focal_loss(mask, mask).item() == pytest.approx(0.0, abs=1e-12)
    assert dice_loss(mask, mask).item() == pytest.approx(0.0, abs=1e-12)
    assert focal_loss(1.0 - mask, mask).item() > 10.0  # -log 2e-5
    assert dice_loss(1.0 - mask, mask).item() > 0.8


@pytest.mark.parametrize("scale", ["tokens", "none"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0], [0.0, 1.0]])
@pytest.mark.parametrize("global_weight", [0.1, 0.0, 3.0])
def test_alignment_loss_equals_the_formula(
    stages: list[Array], weights: list[float] | None, global_weight: float, scale: str
) -> None:
    loss = alignment_loss(_tensors(stages), weights, global_weight, scale).item()
    expected = _alignment(stages, weights or [1.0, 1.0], global_weight, scale)
    assert loss == pytest.approx(expected, abs=1e-12)


def test_alignment_defaults_are_those_of_the_paper(stages: list[Array]) -> None:
    expected = _alignment(stages, [1.0, 1.0], 0.1, "tokens")
    assert alignment_loss(_tensors(stages)).item() == pytest.approx(expected, abs=1e-12)


def test_alignment_ignores_the_length_of_features(stages: list[Array]) -> None:
    longer = [stage * (index + 2.0) for index, stage in enumerate(stages)]
    same = alignment_loss(_tensors(longer)).item()
    assert same == pytest.approx(alignment_loss(_tensors(stages)).item(), abs=1e-12)


def test_alignment_vanishes_for_equal_stages_of_orthogonal_tokens() -> None:
    tokens = 3.0 * torch.eye(4, 7, dtype=torch.float64).expand(2, 4, 7)
    assert alignment_loss([tokens] * 3).item() == pytest.approx(0.0, abs=1e-15)


def test_alignment_of_one_stage_is_its_global_part(stages: list[Array]) -> None:
    loss = alignment_loss(_tensors(stages[:1]), global_weight=1.0).item()
    assert loss == pytest.approx(_alignment(stages[:1], [], 1.0, "tokens"), abs=1e-12)


def test_gradients_agree_with_finite_differences(
    maps: tuple[Array, NDArray[np.bool_]], stages: list[Array]
) -> None:
    masks = torch.from_numpy(maps[1])
    probability = torch.from_numpy(maps[0]).requires_grad_()
    for loss, brute_force in ((focal_loss, _focal), (dice_loss, _dice)):
        (gradient,) = torch.autograd.grad(loss(probability, masks), probability)
        for position in ((0, 0, 0), (1, 4, 3), (2, 2, 1)):
            step = np.zeros_like(maps[0])
            step[position] = 1e-6
            above, below = (
                brute_force(maps[0] + step, maps[1]),
                brute_force(maps[0] - step, maps[1]),
            )
            slope = (above - below) / 2e-6
            assert gradient[position].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)
    tensors = _tensors(stages)
    gradients = torch.autograd.grad(alignment_loss(tensors), tensors)
    for stage, gradient in enumerate(gradients):
        moved = [[array.copy() for array in stages] for _ in range(2)]
        moved[0][stage][1, 3, 2] += 1e-6
        moved[1][stage][1, 3, 2] -= 1e-6
        above, below = (_alignment(arrays, [1.0, 1.0], 0.1, "tokens") for arrays in moved)
        slope = (above - below) / 2e-6
        assert gradient[1, 3, 2].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], []])
def test_weights_must_fit_the_stages(stages: list[Array], weights: list[float]) -> None:
    with pytest.raises(UsageError, match=r"one entry per pair of adjacent stages \(2\), got"):
        alignment_loss(_tensors(stages), weights)


def test_unknown_scale_is_refused(stages: list[Array]) -> None:
    with pytest.raises(UsageError, match="`global_scale` must be one of tokens, none, got 'sum'"):
        alignment_loss(_tensors(stages), global_scale="sum")
