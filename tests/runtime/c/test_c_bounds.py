"""The bounds and the rule of thumb of libcff against the Python runtime's, SciPy and exact sums."""

import ctypes
import math
from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cff_runtime.thresholds.bounds import (
    binomial_cdf,
    largest_rank,
    parts_needed,
    percent,
    upper_share,
)
from cff_runtime.thresholds.rule import default_limit, text_apart_limit

SEEDS = range(4)


class _Scores(ctypes.Structure):
    """`cff__scores`."""

    _fields_ = [("values", ctypes.POINTER(ctypes.c_double)), ("n", ctypes.c_size_t)]


def _scores(values: Sequence[float]) -> _Scores:
    return _Scores((ctypes.c_double * len(values))(*values), len(values))


@pytest.fixture(scope="module")
def bounds(c_internals: ctypes.CDLL) -> SimpleNamespace:
    """The functions of bounds.h and rule.h, typed."""
    count, number = ctypes.c_int64, ctypes.c_double
    signatures: dict[str, tuple[list[Any], Any]] = {
        "binomial_cdf": ([count, count, number], number),
        "upper_share": ([count, count, number], number),
        "largest_rank": ([count, number, number], count),
        "parts_needed": ([number, number], count),
        "default_limit": ([_Scores, count, number], number),
        "text_apart_limit": ([_Scores, _Scores, _Scores], number),
    }
    found = SimpleNamespace()
    for name, (argument_types, result_type) in signatures.items():
        function = getattr(c_internals, f"cff__{name}")
        function.argtypes, function.restype = argument_types, result_type
        setattr(found, name, function)

    def written(name: str, value: float) -> str:
        text = ctypes.create_string_buffer(328)
        getattr(c_internals, name)(number(value), text)
        return text.value.decode()

    found.percent = lambda share: written("cff__percent", share)
    found.confident = lambda confidence: written("cff__percent_confident", confidence)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_are_pythons(bounds: SimpleNamespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        n = int(rng.choice([1, 2, 7, 60, 500, 20_000]))
        n_above = int(rng.integers(0, n + 1))
        share = float(rng.choice([rng.uniform(0, 1), 10.0 ** rng.uniform(-9, 0), n_above / n]))
        confidence = float(rng.choice([0.95, rng.uniform(1e-3, 1 - 1e-6)]))
        assert bounds.binomial_cdf(n_above, n, share) == pytest.approx(
            binomial_cdf(n_above, n, share), rel=1e-12, abs=1e-300
        )
        assert bounds.upper_share(n_above, n, confidence) == pytest.approx(
            upper_share(n_above, n, confidence), rel=1e-12, abs=0.0
        )
        if 0.0 < share < 1.0:
            ranks = largest_rank(n, share, confidence)
            assert bounds.largest_rank(n, share, confidence) == ranks
            assert bounds.parts_needed(share, confidence) == parts_needed(share, confidence)


@pytest.mark.parametrize("share", [Fraction(1, 1000), Fraction(1, 4), Fraction(15, 16)])
@pytest.mark.parametrize("n", [1, 5, 40, 300])
def test_the_binomial_sum_is_the_exact_one(
    bounds: SimpleNamespace, n: int, share: Fraction
) -> None:
    share = Fraction(float(share))
    total = Fraction(0)
    for i in range(n):
        total += math.comb(n, i) * share**i * (1 - share) ** (n - i)
        assert bounds.binomial_cdf(i, n, float(share)) == pytest.approx(
            float(total), rel=1e-11, abs=1e-300
        )


def test_the_binomial_sum_at_its_ends(bounds: SimpleNamespace) -> None:
    for n_above, n, share in [(5, 5, 0.3), (0, 5, 0.0), (4, 5, 1.0), (-1, 5, 0.5), (0, 0, 0.5)]:
        assert bounds.binomial_cdf(n_above, n, share) == binomial_cdf(n_above, n, share)
    assert bounds.upper_share(0, 0, 0.5) == 1.0
    assert bounds.largest_rank(0, 0.5, 0.5) == 0


@pytest.mark.parametrize("n", [1, 4, 100, 2000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_bound_is_clopper_s_and_pearson_s(
    bounds: SimpleNamespace, n: int, confidence: float
) -> None:
    for n_above in sorted({0, n // 3, n // 2, n - 1}):
        expected = stats.beta.ppf(confidence, n_above + 1, n - n_above)
        assert bounds.upper_share(n_above, n, confidence) == pytest.approx(expected, rel=1e-9)


def test_ten_million_parts(bounds: SimpleNamespace) -> None:
    n = 10**7
    assert bounds.upper_share(0, n, 0.95) == pytest.approx(-math.expm1(math.log(0.05) / n))
    bound = bounds.upper_share(99_999, n, 0.95)
    assert bound == pytest.approx(stats.beta.ppf(0.95, 100_000, n + 1 - 100_000), rel=1e-9)
    rank = bounds.largest_rank(n, 0.01, 0.95)
    assert stats.binom.cdf(rank - 1, n, 0.01) <= 0.05 < stats.binom.cdf(rank, n, 0.01)
    half = bounds.binomial_cdf(n // 2, n, 0.5)
    assert half == pytest.approx(stats.binom.cdf(n // 2, n, 0.5), rel=1e-5)


def test_counts_beyond_all_counting(bounds: SimpleNamespace) -> None:
    assert bounds.parts_needed(5e-324, 0.95) == 2**53
    assert bounds.parts_needed(1e-300, 1 - 2**-53) == 2**53
    assert bounds.parts_needed(1 - 2**-53, 1e-300) == 1
    assert bounds.upper_share(0, 2**63 - 1, 0.95) <= 2.0**-59
    assert bounds.largest_rank(2**62, 1e-300, 0.95) == 0


def test_shares_are_written_as_python_writes_them(bounds: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    shares = [10.0 ** rng.uniform(-12, 0) for _ in range(2000)]
    shares += [i / 1000 for i in range(1001)] + [1 / i for i in range(1, 400)]
    shares += [10.0**-i for i in range(1, 306)] + [1 - 2**-53, 0.07, 0.1 - 1e-17, 0.0, -1.0]
    shares += [math.nextafter(i / 100, end) for i in range(1, 100) for end in (0.0, 1.0)]
    for share in shares:
        assert bounds.percent(share) == percent(share)
    assert bounds.percent(5e-324) == "0." + "0" * 307 + "1%"  # where Python's 10.0**n overflows


def test_confidences_are_written_as_python_writes_them(bounds: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    values = [10.0 ** rng.uniform(-12, 0) for _ in range(2000)] + [
        rng.uniform() for _ in range(500)
    ]
    values += [10.0**-i for i in range(1, 308)] + [0.95, 0.999, 1 - 2**-53, 0.0999999999, 5e-324]
    for confidence in values:
        assert bounds.confident(confidence) == f"{100.0 * confidence:.6g}%"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rule_of_thumb_is_pythons(bounds: SimpleNamespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        n = int(rng.integers(1, 9))
        scores, peaks, more = (
            [float(value) for value in rng.normal(size=count)] for count in (n, n, 3)
        )
        margin = float(rng.uniform(0, 3))
        limit = bounds.default_limit(_scores(scores), n, margin)
        assert limit == pytest.approx(default_limit(scores, n, margin), rel=1e-12, abs=0.0)
        every = [*peaks, *more]
        apart = bounds.text_apart_limit(_scores(scores), _scores(peaks), _scores(every))
        assert apart == pytest.approx(text_apart_limit(scores, peaks, every), rel=1e-12, abs=0.0)
