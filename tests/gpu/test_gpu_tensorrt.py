"""Engines on a real GPU: the gate, the numbers, graphs, images on the device, threads."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.cuda import open_device
from cff_runtime.verification import verify_bundle

pytestmark = pytest.mark.gpu
COSINE_TOLERANCE = 1e-4  # fp32 without TF32, another order of sums
FEATURE_TOLERANCE = 1e-3

UnitRows = Callable[..., NDArray[np.float32]]


def test_the_gate_passes(open_tensorrt: Any, lite_bundle: Bundle) -> None:
    report = verify_bundle(lite_bundle, open_tensorrt())

    assert report.passed, report.failures


def test_features_are_those_of_the_cpu(
    open_tensorrt: Any, reference: Any, image: NDArray[np.uint8], lite_bundle: Bundle
) -> None:
    text, backend = lite_bundle.condition_of_word("object"), open_tensorrt()

    found, expected = backend.encode(image, text), reference.encode(image, text)

    for handle, answer in zip(found.features, expected.features, strict=True):
        np.testing.assert_allclose(
            backend.download(handle), reference.download(answer), atol=FEATURE_TOLERANCE
        )
    np.testing.assert_allclose(found.map, expected.map, atol=1e-2)
    assert backend.times_ms["encode"] > 0


@pytest.mark.parametrize("n_rows", [1, 1023, 1024, 1025, 5000])
def test_search_is_exact(
    n_rows: int,
    open_tensorrt: Any,
    image: NDArray[np.uint8],
    lite_bundle: Bundle,
    unit_rows: UnitRows,
) -> None:
    backend = open_tensorrt()
    encoding = backend.encode(image, lite_bundle.condition_of_word("object"))
    for stage, info in enumerate(lite_bundle.manifest.stages):
        bank = unit_rows(n_rows, n_rows, info.width)
        features = backend.download(encoding.features[stage]).astype(np.float64)

        nearest = backend.search(stage, encoding.features[stage], backend.upload_bank(bank))

        expected = (features @ bank.astype(np.float64).T).max(axis=1)
        np.testing.assert_allclose(nearest, expected, atol=COSINE_TOLERANCE, rtol=0)


def test_a_graph_gives_the_same_answers(
    open_tensorrt: Any, image: NDArray[np.uint8], lite_bundle: Bundle
) -> None:
    text = lite_bundle.condition_of_word("object")
    plain, graph = open_tensorrt(), open_tensorrt(graph=True, cuda="cuda-python")

    for one in (image, image[::-1].copy(), image):
        held, expected = graph.encode(one, text), plain.encode(one, text)
        np.testing.assert_allclose(held.map, expected.map, atol=1e-5)
        for handle, answer in zip(held.features, expected.features, strict=True):
            np.testing.assert_allclose(graph.download(handle), plain.download(answer), atol=1e-5)


def test_an_image_on_the_gpu_gives_the_same_answer(
    open_tensorrt: Any, image: NDArray[np.uint8], lite_bundle: Bundle, cuda_package: str
) -> None:
    text, backend = lite_bundle.condition_of_word("object"), open_tensorrt(cuda=cuda_package)
    device = open_device(cuda_package)
    with device.current():
        stream = device.create_stream()
        address, pinned = device.allocate(image.nbytes), device.allocate_pinned(image.nbytes)
        assert address is not None
        pinned[:] = image.reshape(-1)
        device.to_device(address, pinned, stream)  # not waited for: the interface names the stream

        class OnDevice:
            __cuda_array_interface__ = {  # noqa: RUF012
                "shape": image.shape,
                "typestr": "|u1",
                "data": (address, False),
                "version": 3,
                "stream": device.stream_handle(stream),
            }

        found = backend.encode(OnDevice(), text)
        device.synchronize(stream)
        device.free(address)
        device.free_pinned(pinned)
        device.destroy_stream(stream)
    device.close()
    np.testing.assert_array_equal(found.map, backend.encode(image, text).map)


def test_scores_are_those_of_the_cpu_on_several_threads(
    open_tensorrt: Any,
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    lite_profile: Profile,
    good_parts: list[NDArray[np.uint8]],
    bad_part: NDArray[np.uint8],
) -> None:
    inspector = Inspector(lite_bundle, open_tensorrt())
    parts = [bad_part, *good_parts]
    expected = [lite_inspector.inspect(part, lite_profile) for part in parts]
    found: dict[int, Any] = {}

    def inspect(index: int) -> None:
        for _ in range(20):
            found[index] = inspector.inspect(parts[index], lite_profile)

    threads = [threading.Thread(target=inspect, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == len(parts)
    for index, answer in enumerate(expected):
        assert found[index].verdict == answer.verdict
        assert found[index].score == pytest.approx(answer.score, abs=1e-2)


def test_banks_leave_and_come_back(
    open_tensorrt: Any, image: NDArray[np.uint8], lite_bundle: Bundle, unit_rows: UnitRows
) -> None:
    backend, info = open_tensorrt(memory_mb=3), lite_bundle.manifest.stages[0]
    features = backend.encode(image, lite_bundle.condition_of_word("object")).features[0]
    host = backend.download(features).astype(np.float64)
    rows = [unit_rows(seed, 10 * 1024, info.width) for seed in range(4)]
    banks = [backend.upload_bank(bank) for bank in rows]

    for _ in range(2):
        for bank, handle in zip(rows, banks, strict=True):
            expected = (host @ bank.astype(np.float64).T).max(axis=1)
            nearest = backend.search(0, features, handle)
            np.testing.assert_allclose(nearest, expected, atol=COSINE_TOLERANCE, rtol=0)
