"""Does an image show the product of a profile at all?

A defect changes a part of the tokens, another product nearly all. So images are compared by the
mean of their features, stage by stage:

    m_s = mean over the tokens, unit length                                [C_s]
    d   = min over references r of sum over s of log(1 + (1 - m_s . m_rs) / 0.01)
    limit = min(12, largest d of a reference to the others + 2.8)          K > 1
    limit = 10                                                             K = 1

The logarithms differ between products by little: 3 to 8 for parts of the same, 13 and more for
objects of another kind. How often the limit is wrong stands in `docs/image_checks.md`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SCALE = 0.01  # of a cosine distance, as in `cff_runtime.finishing`
_MARGIN = 2.8
_LIMIT_OF_ONE = 10.0
_LARGEST_LIMIT = 12.0
_TINY = 1e-12


def mean_features(features: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Return the mean feature of an image per stage, [C_s], of unit length.

    Parameters
    ----------
    features : sequence of S ndarrays of shape (N_s, C_s), float32
    """
    means = [stage.mean(axis=0, dtype=np.float32) for stage in features]
    return [mean / max(float(np.linalg.norm(mean)), _TINY) for mean in means]


def product_distance(
    means: Sequence[NDArray[np.float32]], references: Sequence[NDArray[np.float32]]
) -> float:
    """Return how far an image is from the nearest reference as a whole.

    Parameters
    ----------
    means : sequence of S ndarrays of shape (C_s,), float32
        Of the image, see `mean_features`.
    references : sequence of S ndarrays of shape (K, C_s), float32
        Of the references.
    """
    return float(reference_distances(means, references).sum(axis=0).min())


def reference_distances(
    means: Sequence[NDArray[np.float32]], references: Sequence[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return the terms of `product_distance`, [S,K]: per stage, to each reference."""
    cosines = np.stack([rows @ mean for mean, rows in zip(means, references, strict=True)])
    return np.log1p(np.maximum(1.0 - cosines.astype(np.float64), 0.0) / _SCALE)


def product_limit(references: Sequence[NDArray[np.float32]]) -> float:
    """Return the distance above which an image looks like another product.

    Parameters
    ----------
    references : sequence of S ndarrays of shape (K, C_s), float32
    """
    n_references = len(references[0])
    if n_references == 1:
        return _LIMIT_OF_ONE
    distances = []
    for left_out in range(n_references):
        others = [np.delete(rows, left_out, axis=0) for rows in references]
        distances.append(product_distance([rows[left_out] for rows in references], others))
    return min(max(distances) + _MARGIN, _LARGEST_LIMIT)
