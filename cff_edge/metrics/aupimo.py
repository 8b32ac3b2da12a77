"""AUPIMO by anomalib: the area under the per-image overlap curve at very low false positive rates.

Bertoldo et al., AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
Tolerance, BMVC 2024. The false positive rate is the mean over good images alone, and the area lies
between rates 1e-5 and 1e-4 on a logarithmic axis. anomalib takes the rates nearest to these, so the
good images should have several million pixels together; with fewer the value comes out lower.
"""

import numpy as np
from numpy.typing import ArrayLike

from cff_edge.metrics.checks import checked_maps
from cff_runtime.errors import DatasetError, MissingDependencyError


def aupimo(masks: ArrayLike, maps: ArrayLike, n_thresholds: int = 300_000) -> float:
    """Return the mean AUPIMO of the defective images, a fraction.

    Parameters
    ----------
    masks : array-like of shape (n, H, W), bool
        True where defective; both images with and without a defect.
    maps : array-like of shape (n, H, W), float
        Higher is more anomalous; read as float32.
    n_thresholds : int, default=300_000
        Thresholds of the curve, in even steps of the score; anomalib's default.

    Raises
    ------
    MissingDependencyError
        If anomalib is not installed.
    DatasetError
        If the shapes differ, a map is not finite, there is no good or no defective image, or the
        good images have too few scores at such low rates.
    """
    truth, values = checked_maps(masks, maps)
    n_defective = int(truth.any(axis=(1, 2)).sum())
    if n_defective == len(truth):
        raise DatasetError(
            f"`masks` must hold good images, got {n_defective} defective of {len(truth)}; "
            "AUPIMO takes its false positive rate from them, so add some"
        )
    try:
        import torch
        from anomalib.metrics.pimo.functional import aupimo_scores
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"`{error.name}` must be installed for AUPIMO, but it is not; "
            "anomalib needs an environment of its own: run `make peers-install` and use "
            "`.venv-peers/bin/python`"
        ) from error
    try:
        _, _, _, _, scores, _ = aupimo_scores(
            torch.from_numpy(np.array(values, dtype=np.float32)),
            torch.from_numpy(truth),
            num_thresholds=n_thresholds,
        )
    except (RuntimeError, ValueError) as error:
        raise DatasetError(
            f"`maps` must let AUPIMO be computed, got a refusal by anomalib ({error}); "
            "use larger maps or more thresholds, or leave this metric out"
        ) from error
    return float(scores.nanmean())  # NaN for a good image
