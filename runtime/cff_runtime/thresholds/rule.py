"""The rule of thumb for a threshold from the references alone."""

from collections.abc import Sequence

import numpy as np

DEFAULT_MARGIN = 0.25


def default_limit(values: Sequence[float], n_parts: int, margin: float) -> float:
    """Return the threshold of some scores or map maxima."""
    largest = max(values)
    return float(largest + margin * (largest - float(np.median(values))))
