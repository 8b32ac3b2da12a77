"""Fixed position codes of patch tokens: sines and cosines of row and column (tfa_net.md 2.3)."""

import numpy as np
from numpy.typing import NDArray

_BASE = 10_000.0


def sincos_2d(width: int, grid: int) -> NDArray[np.float64]:
    """Return the position code of a square grid of tokens.

    The first half of a code stands for the column, the second for the row; each half is the sines
    and then the cosines of the place times width/4 frequencies, 10000^(-i / (width/4)), as in the
    masked autoencoder that TFA-Net adapts.

    Parameters
    ----------
    width : int
        Of a token, a multiple of 4.
    grid : int
        Tokens on each side.

    Returns
    -------
    ndarray of shape (grid * grid, width), float64
        Row-major over the grid.
    """
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    return np.concatenate([_sincos(columns, width // 2), _sincos(rows, width // 2)], axis=1)


def with_class_token(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put the zero code of the class token before the others, [1+T,D]."""
    return np.concatenate([np.zeros_like(code[:1]), code])


def _sincos(places: NDArray[np.int_], width: int) -> NDArray[np.float64]:
    n_frequencies = width // 2
    frequencies = _BASE ** (-np.arange(n_frequencies) / n_frequencies)
    angles = places[:, None] * frequencies  # [T,width/2]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
