"""What the passes work on: one stage's head as a chain of layers in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Linear:
    """y = W x + b, weight [out,in] and bias [out]."""

    weight: Matrix
    bias: Matrix

    def __call__(self, x: Matrix) -> Matrix:
        """Map [N,in] to [N,out]."""
        return x @ self.weight.T + self.bias

    def after(self, first: "Linear") -> "Linear":
        """Return the one layer that equals `first` and then this one."""
        return Linear(self.weight @ first.weight, self.weight @ first.bias + self.bias)


@dataclass(frozen=True, eq=False)
class ScaleShift:
    """y = scale * x + shift per channel: BatchNorm with its running statistics."""

    scale: Matrix
    shift: Matrix

    def __call__(self, x: Matrix) -> Matrix:
        """Map [N,C] to [N,C]."""
        return x * self.scale + self.shift


@dataclass(frozen=True)
class Relu:
    """y = max(x, 0)."""

    def __call__(self, x: Matrix) -> Matrix:
        """Map [N,C] to [N,C]."""
        return np.maximum(x, 0.0)


Layer = Linear | ScaleShift | Relu


@dataclass(frozen=True, eq=False)
class StageChain:
    """One stage's head: layers in order, and the space that its output lives in.

    Attributes
    ----------
    layers : tuple of Layer
    basis : ndarray of shape (C, C_s) or None
        Orthonormal columns; joint features are z = basis y for the chain's output y. None where
        the output is z itself.
    """

    layers: tuple[Layer, ...]
    basis: Matrix | None = None

    def __call__(self, x: Matrix) -> Matrix:
        """Map tokens [N,E] to outputs [N,C_s]."""
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def width(self) -> int:
        """C_s."""
        return linear_layers(self.layers)[-1].weight.shape[0]


@dataclass(frozen=True, eq=False)
class PassResult:
    """What a pass made of a chain.

    Attributes
    ----------
    chain : StageChain
        The new chain, or the given one if the pass declined.
    applied : bool
    reason : str
        What was done, or why not.
    """

    chain: StageChain
    applied: bool
    reason: str


def linear_layers(layers: Sequence[Layer]) -> list[Linear]:
    """Return the linear layers among `layers`."""
    return [layer for layer in layers if isinstance(layer, Linear)]
