"""Does this box give the golden answers? The gate of the exporter, and `cff-run verify`.

A bundle carries golden images, profiles made from the references among them, and what PyTorch and a
float64 brute force say about each (`golden/expected.safetensors`, see `docs/formats.md`). What may
differ, and by how much, is the business of `cff_runtime.parity`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cff_runtime.backends import Backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError
from cff_runtime.imaging import load_image
from cff_runtime.inspector import Inspector
from cff_runtime.manifest import DEFAULT_PRECISION
from cff_runtime.parity import (
    ParityLimits,
    ParityReport,
    auroc,
    find_failures,
    limits_for,
    max_diff,
    rank_correlation,
    row_cosines,
)
from cff_runtime.profile import Profile
from cff_runtime.result import Result

# what `roles` of the golden answers says of each image
REFERENCE, GOOD, DEFECTIVE = 0, 1, 2


@dataclass(frozen=True, eq=False)
class GoldenCheck:
    """A golden image, what must come out, and what did."""

    name: str
    role: int
    expected_map: NDArray[np.float32]
    expected_score: float
    result: Result


def golden_profile(precision: str) -> str:
    """Return the file of the profile that `precision` made of the golden references."""
    return f"golden/profile.{precision}.safetensors"


def golden_condition(bundle: Bundle) -> NDArray[np.float32]:
    """Return the condition of the golden images, to run an encoder where there is no profile.

    Nothing else of the golden profile is read, so that it takes no memory.

    Raises
    ------
    BundleError
        If the golden profile is missing or damaged.
    """
    path = bundle.file(golden_profile(bundle.manifest.precision))
    try:
        with safe_open(path, framework="numpy") as file:
            condition: NDArray[np.float32] = file.get_tensor("condition")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"`{path}` must hold a condition: {error}; export again") from error
    expected = bundle.manifest.condition.shape
    if condition.shape != expected or condition.dtype != np.float32:
        raise BundleError(
            f"the condition of `{path}` must be float32 {expected}, got {condition.dtype} "
            f"{condition.shape}; export the bundle again"
        )
    return condition


def verify_bundle(
    bundle: Bundle,
    backend: Backend,
    limits: ParityLimits | None = None,
    checks: list[GoldenCheck] | None = None,
) -> ParityReport:
    """Run the golden images of a bundle, in the precision it is seen by, and compare.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
        Opened for `bundle`.
    limits : ParityLimits, optional
        Of the bundle's precision if None; without decisions where the backbone's weights are
        random.
    checks : list of GoldenCheck, optional
        Gets every image's maps, for pictures.

    Raises
    ------
    BundleError, ProfileError
        If the golden files are damaged.
    """
    precision = bundle.manifest.precision
    profile = _load_golden(bundle, precision)
    profile.require_bundle(bundle.manifest)
    fp32 = _load_golden(bundle, DEFAULT_PRECISION)
    checks = [] if checks is None else checks
    comparison = _Comparison(bundle, backend, profile)
    for index, name in enumerate(_golden_images(bundle)):
        checks.append(comparison.check(index, name))
    scores = np.array([check.result.score for check in checks])
    expected = np.array([check.expected_score for check in checks])
    probes = np.array([check.role != REFERENCE for check in checks])
    defective = np.array([check.role == DEFECTIVE for check in checks])[probes]
    threshold = fp32.threshold
    to_threshold = threshold.value - float(np.median(threshold.scores))
    map_to_threshold = threshold.pixel_value - fp32.display_range[0]
    score_diff = max_diff(scores, expected)
    report = ParityReport(
        n_images=len(checks),
        resize_equal=comparison.resize_equal,
        feature_max_diff=tuple(comparison.feature_diff),
        feature_min_cosine=tuple(float(c.min()) for c in comparison.cosines()),
        feature_mean_cosine=tuple(float(c.mean()) for c in comparison.cosines()),
        encoder_map_max_diff=comparison.encoder_map_diff,
        encoder_score_max_diff=comparison.encoder_score_diff,
        map_max_diff=comparison.map_diff,
        score_max_diff=score_diff,
        map_shift=_share(comparison.map_diff, map_to_threshold),
        score_shift=_share(score_diff, to_threshold),
        rank_correlation=rank_correlation(scores[probes], expected[probes]),
        auroc_diff=abs(auroc(scores[probes], defective) - auroc(expected[probes], defective)),
        scores=tuple(map(float, scores)),
        expected_scores=tuple(map(float, expected)),
        flipped=tuple(
            check.name
            for check in checks
            if (check.result.verdict == "reject") != (check.expected_score > threshold.value)
        ),
        limits=limits or _limits(bundle),
    )
    return replace(report, failures=find_failures(report))


class _Comparison:
    """The largest differences over the golden images so far."""

    def __init__(self, bundle: Bundle, backend: Backend, profile: Profile) -> None:
        self._bundle = bundle
        self._backend = backend
        self._profile = profile
        self._inspector = Inspector(bundle, backend)
        self._expected = bundle.tensors(bundle.manifest.golden)
        n_stages = len(bundle.manifest.stages)
        self._cosines: list[list[NDArray[np.float64]]] = [[] for _ in range(n_stages)]
        self.feature_diff = [0.0] * n_stages
        self.resize_equal = True
        self.encoder_map_diff = self.encoder_score_diff = self.map_diff = 0.0

    def check(self, index: int, name: str) -> GoldenCheck:
        """Run one golden image and take its differences in."""

        def want(key: str) -> NDArray[Any]:
            return self._tensor(f"{key}_{index}")

        resized = self._bundle.manifest.preprocessing(load_image(self._bundle.file(name)))
        golden = want("resized")
        if golden.shape != resized.shape or golden.dtype != np.uint8:
            raise BundleError(f"golden answer `resized_{index}` must be uint8 {resized.shape}")
        self.resize_equal &= np.array_equal(resized, golden)
        encoding = self._backend.encode(golden, self._profile.condition)
        if any(key.startswith("features_") and key.endswith(f"_{index}") for key in self._expected):
            for stage, handle in enumerate(encoding.features):
                features = self._backend.download(handle)
                answer = want(f"features_{stage}")
                diff = max_diff(features, answer) / _row_scale(answer)
                self.feature_diff[stage] = max(self.feature_diff[stage], diff)
                self._cosines[stage].append(row_cosines(features, answer))
        result = self._inspector.judge(encoding, self._profile, golden.shape[:2])
        diff = max_diff(encoding.map, want("encoder_map"))
        self.encoder_map_diff = max(self.encoder_map_diff, diff)
        if encoding.score is not None:
            diff = max_diff(np.array([encoding.score]), want("encoder_score"))
            self.encoder_score_diff = max(self.encoder_score_diff, diff)
        self.map_diff = max(self.map_diff, max_diff(result.anomaly_map, want("map")))
        score = want("score")
        if score.shape != (1,):
            raise BundleError(f"golden answer `score_{index}` must hold one number")
        return GoldenCheck(name, self._role(index), want("map"), float(score[0]), result)

    def cosines(self) -> list[NDArray[np.float64]]:
        """Return every token's cosine, per stage."""
        if not all(self._cosines):
            raise BundleError("golden answers must hold features of an image, export again")
        return [np.concatenate(stage) for stage in self._cosines]

    def _role(self, index: int) -> int:
        roles = self._tensor("roles")
        if roles.ndim != 1 or index >= len(roles):
            raise BundleError("golden answer `roles` must have an entry for every golden image")
        return int(roles[index])

    def _tensor(self, name: str) -> NDArray[Any]:
        if name not in self._expected:
            raise BundleError(f"golden answers must hold `{name}`; copy the bundle again")
        return self._expected[name]


def _load_golden(bundle: Bundle, precision: str) -> Profile:
    # the manifest vouches for it, no signature of its own
    return Profile.load(bundle.file(golden_profile(precision)), trusted=())


def _row_scale(features: NDArray[np.float32]) -> float:
    """Largest norm of a row, at least 1 as of features that are searched; 1 if not finite."""
    longest = float(np.linalg.norm(features.astype(np.float64), axis=-1).max(initial=1.0))
    return longest if np.isfinite(longest) else 1.0


def _golden_images(bundle: Bundle) -> list[str]:
    files = bundle.manifest.files
    names = sorted(n for n in files if n.startswith("golden/") and n.endswith("png"))
    if not names:
        raise BundleError("`files` must name golden images, there are none; export again")
    return names


def _limits(bundle: Bundle) -> ParityLimits:
    limits = limits_for(bundle.manifest.precision)
    return limits.of_features() if bundle.manifest.backbone.get("weights") == "random" else limits


def _share(diff: float, whole: float) -> float:
    """`diff` as a share of `whole`; of nothing, any difference is infinitely much."""
    if whole > 0:
        return diff / whole
    return 0.0 if diff == 0 else float("inf")
