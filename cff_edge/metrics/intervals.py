"""Confidence intervals over draws of references and test images.

The products are those of the table, so they stay. In each product the draws of references (seeds)
are resampled with replacement, and so are the good and the defective images, each kind among
itself; an image counts equally often for all seeds of a product, as they all saw the same part. A
resample's value is the metric of each cell, averaged over the seeds drawn, then over the products,
each with the same weight. The intervals are percentile intervals (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, section 13.3).

Metrics come from `Evidence`, whose bins move a pixel metric by about 1e-3; `mean` is the value of
the cells as they are, not the mean of the resamples. A resample in which a cell would lack one
class is drawn anew.
"""

import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cff_edge.metrics import curves
from cff_edge.metrics.evidence import Evidence
from cff_runtime.errors import UsageError

Array = NDArray[np.float64]
Histograms = tuple[Array, Array]
Formula = Callable[[Array, Array], Array]

_BLOCK = 256  # resamples at a time, so that the counts of a block stay in cache

_FORMULAS: dict[str, Formula] = {
    "auroc": curves.auroc,
    "ap": curves.average_precision,
    "f1_max": curves.f1_max,
}
BOOTSTRAP_METRICS = tuple(
    f"{level}_{name}" for level in ("pixel", "image") for name in ("auroc", "ap", "f1_max")
)


@dataclass(frozen=True)
class Interval:
    """A metric's mean over cells and its confidence interval, fractions from 0 to 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The mean difference of two methods, its interval (fractions), and the two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(
    cells: Sequence[Evidence],
    metric: str,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return a metric of a method on some products, with its confidence interval.

    Parameters
    ----------
    cells : sequence of Evidence
        One for each product and seed; products may have different numbers of seeds.
    metric : str
        One of `BOOTSTRAP_METRICS`.
    n_resamples : int, default=1000
    seed : int, default=0
        Seed of the resampling; the same one gives the same interval.
    level : float, default=0.95
        Confidence, between 0 and 1.

    Raises
    ------
    UsageError
        If an option is out of range, there is no cell, two cells have the same product and seed, or
        an image is good in one cell of a product and defective in another.
    """
    _check_options(metric, n_resamples, level)
    means, samples = _resampled([cells], metric, n_resamples, seed)
    low, high = _percentiles(samples[0], level)
    return Interval(float(means[0]), low, high)


def paired_difference(
    a: Sequence[Evidence],
    b: Sequence[Evidence],
    metric: str,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Return how much better method `a` is than `b` on the same cells and images.

    Each resample draws the same seeds and images for both. The p-value is that of no difference,
    2 (1 + min(#{d <= 0}, #{d >= 0})) / (n_resamples + 1), at most 1, over the resampled differences
    d: the percentile interval turned round, with the observed data counted as one resample
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11). It is 1 where
    both are equal, and never below 2 / (n_resamples + 1).

    Parameters
    ----------
    a, b : sequence of Evidence
        The same products, seeds and images, in any order.
    metric : str
        One of `BOOTSTRAP_METRICS`.
    n_resamples : int, default=1000
    seed : int, default=0
        Seed of the resampling; the same one gives the same answer.
    level : float, default=0.95
        Confidence, between 0 and 1.

    Raises
    ------
    UsageError
        As `bootstrap_interval`, and if the cells of `a` and `b` do not match.
    """
    _check_options(metric, n_resamples, level)
    _check_match(a, b)
    means, samples = _resampled([a, b], metric, n_resamples, seed)
    differences = samples[0] - samples[1]
    low, high = _percentiles(differences, level)
    n_beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (1 + n_beyond) / (n_resamples + 1))
    return Difference(float(means[0] - means[1]), low, high, p_value)


def _resampled(
    methods: Sequence[Sequence[Evidence]], metric: str, n_resamples: int, seed: int
) -> tuple[Array, Array]:
    """Return the mean of each method, [m], and its resamples, [m, n_resamples]."""
    rng = np.random.default_rng(seed)
    products = [list(_by_product(cells)) for cells in methods]
    means = np.zeros(len(methods))
    samples = np.zeros((len(methods), n_resamples))
    for rows in zip(*products, strict=True):  # the cells of one product, for each method
        images, labels = _images_of([cell for cells in rows for cell in cells])
        histograms = [[_histograms(cell, images, metric) for cell in cells] for cells in rows]
        n_seeds = len(rows[0])
        seed_weights = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), n_resamples)
        image_weights = _draw_images(rng, labels, histograms, n_resamples)
        for method, cells in enumerate(histograms):
            values = [_values(image_weights, cell, metric) for cell in cells]
            samples[method] += (seed_weights * np.stack(values, axis=-1)).mean(axis=-1)
            unit = np.ones((1, len(images)))
            means[method] += np.mean([_values(unit, cell, metric) for cell in cells])
    n_products = len(products[0])
    return means / n_products, samples / n_products


def _draw_images(
    rng: np.random.Generator,
    labels: NDArray[np.bool_],
    histograms: Sequence[Sequence[Histograms]],
    n_resamples: int,
) -> Array:
    """Return how often each image counts, [n_resamples, n]; no cell lacks a class."""
    present = [part.any(axis=1) for cells in histograms for cell in cells for part in cell]
    needed = np.unique(np.stack(present), axis=0).astype(np.float64)  # one image of each row
    weights = np.zeros((n_resamples, labels.size))
    missing = np.full(n_resamples, True)
    while missing.any():
        for kind in (labels, ~labels):
            n_images = int(kind.sum())
            drawn = rng.multinomial(n_images, np.full(n_images, 1 / n_images), int(missing.sum()))
            weights[np.ix_(missing, kind)] = drawn
        missing = (weights @ needed.T == 0).any(axis=1)
    return weights


def _values(weights: Array, histograms: Histograms, metric: str) -> Array:
    """Return a metric with the images counted `weights` times: [R] of [R, n]."""
    positive, negative = histograms
    formula = _FORMULAS[metric.split("_", 1)[1]]
    values = np.empty(len(weights))
    for start in range(0, len(weights), _BLOCK):
        block = slice(start, start + _BLOCK)
        true_positives = np.cumsum(weights[block] @ positive, axis=-1)  # whole numbers: exact
        false_positives = np.cumsum(weights[block] @ negative, axis=-1)
        values[block] = formula(true_positives, false_positives)
    return values


def _histograms(cell: Evidence, images: Sequence[str], metric: str) -> Histograms:
    """Return the positive and negative counts of each of `images`, [n, B], by falling score.

    The rows of images that the cell did not see are empty.
    """
    if metric.startswith("pixel"):
        positive, negative = cell.positive, cell.negative
    else:  # each distinct score is a bin
        _, bins = np.unique(cell.scores, return_inverse=True)
        counts = np.eye(int(bins.max()) + 1, dtype=np.uint32)[bins]
        positive, negative = counts * cell.labels[:, None], counts * ~cell.labels[:, None]
    row_of = {name: row for row, name in enumerate(images)}
    rows = [row_of[name] for name in cell.images]
    spread = np.zeros((2, len(images), positive.shape[1]))
    spread[0, rows], spread[1, rows] = positive[:, ::-1], negative[:, ::-1]
    return spread[0], spread[1]


def _by_product(cells: Sequence[Evidence]) -> Iterator[list[Evidence]]:
    """Yield the cells of each product, both sorted, so that the order given does not matter."""
    if not cells:
        raise UsageError("`cells` must hold at least one cell, got none; evaluate a product first")
    ordered = sorted(cells, key=lambda cell: (cell.product, cell.seed))
    for before, cell in itertools.pairwise(ordered):
        if (before.product, before.seed) == (cell.product, cell.seed):
            raise UsageError(
                f"`cells` must differ in product or seed, got product {cell.product!r}, seed "
                f"{cell.seed} twice; pass the cells of one method and one number of references"
            )
    for product in dict.fromkeys(cell.product for cell in ordered):
        yield [cell for cell in ordered if cell.product == product]


def _images_of(cells: Sequence[Evidence]) -> tuple[list[str], NDArray[np.bool_]]:
    """Return all image names of a product, sorted, and whether each is defective."""
    labels: dict[str, bool] = {}
    for cell in cells:
        for name, label in zip(cell.images, cell.labels.tolist(), strict=True):
            if labels.setdefault(name, label) != label:
                raise UsageError(
                    f"`cells` must agree on each image, got {name!r} of {cell.product!r} both "
                    "good and defective; evaluate all cells on one data set"
                )
    names = sorted(labels)
    return names, np.array([labels[name] for name in names])


def _check_match(a: Sequence[Evidence], b: Sequence[Evidence]) -> None:
    images_a = {(cell.product, cell.seed): set(cell.images) for cell in a}
    images_b = {(cell.product, cell.seed): set(cell.images) for cell in b}
    lone = sorted(images_a.keys() ^ images_b.keys())
    if lone:
        product, seed = lone[0]
        side = "a" if lone[0] in images_a else "b"
        raise UsageError(
            f"`a` and `b` must have the same cells, got product {product!r}, seed {seed} in "
            f"`{side}` only, {len(lone)} such in all; evaluate both methods on them"
        )
    for (product, seed), images in images_a.items():
        other = images ^ images_b[product, seed]
        if other:
            raise UsageError(
                f"`a` and `b` must have the same images, got {min(other)!r} of product "
                f"{product!r}, seed {seed} in one only; evaluate both with the same references"
            )


def _check_options(metric: str, n_resamples: int, level: float) -> None:
    if metric not in BOOTSTRAP_METRICS:
        near = difflib.get_close_matches(metric, BOOTSTRAP_METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise UsageError(
            f"`metric` must be one of {', '.join(BOOTSTRAP_METRICS)}, got {metric!r}; {hint}"
        )
    if n_resamples < 1:
        raise UsageError(f"`n_resamples` must be at least 1, got {n_resamples}; 1000 is usual")
    if not 0 < level < 1:
        raise UsageError(f"`level` must be between 0 and 1, got {level}; 0.95 is usual")


def _percentiles(samples: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
