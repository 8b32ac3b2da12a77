"""The loss of an episode, against its formulas in float64 and their finite differences."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.backbones import BackboneInfo, StageInfo
from cff_edge.config import Config, HeadConfig, TrainConfig
from cff_edge.few_shot import FewShotDetector
from cff_edge.heads import Head
from cff_edge.objective import Objective

Array = NDArray[np.float64]
SIZE_PX = 7
FOCAL, DICE = 0.7, 0.45

INFO = BackboneInfo(
    name="drawn",
    weights="none",
    weights_sha256="",
    activation="none",
    image_size=SIZE_PX,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    stages=(StageInfo("a", 5, (3, 2)), StageInfo("b", 3, (2, 2)), StageInfo("c", 2, (1, 1))),
    joint_dim=16,
    has_text_tower=False,
    licence="none",
)
N_STAGES = len(INFO.stages)
WHOLE = [None] * N_STAGES  # no span: the search is in the whole space


def _objective(distance: str) -> Objective:
    head = HeadConfig(distance=distance)
    return Objective(
        Config(head=head, train=TrainConfig(focal_weight=FOCAL, dice_weight=DICE)), INFO
    )


def _features(n_images: int, seed: int = 0, dim: int = 16) -> list[Array]:
    """Stages [n_images,N_s,dim] of vectors that point roughly one way, of any length."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dim)
    return [
        rng.uniform(0.5, 3.0, (n_images, 1, 1))
        * (direction + 0.8 * rng.normal(size=(n_images, int(np.prod(stage.grid)), dim)))
        for stage in INFO.stages
    ]


def _masks(n_queries: int) -> NDArray[np.bool_]:
    masks = np.zeros((n_queries, SIZE_PX, SIZE_PX), bool)
    masks[0, 1:4, 2:6] = True  # the others are good
    return masks


# --- the formulas


def _hats(n_in: int, n_out: int) -> Array:
    """Bilinear interpolation with corners on corners: a hat function around every sample."""
    position = np.arange(n_out) * (n_in - 1) / (n_out - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(n_in)))


def _bank_map(stages: Sequence[Array], n_references: int, distance: str) -> Array:
    """Maps [1 + B,H,W] of control and queries."""
    total = np.zeros((len(stages[0]) - n_references, SIZE_PX, SIZE_PX))
    for stage, info in zip(stages, INFO.stages, strict=True):
        lengths = np.linalg.norm(stage, axis=-1)
        for image in range(n_references, len(stage)):
            cosines = np.einsum("nc,kmc->nkm", stage[image], stage[:n_references])
            cosines /= lengths[image][:, None, None] * lengths[None, :n_references]
            nearest = 1.0 - cosines.max(axis=(1, 2))
            if distance == "log":
                nearest = np.log(1.0 + np.maximum(nearest, 0.0) / 0.01)
            rows, columns = (_hats(n, SIZE_PX) for n in info.grid)
            total[image - n_references] += rows @ nearest.reshape(info.grid) @ columns.T
    return total


def _loss(
    stages: Sequence[Array], n_references: int, masks: NDArray[np.bool_], distance: str
) -> float:
    control, *queries = _bank_map(stages, n_references, distance)
    focal, dice = [], []
    for query, mask in zip(queries, masks, strict=True):
        p = 1.0 / (1.0 + np.exp(-(2.0 * query / max(control.mean(), 1e-6) - 3.0)))
        y = np.where(mask, 1.0 - 1e-5, 1e-5)
        p_true = y * p + (1.0 - y) * (1.0 - p) + 1e-5
        focal.append((-((1.0 - p_true) ** 2) * np.log(p_true)).mean())
        dice.append(1.0 - (2.0 * p[mask].sum() + 1.0) / (p.sum() + mask.sum() + 1.0))
    return float(FOCAL * np.mean(focal) + DICE * np.mean(dice))


def _differences(
    stages: Sequence[Array], n_references: int, masks: NDArray[np.bool_], distance: str
) -> list[Array]:
    """Central differences of the loss after every entry."""
    step = 1e-6
    gradients = []
    for stage in stages:
        gradient = np.zeros_like(stage)
        for index in np.ndindex(stage.shape):
            kept, sides = stage[index], []
            for side in (step, -step):
                stage[index] = kept + side
                sides.append(_loss(stages, n_references, masks, distance))
            stage[index] = kept
            gradient[index] = (sides[0] - sides[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def _tensors(stages: Sequence[Array]) -> list[Tensor]:
    return [torch.from_numpy(stage).float().requires_grad_() for stage in stages]


# --- value and gradient


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("n_references", [1, 2, 4])
def test_the_loss_equals_the_formulas(n_references: int, distance: str) -> None:
    stages, masks = _features(n_references + 1 + 3), _masks(3)
    target = torch.from_numpy(masks)
    loss = _objective(distance).few_shot(_tensors(stages), n_references, target, WHOLE)
    expected = _loss(stages, n_references, masks, distance)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # all parts of it play one
    others = [
        _loss([*stages[:-1], np.roll(stages[-1], 1, axis=0)], n_references, masks, distance),
        _loss(stages, n_references + 1, masks[:2], distance),
        _loss(stages, n_references, masks[::-1], distance),
        _loss(stages, n_references, masks, "log" if distance == "cosine" else "cosine"),
    ]
    assert all(abs(other / expected - 1) > 1e-3 for other in others)


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("n_references", [1, 2])
def test_the_gradient_is_that_of_the_formulas(n_references: int, distance: str) -> None:
    stages, masks = _features(n_references + 1 + 2, seed=3, dim=4), _masks(2)
    leaves = _tensors(stages)
    target = torch.from_numpy(masks)
    _objective(distance).few_shot(leaves, n_references, target, WHOLE).backward()
    expected = _differences(stages, n_references, masks, distance)
    for leaf, difference in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        largest = np.abs(difference).max()
        assert largest > 1e-4
        # of single precision
        np.testing.assert_allclose(leaf.grad, difference, rtol=1e-3, atol=1e-4 * largest)
        reached = np.abs(difference).max(axis=(1, 2)) > 1e-3 * largest
        assert reached[n_references:].all()  # control and queries
        assert reached[:n_references].any()


def test_maps_are_those_of_the_detector() -> None:
    torch.manual_seed(0)
    head = Head([5, 3, 2], 16, "affine", "default").eval()
    generator = torch.Generator().manual_seed(1)
    shapes = [(2 + 1 + 2, int(np.prod(stage.grid)), stage.width) for stage in INFO.stages]
    tokens = [torch.randn(*shape, generator=generator) for shape in shapes]
    for distance in ("cosine", "log"):
        config = HeadConfig(text_weight=0.0, distance=distance)
        detector = FewShotDetector(INFO, head, config, torch.eye(16)[:, :2])
        detector.fit([stage[:2] for stage in tokens])
        maps = detector.score([stage[2:] for stage in tokens], None).maps
        calibrated = [stage.detach().double().numpy() for stage in head(tokens)]
        np.testing.assert_allclose(maps, _bank_map(calibrated, 2, distance), atol=1e-4)


# --- spans


def _head() -> tuple[Head, list[Tensor]]:
    """A head whose features of every stage span few of 16 dimensions, and tokens."""
    torch.manual_seed(2)
    head = Head([5, 3, 2], 16, "affine", "default")
    for parameter in head.calibrators.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return head, [torch.randn(5, int(np.prod(stage.grid)), stage.width) for stage in INFO.stages]


def test_the_span_changes_nothing() -> None:
    head, tokens = _head()
    spans, target = head.spans(), torch.from_numpy(_masks(2))
    assert all(span is not None for span in spans)
    losses, gradients = [], []
    for within in (spans, [spans[0], None, spans[2]], WHOLE):
        loss = _objective("log").few_shot(head.composed(tokens), 2, target, within)
        gradients.append(torch.autograd.grad(loss, list(head.parameters())))
        losses.append(loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for some, found in zip(gradients[2], gradients[0], strict=True):
        torch.testing.assert_close(found, some, rtol=1e-4, atol=1e-6)


def test_the_span_is_where_the_search_takes_place() -> None:
    head, tokens = _head()
    target = torch.from_numpy(_masks(2))
    blind: list[Tensor | None] = [torch.zeros(16, 1)] * N_STAGES  # all rows look the same
    objective = _objective("log")
    losses = [
        objective.few_shot(head(tokens), 2, target, spans).item() for spans in (head.spans(), blind)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


# --- edges


def _axes(n_images: int) -> list[Tensor]:
    """Features that are multiples of axes, so that cosines are exactly 0 or 1."""
    shapes = [(n_images, int(np.prod(stage.grid)), 16) for stage in INFO.stages]
    stages = []
    for n_images, n_tokens, dim in shapes:
        stage = torch.zeros(n_images, n_tokens, dim)
        stage[:, torch.arange(n_tokens), torch.arange(n_tokens)] = 2.0
        stages.append(stage)
    return stages


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("n_references", [1, 2])
def test_queries_that_equal_a_reference_are_at_no_distance(
    n_references: int, distance: str
) -> None:
    stages = _axes(n_references + 3)
    for stage in stages:
        stage[n_references] = torch.ones(16)  # the control is somewhere else
        stage.requires_grad_()
    masks = _masks(2)
    target = torch.from_numpy(masks)
    loss = _objective(distance).few_shot(stages, n_references, target, WHOLE)
    arrays = [stage.detach().double().numpy() for stage in stages]
    assert not _bank_map(arrays, n_references, distance)[1:].any()
    assert loss.item() == pytest.approx(_loss(arrays, n_references, masks, distance), rel=1e-5)
    loss.backward()
    assert all(stage.grad is not None and stage.grad.isfinite().all() for stage in stages)


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_a_control_that_equals_a_reference_scales_nothing_to_infinity(distance: str) -> None:
    stages = _axes(4)
    for stage in stages:
        stage[2:] += torch.rand(stage[2:].shape, generator=torch.Generator().manual_seed(0))
        stage.requires_grad_()
    loss = _objective(distance).few_shot(stages, 1, torch.from_numpy(_masks(2)), WHOLE)
    loss.backward()
    assert loss.isfinite()
    assert all(stage.grad is not None and stage.grad.isfinite().all() for stage in stages)


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("image", [0, 1, 2])
def test_features_of_zero_leave_a_finite_gradient(image: int, distance: str) -> None:
    stages = _tensors(_features(4))
    for stage in stages:
        stage.data[image] = 0.0
    loss = _objective(distance).few_shot(stages, 1, torch.from_numpy(_masks(2)), WHOLE)
    loss.backward()
    assert loss.isfinite()
    assert all(stage.grad is not None and stage.grad.isfinite().all() for stage in stages)


def test_half_precision_features_are_judged_in_single() -> None:
    stages, masks = _features(4), _masks(2)
    halves = [torch.from_numpy(stage).half() for stage in stages]
    loss = _objective("log").few_shot(halves, 1, torch.from_numpy(masks), WHOLE)
    assert loss.dtype == torch.float32
    expected = _loss([half.double().numpy() for half in halves], 1, masks, "log")
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_two_losses_are_the_configurations() -> None:
    stages, target = _tensors(_features(4)), torch.from_numpy(_masks(2))
    losses = []
    for focal, dice in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        train = dataclasses.replace(TrainConfig(), focal_weight=focal, dice_weight=dice)
        losses.append(
            Objective(Config(train=train), INFO).few_shot(stages, 1, target, WHOLE).item()
        )
    assert losses[2] == pytest.approx(2 * losses[0] + 3 * losses[1], rel=1e-6)
    assert min(losses) > 0.01
