"""Keeping a narrow stage's features in the subspace that they span."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_export.passes import Linear, Relu, StageChain, fold_rank

E, C = 4, 11


def _layer(width: int = E, joint_dim: int = C, bias: float = 1.0) -> Linear:
    rng = np.random.default_rng(0)
    return Linear(rng.normal(size=(joint_dim, width)), bias * rng.normal(size=joint_dim))


@pytest.fixture
def tokens() -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=(20, E))


@pytest.mark.parametrize("bias", [1.0, 0.0], ids=["with bias", "without bias"])
def test_products_norms_and_text_products_are_kept(
    tokens: NDArray[np.float64], bias: float
) -> None:
    layer = _layer(bias=bias)
    chain = StageChain((layer,))
    result = fold_rank(chain)
    assert result.applied
    assert result.reason == f"{C} dimensions kept as {E + 1}"
    folded, basis = result.chain, result.chain.basis
    (kept,) = folded.layers
    assert isinstance(kept, Linear)
    assert (kept.weight.shape, kept.bias.shape) == ((E + 1, E), (E + 1,))
    assert folded.width == E + 1
    assert basis is not None
    assert basis.shape == (C, E + 1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(E + 1), atol=1e-12)

    z = np.einsum("ce,ne->nc", layer.weight, tokens) + layer.bias
    y = folded(tokens)
    np.testing.assert_allclose(y @ basis.T, z, atol=1e-10)
    np.testing.assert_allclose(y @ y.T, z @ z.T, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(z, axis=1), atol=1e-10)
    text = np.random.default_rng(2).normal(size=(C, 2))
    np.testing.assert_allclose(y @ (basis.T @ text), z @ text, atol=1e-10)


def test_cosines_after_normalisation_are_kept(tokens: NDArray[np.float64]) -> None:
    layer = _layer()
    y = fold_rank(StageChain((layer,))).chain(tokens)
    z = tokens @ layer.weight.T + layer.bias
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(y @ y.T, z @ z.T, atol=1e-12)


def test_a_rank_deficient_layer_is_no_exception(tokens: NDArray[np.float64]) -> None:
    layer = _layer()
    layer.weight[:, 1] = layer.weight[:, 0]
    layer.weight[:, 2] = 0.0
    folded = fold_rank(StageChain((layer,))).chain
    z = tokens @ layer.weight.T + layer.bias
    y = folded(tokens)
    np.testing.assert_allclose(y @ y.T, z @ z.T, atol=1e-10)


@pytest.mark.parametrize(("width", "applied"), [(C - 2, True), (C - 1, False), (C + 5, False)])
def test_only_a_gain_is_taken(width: int, applied: bool) -> None:
    chain = StageChain((_layer(width),))
    result = fold_rank(chain)
    assert result.applied == applied
    if not applied:
        assert result.reason == f"width {width} + 1 is not below the joint dimension {C}"
        assert result.chain is chain


def test_features_of_an_mlp_have_full_rank() -> None:
    chain = StageChain((_layer(), Relu(), _layer(C, C)))
    result = fold_rank(chain)
    assert not result.applied
    assert result.reason == "more than one linear layer: the features have full rank"
    assert result.chain is chain


def test_a_folded_chain_is_not_folded_again() -> None:
    once = fold_rank(StageChain((_layer(),)))
    again = fold_rank(once.chain)
    assert not again.applied
    assert again.chain is once.chain
