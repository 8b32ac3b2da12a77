"""Exact search against a brute force in float64, and what the backend refuses."""

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Inspector
from cff_runtime.backends import open_backend
from cff_runtime.backends.onnxruntime import CPU_CHUNK_ROWS as CHUNK_ROWS
from cff_runtime.backends.onnxruntime import MAX_THREADS, OnnxRuntimeBackend
from cff_runtime.backends.onnxruntime_providers import prepare_provider
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError

BANK_ROWS = [1, 2, 317, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS]
LARGE_BANKS = [2 * CHUNK_ROWS + 333, 3 * CHUNK_ROWS, 4 * CHUNK_ROWS + 1]
TOLERANCE = 1e-5  # float32 sums of up to 64 products of unit rows


@pytest.fixture(scope="module")
def backend(lite_bundle: Bundle) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(lite_bundle, prepare_provider("cpu"), 0)


def _unit_rows(rng: np.random.Generator, n_rows: int, width: int) -> NDArray[np.float32]:
    rows = rng.normal(size=(n_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _on_device(features: NDArray[np.float32]) -> Any:
    return ort.OrtValue.ortvalue_from_numpy(features[None], "cpu", 0)


@pytest.mark.parametrize("n_rows", BANK_ROWS + LARGE_BANKS)
@pytest.mark.parametrize("stage", range(4))
def test_search_is_exact(
    stage: int, n_rows: int, backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    info = lite_bundle.manifest.stages[stage]
    rng = np.random.default_rng([stage, n_rows])
    features = _unit_rows(rng, info.n_tokens, info.width)
    bank = _unit_rows(rng, n_rows, info.width)

    best = backend.search(stage, _on_device(features), backend.upload_bank(bank))

    expected = (features.astype(np.float64) @ bank.astype(np.float64).T).max(axis=1)
    assert best.shape == (info.n_tokens,) and best.dtype == np.float32
    np.testing.assert_allclose(best, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("place", [0, CHUNK_ROWS - 1, CHUNK_ROWS, 2 * CHUNK_ROWS, -1])
def test_the_nearest_row_is_found_wherever_it_stands(
    place: int, backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    info = lite_bundle.manifest.stages[0]
    rng = np.random.default_rng(9)
    features = _unit_rows(rng, info.n_tokens, info.width)
    bank = _unit_rows(rng, 2 * CHUNK_ROWS + 50, info.width)
    bank[place] = features[17]

    best = backend.search(0, _on_device(features), backend.upload_bank(bank))

    assert best[17] == pytest.approx(1.0, abs=TOLERANCE)
    assert np.delete(best, 17).max() < 0.99


def test_cosines_that_are_all_negative_stay_negative(
    backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    """A search that started from 0 would hide how far such a part is."""
    info = lite_bundle.manifest.stages[3]
    features = np.zeros((info.n_tokens, info.width), np.float32)
    features[:, 0] = 1.0
    bank = _unit_rows(np.random.default_rng(0), 50, info.width)
    bank[:, 0] = -np.abs(bank[:, 0])

    best = backend.search(3, _on_device(features), backend.upload_bank(bank))

    np.testing.assert_allclose(best, bank[:, 0].max(), atol=TOLERANCE)
    assert best.max() < 0


def test_a_search_leaves_nothing_for_the_next_one(
    backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    info = lite_bundle.manifest.stages[2]
    rng = np.random.default_rng(3)
    features = _unit_rows(rng, info.n_tokens, info.width)
    near, far = backend.upload_bank(features), backend.upload_bank(-features)

    first = backend.search(2, _on_device(features), far)
    backend.search(2, _on_device(features), near)

    np.testing.assert_array_equal(backend.search(2, _on_device(features), far), first)


def test_nan_features_are_not_lost_in_the_maximum(
    backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    """What is lost here would look like a part without a fault."""
    info = lite_bundle.manifest.stages[0]
    features = _unit_rows(np.random.default_rng(3), info.n_tokens, info.width)
    bank = backend.upload_bank(features)
    features[5] = np.nan

    best = backend.search(0, _on_device(features), bank)

    assert np.isnan(best[5]) and np.isfinite(np.delete(best, 5)).all()


@pytest.mark.parametrize("n_rows", [1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS])
def test_banks_are_uploaded_in_chunks(n_rows: int, backend: OnnxRuntimeBackend) -> None:
    bank = _unit_rows(np.random.default_rng(0), n_rows, 25)

    chunks = [chunk.numpy() for chunk in backend.upload_bank(bank)]

    assert max(map(len, chunks)) <= CHUNK_ROWS
    np.testing.assert_array_equal(np.concatenate(chunks), bank)


def test_a_bank_in_another_memory_order_is_the_same_bank(backend: OnnxRuntimeBackend) -> None:
    bank = _unit_rows(np.random.default_rng(0), 2 * CHUNK_ROWS + 5, 25)
    features = _on_device(_unit_rows(np.random.default_rng(1), 144, 25))

    for view in (np.asfortranarray(bank), np.repeat(bank, 2, axis=0)[::2]):
        np.testing.assert_array_equal(
            backend.search(0, features, backend.upload_bank(view)),
            backend.search(0, features, backend.upload_bank(bank)),
        )


def test_encoding_has_the_shapes_of_the_manifest(
    backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    text = lite_bundle.condition_of_word("object")

    encoding = backend.encode(image, text)

    for handle, stage in zip(encoding.features, lite_bundle.manifest.stages, strict=True):
        features = backend.download(handle)
        assert features.shape == (stage.n_tokens, stage.width)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    assert encoding.map.shape == (96, 96) and encoding.map.dtype == np.float32
    assert encoding.map.min() >= 0.0 and encoding.map.max() <= 4.0
    assert encoding.score is None


def test_views_of_images_are_encoded_like_their_copies(
    backend: OnnxRuntimeBackend, lite_bundle: Bundle
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)[:, ::-2]
    text = np.asfortranarray(lite_bundle.condition_of_word("object"))

    from_view = backend.encode(image, text)
    from_copy = backend.encode(image.copy(), np.ascontiguousarray(text))

    np.testing.assert_array_equal(from_view.map, from_copy.map)
    np.testing.assert_array_equal(
        backend.download(from_view.features[2]), backend.download(from_copy.features[2])
    )


def test_threads_searching_one_bank_do_not_disturb_each_other(
    backend: OnnxRuntimeBackend,
) -> None:
    rng = np.random.default_rng(4)
    bank_rows = _unit_rows(rng, 2 * CHUNK_ROWS + 100, 25)
    bank = backend.upload_bank(bank_rows)
    features = [_unit_rows(rng, 144, 25) for _ in range(4)]
    found: list[list[NDArray[np.float32]]] = [[] for _ in features]

    def search(index: int) -> None:
        for _ in range(5):
            found[index].append(backend.search(0, _on_device(features[index]), bank))

    threads = [threading.Thread(target=search, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for rows, answers in zip(features, found, strict=True):
        expected = (rows.astype(np.float64) @ bank_rows.astype(np.float64).T).max(axis=1)
        assert len(answers) == 5
        for answer in answers:
            np.testing.assert_allclose(answer, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((96, 95, 3), np.uint8), np.zeros((64, 2), np.float32)),
        (np.zeros((96, 96, 3), np.float32), np.zeros((64, 2), np.float32)),
        (np.zeros((96, 96, 3), np.uint8), np.zeros((32, 2), np.float32)),
        (np.zeros((96, 96, 3), np.uint8), np.zeros((64, 2), np.float64)),
    ],
)
def test_onnxruntimes_own_errors_are_backend_errors(
    image: NDArray[Any], text: NDArray[Any], backend: OnnxRuntimeBackend
) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime could not run the encoder"):
        backend.encode(image, text)


def test_a_bank_of_another_width_is_a_backend_error(backend: OnnxRuntimeBackend) -> None:
    features = _on_device(_unit_rows(np.random.default_rng(0), 144, 25))
    bank = backend.upload_bank(np.zeros((10, 24), np.float32))

    with pytest.raises(BackendError, match="could not run scorer 0"):
        backend.search(0, features, bank)


def test_a_text_score_that_the_graph_lacks_is_a_backend_error(lite_bundle: Bundle) -> None:
    manifest = lite_bundle.manifest
    score = replace(manifest.score, output="text_score")
    forged = Bundle(lite_bundle.path, replace(manifest, score=score))
    backend = open_backend("onnxruntime", forged, {})

    with pytest.raises(BackendError, match="could not run the encoder"):
        backend.encode(np.zeros((96, 96, 3), np.uint8), lite_bundle.condition_of_word("object"))


def test_graphs_that_do_not_fit_the_manifest_give_one_sentence(
    bundle_copy: Path, edit_manifest: Callable[..., None], good_parts: list[NDArray[np.uint8]]
) -> None:
    """Two scorers swapped, with a manifest signed again."""
    edit_manifest(bundle_copy, lambda fields: fields["scorers"].reverse(), rehash=True)

    with pytest.raises(BackendError, match="could not run scorer 0"):
        Inspector.open(bundle_copy).enroll(good_parts[:2], "ring")


@pytest.mark.parametrize("name", ["", "openvino", "ONNXRUNTIME"])
def test_an_unknown_backend_is_a_wrong_call(name: str, lite_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="`backend` must be one of onnxruntime"):
        Inspector.open(lite_bundle.path, backend=name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"provider": "gpu"}, "`provider` must be one of cpu, cuda, tensorrt"),
        ({"provider": "CPUExecutionProvider"}, "`provider` must be one of"),
        ({"threads": -1}, f"`threads` must be 0 to {MAX_THREADS}"),
        ({"threads": MAX_THREADS + 1}, f"`threads` must be 0 to {MAX_THREADS}"),
        ({"threads": 1 << 40}, f"`threads` must be 0 to {MAX_THREADS}"),
        ({"device": "cpu"}, "must be one of provider, threads, provider_options, got 'device'"),
    ],
)
def test_a_wrong_option_is_a_wrong_call(
    options: dict[str, Any], expected: str, lite_bundle: Bundle
) -> None:
    with pytest.raises(UsageError, match=expected):
        Inspector.open(lite_bundle.path, options=options)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx"])
def test_a_provider_that_is_not_installed_is_not_replaced(
    provider: str, lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])

    with pytest.raises(
        BackendError, match=rf"`{provider}` must be in the installed.*cff-edge\[gpu"
    ):
        Inspector.open(lite_bundle.path, options={"provider": provider})


def test_a_provider_that_silently_becomes_the_cpu_is_refused(
    lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime does when a provider's libraries cannot be loaded."""
    session = ort.InferenceSession

    def fall_back(
        path: str, options: object, providers: list[str], enable_fallback: int
    ) -> ort.InferenceSession:
        assert enable_fallback == 0
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", fall_back)

    with pytest.raises(BackendError, match="must run on CUDAExecutionProvider, ONNX Runtime chose"):
        Inspector.open(lite_bundle.path, options={"provider": "cuda"})


def test_a_missing_package_names_its_extra(
    lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cff_runtime.backends.onnxruntime", None)

    with pytest.raises(MissingDependencyError, match=r"install cff-edge\[cpu\] or cff-edge\[gpu\]"):
        Inspector.open(lite_bundle.path)


def test_one_thread_gives_the_same_answers(
    lite_bundle: Bundle, backend: OnnxRuntimeBackend
) -> None:
    single = open_backend("onnxruntime", lite_bundle, {"provider": "cpu", "threads": 1})
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    text = lite_bundle.condition_of_word("object")

    one, all_threads = single.encode(image, text), backend.encode(image, text)

    for handle, other in zip(one.features, all_threads.features, strict=True):
        np.testing.assert_allclose(single.download(handle), backend.download(other), atol=1e-5)


def test_searches_are_the_same_to_the_bit_on_any_number_of_threads(lite_bundle: Bundle) -> None:
    rng = np.random.default_rng(5)
    features = _on_device(_unit_rows(rng, 144, 25))
    rows = _unit_rows(rng, 9 * CHUNK_ROWS + 100, 25)
    found = []
    for threads in (1, 2, 5):
        backend = open_backend("onnxruntime", lite_bundle, {"threads": threads})
        bank = backend.upload_bank(rows)
        found += [backend.search(0, features, bank) for _ in range(5)]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_an_answer_outlives_what_it_was_computed_from(backend: OnnxRuntimeBackend) -> None:
    """ONNX Runtime's arrays are views; of memory that ends with the search on a CPU."""
    rng = np.random.default_rng(6)
    features = _on_device(_unit_rows(rng, 144, 25))
    bank = backend.upload_bank(_unit_rows(rng, 3 * CHUNK_ROWS, 25))
    answers = [backend.search(0, features, bank) for _ in range(20)]
    for answer in answers:
        assert answer.flags.owndata
        np.testing.assert_array_equal(answer, answers[-1])
