"""What n good parts say about the next ones, whatever the distribution of their scores.

Given are the scores S_1 .. S_n of good parts that are not in the memory bank, and the score S of
the next one; all n + 1 are exchangeable: made, lit and taken alike, in any order. Let T be the
k-th largest of the n scores (*rank* k), and reject what is above it. With F the distribution of
the scores, p = 1 - F(T) is the share of all good parts that is rejected, a random number, as T is.

Expected share (split conformal prediction; Vovk, Gammerman, Shafer, Algorithmic Learning in a
Random World, 2005; Papadopoulos et al., ECML 2002). S is above T only if it is among the k largest
of n + 1 exchangeable scores, so that

    E[p] = P(S > T) <= k / (n + 1)                                              (1)

Share with confidence y (tolerance bound; Wilks, Annals of Mathematical Statistics 12, 1941).
For a continuous F, p has the distribution Beta(k, n + 1 - k), whatever F is, and with ties it is
smaller still. Its y-quantile is also Clopper's and Pearson's upper bound (Biometrika 26, 1934)
for k - 1 rejects among n, the x that solves

    P(Binomial(n, x) <= k - 1) = 1 - y,      P(p <= x) >= y                     (2)

For k = 1 it is x = 1 - (1 - y)^(1/n). The rank must be fixed before the scores are seen, by n, y
and the wish alone. Where a person moves T with the scores in sight, every rank may be chosen, and
the error 1 - y is shared out among them: rank k gets (1 - y) / 2^k, which sum to less than 1 - y,
so that all statements hold together (Bonferroni).

References left out. The K references are scored against banks of the other K - 1, and the next
part against all K: these scores are not exchangeable, but a rank of 1 keeps its bound. Let R_ij be
the score of part i of K + 1 exchangeable ones against all but i and j. A larger bank never raises
a score, so the next part, number K + 1, has S <= R_(K+1)i for every i, while reference i, left
out, has exactly R_i(K+1). Hence S above all K of them means that part K + 1 *beats* every other
part i, R_(K+1)i > R_i(K+1). At most one of K + 1 parts can beat all others, and each is it with
the same probability:

    P(S > largest score of K references left out) <= 1 / (K + 1)                (3)

which is the argument of the jackknife-minmax (Barber, Candes, Ramdas, Tibshirani, Annals of
Statistics 49, 2021). A threshold above that score, such as one with augmentations or a margin,
keeps the bound. It is pessimistic, since banks of K - 1 give larger scores. It speaks of the mean
over enrolments only: no bound of kind (2) follows. A memory bank that is compressed need not shrink
when a part leaves, so that (3) is an approximation there.

Encoder's score. Where it gives one, t, the score is (t + c m) / 2 with the map's maximum m and a
scale c that the references set, so that it is not the same function for all K + 1 parts: simulated
with the largest score, the next part exceeds it up to a quarter more often than (3) allows. But t
does not depend on any bank and m obeys (3), so that whatever c is

    P(S > (largest t + c largest m) / 2) <= 2 / (K + 1)                         (4)

since one of both must exceed its largest. Parts of their own, (1) and (2), need no such care: they
meet the same bank and scale as every later part.
"""

import math

import numpy as np

from cff_runtime.errors import UsageError

DEFAULT_CONFIDENCE = 0.95
_BISECTIONS = 60


def binomial_cdf(n_above: int, n: int, share: float) -> float:
    """Return P(Binomial(n, share) <= n_above), to about 1e-12 of its value.

    The terms follow from each other, t_(i+1) = t_i (n - i) / (i + 1) share / (1 - share), and are
    summed as logarithms, which neither overflow nor vanish.
    """
    if n_above >= n or share <= 0.0:
        return 1.0
    if n_above < 0 or share >= 1.0:
        return 0.0
    i = np.arange(n_above, dtype=np.float64)
    steps = np.log((n - i) / (i + 1.0)) + (math.log(share) - math.log1p(-share))
    logs = n * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    largest = float(logs.max())
    return min(1.0, math.exp(largest) * float(np.exp(logs - largest).sum()))


def upper_share(n_above: int, n: int, confidence: float) -> float:
    """Return the share that, with a confidence, is not exceeded where `n_above` of n are above.

    Parameters
    ----------
    n_above : int
        Scores above the threshold, rank - 1. From n on nothing is known and 1 is returned.
    n : int
        Scores.
    confidence : float
        y of equation (2), inside (0, 1).

    Raises
    ------
    UsageError
        If `confidence` is not inside (0, 1), or a count is negative.
    """
    require_share("confidence", confidence)
    if n_above < 0 or n < 0:
        raise UsageError(f"counts must be 0 or more, got {n_above} above of {n}")
    if n_above >= n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if binomial_cdf(n_above, n, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high  # the side on which the bound holds


def upper_share_in_sight(n_above: int, n: int, confidence: float) -> float:
    """Return `upper_share` for a threshold that was chosen with the scores in sight.

    Raises
    ------
    UsageError
        As `upper_share`.
    """
    require_share("confidence", confidence)
    error = math.ldexp(1.0 - confidence, -(n_above + 1))
    return upper_share(n_above, n, 1.0 - error) if 1.0 - error < 1.0 else 1.0


def largest_rank(n: int, share: float, confidence: float) -> int:
    """Return the largest rank k whose bound (2) is at most `share`; 0 if no rank's is.

    Raises
    ------
    UsageError
        If `share` or `confidence` is not inside (0, 1).
    """
    require_share("share", share)
    require_share("confidence", confidence)
    low, high = 0, n + 1  # ranks that hold and that do not
    while high - low > 1:
        rank = (low + high) // 2
        if rank <= n and binomial_cdf(rank - 1, n, share) <= 1.0 - confidence:
            low = rank
        else:
            high = rank
    return low


def parts_needed(share: float, confidence: float) -> int:
    """Return the least n whose largest score promises `share` with a confidence, (2) for k = 1.

    Raises
    ------
    UsageError
        If `share` or `confidence` is not inside (0, 1).
    """
    require_share("share", share)
    require_share("confidence", confidence)
    n = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-share)) - 1)
    while binomial_cdf(0, n, share) > 1.0 - confidence:  # the logarithms round either way
        n += 1
    return n


def require_share(name: str, value: float) -> float:
    """Return `value` if it is inside (0, 1).

    Raises
    ------
    UsageError
        If it is not; NaN is not.
    """
    if not 0.0 < value < 1.0:
        raise UsageError(f"`{name}` must be above 0 and below 1, got {value}; 1 % is 0.01")
    return value


def percent(share: float) -> str:
    """Write a bound in per cent with two digits, rounded up: it may not look smaller than it is."""
    if share <= 0.0:
        return "0%"
    value = 100.0 * share
    digits = max(0, 1 - math.floor(math.log10(value)))
    scale = 10.0**digits
    rounded = math.ceil(value * scale * (1.0 - 1e-9)) / scale  # 7.000000000000001 is 7
    return f"{rounded:.{digits}f}".rstrip("0").rstrip(".") + "%" if digits else f"{rounded:.0f}%"
