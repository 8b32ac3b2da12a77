"""Upsampling and blurring a map become one matrix per axis.

Both are linear and act on rows and columns apart, so that their product does as well:

    blur_y (up_y P up_x^T) blur_x^T = (blur_y up_y) P (blur_x up_x)^T

up [H,h] interpolates bilinearly with aligned corners. blur [H,H] is a Gaussian, cut off at 4 sigma
and normalised, over a line that is mirrored about the outer edges of its pixels (SciPy's
`gaussian_filter` with its defaults).
"""

import numpy as np

from cff_export.passes.chain import Matrix

_CUT_OFF = 4.0  # in sigma


def fold_upsampling(n_in: int, n_out: int, sigma: float) -> Matrix:
    """Return the matrix [n_out,n_in], float64, that upsamples and then blurs one axis.

    Parameters
    ----------
    n_in, n_out : int
        Cells of the map and of the image.
    sigma : float
        Of the blur, in pixels of the image; 0 blurs nothing.
    """
    return _blurred(_upsampled(n_in, n_out), sigma)


def _upsampled(n_in: int, n_out: int) -> Matrix:
    cells = np.arange(n_in, dtype=np.float64)
    places = np.linspace(0.0, n_in - 1.0, n_out)
    return np.clip(1.0 - np.abs(places[:, None] - cells), 0.0, None)  # hat functions


def _blurred(rows: Matrix, sigma: float) -> Matrix:
    """Blur along the first axis."""
    radius = int(_CUT_OFF * sigma + 0.5)
    if radius == 0:
        return rows
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2.0 * sigma**2))
    # as often as needed: a blur may be wider than the line
    mirrored = np.pad(rows, ((radius, radius), (0, 0)), mode="symmetric")
    shifted = [weight * mirrored[i : i + len(rows)] for i, weight in enumerate(weights)]
    blurred: Matrix = np.sum(shifted, axis=0) / weights.sum()
    return blurred
