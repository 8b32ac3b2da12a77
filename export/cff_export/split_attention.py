"""Attention is exported as three projections and two products.

    softmax((x W_q + b_q) (x W_k + b_k)^T / sqrt d) (x W_v + b_v),   W_q, W_k, W_v: a third each of
    the joint projection

PyTorch's `nn.MultiheadAttention` traces to 38 nodes a block: it puts the batch second, carries the
joint projection through five axes and scales queries and keys apart. Here they are 20, and nothing
is moved but the heads. TFA-Net's own attention is split alike. The weights are views of the
original ones, which come back when the context ends. Time in ONNX Runtime 1.31, after over before,
by turns in one process:

    ViT-B/16, 224 px, float32, 2 threads                0.952 [0.935, 0.977]  n = 50
    ViT-L blocks, 518 px, float32, 2 threads            0.991 [0.985, 1.004]  n = 30
    ViT-L blocks, 518 px, float32, 1 thread             1.019 [1.012, 1.046]  n = 16
    ViT-L blocks, 518 px, dynamic int8, 2 threads       0.972 [0.956, 0.985]  n = 16
    TFA-Net on EfficientNet-Lite0, 256 px, 2 threads    0.914 [0.907, 0.926]  n = 60

Linear layers as Gemm over the tokens of all images at once took 2 % less in ViT-B/16 and up to 1 %
more in ViT-L, n = 60 and 20: they stay MatMul and Add.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from cff_edge.tfa_net.blocks import Attention


class SplitAttention(nn.Module):
    """Attention without a mask, in evaluation.

    Parameters
    ----------
    weight : Tensor of shape (3 E, E)
        Of the joint projection to queries, keys and values.
    bias : Tensor of shape (3 E,) or None
    projection : nn.Module
        Of the joined heads.
    n_heads : int
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, projection: nn.Module, n_heads: int
    ) -> None:
        super().__init__()
        biases = (None, None, None) if bias is None else bias.detach().chunk(3)
        self.q, self.k, self.v = map(_linear, weight.detach().chunk(3), biases)
        self.out_proj = projection
        self.heads = (n_heads, weight.shape[1] // n_heads)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Map queries [B,N,E], keys and values [B,M,E] to [B,N,E]."""
        q, k, v = (
            layer(x).unflatten(-1, self.heads).transpose(1, 2)  # [B,h,N,d]
            for layer, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        shares = (q * self.heads[1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)  # [B,h,N,M]
        joined: Tensor = self.out_proj((shares @ v).transpose(1, 2).flatten(2))
        return joined


class _Multihead(SplitAttention):
    """In the place of an `nn.MultiheadAttention`."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        parts = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj)
        super().__init__(*parts, attention.num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Return what it attends to, and no weights."""
        if need_weights or attn_mask is not None:
            raise AssertionError("an image tower's attention has no mask and gives no weights")
        return self.attend(query, key, value), None


class _SelfAttention(SplitAttention):
    """In the place of a `cff_edge.tfa_net.blocks.Attention`."""

    def __init__(self, attention: Attention) -> None:
        joint = attention.qkv
        super().__init__(joint.weight, joint.bias, attention.proj, attention.n_heads)

    def forward(self, tokens: Tensor, n_outputs: int | None = None) -> Tensor:
        """Map [B,L,D] to its first rows [B,n_outputs,D], or to all."""
        query = tokens if n_outputs is None else tokens[:, :n_outputs]
        return self.attend(query, tokens, tokens)


@contextmanager
def split_attention(module: nn.Module) -> Iterator[int]:
    """Replace a module's attentions while the context lasts; yield how many."""
    found = [
        (parent, name, child, split)
        for parent in list(module.modules())
        for name, child in parent.named_children()
        if (split := _split(child)) is not None
    ]
    with ExitStack() as stack:
        for parent, name, child, split in found:
            stack.callback(setattr, parent, name, child)
            setattr(parent, name, split)
        yield len(found)


def _split(module: nn.Module) -> SplitAttention | None:
    """Return what computes the same as an attention; None for anything else."""
    if type(module) is Attention:
        return _SelfAttention(module)
    if isinstance(module, nn.MultiheadAttention) and not why_whole(module):
        return _Multihead(module)
    return None


def why_whole(attention: nn.MultiheadAttention) -> str:
    """Return why an attention stays as it is; empty if it can be split."""
    if type(attention) is not nn.MultiheadAttention:
        return "it is a subclass, which may compute something else"
    if attention.in_proj_weight is None:
        return "its keys or values have a width of their own"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds a key of its own"
    return "" if attention.batch_first else "its batch comes second"


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    n_outputs, n_inputs = weight.shape
    layer = nn.Linear(n_inputs, n_outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
