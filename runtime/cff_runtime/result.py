"""What an inspection returns."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["pass", "review", "reject"]


@dataclass(frozen=True)
class Region:
    """A connected part of the anomaly map above the pixel threshold.

    Attributes
    ----------
    area_px : float
        Area in pixels of the inspected image.
    peak : float
        Largest value of the anomaly map inside.
    box : tuple of int
        x, y, width, height in pixels of the inspected image.
    """

    area_px: float
    peak: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Result:
    """One inspected image.

    Attributes
    ----------
    score : float
        Raw image score; larger is more anomalous. Never rescaled per image.
    verdict : {'pass', 'review', 'reject'}
        ``reject`` if `score` is above `threshold`, else ``review`` if it is above
        `review_threshold`.
    threshold : float
        The profile's threshold.
    anomaly_map : ndarray of shape (H, W), float32
        Raw values; comparable between images of one profile.
    regions : tuple of Region
        Strongest first.
    text_score : float or None
        The encoder's own score, of CFF the probability of "abnormal" by text prompts alone;
        None where it gives none.
    stages_ms : dict of str to float
        Milliseconds of preprocess, encode, search, finish, in this order.
    review_threshold : float or None
        The profile's review threshold, None where it has no band for review.
    warning : str or None
        Said where the image as a whole looks like another product; the verdict does not heed it.
    stage_distances : tuple of S floats
        Of the image's mean feature to the nearest reference's, log(1 + distance / 0.01), see
        `cff_runtime.product_check`; for `cff_runtime.drift`.
    measures : dict of str to float
        Sharpness, brightness and position, see `cff_runtime.drift.measures`; empty where the
        image itself was not at hand.
    """

    score: float
    verdict: Verdict
    threshold: float
    anomaly_map: NDArray[np.float32]
    regions: tuple[Region, ...]
    text_score: float | None
    stages_ms: dict[str, float]
    review_threshold: float | None = None
    warning: str | None = None
    stage_distances: tuple[float, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        """Milliseconds of the whole inspection, without reading the file."""
        return sum(self.stages_ms.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what people and programs ask for, ready for JSON: all but map and measures."""
        return {
            "score": self.score,
            "verdict": self.verdict,
            "threshold": self.threshold,
            "review_threshold": self.review_threshold,
            "text_score": self.text_score,
            "regions": [asdict(region) for region in self.regions],
            "stages_ms": {name: round(ms, 3) for name, ms in self.stages_ms.items()},
            "total_ms": round(self.total_ms, 3),
            "warning": self.warning,
        }

    def to_record(self) -> dict[str, Any]:
        """Return `to_dict` and the measures that drift is told from, for what is kept."""
        return {
            **self.to_dict(),
            "stage_distances": [round(distance, 6) for distance in self.stage_distances],
            "measures": {name: round(value, 6) for name, value in self.measures.items()},
        }
