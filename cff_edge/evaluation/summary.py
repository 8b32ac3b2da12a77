"""From cells to rows: means over products, spread over seeds, intervals over images.

A row's figure is the mean over products within each seed (unweighted, as in APRIL-GAN's
protocol), then the mean over seeds. The standard deviation is that of the seeds' means with
ddof = 1: the draws of references are a sample, and their spread is what a further draw would show.
The interval resamples draws and test images, see `cff_edge.metrics.intervals`.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cff_edge.evaluation.cells import CellResult
from cff_edge.evaluation.not_run import NotRun
from cff_edge.evaluation.published import complete_dataset
from cff_edge.metrics import BOOTSTRAP_METRICS, METRIC_NAMES, bootstrap_interval

N_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """One metric of one row, as fractions.

    Attributes
    ----------
    mean : float
    std : float or None
        Over seeds, ddof = 1; None with a single seed.
    low, high : float or None
        95 % bootstrap interval; None for PRO and for rows of one product.
    """

    mean: float
    std: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A method at one K, on all products of a data set or on one of them.

    Attributes
    ----------
    dataset, method : str
    product : str or None
        None for the mean over `products`.
    k : int
    image_score : str
        How image scores were made.
    products : tuple of str
    seeds : tuple of int
        Those averaged.
    seeds_left_out : tuple of int
        Seeds that lack a product; they enter no mean.
    figures : mapping of str to Figure
        Per metric name; empty if no seed has all products.
    seconds : float
        Sum over the cells.
    cells : tuple of str
        Their JSON, relative to the folder of results.
    """

    dataset: str
    method: str
    product: str | None
    k: int
    image_score: str
    products: tuple[str, ...]
    seeds: tuple[int, ...]
    seeds_left_out: tuple[int, ...]
    figures: Mapping[str, Figure]
    seconds: float
    cells: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSummary:
    """All rows of one data set, sorted by K and method (and product).

    Attributes
    ----------
    name : str
    published_as : {'mvtec', 'visa'} or None
        The data set of published rows that these results may stand beside; None if products or
        test images are missing.
    products : tuple of str
        Every product that any method was run on.
    n_images : int
        Test images of all products.
    rows, product_rows : tuple of Row
    not_run : tuple of NotRun
        Methods without figures at some K, and why.
    """

    name: str
    published_as: str | None
    products: tuple[str, ...]
    n_images: int
    rows: tuple[Row, ...]
    product_rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...] = ()


def summarise(
    results: Sequence[CellResult],
    n_resamples: int = N_RESAMPLES,
    not_run: Sequence[NotRun] = (),
) -> tuple[DatasetSummary, ...]:
    """Gather cells into rows, one summary per data set, sorted by name.

    Parameters
    ----------
    results : sequence of CellResult
    n_resamples : int
        Of the bootstrap; a multiple costs as many times more.
    not_run : sequence of NotRun
        What peers could not run.
    """
    by_dataset: dict[str, list[CellResult]] = {entry.dataset: [] for entry in not_run}
    for result in results:
        by_dataset.setdefault(result.dataset, []).append(result)
    return tuple(
        _summarise_dataset(
            name,
            by_dataset[name],
            n_resamples,
            [entry for entry in not_run if entry.dataset == name],
        )
        for name in sorted(by_dataset)
    )


def _summarise_dataset(
    name: str, results: list[CellResult], n_resamples: int, not_run: Iterable[NotRun]
) -> DatasetSummary:
    images = {(result.product, image) for result in results for image in result.images}
    products = tuple(sorted({result.product for result in results}))
    groups: dict[tuple[int, str], list[CellResult]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.cell):
        groups[result.k, result.method].append(result)
    rows = [_mean_row(groups[key], products, n_resamples) for key in sorted(groups)]
    product_rows = [
        _product_row([result for result in groups[key] if result.product == product])
        for key in sorted(groups)
        for product in sorted({result.product for result in groups[key]})
    ]
    return DatasetSummary(
        name=name,
        published_as=complete_dataset(products, len(images)),
        products=products,
        n_images=len(images),
        rows=tuple(rows),
        product_rows=tuple(product_rows),
        not_run=tuple(sorted(not_run)),
    )


def _mean_row(results: list[CellResult], products: tuple[str, ...], n_resamples: int) -> Row:
    by_seed: dict[int, list[CellResult]] = defaultdict(list)
    for result in results:
        by_seed[result.seed].append(result)
    complete = [seed for seed, cells in by_seed.items() if len(cells) == len(products)]
    used = [result for seed in complete for result in by_seed[seed]]
    figures = {}
    for metric in METRIC_NAMES if used else ():
        means = [
            statistics.fmean(result.metrics[metric] for result in by_seed[seed])
            for seed in complete
        ]
        low, high = _interval(used, metric, n_resamples)
        figures[metric] = Figure(statistics.fmean(means), _deviation(means), low, high)
    left_out = [seed for seed in by_seed if seed not in complete]
    return _row(used or results, None, products, complete, left_out, figures)


def _product_row(results: list[CellResult]) -> Row:
    figures = {}
    for metric in METRIC_NAMES:
        values = [result.metrics[metric] for result in results]
        figures[metric] = Figure(statistics.fmean(values), _deviation(values))
    product = results[0].product
    return _row(results, product, (product,), [result.seed for result in results], [], figures)


def _row(
    results: list[CellResult],
    product: str | None,
    products: tuple[str, ...],
    seeds: Iterable[int],
    left_out: Iterable[int],
    figures: Mapping[str, Figure],
) -> Row:
    return Row(
        dataset=results[0].dataset,
        method=results[0].method,
        product=product,
        k=results[0].k,
        image_score=", ".join(sorted({result.image_score for result in results})),
        products=products,
        seeds=tuple(sorted(seeds)),
        seeds_left_out=tuple(sorted(left_out)),
        figures=figures,
        seconds=sum(result.seconds for result in results),
        cells=tuple(result.cell.path.as_posix() for result in results),
    )


def _interval(
    results: list[CellResult], metric: str, n_resamples: int
) -> tuple[float | None, float | None]:
    if metric not in BOOTSTRAP_METRICS:
        return None, None
    evidence = [result.evidence for result in results]
    interval = bootstrap_interval(evidence, metric, n_resamples, level=LEVEL)
    return interval.low, interval.high


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
