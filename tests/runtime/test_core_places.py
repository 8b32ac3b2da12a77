"""Which core each computing thread runs on."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cff_runtime.backends.core_places import CorePlaces

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not say where threads run"
)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[int]]]:
    """Three cores, of which the first three threads' moves are recorded by their names."""
    done: list[tuple[str, set[int]]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {7, 3, 5})
    monkeypatch.setattr(
        os,
        "sched_setaffinity",
        lambda thread, cores: done.append((threading.current_thread().name, set(cores))),
    )
    return done


@pytest.mark.parametrize("threads", [0, 3])
def test_all_cores_are_shared_out_and_the_caller_gets_its_own_back(
    moves: list[tuple[str, set[int]]], threads: int
) -> None:
    places = CorePlaces(threads)
    assert (places.n_threads, places.cores) == (3, (3, 5, 7))
    assert places.affinities == "6;8"  # counted from 1, as ONNX Runtime has them
    with pytest.raises(ValueError, match="inside"), places.caller():
        assert moves == [("MainThread", {3})]
        raise ValueError("inside")
    assert moves == [("MainThread", {3}), ("MainThread", {3, 5, 7})]


def test_helpers_take_the_other_cores_in_turn(moves: list[tuple[str, set[int]]]) -> None:
    places = CorePlaces(0)
    for _ in range(3):
        with ThreadPoolExecutor(1, initializer=places.place_helper) as pool:
            pool.submit(int).result()
    assert [cores for _, cores in moves] == [{5}, {7}, {5}]


def test_of_two_callers_at_once_one_stays_where_it_is(moves: list[tuple[str, set[int]]]) -> None:
    places = CorePlaces(0)
    with places.caller(), ThreadPoolExecutor(1, "other") as pool:

        def second() -> None:
            with places.caller():
                pass

        pool.submit(second).result()
    assert [name for name, _ in moves] == ["MainThread", "MainThread"]
    with places.caller():  # the first core is free again
        assert moves[-1] == ("MainThread", {3})


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_nothing_is_placed_unless_threads_and_cores_are_as_many(
    moves: list[tuple[str, set[int]]], threads: int
) -> None:
    places = CorePlaces(threads)
    assert (places.n_threads, places.cores, places.affinities) == (threads, (), "")
    places.place_helper()
    with places.caller():
        pass
    assert moves == []


def test_cores_that_were_taken_away_since_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, cores: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    places = CorePlaces(0)
    with places.caller():
        places.place_helper()


def test_where_the_system_does_not_say_nothing_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    places = CorePlaces(0)
    assert (places.n_threads, places.cores) == (6, ())
