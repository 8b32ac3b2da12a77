"""Input normalisation moves into the stem convolution, or becomes one multiply-add.

    K * ((x - mean) / std) = (K / std) * x - sum over c, i, j of K_c,i,j mean_c / std_c

holds at every pixel if the convolution reads no padding (a vision transformer's patch embedding).
Where it pads, the border would see the wrong constant, so x * (1 / std) - mean / std stays.
"""

from dataclasses import dataclass

import numpy as np

from cff_export.passes.chain import Matrix


@dataclass(frozen=True, eq=False)
class FoldedInput:
    """Where the normalisation went.

    Attributes
    ----------
    stem : tuple of weight [O,3,kh,kw] and bias [O], or None
        The stem convolution that reads 0..255 directly.
    scale, shift : ndarray of shape (3,), or None
        The multiply-add, if there is no such stem.
    reason : str
    """

    stem: tuple[Matrix, Matrix] | None
    scale: Matrix | None
    shift: Matrix | None
    reason: str


def fold_normalization(
    mean: Matrix, std: Matrix, weight: Matrix | None, bias: Matrix | None
) -> FoldedInput:
    """Fold ``(x - mean) / std`` into an unpadded stem convolution.

    Parameters
    ----------
    mean, std : ndarray of shape (3,)
        In units of 0..255.
    weight : ndarray of shape (O, 3, kh, kw), or None
        Of the stem; None if it pads.
    bias : ndarray of shape (O,), or None
    """
    if weight is None:
        return FoldedInput(None, 1.0 / std, -mean / std, "the stem pads: kept as one multiply-add")
    scaled = weight / std[None, :, None, None]
    offset = np.einsum("ocij,c->o", scaled, mean)
    start = np.zeros(len(weight)) if bias is None else bias
    return FoldedInput((scaled, start - offset), None, None, "folded into the stem convolution")
