"""Threads in C: many callers on one session get what one caller gets."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Inspector

N_CALLERS = 8
SOURCES = Path(__file__).parents[3] / "runtime" / "c"

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module", params=[1, 2, 5])
def session(
    request: pytest.FixtureRequest,
    c_library: ctypes.CDLL,
    c_session_class: Any,
    lite_bundle: Bundle,
) -> Iterator[Any]:
    opened = c_session_class(c_library, lite_bundle.path, n_threads=request.param)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def profile_paths(
    lite_inspector: Inspector,
    draw_part: Callable[..., Picture],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """Profiles of 1, 2 and 6 references: banks of one chunk and of several."""
    folder = tmp_path_factory.mktemp("many")
    paths = []
    for n_references in (1, 2, 6):
        path = folder / f"{n_references}.safetensors"
        parts = [draw_part(10 * n_references + seed) for seed in range(n_references)]
        lite_inspector.enroll(parts, f"product {n_references}").save(path)
        paths.append(path)
    return paths


def _run_all(work: list[Callable[[], None]]) -> None:
    """Run at once, and raise what one raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        barrier.wait()
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_callers_at_once_get_the_bits_of_one_caller(
    session: Any, profile_paths: list[Path], draw_part: Callable[..., Picture]
) -> None:
    profiles = [session.load(path) for path in profile_paths]
    images = [draw_part(seed, defective=seed % 2 == 1) for seed in range(N_CALLERS)]
    alone = [[session.inspect(profile, image) for profile in profiles] for image in images]

    def inspect(number: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(6):
                which = (number + turn) % len(profiles)
                result = session.inspect(profiles[which], images[number])
                expected = alone[number][which]
                assert np.array_equal(result.anomaly_map, expected.anomaly_map)
                assert result.info.score == expected.info.score
                assert result.info.product_distance == expected.info.product_distance
                assert result.warning == expected.warning

        return run

    _run_all([inspect(number) for number in range(N_CALLERS)])


def test_a_failure_is_told_to_its_own_thread(
    session: Any, c_status: SimpleNamespace, profile_paths: list[Path], bad_part: Picture
) -> None:
    profile = session.load(profile_paths[0])
    expected = session.inspect(profile, bad_part).info.score
    small = np.zeros((15, 40, 3), np.uint8)

    def succeed() -> None:
        for _ in range(8):
            assert session.inspect(profile, bad_part).info.score == expected
            assert session.library.cff_last_error() == b""

    def fail() -> None:
        for _ in range(8):
            with pytest.raises(session.Error, match="16") as failure:
                session.inspect(profile, small)
            assert failure.value.status == c_status.IMAGE

    _run_all([succeed, fail] * 4)


def test_sessions_come_and_go_at_once(
    c_library: ctypes.CDLL,
    c_session_class: Any,
    lite_bundle: Bundle,
    profile_paths: list[Path],
    bad_part: Picture,
) -> None:
    """ONNX Runtime's environment is made by the first session and ends with the last."""
    scores: list[float] = []

    def run() -> None:
        for _ in range(2):
            session = c_session_class(c_library, lite_bundle.path, n_threads=2)
            scores.append(session.inspect(session.load(profile_paths[0]), bad_part).info.score)
            session.close()

    _run_all([run] * 3)
    assert len(scores) == 6
    assert len(set(scores)) == 1


# --- the walkers alone ------------------------------------------------------------------------

STEP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


@pytest.fixture(params=[1, 2, 6])
def walkers(request: pytest.FixtureRequest, c_internals: ctypes.CDLL) -> Iterator[ctypes.c_void_p]:
    handle = ctypes.c_void_p()
    c_internals.cff__walkers_stop.restype = None
    c_internals.cff__walkers_stop.argtypes = [ctypes.c_void_p]
    c_internals.cff__walkers_count.restype = ctypes.c_size_t
    assert c_internals.cff__walkers_start(request.param, None, ctypes.byref(handle)) == 0
    assert c_internals.cff__walkers_count(handle) == request.param
    yield handle
    c_internals.cff__walkers_stop(handle)


@pytest.mark.parametrize("n_jobs", [0, 1, 2, 500])
def test_every_job_is_done_once(
    n_jobs: int, walkers: ctypes.c_void_p, c_internals: ctypes.CDLL
) -> None:
    n_walkers = c_internals.cff__walkers_count(walkers)
    done: list[tuple[int, int, int]] = []

    def step(_context: object, walker: int, job: int) -> int:
        done.append((threading.get_ident(), walker, job))
        return 0

    callback = STEP(step)
    assert c_internals.cff__walk(walkers, ctypes.c_size_t(n_jobs), callback, None) == 0

    assert sorted(job for _, _, job in done) == list(range(n_jobs))
    threads = {thread: walker for thread, walker, _ in done}
    assert len(set(threads.values())) == len(threads)  # a number is one thread's
    assert all(walker < n_walkers for walker in threads.values())
    assert all(
        (walker == 0) == (thread == threading.get_ident()) for thread, walker in threads.items()
    )


@pytest.mark.parametrize("place", [0, 7, 99])
def test_the_first_failure_ends_a_walk_and_is_the_caller_s(
    place: int, walkers: ctypes.c_void_p, c_internals: ctypes.CDLL, c_status: SimpleNamespace
) -> None:
    done: list[int] = []
    c_internals.cff_last_error.restype = ctypes.c_char_p

    def step(_context: object, _walker: int, job: int) -> int:
        done.append(job)
        if job != place:
            return 0
        failed: int = c_internals.cff__fail(c_status.BACKEND, b"job %d cannot be", job)
        return failed

    status = c_internals.cff__walk(walkers, ctypes.c_size_t(100), STEP(step), None)

    assert status == c_status.BACKEND
    assert c_internals.cff_last_error() == b"job %d cannot be" % place
    if c_internals.cff__walkers_count(walkers) == 1:
        assert done == list(range(place + 1))
    # and the next walk goes on as if nothing had been
    assert c_internals.cff__walk(walkers, ctypes.c_size_t(3), STEP(lambda *_: 0), None) == 0


def test_walks_at_once_do_not_mix(walkers: ctypes.c_void_p, c_internals: ctypes.CDLL) -> None:
    counts = [0] * N_CALLERS

    def walk(number: int) -> Callable[[], None]:
        jobs: list[int] = []

        def step(_context: object, _walker: int, job: int) -> int:
            jobs.append(job)
            return 0

        def run() -> None:
            callback = STEP(step)
            for _ in range(5):
                jobs.clear()
                assert c_internals.cff__walk(walkers, ctypes.c_size_t(40), callback, None) == 0
                assert sorted(jobs) == list(range(40))
                counts[number] += 1

        return run

    _run_all([walk(number) for number in range(N_CALLERS)])
    assert counts == [5] * N_CALLERS


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_walkers_have_no_race(sanitizer: str, tmp_path: Path) -> None:
    """Eight callers and four threads of a C program, watched by a sanitizer."""
    program = tmp_path / "walkers"
    command = [
        *[os.environ.get("CC", "cc"), f"-fsanitize={sanitizer}", "-g", "-O1", "-std=c99"],
        *["-Wall", "-Wextra", "-Wpedantic", "-Werror"],
        *[f"-I{SOURCES / 'include'}", f"-I{SOURCES / 'src'}"],
        *[str(SOURCES / "tests" / "walkers.c"), str(SOURCES / "src" / "walkers.c")],
        *[str(SOURCES / "src" / "status.c"), "-o", str(program), "-lpthread"],
    ]
    if subprocess.run(command, capture_output=True, timeout=120, check=False).returncode != 0:
        pytest.skip(f"this compiler has no sanitizer {sanitizer}")
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run(
        [program], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == "4000 jobs\n"


# --- the core of each thread ------------------------------------------------------------------


class _Places(ctypes.Structure):
    _fields_ = (
        ("n_cores", ctypes.c_int32),
        ("cores", ctypes.c_int32 * 256),
        ("lock", ctypes.c_char * 128),
    )


class _Stay(ctypes.Structure):
    _fields_ = (("is_moved", ctypes.c_bool), ("before", ctypes.c_ubyte * 128))


@pytest.fixture
def cores() -> list[int]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        pytest.skip("needs a system that tells of at least two cores")
    return allowed


@pytest.mark.parametrize("asks_for_all", [False, True])
def test_as_many_threads_as_cores_have_one_each(
    cores: list[int], asks_for_all: bool, c_internals: ctypes.CDLL
) -> None:
    places, text = _Places(), ctypes.create_string_buffer(256 * 6)
    n_threads = len(cores) if asks_for_all else 0
    assert c_internals.cff__places_make(n_threads, ctypes.byref(places)) == 0
    assert list(places.cores[: places.n_cores]) == cores
    c_internals.cff__places_affinities(ctypes.byref(places), text)
    assert text.value.decode() == ";".join(str(core + 1) for core in cores[1:])
    first, second = _Stay(), _Stay()
    c_internals.cff__places_enter(ctypes.byref(places), ctypes.byref(first))
    assert first.is_moved and os.sched_getaffinity(0) == {cores[0]}
    c_internals.cff__places_enter(ctypes.byref(places), ctypes.byref(second))
    assert not second.is_moved  # of several callers, one
    c_internals.cff__places_leave(ctypes.byref(places), ctypes.byref(second))
    assert os.sched_getaffinity(0) == {cores[0]}
    c_internals.cff__places_leave(ctypes.byref(places), ctypes.byref(first))
    assert os.sched_getaffinity(0) == set(cores)
    _run_all([lambda: _help(c_internals, places, 0, {cores[1]})])
    _run_all([lambda: _help(c_internals, places, len(cores) - 1, set(cores))])  # none is left
    c_internals.cff__places_free(ctypes.byref(places))


def _help(c_internals: ctypes.CDLL, places: _Places, helper: int, expected: set[int]) -> None:
    c_internals.cff__places_help(ctypes.byref(places), ctypes.c_size_t(helper))
    assert os.sched_getaffinity(0) == expected


def test_fewer_threads_than_cores_are_placed_nowhere(
    cores: list[int], c_internals: ctypes.CDLL
) -> None:
    places, text, stay = _Places(), ctypes.create_string_buffer(256 * 6), _Stay()
    assert c_internals.cff__places_make(len(cores) - 1 or 1, ctypes.byref(places)) == 0
    c_internals.cff__places_affinities(ctypes.byref(places), text)
    c_internals.cff__places_enter(ctypes.byref(places), ctypes.byref(stay))
    assert (places.n_cores, text.value, stay.is_moved) == (0, b"", False)
    assert os.sched_getaffinity(0) == set(cores)
    c_internals.cff__places_leave(ctypes.byref(places), ctypes.byref(stay))
    c_internals.cff__places_free(ctypes.byref(places))
