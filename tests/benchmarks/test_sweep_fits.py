"""Laws fitted to times: numbers against NumPy and SciPy, verdicts on made-up cells."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from cff_bench.sweep.fits import LineFit, fit_amdahl, fit_line, serial_share, verdict
from cff_runtime.errors import UsageError

X = (1.0, 2.0, 4.0, 8.0, 16.0)
PLACES = [f"K = {value:g}" for value in X]


def noisy_rounds(n: int, noise: float, curve: float = 0.0) -> NDArray[np.float64]:
    """Times 3 + 0.5 x, with a bend and a noise in proportion."""
    rng = np.random.default_rng(1)
    x = np.array(X)
    exact = 3 + 0.5 * x + curve * x**2
    rounds: NDArray[np.float64] = exact * (1 + noise * rng.standard_normal((n, len(x))))
    return rounds


def fit(rounds: NDArray[np.float64] | Sequence[Sequence[float]]) -> LineFit:
    return fit_line(X, [list(row) for row in rounds])


def test_the_line_is_that_of_numpy_and_scipy() -> None:
    rounds = noisy_rounds(9, 0.05)
    medians = np.median(rounds, axis=0)
    line = fit(rounds)
    slope, intercept = np.polyfit(X, medians, 1, w=1 / medians)
    assert line.t_ms == pytest.approx(medians)
    assert (line.intercept, line.slope) == pytest.approx((intercept, slope))
    found, _ = curve_fit(lambda x, a, b: a + b * x, X, medians, sigma=medians)
    assert (line.intercept, line.slope) == pytest.approx(tuple(found), rel=1e-6)


def test_residuals_and_r2_are_those_of_their_definitions() -> None:
    rounds = noisy_rounds(9, 0.05)
    line = fit(rounds)
    medians = np.median(rounds, axis=0)
    fitted = line.intercept + line.slope * np.array(X)
    assert line.residuals == pytest.approx((medians - fitted) / medians)
    assert line.largest_residual == pytest.approx(np.abs(1 - fitted / medians).max())
    expected = 1 - ((medians - fitted) ** 2).sum() / ((medians - medians.mean()) ** 2).sum()
    assert line.r2 == pytest.approx(expected)
    assert line.at(3.0) == pytest.approx(line.intercept + 3 * line.slope)
    assert line.n == 9


def test_an_exact_line_comes_back_with_intervals_of_no_width() -> None:
    line = fit([[3 + 0.5 * x for x in X]] * 4)
    assert (line.intercept, line.slope, line.r2) == pytest.approx((3, 0.5, 1))
    assert line.intercept_interval == pytest.approx((3, 3))
    assert line.slope_interval == pytest.approx((0.5, 0.5))
    assert line.fits is True
    assert verdict(line, "the line", PLACES).startswith("the line holds within 0.0%")


def test_intervals_hold_the_truth_and_narrow_with_rounds() -> None:
    few, many = fit(noisy_rounds(7, 0.05)), fit(noisy_rounds(200, 0.05))
    assert few.slope_interval and many.slope_interval and many.intercept_interval
    assert many.slope_interval[0] < 0.5 < many.slope_interval[1]
    assert many.intercept_interval[0] < 3 < many.intercept_interval[1]
    widths = [high - low for low, high in (few.slope_interval, many.slope_interval)]
    assert widths[1] < widths[0] / 2
    assert fit(noisy_rounds(7, 0.05)) == few  # nothing is left to chance


def test_a_single_round_has_no_interval() -> None:
    line = fit(noisy_rounds(1, 0.0))
    assert (line.slope_interval, line.intercept_interval, line.t_intervals) == (None, None, None)
    assert line.fits is True


def test_a_bend_is_told_with_its_worst_place() -> None:
    rounds = noisy_rounds(50, 0.01, curve=0.2)
    line = fit(rounds)
    assert line.fits is False
    said = verdict(line, "the line", PLACES)
    place = PLACES[int(np.argmax(np.abs(line.residuals)))]
    assert "does not hold" in said and f"at {place} it takes" in said
    share = abs(line.t_ms[line.worst] / line.at(X[line.worst]) - 1)
    side = "more" if line.t_ms[line.worst] > line.at(X[line.worst]) else "less"
    assert f"{share:.0%} {side} than fitted" in said


def test_noise_is_not_taken_for_a_bend() -> None:
    rounds = noisy_rounds(5, 0.0)
    rounds[:3, 2] *= 1.6  # the median of five is off, and not sure of itself
    line = fit(rounds)
    assert line.largest_residual is not None and line.largest_residual > 0.1
    assert line.fits is None
    assert "cannot be told from noise" in verdict(line, "the line", PLACES)


def test_two_points_are_no_proof() -> None:
    line = fit_line((1, 2), [[4.0, 5.0]] * 3)
    assert (line.intercept, line.slope) == pytest.approx((3, 1))
    assert line.largest_residual is None and line.fits is None
    assert "two points lie on any line" in verdict(line, "the line", ["B = 1", "B = 2"])


def test_amdahl_finds_serial_and_parallel_time() -> None:
    threads = (1, 2, 4, 8)
    line = fit_amdahl(threads, [[3 + 8 / n for n in threads]] * 3)
    assert (line.intercept, line.slope) == pytest.approx((3, 8))
    assert serial_share(line) == pytest.approx(3 / 11)


@pytest.mark.parametrize(
    ("x", "rounds"),
    [
        ((1.0, 2.0), []),
        ((1.0, 2.0), [[1.0]]),
        ((1.0, 1.0), [[1.0, 2.0]]),
        ((1.0, 2.0), [[1.0, 0.0]]),
        ((1.0, 2.0), [[1.0, float("nan")]]),
    ],
)
def test_what_no_line_goes_through_is_refused(
    x: tuple[float, ...], rounds: list[list[float]]
) -> None:
    with pytest.raises(UsageError, match="must"):
        fit_line(x, rounds)
    with pytest.raises(UsageError, match="`threads` must be 1"):
        fit_amdahl((0, 1), [[1.0, 2.0]])
