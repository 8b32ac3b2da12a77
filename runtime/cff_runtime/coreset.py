"""Fewer rows of a memory bank: greedy k-centre on cosine distance, and what it costs.

    d(b)  = max(0, 1 - max over kept rows k of b . k)         coverage of a row b
    next  = the row of largest d                              greedy k-centre, one step

The largest d that greedy leaves is, as an angle, at most twice that of the best choice of as many
rows (Gonzalez, Clustering to minimize the maximum intercluster distance, 1985).

One step at a time, n kept rows read the bank n times, which memory cannot deliver. The same rows
come out of matrix products: d can only fall, so that among the B rows of largest d steps may be
taken as long as the next row's d is not below the largest one of all rows outside. Then the kept
rows of that round are compared with the whole bank. M n C multiply-adds for M rows of C, and B B C
a round; beyond the bank it needs B B + 4096 B numbers and one per row.

Dropping rows can only raise distances. A token at angle a of its nearest row, which is dropped and
lies at angle r = arccos(1 - d) of a kept one, is at most at a + r of the kept one. Hence

    distance "cosine"   rise <= cos a - cos(a + r)                              largest at m
    distance "log"      rise <= log((c - cos(a + r)) / (c - cos a)), c = 1.01   largest at m

with m = a + r/2 = pi/2 for "cosine" and arccos(cos(r/2) / c) for "log". The map is a sum of stages
and interpolates within each, so that its rise is at most the sum of the stages' rises.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import UsageError
from cff_runtime.finishing import DISTANCES, LOG_SCALE

METHOD = "greedy k-centre"
Progress = Callable[[int, int], None]

_N_CANDIDATES = 1024  # B; 512 to 2048 take the same time within a fifth
_BLOCK_ROWS = 4096  # rows of the bank compared at a time
_SETTLED = np.float32(4.0)  # above any cosine: such a row is never picked
# rows nearer than rounding tells are copies of a kept one: any of them may be next
_COPY = np.float32(1.0 - 1e-6)


@dataclass(frozen=True)
class Coverage:
    """How well kept rows stand for a whole bank.

    Attributes
    ----------
    n_rows_full, n_rows : int
        Rows of the bank and rows kept.
    largest, percentile_99, mean : float
        Of the dropped rows' cosine distances to the nearest kept row; 0 where none is dropped.
    """

    n_rows_full: int
    n_rows: int
    largest: float
    percentile_99: float
    mean: float


@dataclass(frozen=True, eq=False)
class Coreset:
    """Rows of a bank that are kept.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Indices into the bank, ascending.
    coverage : Coverage
    """

    rows: NDArray[np.int64]
    coverage: Coverage


def compress_bank(
    bank: NDArray[np.float32], n_rows: int, progress: Progress | None = None
) -> Coreset:
    """Choose rows of a memory bank by greedy k-centre.

    The first is the row nearest the bank's mean. The same bank gives the same rows on one machine.

    Parameters
    ----------
    bank : ndarray of shape (M, C), float32
        Unit rows.
    n_rows : int
        Rows to keep; all are kept where there are no more.
    progress : callable, optional
        Called with (rows kept, rows to keep).

    Returns
    -------
    Coreset

    Raises
    ------
    UsageError
        If the bank is no matrix of float32 with at least one row, or `n_rows` is below 1.
    """
    _require_matrix(bank)
    if n_rows < 1:
        raise UsageError(f"`n_rows` must be 1 or more, got {n_rows}")
    if n_rows >= len(bank):
        whole = np.arange(len(bank), dtype=np.int64)
        return Coreset(whole, Coverage(len(bank), len(bank), 0.0, 0.0, 0.0))
    first = int(np.argmax(bank @ bank.mean(axis=0)))
    nearest = bank @ bank[first]
    nearest[first] = _SETTLED
    further = _spread(bank, nearest, n_rows - 1, _shifted(progress, 1, n_rows))
    distances = np.maximum(0.0, 1.0 - nearest[nearest < _SETTLED].astype(np.float64))
    coverage = Coverage(
        n_rows_full=len(bank),
        n_rows=n_rows,
        largest=float(distances.max()),
        percentile_99=float(np.percentile(distances, 99)),
        mean=float(distances.mean()),
    )
    return Coreset(np.sort(np.array([first, *further], np.int64)), coverage)


def compress_banks(
    banks: Sequence[NDArray[np.float32]], max_rows: int, progress: Progress | None = None
) -> tuple[Coreset, ...]:
    """Choose at most `max_rows` rows of every stage's bank.

    Parameters
    ----------
    banks : sequence of S ndarrays of shape (M_s, C_s), float32
        Unit rows; a bank with no more rows than `max_rows` stays whole.
    max_rows : int
    progress : callable, optional
        Called with (rows kept, rows to keep) over all banks that lose rows.

    Returns
    -------
    tuple of S Coreset

    Raises
    ------
    UsageError
        As `compress_bank`.
    """
    n_todo = sum(max_rows for bank in banks if len(bank) > max_rows)
    n_done, coresets = 0, []
    for bank in banks:
        coresets.append(compress_bank(bank, max_rows, _shifted(progress, n_done, n_todo)))
        n_done += max_rows if len(bank) > max_rows else 0
    return tuple(coresets)


def leave_one_out_rows(
    bank: NDArray[np.float32], n_references: int, coreset: Coreset
) -> list[NDArray[np.int64]]:
    """Return, for every reference, a bank compressed alike but without that reference.

    Its kept rows also stood for rows of the others, now bare; greedy goes on over the others' rows
    until there are as many as before. That is what compressing K - 1 references costs once, not K
    times. Scores of references left out come from these rows.

    Parameters
    ----------
    bank : ndarray of shape (M, C), float32
        Unit rows of K references, M / K rows each, reference by reference.
    n_references : int
        K, at least 2.
    coreset : Coreset
        Of this bank.

    Returns
    -------
    list of K ndarrays of int64
        Indices into `bank`, ascending: min(n, M - M / K) rows, none of the reference left out.

    Raises
    ------
    UsageError
        If the bank is not made of K >= 2 references of equal size.
    """
    _require_matrix(bank)
    if n_references < 2 or len(bank) % n_references:
        raise UsageError(
            "`n_references` must be 2 or more and divide the rows of the bank, got "
            f"{n_references} for {len(bank)} rows"
        )
    size = len(bank) // n_references
    kept_of = [coreset.rows[coreset.rows // size == index] for index in range(n_references)]
    nearest_of = np.full((n_references, len(bank)), -_SETTLED)  # [K,M]
    for kept, nearest in zip(kept_of, nearest_of, strict=True):
        _compare(bank, kept, nearest)
    n_rows = min(len(coreset.rows), len(bank) - size)
    chosen = []
    for index in range(n_references):
        kept = np.concatenate([rows for other, rows in enumerate(kept_of) if other != index])
        nearest = np.delete(nearest_of, index, axis=0).max(axis=0)
        nearest[kept] = _SETTLED
        nearest[index * size : (index + 1) * size] = _SETTLED
        further = _spread(bank, nearest, n_rows - len(kept), None)
        chosen.append(np.sort(np.concatenate([kept, np.array(further, np.int64)])))
    return chosen


def map_rise(distances: Sequence[float], distance: str) -> float:
    """Return how much the anomaly map can rise at most: the module's formula, summed over stages.

    Parameters
    ----------
    distances : sequence of float
        Per stage, the cosine distance of dropped rows to the nearest kept one, 0 to 2.
    distance : {'cosine', 'log'}
        Of the manifest.

    Returns
    -------
    float
        In units of the map. The image score rises by as much, or where the encoder gives a score
        too, by 0.5 peak_scale times as much.

    Raises
    ------
    UsageError
        If `distance` is none of these.
    """
    if distance not in DISTANCES:
        raise UsageError(f"`distance` must be one of {', '.join(DISTANCES)}, got {distance!r}")
    return math.fsum(_stage_rise(min(max(d, 0.0), 2.0), distance) for d in distances)


def compression_facts(coresets: Sequence[Coreset], distance: str) -> dict[str, Any]:
    """Return what a profile tells of its compression, ready for JSON; lists have one entry a stage.

    Parameters
    ----------
    coresets : sequence of S Coreset
    distance : {'cosine', 'log'}
        Of the manifest, for the rise of the map.
    """
    coverages = [coreset.coverage for coreset in coresets]
    largest = [coverage.largest for coverage in coverages]
    percentile_99 = [coverage.percentile_99 for coverage in coverages]
    return {
        "method": METHOD,
        "n_rows_full": [coverage.n_rows_full for coverage in coverages],
        "n_rows": [coverage.n_rows for coverage in coverages],
        "largest": largest,
        "percentile_99": percentile_99,
        "mean": [coverage.mean for coverage in coverages],
        "map_rise_largest": map_rise(largest, distance),
        "map_rise_percentile_99": map_rise(percentile_99, distance),
    }


def _stage_rise(cosine_distance: float, distance: str) -> float:
    half = 0.5 * math.acos(1.0 - cosine_distance)
    if distance == "cosine":
        return 2.0 * math.sin(half)  # at m = pi/2
    offset = 1.0 + LOG_SCALE
    middle = math.acos(math.cos(half) / offset)
    return math.log((offset - math.cos(middle + half)) / (offset - math.cos(middle - half)))


def _spread(
    bank: NDArray[np.float32],
    nearest: NDArray[np.float32],
    n_more: int,
    progress: Progress | None,
) -> list[int]:
    """Pick rows by greedy k-centre, in order; `nearest` is brought up to date in place.

    `nearest` [M] holds each row's largest cosine to the rows kept so far, `_SETTLED` for those that
    must not be picked.
    """
    picked: list[int] = []
    while len(picked) < n_more:
        candidates, bound = _farthest(nearest)
        rows = bank[candidates]
        cosines = rows @ rows.T  # [B,B]
        local = nearest[candidates]
        of_round: list[int] = []
        while len(picked) + len(of_round) < n_more:
            index = int(local.argmin())
            if of_round and (bound < local[index] < _COPY or local[index] == _SETTLED):
                break  # a row outside the candidates may be farther, or none is left
            of_round.append(index)
            np.maximum(local, cosines[index], out=local)
            local[index] = _SETTLED
        new = candidates[of_round]
        _compare(bank, new, nearest)
        nearest[new] = _SETTLED
        picked.extend(new.tolist())
        if progress is not None:
            progress(len(picked), n_more)
    return picked


def _farthest(nearest: NDArray[np.float32]) -> tuple[NDArray[np.intp], np.float32]:
    """Return the rows of smallest cosine, ascending, and the smallest cosine of all others."""
    if len(nearest) <= _N_CANDIDATES:
        return np.arange(len(nearest)), _SETTLED
    order = np.argpartition(nearest, _N_CANDIDATES)
    return np.sort(order[:_N_CANDIDATES]), np.float32(nearest[order[_N_CANDIDATES]])


def _compare(
    bank: NDArray[np.float32], rows: NDArray[np.integer[Any]], nearest: NDArray[np.float32]
) -> None:
    """Raise `nearest` [M] to each bank row's largest cosine to the bank's `rows`, in place."""
    for first in range(0, len(rows), _N_CANDIDATES):
        columns = bank[rows[first : first + _N_CANDIDATES]].T
        for start in range(0, len(bank), _BLOCK_ROWS):
            block = nearest[start : start + _BLOCK_ROWS]
            cosines = bank[start : start + _BLOCK_ROWS] @ columns
            np.maximum(block, cosines.max(axis=1), out=block)


def _shifted(progress: Progress | None, n_done: int, n_todo: int) -> Progress | None:
    """Return a callback of a part of the work, which starts at `n_done` of `n_todo`."""
    if progress is None:
        return None
    return lambda done, _: progress(n_done + done, n_todo)


def _require_matrix(bank: NDArray[np.float32]) -> None:
    if bank.ndim != 2 or len(bank) == 0 or bank.dtype != np.float32:
        raise UsageError(
            "`bank` must be a float32 matrix with at least one row, got "
            f"{bank.dtype} of shape {bank.shape}"
        )
