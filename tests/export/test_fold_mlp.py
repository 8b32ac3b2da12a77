"""Folding projector and BatchNorm into an MLP calibrator."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cff_edge.heads import Head, MlpCalibrator
from cff_export.head_chains import PASSES, chain_module, fold_head, stage_chain
from cff_export.passes import Linear, Relu, ScaleShift, StageChain, fold_affine, fold_mlp


@pytest.fixture
def head() -> Head:
    """A head of two stages with MLP calibrators and running statistics of their own, float64."""
    generator = torch.Generator().manual_seed(4)
    head = Head([5, 9], 6, "mlp", "default").double()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values + 0.3 if name.endswith("var") else values - 0.5)
    return head.eval()


@pytest.fixture
def tokens() -> NDArray[np.float64]:
    return np.random.default_rng(5).normal(size=(13, 5))


def _of_pytorch(head: Head, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    projected = head.projectors[0](torch.from_numpy(tokens)[None])
    calibrated: NDArray[np.float64] = head.calibrators[0](projected)[0].detach().numpy()
    return calibrated


def test_projector_and_batchnorm_are_folded(head: Head, tokens: NDArray[np.float64]) -> None:
    chain = stage_chain(head, 0)
    kinds = [type(layer) for layer in chain.layers]
    assert kinds == [Linear, Linear, ScaleShift, Relu, Linear]
    result = fold_mlp(chain)
    assert result.applied
    assert result.reason == "projector and BatchNorm folded into the MLP"
    assert [type(layer) for layer in result.chain.layers] == [Linear, Relu, Linear]
    first, _, last = result.chain.layers
    assert isinstance(first, Linear)
    assert isinstance(last, Linear)
    assert (first.weight.shape, last.weight.shape) == ((12, 5), (6, 12))
    assert result.chain.width == 6
    expected = _of_pytorch(head, tokens)
    hidden = first(tokens)
    assert 0.1 < (hidden < 0).mean() < 0.9  # both sides of the ReLU are tried
    np.testing.assert_allclose(chain(tokens), expected, atol=1e-10)
    np.testing.assert_allclose(result.chain(tokens), expected, atol=1e-10)


def test_batchnorm_of_running_statistics(head: Head) -> None:
    norm = stage_chain(head, 0).layers[2]
    x = np.random.default_rng(6).normal(size=(4, 12))
    calibrator = head.calibrators[0]
    assert isinstance(calibrator, MlpCalibrator)
    expected = calibrator.norm(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(norm(x), expected, atol=1e-12)


def test_other_chains_are_declined(head: Head) -> None:
    whole = stage_chain(head, 0).layers
    for layers in (whole[:1], whole[:2], whole[:4], (*whole[:2], *whole[3:]), (*whole, whole[-1])):
        chain = StageChain(layers)
        result = fold_mlp(chain)
        assert not result.applied
        assert result.reason == "no MLP calibrator"
        assert result.chain is chain
    assert not fold_affine(StageChain(whole)).applied


@pytest.mark.parametrize(
    ("calibrator", "applied"),
    [
        ("none", {"fold_rank"}),
        ("affine", {"fold_affine", "fold_rank"}),
        ("mlp", {"fold_mlp"}),
    ],
)
def test_every_pass_leaves_a_record_per_stage(calibrator: str, applied: set[str]) -> None:
    head = Head([3, 4], 9, calibrator).eval()
    chains, records = fold_head(head)
    assert len(chains) == 2
    assert [(record["stage"], record["pass"]) for record in records] == [
        (stage, name) for stage in range(2) for name in PASSES
    ]
    for record in records:
        assert record["applied"] == (record["pass"] in applied)
        assert record["reason"]


@pytest.mark.parametrize("calibrator", ["none", "affine", "mlp"])
def test_folded_module_equals_the_head(calibrator: str) -> None:
    torch.manual_seed(0)
    head = Head([5], 4, calibrator, "default").eval()
    (chain,), _ = fold_head(head)
    assert chain.basis is None
    module = chain_module(chain)
    tokens = torch.randn(2, 7, 5)
    with torch.no_grad():
        torch.testing.assert_close(module(tokens), head([tokens])[0], atol=1e-6, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_an_unfolded_batchnorm_has_no_module(head: Head) -> None:
    with pytest.raises(AssertionError, match="fold_mlp leaves no BatchNorm"):
        chain_module(stage_chain(head, 0))
