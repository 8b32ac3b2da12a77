"""The two text vectors of a product, from prompts or, without a text tower, from anchors.

The states and templates are those of APRIL-GAN (arXiv 2305.17382), so that text vectors agree with
its released weights: 7 normal and 5 abnormal states, each put into 35 templates.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cff_runtime.errors import UsageError

_ANCHOR_SEED = 20260

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)

ABNORMAL_STATES = (
    "damaged {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)

TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


def prompts(product: str) -> tuple[list[str], list[str]]:
    """Write out all prompts of a product.

    Parameters
    ----------
    product : str
        Class word, used as given: ``metal_nut`` keeps its underscore, as in APRIL-GAN.

    Returns
    -------
    normal : list of 245 str
    abnormal : list of 175 str
        State by state, each in all templates.

    Raises
    ------
    UsageError
        If the product is blank.
    """
    if not product.strip():
        raise UsageError(
            f"`product` must be a word for the part, got {product!r}; name it, such as 'bottle'"
        )
    return _written_out(NORMAL_STATES, product), _written_out(ABNORMAL_STATES, product)


def text_vectors(encode: Callable[[list[str]], Tensor], product: str) -> Tensor:
    """Average the prompts of a product into its two text vectors.

    Per state group: normalise every prompt's embedding, take the mean over the whole group,
    normalise the mean.

    Parameters
    ----------
    encode : callable
        Maps n prompts to float embeddings [n,C], of any length.
    product : str
        Class word.

    Returns
    -------
    Tensor of shape (C, 2)
        Unit columns, 0 normal and 1 abnormal; dtype and device of the embeddings.

    Raises
    ------
    UsageError
        If the product is blank.
    """
    normal, abnormal = prompts(product)
    columns = [_mean_direction(encode(normal)), _mean_direction(encode(abnormal))]
    return torch.stack(columns, dim=1)


def anchors(joint_dim: int) -> Tensor:
    """Return two orthonormal vectors, float32 [C,2], that stand in for text vectors.

    Projectors learn towards them, so they must never change: NumPy guarantees the stream of
    `RandomState` for good, and Gram-Schmidt leaves no choice of sign to a LAPACK.

    Parameters
    ----------
    joint_dim : int
        C, at least 2.
    """
    first, second = np.random.RandomState(_ANCHOR_SEED).standard_normal((2, joint_dim))
    first /= np.linalg.norm(first)
    second -= first * (first @ second)
    second /= np.linalg.norm(second)
    return torch.from_numpy(np.stack([first, second], axis=1).astype(np.float32))


def _written_out(states: tuple[str, ...], product: str) -> list[str]:
    # The product goes in last-but-one, as an argument: braces in it are text, not fields.
    return [template.format(state.format(product)) for state in states for template in TEMPLATES]


def _mean_direction(embeddings: Tensor) -> Tensor:
    # In float64: the mean of a few hundred nearly parallel vectors loses digits in half precision.
    units = F.normalize(embeddings.double(), dim=-1)  # [n,C]
    return F.normalize(units.mean(dim=0), dim=-1).to(embeddings.dtype)  # [C]


__all__ = ["ABNORMAL_STATES", "NORMAL_STATES", "TEMPLATES", "anchors", "prompts", "text_vectors"]
