"""Greedy k-centre against the plain loop in float64, and bounds against what really happens."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from cff_runtime.coreset import (
    Coreset,
    compress_bank,
    compress_banks,
    compression_facts,
    leave_one_out_rows,
    map_rise,
)
from cff_runtime.errors import UsageError
from cff_runtime.finishing import stage_distance


def _bank(seed: int, n_rows: int, width: int, n_clusters: int = 12) -> NDArray[np.float32]:
    """Unit rows in clusters of very different size, as the tokens of a part are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_clusters, width))
    shares = rng.dirichlet(np.ones(n_clusters))
    rows = centres[rng.choice(n_clusters, n_rows, p=shares)]
    rows = rows + 0.3 * rng.normal(size=rows.shape) * rng.gamma(1.0, size=(n_rows, 1))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _plain_greedy(bank: NDArray[np.float32], n_rows: int) -> list[int]:
    """One row at a time, all in float64."""
    rows = bank.astype(np.float64)
    chosen = [int(np.argmax(rows @ rows.mean(axis=0)))]
    nearest = rows @ rows[chosen[0]]
    while len(chosen) < n_rows:
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return chosen


def _to_nearest(bank: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine distance of every row to the nearest kept one, by scipy in float64."""
    rows = bank.astype(np.float64)
    nearest: NDArray[np.float64] = cdist(rows, rows[kept], "cosine").min(axis=1)
    return nearest


@pytest.mark.parametrize(
    ("n_bank", "width", "n_rows"),
    [(40, 8, 1), (40, 8, 39), (1024, 41, 200), (1025, 25, 300), (3000, 48, 700), (5000, 24, 5)],
)
def test_the_rows_are_those_of_the_plain_loop(n_bank: int, width: int, n_rows: int) -> None:
    bank = _bank(n_bank, n_bank, width)

    coreset = compress_bank(bank, n_rows)

    assert coreset.rows.dtype == np.int64
    assert coreset.rows.tolist() == sorted(_plain_greedy(bank, n_rows))


@pytest.mark.parametrize("n_rows", [1, 30, 400])
def test_the_coverage_is_the_distance_of_dropped_rows(n_rows: int) -> None:
    bank = _bank(1, 2500, 32)

    coreset = compress_bank(bank, n_rows)

    dropped = np.delete(_to_nearest(bank, coreset.rows), coreset.rows)
    coverage = coreset.coverage
    assert (coverage.n_rows_full, coverage.n_rows) == (2500, n_rows) and len(dropped) > 0
    assert coverage.largest == pytest.approx(dropped.max(), abs=1e-6)
    assert coverage.percentile_99 == pytest.approx(np.percentile(dropped, 99), abs=1e-6)
    assert coverage.mean == pytest.approx(dropped.mean(), abs=1e-6)


def test_it_covers_better_than_chance() -> None:
    bank = _bank(2, 3000, 32)
    ours = compress_bank(bank, 300).coverage.largest
    rng = np.random.default_rng(0)
    chance = [_to_nearest(bank, rng.choice(3000, 300, replace=False)).max() for _ in range(5)]
    assert ours < 0.7 * min(chance)


def test_every_cluster_keeps_a_row() -> None:
    """Thirty far directions, one of which a single row has."""
    rng = np.random.default_rng(0)
    of_cluster = np.append(rng.integers(0, 29, 1500), 29)
    bank = np.eye(30)[of_cluster] + 0.01 * rng.normal(size=(1501, 30))
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)

    assert set(of_cluster[compress_bank(bank, 30).rows]) == set(range(30))


def test_a_bank_that_is_small_enough_stays_whole() -> None:
    bank = _bank(3, 50, 8)
    for n_rows in (50, 51, 10**9):
        coreset = compress_bank(bank, n_rows)
        np.testing.assert_array_equal(coreset.rows, np.arange(50))
        assert coreset.coverage.largest == coreset.coverage.mean == 0.0


def test_copies_are_dropped_first_and_cost_nothing() -> None:
    distinct = _bank(4, 300, 16)
    bank = np.tile(distinct, (5, 1))

    coreset = compress_bank(bank, 300)

    assert len(set(coreset.rows % 300)) == 300
    assert coreset.coverage.largest < 1e-6


def test_a_bank_of_copies_alone_gives_as_many_rows_as_asked() -> None:
    bank = np.tile(_bank(5, 1, 16), (2000, 1))
    coreset = compress_bank(bank, 1500)
    assert len(np.unique(coreset.rows)) == 1500
    assert coreset.coverage.largest < 1e-6


def test_the_same_bank_gives_the_same_rows() -> None:
    bank = _bank(6, 3000, 24)
    first, second = compress_bank(bank, 500), compress_bank(np.asfortranarray(bank), 500)
    np.testing.assert_array_equal(first.rows, compress_bank(bank.copy(), 500).rows)
    assert len(np.intersect1d(first.rows, second.rows)) >= 499  # sums in another order
    assert first.coverage.largest == pytest.approx(second.coverage.largest, abs=1e-6)


def test_every_stage_gets_the_same_limit_and_progress_counts_to_the_end() -> None:
    banks = [_bank(seed, n, 16) for seed, n in ((7, 1500), (8, 300), (9, 2000))]
    seen: list[tuple[int, int]] = []

    coresets = compress_banks(banks, 300, lambda done, todo: seen.append((done, todo)))

    assert [len(coreset.rows) for coreset in coresets] == [300, 300, 300]
    assert coresets[1].coverage.largest == 0.0
    np.testing.assert_array_equal(coresets[2].rows, compress_bank(banks[2], 300).rows)
    assert seen == sorted(seen) and len(set(seen)) == len(seen)
    assert seen[-1] == (600, 600)


@pytest.mark.parametrize("n_rows", [4, 240, 700, 1200])
def test_banks_of_references_left_out(n_rows: int) -> None:
    bank = _bank(10, 1200, 24)  # four references of 300 rows
    coreset = compress_bank(bank, n_rows)

    without = leave_one_out_rows(bank, 4, coreset)

    assert len(without) == 4
    for index, rows in enumerate(without):
        assert len(np.unique(rows)) == len(rows) == min(n_rows, 900)
        assert not np.any(rows // 300 == index)
        kept = coreset.rows[coreset.rows // 300 != index]
        assert np.isin(kept, rows).all()
        if n_rows < 900:  # within twice the angle of compressing the three others anew
            others = np.delete(bank, np.arange(index * 300, (index + 1) * 300), axis=0)
            anew = compress_bank(others, n_rows).coverage.largest
            bare = np.delete(_to_nearest(bank, rows), np.arange(index * 300, (index + 1) * 300))
            assert math.acos(1 - bare.max()) <= 2.01 * math.acos(1 - anew)


def test_a_whole_bank_left_out_is_the_others_rows() -> None:
    bank = _bank(11, 90, 8)
    for index, rows in enumerate(leave_one_out_rows(bank, 3, compress_bank(bank, 90))):
        expected = np.delete(np.arange(90), np.arange(30 * index, 30 * index + 30))
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("covering", [1e-7, 0.004, 0.05, 0.4, 1.0])
def test_the_rise_is_the_largest_over_all_angles(covering: float, distance: str) -> None:
    angles = np.linspace(0.0, math.pi, 200_001)
    farther = np.minimum(angles + math.acos(1.0 - covering), math.pi)
    rises = stage_distance(np.cos(farther).astype(np.float64), distance) - stage_distance(
        np.cos(angles).astype(np.float64), distance
    )
    assert map_rise([covering], distance) == pytest.approx(rises.max(), rel=1e-4)
    assert map_rise([covering, 0.0, covering], distance) == pytest.approx(2 * rises.max(), rel=1e-4)


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_no_token_rises_more_than_promised(distance: str) -> None:
    bank, tokens = _bank(12, 2000, 16), _bank(13, 500, 16)
    tokens = np.concatenate([tokens, bank[::7]])  # such as the references themselves
    coreset = compress_bank(bank, 120)
    rows = bank.astype(np.float64)
    cosines = tokens.astype(np.float64) @ rows.T

    full = stage_distance(cosines.max(axis=1), distance)
    compressed = stage_distance(cosines[:, coreset.rows].max(axis=1), distance)

    rises = compressed - full
    assert rises.min() >= 0.0
    assert 0.0 < rises.max() <= map_rise([coreset.coverage.largest], distance) + 1e-6


def test_a_distance_out_of_range_by_rounding_is_no_error() -> None:
    assert map_rise([-1e-9], "log") == 0.0
    assert map_rise([2.0 + 1e-9], "cosine") == pytest.approx(2.0)


def test_facts_for_the_profile_are_json_with_one_entry_a_stage() -> None:
    coresets = compress_banks([_bank(14, 400, 16), _bank(15, 90, 8)], 100)

    facts = json.loads(json.dumps(compression_facts(coresets, "log")))

    assert facts["method"] == "greedy k-centre"
    assert facts["n_rows_full"] == [400, 90] and facts["n_rows"] == [100, 90]
    assert facts["largest"][0] >= facts["percentile_99"][0] >= facts["mean"][0] > 0
    assert facts["largest"][1] == 0.0
    assert facts["map_rise_largest"] >= facts["map_rise_percentile_99"] > 0


@pytest.mark.parametrize("n_rows", [0, -3])
def test_no_rows_is_a_wrong_call(n_rows: int) -> None:
    with pytest.raises(UsageError, match="`n_rows` must be 1 or more"):
        compress_bank(_bank(0, 10, 4), n_rows)


@pytest.mark.parametrize(
    "bank", [np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.zeros((3, 4))]
)
def test_what_is_no_bank_is_a_wrong_call(bank: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="`bank` must be a float32 matrix"):
        compress_bank(bank, 1)


@pytest.mark.parametrize("n_references", [0, 1, 7])
def test_references_that_do_not_divide_the_bank_are_a_wrong_call(n_references: int) -> None:
    bank = _bank(0, 100, 4)
    coreset: Coreset = compress_bank(bank, 10)
    with pytest.raises(UsageError, match="`n_references` must be 2 or more and divide"):
        leave_one_out_rows(bank, n_references, coreset)


def test_an_unknown_distance_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="`distance` must be one of cosine, log"):
        map_rise([0.1], "euclidean")
