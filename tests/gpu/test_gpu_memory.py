"""The device protocol on a real GPU, through each package that is installed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cff_runtime.cuda import open_device

pytestmark = pytest.mark.gpu
N_BYTES = 1 << 20


@pytest.fixture
def device(cuda_package: str) -> Iterator[Any]:
    opened = open_device(cuda_package)
    with opened.current():
        yield opened
    opened.close()


@pytest.fixture
def stream(device: Any) -> Iterator[Any]:
    made = device.create_stream()
    yield made
    device.destroy_stream(made)


def test_bytes_come_back_as_they_went(device: Any, stream: Any) -> None:
    there, again = device.allocate(N_BYTES), device.allocate(N_BYTES)
    source, target = device.allocate_pinned(N_BYTES), device.allocate_pinned(N_BYTES)
    source[:] = np.random.default_rng(0).integers(0, 256, N_BYTES, dtype=np.uint8)
    target[:] = 0

    device.to_device(there, source, stream)
    device.within_device(again, there, N_BYTES, stream)
    device.to_host(target, again, stream)
    device.synchronize(stream)

    np.testing.assert_array_equal(source, target)
    assert there % 256 == 0 and again % 256 == 0
    for address in (there, again):
        device.free(address)
    for array in (source, target):
        device.free_pinned(array)


def test_more_memory_than_there_is_is_an_answer(device: Any, stream: Any) -> None:
    assert device.allocate(1 << 50) is None

    address = device.allocate(N_BYTES)  # and the next call works
    assert address is not None
    device.free(address)


def test_events_tell_time(device: Any, stream: Any) -> None:
    marks = [device.create_event(), device.create_event()]
    for mark in marks:
        device.record(mark, stream)
    device.synchronize(stream)

    assert 0 <= device.elapsed_ms(*marks) < 1000
    for mark in marks:
        device.destroy_event(mark)


def test_a_stream_follows_the_default_streams(device: Any, stream: Any) -> None:
    for foreign in (1, 2):
        device.follow(stream, foreign)
    device.synchronize(stream)


def test_a_graph_does_again_what_was_recorded(device: Any, stream: Any) -> None:
    if not device.has_graphs:
        pytest.skip(f"{device.package} has no CUDA graphs")
    address = device.allocate(256)
    source, target = device.allocate_pinned(256), device.allocate_pinned(256)
    device.begin_capture(stream)
    device.to_device(address, source, stream)
    device.to_host(target, address, stream)
    graph = device.end_capture(stream)

    for value in (3, 4):
        source[:] = value
        device.launch(graph, stream)
        device.synchronize(stream)
        assert (target == value).all()

    device.destroy_graph(graph)
    device.free(address)
    for array in (source, target):
        device.free_pinned(array)
