"""What every contestant gives for one inspection, and how it tells where the time went."""

from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Answer:
    """The result of one inspection.

    Attributes
    ----------
    score : float
        Of the image.
    anomaly_map : ndarray of shape (H, W), float32
    stages_ms : dict of str to float
        What its parts took, in order.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    stages_ms: dict[str, float]


class Stopwatch:
    """Milliseconds of one part after the other."""

    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}
        self._last_ns = perf_counter_ns()

    def lap(self, name: str) -> None:
        """Give the time since the last call, or since the start, to a part."""
        now_ns = perf_counter_ns()
        self.stages_ms[name] = self.stages_ms.get(name, 0.0) + (now_ns - self._last_ns) / 1e6
        self._last_ns = now_ns
