"""Other rules on the same streams: energy distance and PSI per window.

Of the last 30 pictures against the learnt baseline, per signal, the largest counts. Their limits
are not known beforehand: they get the largest value of all quiet runs of all products, found on the
very streams that they are then judged on, so that their power is told too favourably.

    energy distance^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'|      in spreads of the baseline
    PSI = sum over bins (p - q) log(p / q)                       5 bins, quintiles of the baseline

Székely and Rizzo (2013), "Energy statistics", J. Stat. Plan. Inference 143; the population
stability index after Siddiqi (2006), "Credit Risk Scorecards", shares of at least 1 %.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.drift.inspections import Inspected, Record
from cff_bench.drift.trials import (
    N_BEFORE,
    Stream,
    drifting,
    labels_of,
    streams,
    summary,
)
from cff_runtime.drift.baseline import Usual
from cff_runtime.drift.signals import signals_of

WINDOW, _N_BINS, _LEAST_SHARE = 30, 5, 0.01
Rule = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def energy_distances(
    baseline: NDArray[np.float64], values: NDArray[np.float64], window: int = WINDOW
) -> NDArray[np.float64]:
    """Return the squared energy distance of each full window, the largest of the signals.

    Parameters
    ----------
    baseline : ndarray of shape (n, D), float64
    values : ndarray of shape (t, D), float64
    window : int

    Returns
    -------
    ndarray of shape (t - window + 1,), float64
    """
    n, t = len(baseline), len(values)
    within = np.zeros((n, baseline.shape[1]))
    to_baseline = np.zeros_like(values)
    for row in baseline:
        within += np.abs(baseline - row)
        to_baseline += np.abs(values - row)
    totals = np.zeros((t - window + 1, values.shape[1]))  # over the pairs inside each window
    for lag in range(1, window):
        totals += _moving_sums(np.abs(values[lag:] - values[:-lag]), window - lag)
    across = _moving_sums(to_baseline, window) / (n * window)
    distances = 2 * across - 2 * totals / window**2 - within.sum(axis=0) / n**2
    return distances.max(axis=1)


def stability_indices(
    baseline: NDArray[np.float64], values: NDArray[np.float64], window: int = WINDOW
) -> NDArray[np.float64]:
    """Return the population stability index of each full window; see `energy_distances`."""
    largest = np.zeros(len(values) - window + 1)
    for known, found in zip(baseline.T, values.T, strict=True):
        edges = np.quantile(known, np.linspace(0, 1, _N_BINS + 1)[1:-1])
        expected = np.bincount(np.searchsorted(edges, known), minlength=_N_BINS) / len(known)
        bins = np.eye(_N_BINS)[np.searchsorted(edges, found)]
        shares = np.maximum(_moving_sums(bins, window) / window, _LEAST_SHARE)
        expected = np.maximum(expected, _LEAST_SHARE)
        index = ((shares - expected) * np.log(shares / expected)).sum(axis=1)
        largest = np.maximum(largest, index)
    return largest


RULES: Mapping[str, Rule] = {"energy distance": energy_distances, "PSI": stability_indices}


def try_rivals(
    products: Sequence[Sequence[Inspected]], n_draws: int, n_learn: int, n_quiet: int
) -> dict[str, Any]:
    """Return, per rule and drift, delays over all products and draws."""
    runs = list(_runs(products, n_draws, n_learn, n_quiet))
    return {name: _try_rule(rule, runs) for name, rule in RULES.items()}


@dataclass(frozen=True, eq=False)
class _Run:
    inspected: Inspected
    stream: Stream
    baseline: NDArray[np.float64]
    quiet: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def standardized(self, records: Sequence[Record]) -> NDArray[np.float64]:
        return np.nan_to_num((_matrix(records) - self.mean) / self.spread)


def _runs(
    products: Sequence[Sequence[Inspected]], n_draws: int, n_learn: int, n_quiet: int
) -> Iterator[_Run]:
    for draws in products:
        for index, inspected in enumerate(draws):
            usual = inspected.records["none"]
            n_mine = len(range(index, n_draws, len(draws)))
            for stream in streams(inspected, n_mine, n_learn, n_quiet):
                learnt = _matrix([usual[i] for i in stream.learn])
                names = signals_of({**usual[0], "verdict": "pass"})
                found = [
                    Usual.of(name, values[np.isfinite(values)].tolist())
                    for name, values in zip(names, learnt.T, strict=True)
                ]
                mean, spread = np.array([[one.mean, one.spread] for one in found]).T
                run = _Run(inspected, stream, learnt, learnt, mean, spread)
                quiet = run.standardized([usual[i] for i in stream.quiet])
                baseline = run.standardized([usual[i] for i in stream.learn])
                yield replace(run, baseline=baseline, quiet=quiet)


def _try_rule(rule: Rule, runs: Sequence[_Run]) -> dict[str, Any]:
    limit = max(float(rule(run.baseline, run.quiet).max()) for run in runs)
    delays: dict[str, list[int | None]] = {}
    for run in runs:
        before = run.quiet[N_BEFORE - WINDOW + 1 : N_BEFORE]
        for label in labels_of(run.inspected):
            after = run.standardized(list(drifting(run.inspected, label, run.stream)))
            over = rule(run.baseline, np.concatenate((before, after))) > limit
            delays.setdefault(label, []).append(int(over.argmax()) + 1 if over.any() else None)
    return {
        "window": WINDOW,
        "limit": limit,
        "drifts": {label: summary(found) for label, found in delays.items()},
    }


def _matrix(records: Sequence[Record]) -> NDArray[np.float64]:
    """Return the signals of some records, [t,D]; NaN where a record has none."""
    names = signals_of({**records[0], "verdict": "pass"})
    found = [signals_of(record) for record in records]
    return np.array([[one.get(name, np.nan) for name in names] for one in found])


def _moving_sums(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the sums of n neighbours along the first axis."""
    sums = np.cumsum(np.concatenate((np.zeros((1, *values.shape[1:])), values)), axis=0)
    return sums[n:] - sums[:-n]
