"""The parity gate: what may differ between a bundle's answers and PyTorch's, and the report.

Two kinds of limits, both on the golden images. *Numbers*: features, maps and scores; a rounding
of fp16 or int8 is seen here first, stage by stage. *Decisions*: the verdict at the threshold, the
order of the scores, the AUROC; they are what a line depends on.

Anomaly maps have no scale of their own. What is left of a good part's way to rejection is one:

    map shift   = max |map - expected| / (pixel threshold - median of good parts' maps)
    score shift = max |score - expected| / (threshold - median of good parts' scores)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import BundleError, ParityError


@dataclass(frozen=True)
class ParityLimits:
    """What passes; a limit of None is not checked.

    Attributes
    ----------
    features : float or None
        Largest absolute difference of a feature, as a share of the longest row where that is longer
        than 1: rows that are searched have unit length, others any.
    cosine : float
        Smallest mean cosine of a stage's features.
    encoder_map, anomaly_map, score : float or None
        Largest absolute differences.
    map_shift, score_shift : float
        See the module.
    rank_correlation : float
        Smallest Spearman correlation of the image scores.
    auroc : float
        Largest difference of the image AUROC.
    verdict_flips : int or None
        Most golden images that may get another verdict.
    """

    features: float | None = 1e-4
    cosine: float = 0.99999
    encoder_map: float | None = 1e-3
    anomaly_map: float | None = 1e-3
    score: float | None = 1e-3
    map_shift: float = 0.01
    score_shift: float = 0.01
    rank_correlation: float = 0.99
    auroc: float = 0.002
    verdict_flips: int | None = 0

    def of_features(self) -> "ParityLimits":
        """Return the limits without those of decisions, which random weights make by chance."""
        anything = float("inf")
        return replace(
            self,
            map_shift=anything,
            score_shift=anything,
            rank_correlation=-1.0,
            auroc=1.0,
            verdict_flips=None,
        )


# numbers must differ here, so they are judged in proportion, and by what they decide
_REDUCED = ParityLimits(
    features=None,
    cosine=0.9995,
    encoder_map=None,
    anomaly_map=None,
    score=None,
    map_shift=0.05,
    score_shift=0.05,
    rank_correlation=0.94,
)
_LIMITS = {"fp32": ParityLimits(), "fp16": _REDUCED, "int8": _REDUCED, "int8-qdq": _REDUCED}


def limits_for(precision: str) -> ParityLimits:
    """Return the limits of a precision.

    Raises
    ------
    BundleError
        If it is no precision that this version knows.
    """
    if precision not in _LIMITS:
        raise BundleError(
            f"`precision` must be one of {', '.join(_LIMITS)}, got {precision!r:.80}; "
            "update the runtime"
        )
    return _LIMITS[precision]


@dataclass(frozen=True)
class ParityReport:
    """Golden images through this backend, against the expected answers.

    Attributes
    ----------
    n_images : int
    resize_equal : bool
        Whether every resized image is equal to the last bit.
    feature_max_diff, feature_min_cosine, feature_mean_cosine : tuple of S floats
        Per stage.
    encoder_map_max_diff, encoder_score_max_diff, map_max_diff, score_max_diff : float
    map_shift, score_shift : float
        See the module.
    rank_correlation, auroc_diff : float
        Of the scores of the golden images that are no references.
    scores, expected_scores : tuple of float
        Of every golden image.
    flipped : tuple of str
        Golden images whose verdict differs from that of the expected score at the threshold of
        fp32.
    failures : tuple of str
        One sentence per limit that was left; empty if all hold.
    """

    n_images: int
    resize_equal: bool
    feature_max_diff: tuple[float, ...]
    feature_min_cosine: tuple[float, ...]
    feature_mean_cosine: tuple[float, ...]
    encoder_map_max_diff: float
    encoder_score_max_diff: float
    map_max_diff: float
    score_max_diff: float
    map_shift: float
    score_shift: float
    rank_correlation: float
    auroc_diff: float
    scores: tuple[float, ...]
    expected_scores: tuple[float, ...]
    flipped: tuple[str, ...]
    limits: ParityLimits
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.failures

    @property
    def verdict_flips(self) -> int:
        """How many golden images get another verdict."""
        return len(self.flipped)

    def summary(self) -> str:
        """Return the worst of each kind in a line."""
        return (
            f"features {max(self.feature_max_diff):.1e}, map {self.map_max_diff:.1e} "
            f"({self.map_shift:.2%} of the way to its threshold), "
            f"score {self.score_max_diff:.1e} ({self.score_shift:.2%}), "
            f"{self.verdict_flips} verdict flips"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, which has no infinity: it becomes None."""
        fields = {name: _or_none(value) for name, value in asdict(self).items()}
        return {"passed": self.passed, **fields, "verdict_flips": self.verdict_flips}

    def require_passed(self) -> None:
        """Raise if a limit was left.

        Raises
        ------
        ParityError
            Naming every stage and quantity outside its limit.
        """
        if self.failures:
            raise ParityError("parity gate: " + "; ".join(self.failures))


def find_failures(report: ParityReport) -> tuple[str, ...]:
    """Return one sentence per limit that `report` leaves."""
    limits, failures = report.limits, []
    if not report.resize_equal:
        failures.append(
            "the resize differs from the golden vectors in some bits; compare the Pillow releases"
        )
    for stage, (diff, smallest, mean) in enumerate(
        zip(
            report.feature_max_diff,
            report.feature_min_cosine,
            report.feature_mean_cosine,
            strict=True,
        )
    ):
        if limits.features is not None and not diff <= limits.features:
            failures.append(
                f"features of stage {stage} differ by {diff:.2e}, at most {limits.features:.0e} "
                f"may be (smallest cosine {smallest:.6f})"
            )
        elif not mean >= limits.cosine:
            failures.append(
                f"features of stage {stage} have a mean cosine of {mean:.5f} to fp32, at least "
                f"{limits.cosine} must be (smallest {smallest:.5f})"
            )
    for name, value, limit in (
        ("encoder's map", report.encoder_map_max_diff, limits.encoder_map),
        ("encoder's score", report.encoder_score_max_diff, limits.score),
        ("anomaly map", report.map_max_diff, limits.anomaly_map),
        ("score", report.score_max_diff, limits.score),
        ("AUROC", report.auroc_diff, limits.auroc),
    ):
        if limit is not None and not value <= limit:
            failures.append(f"{name} differs by {value:.2e}, at most {limit:.0e} may be")
    for name, value, limit in (
        ("anomaly map", report.map_shift, limits.map_shift),
        ("score", report.score_shift, limits.score_shift),
    ):
        if not value <= limit:
            failures.append(
                f"{name} moves by {value:.1%} of the way to its threshold, at most {limit:.0%} may "
                "be"
            )
    if not report.rank_correlation >= limits.rank_correlation:
        failures.append(
            f"the scores' rank correlation is {report.rank_correlation:.3f}, at least "
            f"{limits.rank_correlation} must be"
        )
    if limits.verdict_flips is not None and report.verdict_flips > limits.verdict_flips:
        failures.append(
            f"{report.verdict_flips} of {report.n_images} verdicts flip: "
            + ", ".join(report.flipped)
        )
    return tuple(failures)


def max_diff(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Largest absolute difference; another shape or a NaN counts as infinitely wrong.

    A NaN would get lost: ``max(0.0, nan)`` is 0.0.
    """
    if got.shape != want.shape or not got.size:
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinity less infinity
        diff = float(np.abs(got.astype(np.float64) - want).max())
    return diff if np.isfinite(diff) else float("inf")


def row_cosines(got: NDArray[np.float32], want: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines [N] between the rows of two arrays [N,C]; -1 where one is not finite."""
    if got.shape != want.shape or not got.size:
        return np.array([-1.0])
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.sum(a * b, axis=1) / np.maximum(norms, 1e-12)
    return np.where(np.isfinite(cosine), cosine, -1.0)


def auroc(scores: NDArray[np.float64], defective: NDArray[np.bool_]) -> float:
    """Share of (good, defective) pairs in the right order, ties half; NaN without a pair."""
    good, bad = scores[~defective], scores[defective]
    if not (good.size and bad.size):
        return float("nan")
    difference = bad[:, None] - good[None, :]
    return float(np.mean(np.where(difference == 0, 0.5, difference > 0)))


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's correlation, ties with their mean rank; 1 if both are constant.

    NaN without values or with one that is not finite.
    """
    if not (first.size and np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    if norm == 0.0:
        return 1.0 if a @ a == b @ b else 0.0
    return float(a @ b) / norm


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    smaller = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return smaller + (equal - 1) / 2


def _or_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _or_none(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_or_none(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
