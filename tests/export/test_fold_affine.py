"""Folding an affine calibrator into its projector."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cff_export.passes import Linear, Relu, StageChain, fold_affine


def _linear(n_outputs: int, n_inputs: int, seed: int) -> Linear:
    rng = np.random.default_rng(seed)
    return Linear(rng.normal(size=(n_outputs, n_inputs)), rng.normal(size=n_outputs))


@pytest.fixture
def tokens() -> NDArray[np.float64]:
    return np.random.default_rng(9).normal(size=(11, 5))


def test_two_linear_layers_become_one(tokens: NDArray[np.float64]) -> None:
    projector, calibrator = _linear(7, 5, 0), _linear(7, 7, 1)
    chain = StageChain((projector, calibrator))
    result = fold_affine(chain)
    assert result.applied
    assert result.reason == "calibrator folded into the projector"
    (folded,) = result.chain.layers
    assert isinstance(folded, Linear)
    assert folded.weight.shape == (7, 5)
    assert folded.bias.shape == (7,)
    assert result.chain.width == chain.width == 7
    modules = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 7)).double()
    for module, layer in zip(modules, (projector, calibrator), strict=True):
        state = {"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)}
        module.load_state_dict(state)
    expected = modules(torch.from_numpy(tokens)).detach().numpy()
    np.testing.assert_allclose(chain(tokens), expected, atol=1e-10)
    np.testing.assert_allclose(result.chain(tokens), expected, atol=1e-10)


def test_algebra_element_by_element() -> None:
    projector, calibrator = _linear(2, 3, 2), _linear(2, 2, 3)
    (folded,) = fold_affine(StageChain((projector, calibrator))).chain.layers
    assert isinstance(folded, Linear)
    for row in range(2):
        for column in range(3):
            weight = sum(calibrator.weight[row, k] * projector.weight[k, column] for k in range(2))
            assert folded.weight[row, column] == pytest.approx(weight, abs=1e-12)
        bias = sum(calibrator.weight[row, k] * projector.bias[k] for k in range(2))
        assert folded.bias[row] == pytest.approx(bias + calibrator.bias[row], abs=1e-12)


def test_given_chain_is_left_as_it_was(tokens: NDArray[np.float64]) -> None:
    chain = StageChain((_linear(7, 5, 0), _linear(7, 7, 1)))
    before = chain(tokens)
    fold_affine(chain)
    assert np.array_equal(chain(tokens), before)


@pytest.mark.parametrize(
    "layers",
    [
        (_linear(7, 5, 0),),
        (_linear(7, 5, 0), Relu(), _linear(7, 7, 1)),
        (_linear(7, 5, 0), _linear(7, 7, 1), _linear(7, 7, 2)),
    ],
    ids=["projector alone", "with a ReLU", "three layers"],
)
def test_other_chains_are_declined(layers: tuple[Linear | Relu, ...]) -> None:
    chain = StageChain(layers)
    result = fold_affine(chain)
    assert not result.applied
    assert result.reason == "no affine calibrator"
    assert result.chain is chain
