"""The gate's arithmetic against scikit-learn, SciPy and float64 NumPy; its limits one at a time.

What a whole bundle gives is in `test_verification.py`.
"""

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cff_runtime.errors import BundleError, ParityError
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

LIMITS = ParityLimits(
    features=0.001,
    cosine=0.9,
    encoder_map=0.002,
    anomaly_map=0.003,
    score=0.004,
    map_shift=0.05,
    score_shift=0.06,
    rank_correlation=0.7,
    auroc=0.008,
    verdict_flips=1,
)
# every number is exactly at its limit
REPORT = ParityReport(
    n_images=8,
    resize_equal=True,
    feature_max_diff=(0.001, 0.0),
    feature_min_cosine=(0.123456, -1.0),
    feature_mean_cosine=(1.0, 0.9),
    encoder_map_max_diff=0.002,
    encoder_score_max_diff=0.004,
    map_max_diff=0.003,
    score_max_diff=0.004,
    map_shift=0.05,
    score_shift=0.06,
    rank_correlation=0.7,
    auroc_diff=0.008,
    scores=(0.5, 0.7),
    expected_scores=(0.5, 0.75),
    flipped=("c.png",),
    limits=LIMITS,
)
BROKEN = (math.inf, math.nan)


def _with(**changes: Any) -> tuple[str, ...]:
    return find_failures(replace(REPORT, **changes))


# ---- limits


def test_what_is_at_its_limit_passes() -> None:
    assert find_failures(REPORT) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"resize_equal": False},
            "the resize differs from the golden vectors in some bits; compare the Pillow releases",
        ),
        (
            {"feature_max_diff": (0.0, 0.00123)},
            "features of stage 1 differ by 1.23e-03, at most 1e-03 may be "
            "(smallest cosine -1.000000)",
        ),
        (
            {"feature_mean_cosine": (0.89999, 1.0)},
            "features of stage 0 have a mean cosine of 0.89999 to fp32, at least 0.9 must be "
            "(smallest 0.12346)",
        ),
        (
            {"encoder_map_max_diff": 0.0021},
            "encoder's map differs by 2.10e-03, at most 2e-03 may be",
        ),
        (
            {"encoder_score_max_diff": 0.0041},
            "encoder's score differs by 4.10e-03, at most 4e-03 may be",
        ),
        ({"map_max_diff": 0.0031}, "anomaly map differs by 3.10e-03, at most 3e-03 may be"),
        ({"score_max_diff": 0.0041}, "score differs by 4.10e-03, at most 4e-03 may be"),
        ({"auroc_diff": 0.0081}, "AUROC differs by 8.10e-03, at most 8e-03 may be"),
        (
            {"map_shift": 0.051},
            "anomaly map moves by 5.1% of the way to its threshold, at most 5% may be",
        ),
        (
            {"score_shift": 0.612},
            "score moves by 61.2% of the way to its threshold, at most 6% may be",
        ),
        (
            {"rank_correlation": 0.699},
            "the scores' rank correlation is 0.699, at least 0.7 must be",
        ),
        ({"flipped": ("a.png", "b.png")}, "2 of 8 verdicts flip: a.png, b.png"),
    ],
)
def test_each_limit_alone_gives_its_one_sentence(change: dict[str, Any], sentence: str) -> None:
    assert _with(**change) == (sentence,)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("encoder_map_max_diff", "encoder's map differs by "),
        ("encoder_score_max_diff", "encoder's score differs by "),
        ("map_max_diff", "anomaly map differs by "),
        ("score_max_diff", "score differs by "),
        ("auroc_diff", "AUROC differs by "),
        ("map_shift", "anomaly map moves by "),
        ("score_shift", "score moves by "),
    ],
)
def test_nothing_that_is_not_finite_passes(name: str, start: str, value: float) -> None:
    (failure,) = _with(**{name: value})
    assert failure.startswith(start)


def test_no_cosine_that_is_not_finite_passes() -> None:
    assert len(_with(feature_max_diff=BROKEN)) == 2
    assert len(_with(feature_mean_cosine=(math.nan, math.nan))) == 2
    assert len(_with(rank_correlation=math.nan)) == 1


def test_a_stage_is_told_once_by_its_difference_first() -> None:
    failures = _with(feature_max_diff=(0.5, 0.0), feature_mean_cosine=(0.1, 0.1))
    assert [failure[:29] for failure in failures] == [
        "features of stage 0 differ by",
        "features of stage 1 have a me",
    ]


def test_all_that_fails_is_told_at_once() -> None:
    infinite = [f.name for f in fields(ParityReport) if f.name.endswith(("_diff", "_shift"))]
    failures = _with(
        **{**dict.fromkeys(infinite, math.inf), "feature_max_diff": BROKEN},
        resize_equal=False,
        rank_correlation=-1.0,
        flipped=("a.png", "b.png"),
    )
    assert len(failures) == len(set(failures)) == 12


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        ("features", ("feature_max_diff",)),
        ("encoder_map", ("encoder_map_max_diff",)),
        ("anomaly_map", ("map_max_diff",)),
        ("score", ("score_max_diff", "encoder_score_max_diff")),
        ("verdict_flips", ("flipped",)),
    ],
)
def test_a_limit_of_none_is_not_checked(limit: str, names: tuple[str, ...]) -> None:
    several = {"feature_max_diff": BROKEN, "flipped": ("a.png", "b.png")}
    worse = {name: several.get(name, math.inf) for name in names}
    unchecked = replace(LIMITS, **{limit: None})

    assert len(_with(**worse)) == (2 if limit in ("features", "score") else 1)
    assert _with(**worse, limits=unchecked) == ()


def test_without_a_limit_of_features_their_cosine_still_counts() -> None:
    unchecked = replace(LIMITS, features=None)
    (failure,) = _with(feature_max_diff=BROKEN, feature_mean_cosine=(1.0, 0.8), limits=unchecked)
    assert failure.startswith("features of stage 1 have a mean cosine of 0.80000 to fp32")


def test_fp32_is_held_to_its_numbers() -> None:
    assert limits_for("fp32") == ParityLimits()
    assert all(getattr(ParityLimits(), field.name) is not None for field in fields(ParityLimits))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-qdq"])
def test_reduced_precisions_are_held_to_what_they_decide(precision: str) -> None:
    limits = limits_for(precision)

    assert limits.features is limits.encoder_map is limits.anomaly_map is limits.score is None
    assert limits.cosine == 0.9995 and limits.rank_correlation == 0.94
    assert limits.map_shift == limits.score_shift == 0.05
    # 0.2 points and not one verdict, whatever the precision
    assert limits.auroc == ParityLimits().auroc == 0.002
    assert limits.verdict_flips == ParityLimits().verdict_flips == 0


@pytest.mark.parametrize("precision", ["bf16", "", "FP16", "qdq-int8", "x" * 1000])
def test_a_precision_that_nobody_knows_is_one_sentence(precision: str) -> None:
    with pytest.raises(BundleError, match="`precision` must be one of fp32, fp16, int8") as caught:
        limits_for(precision)
    assert len(str(caught.value)) < 200


def test_limits_of_features_leave_decisions_alone() -> None:
    decided = {"rank_correlation": -1.0, "auroc_diff": 1.0, "flipped": ("a.png",) * 8}
    assert len(_with(**decided)) == 3
    assert _with(**decided, limits=LIMITS.of_features()) == ()
    assert _with(**decided, score_shift=0.5, map_shift=9.0, limits=LIMITS.of_features()) == ()
    (failure,) = _with(**decided, feature_mean_cosine=(1.0, 0.5), limits=LIMITS.of_features())
    assert failure.startswith("features of stage 1 have a mean cosine of 0.5")


# ---- the report


def test_the_summary_is_the_worst_of_each_kind() -> None:
    report = replace(REPORT, feature_max_diff=(1.23e-6, 4.56e-5, 7e-9), flipped=("a", "b"))
    assert report.summary() == (
        "features 4.6e-05, map 3.0e-03 (5.00% of the way to its threshold), "
        "score 4.0e-03 (6.00%), 2 verdict flips"
    )


def test_a_report_is_strict_json_of_all_its_fields() -> None:
    report = replace(
        REPORT,
        feature_max_diff=(math.inf, 0.5),
        feature_mean_cosine=(math.nan, 0.25),
        scores=(-math.inf, 0.7),
        map_shift=math.inf,
        auroc_diff=math.nan,
        flipped=("a.png",),
        limits=replace(LIMITS, features=None, cosine=math.nan),
        failures=("one", "two"),
    )
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    names = [field.name for field in fields(ParityReport)]
    assert list(read) == ["passed", *names, "verdict_flips"]
    assert read["feature_max_diff"] == [None, 0.5] and read["feature_mean_cosine"] == [None, 0.25]
    assert read["scores"] == [None, 0.7] and read["map_shift"] is read["auroc_diff"] is None
    assert read["limits"]["features"] is read["limits"]["cosine"] is None
    assert read["limits"]["map_shift"] == 0.05 and read["map_max_diff"] == 0.003
    assert read["flipped"] == ["a.png"] and read["verdict_flips"] == 1
    assert read["failures"] == ["one", "two"] and read["passed"] is False
    assert read["resize_equal"] is True and read["n_images"] == 8


def test_a_report_passes_if_nothing_failed() -> None:
    assert REPORT.passed and REPORT.to_dict()["passed"] is True
    REPORT.require_passed()
    failed = replace(REPORT, failures=("map differs", "score moves"))
    assert not failed.passed
    with pytest.raises(ParityError, match=r"^parity gate: map differs; score moves$"):
        failed.require_passed()


# ---- differences


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (2, 4, 3)])
def test_the_largest_difference_is_found(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    got = rng.normal(size=shape).astype(np.float32)
    want = rng.normal(size=shape).astype(np.float32)
    flat = zip(got.ravel().tolist(), want.ravel().tolist(), strict=True)
    assert max_diff(got, want) == max(abs(a - b) for a, b in flat)
    assert max_diff(got, got) == 0.0


def test_differences_are_taken_in_float64() -> None:
    assert max_diff(np.array([0, 255], np.uint8), np.array([255, 254], np.uint8)) == 255.0
    large = np.float32(3e38)
    assert max_diff(np.array([large]), np.array([-large])) == 2.0 * float(large)
    half = np.array([60000.0], np.float16)
    assert max_diff(half, -half) == 2.0 * float(half[0])


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros((2, 3)), np.zeros(3)),  # would broadcast
        (np.zeros(1), np.zeros(())),
        (np.zeros(0), np.zeros(0)),
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.array([0.0, np.nan]), np.zeros(2)),
        (np.zeros(2), np.array([np.nan, 0.0])),
        (np.array([0.0, -np.inf]), np.zeros(2)),
        (np.array([5.0, np.nan]), np.array([np.nan, 9.0])),
    ],
)
def test_what_cannot_be_compared_is_infinitely_wrong(
    got: NDArray[np.float64], want: NDArray[np.float64]
) -> None:
    assert max_diff(got, want) == math.inf


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_cosines_are_those_of_float64(scale: float) -> None:
    rng = np.random.default_rng(2)
    got = (scale * rng.normal(size=(50, 33))).astype(np.float32)
    want = (got + 0.3 * scale * rng.normal(size=(50, 33))).astype(np.float32)
    a, b = got.astype(np.float64), want.astype(np.float64)
    expected = np.einsum("nc,nc->n", a, b) / np.sqrt(
        np.einsum("nc,nc->n", a, a) * np.einsum("nc,nc->n", b, b)
    )
    cosines = row_cosines(got, want)
    assert cosines.shape == (50,)
    np.testing.assert_allclose(cosines, expected, rtol=0, atol=5e-7)


def test_cosines_of_plain_directions() -> None:
    rows = np.array([[3, 4], [3, 4], [3, 4], [0, 0]], np.float32)
    others = np.array([[6, 8], [-3, -4], [4, -3], [3, 4]], np.float32)
    np.testing.assert_allclose(row_cosines(rows, others), [1.0, -1.0, 0.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_points_the_other_way(value: float) -> None:
    rows = np.ones((3, 4), np.float32)
    broken = rows.copy()
    broken[1, 2] = value
    for cosines in (row_cosines(broken, rows), row_cosines(rows, broken)):
        np.testing.assert_allclose(cosines, [1.0, -1.0, 1.0], atol=1e-7)


@pytest.mark.parametrize(("got", "want"), [((3, 4), (3, 5)), ((3, 4), (1, 4)), ((0, 4), (0, 4))])
def test_rows_of_another_shape_point_the_other_way(
    got: tuple[int, int], want: tuple[int, int]
) -> None:
    cosines = row_cosines(np.ones(got, np.float32), np.ones(want, np.float32))
    assert cosines.tolist() == [-1.0]


# ---- decisions


@pytest.mark.parametrize("levels", [0, 2, 5])  # 0: no ties
@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_that_of_scikit_learn(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    defective = np.concatenate([[True, False], rng.random(28) < 0.4])
    scores = rng.normal(size=30) + defective
    if levels:
        scores = np.digitize(scores, np.linspace(-0.5, 1.5, levels - 1)).astype(np.float64)
    assert auroc(scores, defective) == pytest.approx(roc_auc_score(defective, scores), abs=1e-12)


def test_auroc_of_plain_cases() -> None:
    defective = np.array([False, False, True, True])
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), defective) == 1.0
    assert auroc(np.array([3.0, 4.0, 1.0, 2.0]), defective) == 0.0
    assert auroc(np.full(4, 7.0), defective) == 0.5
    for kind in (np.zeros(4, bool), np.ones(4, bool)):
        assert math.isnan(auroc(np.arange(4.0), kind))


@pytest.mark.parametrize("levels", [0, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=25)
    second = first + rng.normal(size=25)
    if levels:
        first, second = (
            np.digitize(values, np.linspace(-1, 1, levels - 1)).astype(np.float64)
            for values in (first, second)
        )
    expected = spearmanr(first, second).statistic
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(second, first) == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_of_plain_cases() -> None:
    rising = np.array([1.0, 2.0, 4.0, 8.0])
    assert rank_correlation(rising, np.exp(rising)) == pytest.approx(1.0)
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    assert rank_correlation(np.full(4, 2.0), np.full(4, 5.0)) == 1.0
    assert rank_correlation(rising, np.full(4, 5.0)) == 0.0
    assert rank_correlation(np.full(4, 5.0), rising) == 0.0
    assert rank_correlation(np.array([3.0]), np.array([9.0])) == 1.0
