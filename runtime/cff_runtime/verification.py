"""Does this box give the golden answers? The gate of the exporter, and `cff-run verify`.

A bundle carries golden images, a profile made from two of them, and what PyTorch and a float64
brute force say about each (`golden/expected.safetensors`). The parity limits are absolute.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError, ParityError
from cff_runtime.imaging import load_image
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile

GOLDEN_PROFILE = "golden/profile.safetensors"


@dataclass(frozen=True)
class ParityLimits:
    """Largest absolute differences that pass."""

    features: float = 1e-4
    text_map: float = 1e-3
    anomaly_map: float = 1e-3
    score: float = 1e-3


@dataclass(frozen=True)
class ParityReport:
    """Golden images through this backend, against the expected answers.

    Attributes
    ----------
    n_images : int
    resize_equal : bool
        Whether every resized image is equal to the last bit.
    feature_max_diff, feature_min_cosine : tuple of S floats
        Per stage.
    text_map_max_diff, text_score_max_diff, map_max_diff, score_max_diff : float
    verdict_flips : int
    failures : tuple of str
        One sentence per limit that was left; empty if all hold.
    """

    n_images: int
    resize_equal: bool
    feature_max_diff: tuple[float, ...]
    feature_min_cosine: tuple[float, ...]
    text_map_max_diff: float
    text_score_max_diff: float
    map_max_diff: float
    score_max_diff: float
    verdict_flips: int
    limits: ParityLimits
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, which has no infinity: it becomes None."""
        fields = {
            name: [_or_none(v) for v in value] if isinstance(value, tuple) else _or_none(value)
            for name, value in asdict(self).items()
        }
        return {"passed": self.passed, **fields}

    def require_passed(self) -> None:
        """Raise if a limit was left.

        Raises
        ------
        ParityError
            Naming every stage and quantity outside its limit.
        """
        if self.failures:
            raise ParityError("parity gate: " + "; ".join(self.failures))


def verify_bundle(
    bundle: Bundle, backend: Backend, limits: ParityLimits | None = None
) -> ParityReport:
    """Run the golden images of a bundle and compare.

    Raises
    ------
    BundleError, ProfileError
        If the golden files are damaged.
    """
    limits = limits or ParityLimits()
    n_stages = len(bundle.manifest.stages)
    expected = bundle.tensors(bundle.manifest.golden)
    names = sorted(
        n for n in bundle.manifest.files if n.startswith("golden/") and n.endswith("png")
    )
    if not names:
        raise BundleError("`files` must name golden images, there are none; export again")
    profile = Profile.load(bundle.file(GOLDEN_PROFILE))
    profile.require_bundle(bundle.manifest)
    inspector = Inspector(bundle, backend)
    worst = {"text_map": 0.0, "text_score": 0.0, "map": 0.0, "score": 0.0}
    feature_diff, feature_cosine = [0.0] * n_stages, [1.0] * n_stages
    resize_equal, flips = True, 0
    for index, name in enumerate(names):

        def want(key: str, index: int = index) -> NDArray[Any]:
            return _tensor(expected, f"{key}_{index}")

        image = load_image(bundle.file(name))
        resized = bundle.manifest.preprocessing(image)
        golden = want("resized")
        if golden.shape != resized.shape or golden.dtype != np.uint8:
            raise BundleError(f"golden answer `resized_{index}` must be uint8 {resized.shape}")
        resize_equal &= np.array_equal(resized, golden)
        encoding = backend.encode(golden, profile.text)
        for stage in range(n_stages):
            features = backend.download(encoding.features[stage])
            diff, cosine = _compare(features, want(f"features_{stage}"))
            feature_diff[stage] = max(feature_diff[stage], diff)
            feature_cosine[stage] = min(feature_cosine[stage], cosine)
        result = inspector.inspect(golden, profile)
        worst["text_map"] = max(worst["text_map"], _diff(encoding.text_map, want("text_map")))
        if encoding.text_score is not None:
            text_score = np.array([encoding.text_score])
            worst["text_score"] = max(worst["text_score"], _diff(text_score, want("text_score")))
        worst["map"] = max(worst["map"], _diff(result.anomaly_map, want("map")))
        worst["score"] = max(worst["score"], _diff(np.array([result.score]), want("score")))
        should_reject = bool(np.all(want("score") > profile.threshold.value))
        flips += (result.verdict == "reject") != should_reject
    report = ParityReport(
        n_images=len(names),
        resize_equal=resize_equal,
        feature_max_diff=tuple(feature_diff),
        feature_min_cosine=tuple(feature_cosine),
        text_map_max_diff=worst["text_map"],
        text_score_max_diff=worst["text_score"],
        map_max_diff=worst["map"],
        score_max_diff=worst["score"],
        verdict_flips=flips,
        limits=limits,
        failures=(),
    )
    return _with_failures(report)


def _with_failures(report: ParityReport) -> ParityReport:
    limits, failures = report.limits, []
    if not report.resize_equal:
        failures.append(
            "the resize differs from the golden vectors in some bits; compare the Pillow releases"
        )
    for stage, diff in enumerate(report.feature_max_diff):
        if not diff <= limits.features:
            failures.append(
                f"features of stage {stage} differ by {diff:.2e}, at most {limits.features:.0e} "
                f"may be (smallest cosine {report.feature_min_cosine[stage]:.6f})"
            )
    for name, diff, limit in (
        ("text map", report.text_map_max_diff, limits.text_map),
        ("text score", report.text_score_max_diff, limits.score),
        ("anomaly map", report.map_max_diff, limits.anomaly_map),
        ("score", report.score_max_diff, limits.score),
    ):
        if not diff <= limit:
            failures.append(f"{name} differs by {diff:.2e}, at most {limit:.0e} may be")
    if report.verdict_flips:
        failures.append(f"{report.verdict_flips} of {report.n_images} verdicts flip")
    return ParityReport(**{**vars(report), "failures": tuple(failures)})


def _or_none(value: Any) -> Any:
    return None if value == float("inf") else value


def _tensor(tensors: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in tensors:
        raise BundleError(f"golden answers must hold `{name}`; copy the bundle again")
    return tensors[name]


def _diff(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Largest absolute difference; another shape or a NaN counts as infinitely wrong.

    A NaN would get lost: ``max(0.0, nan)`` is 0.0.
    """
    if got.shape != want.shape or not got.size:
        return float("inf")
    diff = float(np.abs(got.astype(np.float64) - want).max())
    return diff if np.isfinite(diff) else float("inf")


def _compare(got: NDArray[np.float32], want: NDArray[np.float32]) -> tuple[float, float]:
    """Largest difference and smallest cosine between rows."""
    diff = _diff(got, want)
    if not np.isfinite(diff):
        return float("inf"), -1.0
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosine = np.sum(got.astype(np.float64) * want, axis=1) / np.maximum(norms, 1e-12)
    return diff, float(cosine.min())
