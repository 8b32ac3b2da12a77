"""The pre-norm transformer block of both halves of TFA-Net (tfa_net.md 2.3)."""

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Full self-attention: softmax(Q K^T / sqrt(D / heads)) V, then a projection.

    Parameters
    ----------
    width : int
        D, a multiple of `n_heads`.
    n_heads : int
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, n_outputs: int | None = None) -> Tensor:
        """Map [B,L,D] to [B,L,D], or to its first rows alone, [B,n_outputs,D]."""
        n_images, length, width = tokens.shape
        qkv = self.qkv(tokens).view(n_images, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B,heads,L,D/heads]
        mixed = F.scaled_dot_product_attention(query[:, :, :n_outputs], key, value)
        joined: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return joined


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and beside a skip.

    Parameters
    ----------
    width, n_heads : int
        See `Attention`.
    mlp_ratio : int, default=4
        Hidden width of the perceptron by D.
    """

    def __init__(self, width: int, n_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attention = Attention(width, n_heads)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.fc1 = nn.Linear(width, mlp_ratio * width)
        self.fc2 = nn.Linear(mlp_ratio * width, width)

    def forward(self, tokens: Tensor, n_outputs: int | None = None) -> Tensor:
        """Map [B,L,D] to [B,L,D], or to its first rows alone, [B,n_outputs,D]."""
        attended = self.attention(self.norm1(tokens), n_outputs)
        if n_outputs is not None:
            tokens = tokens[:, :n_outputs]
        tokens = tokens + attended
        output: Tensor = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return output
