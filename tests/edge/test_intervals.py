"""Bootstrap intervals against every resample enumerated, and against known distributions."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from math import erf, factorial, prod

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cff_edge.metrics import (
    BOOTSTRAP_METRICS,
    Evidence,
    Interval,
    bootstrap_interval,
    paired_difference,
)
from cff_runtime.errors import UsageError

Array = NDArray[np.float64]


def cell(
    product: str, seed: int, labels: Sequence[bool], scores: Array, names: Sequence[str] = ()
) -> Evidence:
    """Return a cell whose images have a pixel in each of 7 bins and more where they score high."""
    truth = np.array(labels, bool)
    names = names or [f"{index:03}.png" for index in range(len(truth))]
    rng = np.random.default_rng(abs(hash(tuple(scores.tolist()))) % 2**32)
    heights = np.clip(scores + rng.normal(0, 0.5, (7, len(scores))), -3, 3).T
    positive = truth[:, None] * np.floor(3 + heights) * np.arange(7)
    negative = np.floor(9 - heights) * np.arange(7, 0, -1)
    return Evidence(
        product,
        seed,
        tuple(names),
        truth,
        scores.astype(np.float64),
        positive.astype(np.uint32),
        negative.astype(np.uint32),
    )


def sklearn_value(evidence: Evidence, weights: Array, metric: str) -> float:
    """Return a metric by scikit-learn, each image with its weight, each pixel as its bin."""
    level, name = metric.split("_", 1)
    if level == "image":
        truth, scores, sample_weight = evidence.labels, evidence.scores, weights
    else:
        n_bins = evidence.positive.shape[1]
        truth = np.repeat([True, False], len(weights) * n_bins)
        scores = np.tile(np.arange(n_bins), 2 * len(weights)).astype(np.float64)
        counts = np.stack([evidence.positive, evidence.negative]) * weights[:, None]
        sample_weight = counts.ravel()
    seen = sample_weight > 0
    arguments = truth[seen], scores[seen]
    if name == "f1_max":
        precision, recall, _ = precision_recall_curve(*arguments, sample_weight=sample_weight[seen])
        with np.errstate(invalid="ignore"):
            return float(np.nanmax(2 * precision * recall / (precision + recall)))
    function: Callable[..., float] = {"auroc": roc_auc_score, "ap": average_precision_score}[name]
    return function(*arguments, sample_weight=sample_weight[seen])


def multiplicities(n: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield each way to draw n of n with replacement, as counts, with its probability."""
    for counts in itertools.product(range(n + 1), repeat=n):
        if sum(counts) == n:
            yield counts, factorial(n) / prod(map(factorial, counts)) / n**n


def enumerated(cells: Sequence[Evidence], metric: str) -> tuple[Array, Array]:
    """Return the values of all resamples of one product, rising, and their distribution function.

    All cells have the same images, the good ones last.
    """
    n_defective = int(cells[0].labels.sum())
    table = []
    for defective, p in multiplicities(n_defective):
        for good, q in multiplicities(len(cells[0].labels) - n_defective):
            weights = np.array(defective + good, np.float64)
            values = [sklearn_value(one, weights, metric) for one in cells]
            for seeds, r in multiplicities(len(cells)):
                table.append((np.dot(seeds, values) / len(cells), p * q * r))
    values, masses = np.array(sorted(table)).T
    return values, np.cumsum(masses)


@pytest.mark.parametrize("metric", BOOTSTRAP_METRICS)
def test_intervals_are_the_quantiles_of_all_resamples(metric: str) -> None:
    """Two draws and six images, small enough to enumerate; the same images for both draws."""
    rng = np.random.default_rng(1)
    labels = [True] * 3 + [False] * 3
    cells = [cell("ring", seed, labels, rng.normal(labels, 1.0)) for seed in (0, 1)]
    values, below = enumerated(cells, metric)
    n_resamples = 20_000
    compared = 0
    for level in np.arange(0.05, 1.0, 0.05):
        interval = bootstrap_interval(cells, metric, n_resamples, level=level)
        for quantile, got in (((1 - level) / 2, interval.low), ((1 + level) / 2, interval.high)):
            # the sampled distribution lies within 0.012 of the true one (99.9 %, Kolmogorov)
            lowest = values[np.searchsorted(below, quantile - 0.015)]
            highest = values[min(np.searchsorted(below, quantile + 0.015), values.size - 1)]
            assert lowest - 1e-12 <= got <= highest + 1e-12
            compared += highest - lowest < 0.05
    assert compared > 15  # the bounds above are mostly tight
    unit = np.ones(6)
    expected = np.mean([sklearn_value(one, unit, metric) for one in cells])
    assert interval.mean == pytest.approx(expected, abs=1e-12)


def test_products_count_alike_however_many_draws_they_have() -> None:
    labels, rng = [True] * 5 + [False] * 5, np.random.default_rng(0)
    cells = [cell("ring", seed, labels, rng.normal(labels, 1.0)) for seed in range(4)]
    cells.append(cell("washer", 0, labels, rng.normal(labels, 1.0)))
    expected = [roc_auc_score(one.labels, one.scores) for one in cells]
    mean = bootstrap_interval(cells, "image_auroc", 10).mean
    assert mean == pytest.approx((np.mean(expected[:4]) + expected[4]) / 2, abs=1e-12)


def gaussian_cells(
    rng: np.random.Generator, n_images: int, n_seeds: int = 1, n_products: int = 1
) -> list[Evidence]:
    """Half of the images defective, one standard deviation above; the parts keep their scores."""
    labels = np.arange(n_images) % 2 == 0
    cells = []
    for product in range(n_products):
        parts = rng.normal(labels, 0.9)  # the part itself, the same for all draws
        for seed in range(n_seeds):
            scores = parts + rng.normal(0, np.sqrt(1 - 0.9**2), n_images)
            cells.append(cell(f"product {product}", seed, labels.tolist(), scores))
    return cells


@pytest.mark.parametrize(("n_seeds", "n_products"), [(1, 1), (3, 2)])
def test_intervals_cover_the_true_auroc(n_seeds: int, n_products: int) -> None:
    """Two normal distributions one deviation apart have the AUROC Phi(1 / sqrt 2)."""
    truth = (1 + erf(0.5)) / 2
    rng = np.random.default_rng(0)
    n_covered = 0
    for _ in range(200):
        cells = gaussian_cells(rng, 60, n_seeds, n_products)
        interval = bootstrap_interval(cells, "image_auroc", 200)
        n_covered += interval.low <= truth <= interval.high
    assert 0.9 <= n_covered / 200 <= 0.99  # 95 % but for simulation noise and small samples


def test_intervals_shrink_as_the_square_root_of_the_images() -> None:
    widths = []
    for n_images in (50, 200, 800):
        one = gaussian_cells(np.random.default_rng(1), n_images)
        for metric in ("image_auroc", "pixel_auroc"):
            interval = bootstrap_interval(one, metric)
            widths.append(interval.high - interval.low)
    small, medium, large = np.array(widths).reshape(3, 2)
    np.testing.assert_allclose(small / medium, 2, rtol=0.35)
    np.testing.assert_allclose(medium / large, 2, rtol=0.35)


def test_draws_that_disagree_widen_the_interval() -> None:
    labels = [True] * 40 + [False] * 40
    noise = np.random.default_rng(2).normal(0, 1, 80)
    widths = []
    for gains in ((1.0, 1.0, 1.0, 1.0), (0.0, 0.6, 1.4, 2.0)):
        cells = [
            cell("ring", seed, labels, gain * np.array(labels) + noise)
            for seed, gain in enumerate(gains)
        ]
        interval = bootstrap_interval(cells, "image_auroc")
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.3 * widths[0]


@pytest.mark.parametrize("metric", BOOTSTRAP_METRICS)
def test_the_seed_decides_and_the_order_of_cells_does_not(metric: str) -> None:
    cells = gaussian_cells(np.random.default_rng(3), 20, 3, 2)
    interval = bootstrap_interval(cells, metric, 300, seed=4)
    assert bootstrap_interval(cells, metric, 300, seed=4) == interval
    assert bootstrap_interval(cells[::-1], metric, 300, seed=4) == interval
    assert bootstrap_interval(cells, metric, 300, seed=5) != interval
    assert interval.low < interval.mean < interval.high
    narrow = bootstrap_interval(cells, metric, 300, seed=4, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


@pytest.mark.parametrize("n_resamples", [1, 255, 256, 257, 600])
def test_every_resample_counts(n_resamples: int) -> None:
    """However they are cut into blocks: perfect scores are perfect in all of them."""
    labels = [True, True, False, False]
    cells = [cell("ring", 0, labels, np.array([3.0, 2.0, 1.0, 0.0]))]
    for metric in ("image_auroc", "image_ap", "image_f1_max"):
        assert bootstrap_interval(cells, metric, n_resamples) == Interval(1.0, 1.0, 1.0)


class TestDifferentImages:
    """References drawn from the test images leave each draw another set."""

    def test_an_image_counts_only_where_it_was_seen(self) -> None:
        labels = [True, True, False, False]
        scores = np.array([2.0, 1.0, 0.5, 0.0])
        cells = [
            cell("ring", 0, labels, scores, ["a", "b", "c", "d"]),
            cell("ring", 1, labels, -scores, ["a", "b", "d", "e"]),
        ]
        # whatever is drawn, the first cell is perfect and the second is always wrong
        interval = bootstrap_interval(cells, "image_auroc", 500)
        assert interval == Interval(0.5, 0.0, 1.0)

    def test_resamples_in_which_a_cell_lacks_a_class_are_drawn_anew(self) -> None:
        """Each draw has its own good image, so that both must be in: nothing is left to chance."""
        cells = [
            cell("ring", seed, [True, False], np.array([1.0 - seed, seed]), ["x", f"{seed}"])
            for seed in (0, 1)
        ]
        interval = bootstrap_interval(cells, "image_auroc", 200)
        assert interval == Interval(0.5, 0.0, 1.0)  # either draw alone, or both

    def test_labels_must_agree(self) -> None:
        scores = np.array([1.0, 0.0])
        cells = [
            cell("ring", 0, [True, False], scores, ["a", "b"]),
            cell("ring", 1, [True, False], scores, ["b", "c"]),
        ]
        with pytest.raises(UsageError, match=r"^`cells` must agree on each image, got 'b' of 'rin"):
            bootstrap_interval(cells, "image_ap")


class TestPairedDifference:
    def test_nothing_between_a_method_and_itself(self) -> None:
        cells = gaussian_cells(np.random.default_rng(0), 20, 2, 2)
        for metric in BOOTSTRAP_METRICS:
            difference = paired_difference(cells, cells, metric, 100)
            assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
            assert difference.p_value == 1.0

    @pytest.mark.parametrize("metric", BOOTSTRAP_METRICS)
    def test_both_ways_round(self, metric: str) -> None:
        a = gaussian_cells(np.random.default_rng(0), 20, 2, 2)
        b = gaussian_cells(np.random.default_rng(1), 20, 2, 2)
        there, back = paired_difference(a, b, metric, 300), paired_difference(b, a, metric, 300)
        assert there.mean == -back.mean != 0
        assert there.low == pytest.approx(-back.high, abs=1e-12)
        assert there.high == pytest.approx(-back.low, abs=1e-12)
        assert there.p_value == back.p_value
        assert paired_difference(a[::-1], b, metric, 300) == there
        means = [bootstrap_interval(cells, metric, 1).mean for cells in (a, b)]
        assert there.mean == pytest.approx(means[0] - means[1], abs=1e-12)

    def test_a_certain_gain_has_the_smallest_p_value(self) -> None:
        b = gaussian_cells(np.random.default_rng(0), 60)
        a = [cell("product 0", 0, b[0].labels.tolist(), b[0].scores + 2 * b[0].labels)]
        gain = paired_difference(a, b, "image_auroc", 999)
        assert gain.p_value == 2 / 1000
        assert 0 < gain.low < gain.mean < gain.high
        assert paired_difference(b, a, "image_auroc", 999).p_value == 2 / 1000

    def test_p_value_and_interval_agree(self) -> None:
        """0 is outside the interval of a level just when the p-value is below 1 - level."""
        rng = np.random.default_rng(7)
        n_outside = 0
        for _ in range(30):
            b = gaussian_cells(rng, 40)
            scores = b[0].scores + rng.normal(0.3 * b[0].labels, 0.5)
            a = [cell("product 0", 0, b[0].labels.tolist(), scores)]
            difference = paired_difference(a, b, "image_auroc", 400)
            outside = not difference.low <= 0 <= difference.high
            n_outside += outside
            if abs(difference.p_value - 0.05) > 0.01:
                assert outside == (difference.p_value < 0.05)
        assert 3 < n_outside < 27

    def test_p_values_of_equal_methods_are_spread(self) -> None:
        """Two methods with the same quality on the same parts: few small p-values, many large."""
        rng = np.random.default_rng(0)
        p_values = []
        for _ in range(200):
            labels = np.arange(60) % 2 == 0
            parts = rng.normal(labels, 0.7)
            a, b = (
                [cell("ring", 0, labels.tolist(), parts + rng.normal(0, 0.7, 60))] for _ in range(2)
            )
            p_values.append(paired_difference(a, b, "image_auroc", 200).p_value)
        assert np.mean(np.array(p_values) < 0.05) < 0.11
        assert 0.3 < np.mean(np.array(p_values) < 0.5) < 0.7

    def test_pairing_takes_the_parts_out(self) -> None:
        """Methods that agree on what is hard differ less than each of them varies."""
        rng = np.random.default_rng(0)
        b = gaussian_cells(rng, 100)
        a = [cell("product 0", 0, b[0].labels.tolist(), b[0].scores + rng.normal(0, 0.1, 100))]
        difference = paired_difference(a, b, "image_auroc")
        interval = bootstrap_interval(b, "image_auroc")
        assert difference.high - difference.low < 0.5 * (interval.high - interval.low)

    def test_cells_that_do_not_match(self) -> None:
        cells = gaussian_cells(np.random.default_rng(0), 10, 2, 2)
        expected = (
            r"^`a` and `b` must have the same cells, got product 'product 1', seed 1 in `a` only, "
            r"1 such in all; "
        )
        with pytest.raises(UsageError, match=expected):
            paired_difference(cells, cells[:3], "image_ap")
        with pytest.raises(UsageError, match=r"seed 0 in `b` only, 4 such in all; "):
            paired_difference([], cells, "image_ap")

    def test_images_that_do_not_match(self) -> None:
        scores = np.array([1.0, 0.5, 0.0])
        a = [cell("ring", 0, [True, False, False], scores, ["a", "b", "c"])]
        b = [cell("ring", 0, [True, False, False], scores, ["a", "b", "d"])]
        expected = r"^`a` and `b` must have the same images, got 'c' of product 'ring', seed 0 in "
        with pytest.raises(UsageError, match=expected):
            paired_difference(a, b, "image_ap")

    def test_images_in_another_order_are_the_same(self) -> None:
        a = gaussian_cells(np.random.default_rng(0), 20)
        order = np.random.default_rng(1).permutation(20)
        b = [
            Evidence(
                one.product,
                one.seed,
                tuple(one.images[index] for index in order),
                one.labels[order],
                one.scores[order],
                one.positive[order],
                one.negative[order],
            )
            for one in a
        ]
        for metric in BOOTSTRAP_METRICS:
            assert paired_difference(a, b, metric, 100).p_value == 1.0


class TestErrors:
    def test_options(self) -> None:
        cells = gaussian_cells(np.random.default_rng(0), 10)
        with pytest.raises(UsageError, match=r"got 'pixel_auc'; did you mean 'pixel_auroc'\?$"):
            bootstrap_interval(cells, "pixel_auc")
        with pytest.raises(UsageError, match=r"^`metric` must be one of .*, got 'pro'; choose one"):
            paired_difference(cells, cells, "pro")
        with pytest.raises(UsageError, match=r"^`n_resamples` must be at least 1, got 0; "):
            bootstrap_interval(cells, "image_ap", 0)
        for level in (0.0, 1.0, 95.0):
            with pytest.raises(UsageError, match=rf"^`level` must be between 0 and 1, got {level}"):
                bootstrap_interval(cells, "image_ap", level=level)

    def test_no_cell_and_the_same_one_twice(self) -> None:
        cells = gaussian_cells(np.random.default_rng(0), 10)
        with pytest.raises(UsageError, match=r"^`cells` must hold at least one cell, got none; "):
            bootstrap_interval([], "image_ap")
        expected = r"^`cells` must differ in product or seed, got product 'product 0', seed 0 twice"
        with pytest.raises(UsageError, match=expected):
            bootstrap_interval([*cells, *cells], "image_ap")
        with pytest.raises(UsageError, match=expected):
            paired_difference([*cells, *cells], cells, "image_ap")
