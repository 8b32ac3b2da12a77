"""How sure a median, a ratio of medians and a percentile are, where samples depend on each other.

One timing resembles the timing before it: clocks, caches and neighbours change slowly. Formulas for
independent samples would therefore state intervals that are too narrow. Here:

- How much one sample resembles the next is taken from the signs about the median, whose dependence
  is what moves a median: their first autocorrelation, as that of an autoregressive Gaussian series
  seen through its signs (arcsine law), freed of its bias towards zero in short series.
- The scatter of the log of a median comes from a bootstrap over blocks of consecutive samples
  (circular, Politis & Romano 1992), `N_RESAMPLES` of them, seeded. Blocks are as long as that
  dependence asks for (Andrews 1991), at most a sixth of the samples. Blocks cut dependence at their
  ends and come from one run's samples, so they scatter too little; both are made up for, the first
  by what such a series loses in blocks of that length, the second by n / (n - block).
- The interval is the log ratio plus and minus Student's t times that scatter. Degrees of freedom:
  blocks that fit into the samples, less one, by Welch for two series.
- The interval of a percentile is a pair of order statistics (binomial, no distribution assumed),
  the number of samples reduced to as many independent ones as their dependence leaves.
- Where samples come from several starts of a process, the median is the geometric mean of the
  starts' medians and scatters as these do, see `cff_bench.compare.starts`; where the bootstrap,
  each start's samples taken over its median, gives more, that counts. Degrees of freedom: starts
  less one. The interval of a percentile is widened to what the starts' percentiles scatter.

What differs from one start to the next (memory layout, placement of pages) is not seen in samples
of a single start; that, and what changes from day to day, is what `--limit` leaves room for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cff_bench.compare.starts import scatter_between, split_starts, without_starts

N_RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95
_LARGEST_SHARE = 6  # a block has at most n / 6 samples
_MOST_DEPENDENT = 0.97

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval; an end that cannot be told is None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MedianScatter:
    """The log of a median, its standard error and the degrees of freedom behind that.

    `n_starts` is the number of starts of a process that the samples came from.
    """

    log_median: float
    error: float
    freedom: float
    n_starts: int = 1


def median_scatter(
    values: Sequence[float], starts: Sequence[int] = (), seed: int = SEED
) -> MedianScatter:
    """Return the log of the median of positive samples and how far it scatters.

    Parameters
    ----------
    values : sequence of float
    starts : sequence of int
        How many of them came from each start of a process; one start if empty.
    seed : int
    """
    samples = np.asarray(values, dtype=np.float64)
    if len(starts) >= 2:
        logs = [math.log(np.median(part)) for part in split_starts(samples, starts)]
        return _of_starts(logs, median_scatter(without_starts(samples, starts).tolist(), seed=seed))
    n = len(samples)
    correlation = dependence(samples)
    length = block_length(n, correlation)
    medians = np.median(samples[_block_indices(n, length, seed)], axis=1)
    error = float(np.std(np.log(medians))) * _lost_in_blocks(n, length, correlation)
    return MedianScatter(float(np.log(np.median(samples))), error, max(n / length - 1, 1.0))


def _of_starts(logs: Sequence[float], within: MedianScatter) -> MedianScatter:
    """Return the mean of the starts' figures with their scatter, or that within if it is more."""
    mean, error = scatter_between(logs)
    return MedianScatter(mean, max(error, within.error), len(logs) - 1, len(logs))


def ratio_interval(a: MedianScatter, b: MedianScatter, confidence: float = CONFIDENCE) -> Interval:
    """Return the ratio of medians B / A with its interval."""
    error = math.hypot(a.error, b.error)
    difference = b.log_median - a.log_median
    if error == 0.0:
        ratio = math.exp(difference)
        return Interval(ratio, ratio, ratio)
    freedom = error**4 / (a.error**4 / a.freedom + b.error**4 / b.freedom)
    half = student_t(0.5 + confidence / 2, freedom) * error
    low, high = math.exp(difference - half), math.exp(difference + half)
    return Interval(math.exp(difference), low, high)


def paired_ratio_scatter(
    reference: Sequence[float],
    values: Sequence[float],
    starts: Sequence[int] = (),
    seed: int = SEED,
) -> MedianScatter:
    """Return the log of a ratio of medians, values over reference, measured in the same rounds.

    Both are resampled with the same blocks, so that what hit both in a round leaves the ratio;
    of several starts, it is the ratio of each start that scatters.
    """
    first = np.asarray(reference, dtype=np.float64)
    second = np.asarray(values, dtype=np.float64)
    if len(starts) >= 2:
        pairs = zip(split_starts(first, starts), split_starts(second, starts), strict=True)
        logs = [math.log(np.median(y) / np.median(x)) for x, y in pairs]
        first, second = (without_starts(part, starts) for part in (first, second))
        inside = paired_ratio_scatter(first.tolist(), second.tolist(), seed=seed)
        return _of_starts(logs, inside)
    n = len(first)
    correlation = dependence(second / first)
    length = block_length(n, correlation)
    indices = _block_indices(n, length, seed)
    drawn = np.log(np.median(second[indices], axis=1) / np.median(first[indices], axis=1))
    error = float(np.std(drawn)) * _lost_in_blocks(n, length, correlation)
    ratio = float(np.log(np.median(second) / np.median(first)))
    return MedianScatter(ratio, error, max(n / length - 1, 1.0))


def percentile_interval(
    values: Sequence[float],
    percentile: float,
    confidence: float = CONFIDENCE,
    starts: Sequence[int] = (),
) -> Interval:
    """Return a percentile with its interval; an end is None where there are too few samples.

    Of several starts it reaches at least as far as their percentiles scatter about that of all.
    """
    samples = np.asarray(values, dtype=np.float64)
    value = float(np.percentile(samples, percentile))
    parts = split_starts(samples, starts)
    of_each = [float(np.percentile(part, percentile)) for part in parts]
    above = [(part > own).astype(np.float64) for part, own in zip(parts, of_each, strict=True)]
    n = max(1, int(independent_samples(np.concatenate(above))))
    low, high = _order_statistics(np.sort(samples), percentile / 100, n, (1 - confidence) / 2)
    if len(parts) < 2:
        return Interval(value, low, high)
    _, error = scatter_between(of_each, value)
    half = student_t(0.5 + confidence / 2, len(parts) - 1) * error
    return Interval(
        value,
        None if low is None else min(low, value - half),
        None if high is None else max(high, value + half),
    )


def _order_statistics(
    ordered: Array, share: float, n: int, tail: float
) -> tuple[float | None, float | None]:
    """Return the samples between which a percentile lies, by ranks of n independent ones."""
    # P(at most k of them lie below the percentile)
    cumulative = np.cumsum(_binomial(n, share))
    low_rank = int(np.searchsorted(cumulative, tail, side="right"))
    high_rank = int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    low = _at_share(ordered, low_rank / n) if low_rank >= 1 else None
    high = _at_share(ordered, high_rank / n) if high_rank <= n else None
    return low, high


def dependence(samples: Array) -> float:
    """Return how much a sample resembles the one before, 0 to 0.97, from signs about the median."""
    n = len(samples)
    found = _first_autocorrelation(np.sign(samples - np.median(samples)))
    if n < 8 or found <= 0:
        return 0.0
    gaussian = math.sin(math.pi / 2 * min(found, 1.0))
    return min((gaussian + 1 / n) / (1 - 3 / n), _MOST_DEPENDENT)  # Kendall 1954


def block_length(n: int, correlation: float) -> int:
    """Return how many consecutive samples make a block."""
    wanted = (math.sqrt(6) * correlation / (1 - correlation**2)) ** (2 / 3) * n ** (1 / 3)
    return int(min(max(1, n // _LARGEST_SHARE), max(1, math.ceil(wanted))))


def _lost_in_blocks(n: int, length: int, correlation: float) -> float:
    """Return the factor that makes up for what blocks lose of the scatter of a median."""
    whole = inside = 1.0
    power, lag = correlation, 1
    while power > 1e-4:
        shared = 4 / math.pi * math.asin(power)  # twice the autocorrelation of the signs
        whole += shared
        inside += shared * max(0.0, 1 - lag / length)
        power, lag = power * correlation, lag + 1
    return math.sqrt(whole / inside * n / max(n - length, 1))


def independent_samples(samples: Array) -> float:
    """Return as many independent samples as would give their mean the same scatter."""
    n = len(samples)
    correlation = min(max(0.0, _first_autocorrelation(samples)), 0.99)
    return n * (1 - correlation) / (1 + correlation)


def student_t(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t, its degrees of freedom rounded down to a whole number."""
    whole = max(1, int(freedom + 1e-9))
    low, high = 0.0, 1.0
    while _student_cdf(high, whole) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, whole) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """Return P(T <= t) for t >= 0 (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    total, term = 0.0, 1.0
    if freedom % 2:
        term = cosine
        for k in range(1, freedom - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        inner = 2 / math.pi * (theta + sine * total)
    else:
        for k in range(0, freedom - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        inner = sine * total
    return 0.5 + inner / 2


def _block_indices(n: int, length: int, seed: int) -> NDArray[np.int64]:
    """Return indices [N_RESAMPLES, n] of samples drawn block by block around a circle."""
    n_blocks = math.ceil(n / length)
    starts = np.random.default_rng(seed).integers(0, n, (N_RESAMPLES, n_blocks, 1))
    indices = (starts + np.arange(length)) % n
    return cast("NDArray[np.int64]", indices.reshape(N_RESAMPLES, -1)[:, :n])


def _first_autocorrelation(samples: Array) -> float:
    centred = samples - samples.mean()
    power = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / power if power > 0 else 0.0


def _binomial(n: int, share: float) -> Array:
    """Return the probabilities of 0..n successes."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(n + 1)
    ]
    return np.exp(np.asarray(logs))


def _at_share(sorted_samples: Array, share: float) -> float:
    """Return the order statistic of which `share` of the samples are at most as large."""
    rank = min(max(math.ceil(share * len(sorted_samples) - 1e-9), 1), len(sorted_samples))
    return float(sorted_samples[rank - 1])
