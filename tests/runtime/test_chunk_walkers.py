"""Chunks shared out to threads: each taken once, timing without effect, errors passed on."""

import threading
import time

import numpy as np
import pytest

from cff_runtime.backends.chunk_walkers import ChunkWalkers
from cff_runtime.backends.core_places import CorePlaces


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_chunks", [0, 1, 2, 3, 50])
def test_every_chunk_is_taken_once(n_threads: int, n_chunks: int) -> None:
    walkers: ChunkWalkers[int, tuple[int, ...]] = ChunkWalkers(CorePlaces(n_threads))

    results = walkers.walk(range(n_chunks), (), lambda taken, chunk: (*taken, chunk))

    assert sorted(chunk for taken in results for chunk in taken) == list(range(n_chunks))
    assert 1 <= len(results) <= max(1, min(n_threads, n_chunks))


def test_the_largest_does_not_depend_on_timing() -> None:
    rng = np.random.default_rng(0)
    chunks = list(rng.normal(size=(40, 3)))
    walkers: ChunkWalkers[np.ndarray, np.ndarray] = ChunkWalkers(CorePlaces(4))

    def step(best: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        time.sleep(rng.uniform(0, 1e-3))
        return np.maximum(best, chunk)

    for _ in range(10):
        results = walkers.walk(chunks, np.full(3, -np.inf), step)
        np.testing.assert_array_equal(np.maximum.reduce(results), np.max(chunks, axis=0))


def test_two_threads_work_at_the_same_time() -> None:
    """Each waits for the other: one alone would break the barrier."""
    barrier = threading.Barrier(2, timeout=20)
    walkers: ChunkWalkers[int, int] = ChunkWalkers(CorePlaces(2))

    results = walkers.walk([1, 2], 0, lambda best, chunk: max(barrier.wait(), best, chunk))

    assert sorted(results) == [1, 2]


def test_a_thread_that_never_gets_to_run_is_not_waited_for() -> None:
    walkers: ChunkWalkers[int, int] = ChunkWalkers(CorePlaces(2))
    busy, release = threading.Event(), threading.Event()

    def hold(best: int, chunk: int) -> int:
        if threading.current_thread().name.startswith("cff-search"):
            busy.set()
            assert release.wait(20)
        else:
            assert busy.wait(20)  # until the only helper is held up
        return chunk

    holder = threading.Thread(target=walkers.walk, args=([1, 2], 0, hold))
    holder.start()
    assert busy.wait(20)
    try:
        results = walkers.walk(range(100), 0, max)
        assert results == [99]
    finally:
        release.set()
        holder.join(20)
    assert not holder.is_alive()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_of_any_thread_is_raised(n_threads: int) -> None:
    def step(best: int, chunk: int) -> int:
        time.sleep(1e-3)
        if chunk == 7:
            raise ValueError("chunk 7")
        return best

    walkers: ChunkWalkers[int, int] = ChunkWalkers(CorePlaces(n_threads))
    for _ in range(5):
        with pytest.raises(ValueError, match="chunk 7"):
            walkers.walk(range(12), 0, step)
    assert sum(walkers.walk([1, 2], 0, lambda best, chunk: best + chunk)) == 3
