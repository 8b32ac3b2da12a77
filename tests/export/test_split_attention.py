"""Attention as three projections."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from cff_edge.tfa_net.blocks import Attention
from cff_export.blocks import block_of
from cff_export.split_attention import split_attention


def _attention(**changes: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(24, 3, **{"batch_first": True, **changes}).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention.requires_grad_(False)


class _Tower(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attn: Any = attention


@pytest.mark.parametrize("bias", [True, False])
def test_the_answer_stays_the_same(bias: bool) -> None:
    tower = _Tower(_attention(bias=bias))
    x, other = torch.randn(2, 7, 24), torch.randn(2, 5, 24)
    expected = [tower.attn(x, y, y, need_weights=False)[0] for y in (x, other)]
    with split_attention(tower) as n_attentions:
        assert n_attentions == 1
        found = [tower.attn(x, y, y, need_weights=False)[0] for y in (x, other)]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_original_comes_back_even_after_an_error() -> None:
    attention = _attention()
    tower = nn.Sequential(block := _Tower(attention))
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    with pytest.raises(ZeroDivisionError), split_attention(tower):
        assert block.attn is not attention
        raise ZeroDivisionError
    assert block.attn is attention
    assert tower.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


def test_weights_are_not_copied() -> None:
    attention = _attention()
    tower = _Tower(attention)
    with split_attention(tower):
        assert tower.attn.q.weight.data_ptr() == attention.in_proj_weight.data_ptr()


class _Other(nn.MultiheadAttention):
    pass


def test_what_it_does_not_compute_is_left_alone() -> None:
    others = (
        _attention(kdim=16),
        _attention(batch_first=False),
        _attention(add_bias_kv=True),
        _attention(add_zero_attn=True),
        _Other(24, 3, batch_first=True),
    )
    with split_attention(nn.ModuleList(others)) as n_attentions:
        assert n_attentions == 0


def test_a_mask_is_refused() -> None:
    tower = _Tower(_attention())
    x = torch.randn(1, 3, 24)
    with split_attention(tower), pytest.raises(AssertionError, match="no mask"):
        tower.attn(x, x, x, attn_mask=torch.zeros(3, 3))


def test_the_exported_graph_moves_nothing_but_the_heads(exported: Callable[..., Any]) -> None:
    bundle = exported("vit", "affine").bundle
    model = onnx.load(bundle.file(bundle.manifest.encoder))
    counts: dict[str, Counter[str]] = {}
    for node in model.graph.node:
        if ".attn" in node.name:
            counts.setdefault(block_of(node.name), Counter())[node.op_type] += 1
    assert len(counts) == 4
    for count in counts.values():
        assert count["MatMul"] + count["Gemm"] == 4 + 2  # projections; scores and values
        assert count["Softmax"] == 1 and count["Reshape"] == 4 and count["Transpose"] <= 5
        assert not count.keys() & {"Gather", "Slice", "Squeeze", "Unsqueeze", "Shape", "Concat"}


# --- attention of TFA-Net


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_self_attention_stays_the_same(n_outputs: int | None) -> None:
    torch.manual_seed(0)
    tower = _Tower(Attention(24, 3).requires_grad_(False))
    for parameter in tower.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 7, 24)
    expected = tower.attn(x, n_outputs)
    with split_attention(tower) as n_attentions:
        assert n_attentions == 1
        found = tower.attn(x, n_outputs)
    assert found.shape == (2, n_outputs or 7, 24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_graph_of_tfa_net_has_no_shapes_but_the_batchs(tfa: Any) -> None:
    model = onnx.load(tfa.bundle.file(tfa.bundle.manifest.encoder))
    counts: dict[str, Counter[str]] = {}
    for node in model.graph.node:
        module, _, _ = node.name.partition("/")
        if ".attention" in module:
            counts.setdefault(module.split(".attention")[0], Counter())[node.op_type] += 1
    blocks = [f"net.aggregation.{i}" for i in range(2)] + ["net.refinement.0"]
    assert sorted(counts) == sorted(blocks)
    for name, count in counts.items():
        assert count["MatMul"] + count["Gemm"] == 4 + 2
        is_last = name == "net.aggregation.1"  # whose queries are the kept tokens' alone
        assert count["Slice"] == int(is_last)
        assert not count.keys() & {"Gather", "Squeeze", "Unsqueeze", "Shape", "Concat", "Split"}
