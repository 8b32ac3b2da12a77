"""The host side of the TensorRT backend, against a recording double; no GPU is needed or used."""

import atexit
import contextlib
import functools
import gc
import importlib.util
import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.backends import Encoding, open_backend, tensorrt
from cff_runtime.backends.tensorrt_engine import Tensor, encoder_tensors, scorer_tensors
from cff_runtime.engines import BuiltEngine, EngineSettings, EngineStore, Gpu, wanted_engines
from cff_runtime.engines.flavours import load_flavour
from cff_runtime.engines.key import static
from cff_runtime.engines.logs import collected_log
from cff_runtime.engines.network import fix_sizes, parse_graph
from cff_runtime.engines.store import now_utc
from cff_runtime.errors import BackendError, ImageError, MissingDependencyError, UsageError
from cff_runtime.storage import sha256_bytes

ORIN = Gpu("Orin", "8.7")
ADA = Gpu("NVIDIA RTX 4000 Ada", "8.9")
ROWS = 1024  # of a chunk
TOLERANCE = 1e-6


def _load_double() -> Any:
    spec = importlib.util.spec_from_file_location(
        "recording_gpu", Path(__file__).with_name("recording_gpu.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


double = _load_double()


def _write_engines(bundle: Bundle, folder: Path, flavour: str) -> None:
    """Put an engine for every graph that the bundle needs into the store."""
    folder.mkdir(exist_ok=True)
    store = EngineStore(folder)
    for wanted in wanted_engines(bundle, EngineSettings(flavour)):
        content = f"engine of {wanted.graph}".encode()
        path = store.path_for(wanted.key, wanted.graph.name)
        path.write_bytes(content)
        BuiltEngine(
            path=path,
            key=wanted.key,
            graph_name=wanted.graph.name,
            graph_bytes=1,
            sha256=sha256_bytes(content),
            n_bytes=len(content),
            build_seconds=1.0,
            typing="strong",
            n_by_type={"FLOAT": 1},
            n_kept_fp32=0,
            warnings=(),
            notes=(),
            built=now_utc(),
        ).write_sidecar()


class Box:
    """A box with a double in the place of its GPU and TensorRT."""

    def __init__(self, bundle: Bundle, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.bundle, self.folder, self.patch = bundle, folder, patch
        self.devices: list[Any] = []
        self.record = double.Record(gone=[], refuse="", dtype="")
        self.new_device: Callable[[], Any] = double.RecordingDevice
        patch.setattr(tensorrt, "open_device", self._open_device)
        self.put_in(ORIN, "tensorrt")

    def put_in(self, gpu: Gpu | None, flavour: str) -> None:
        for module in ("engines.builder", "engines.store", "backends.tensorrt"):
            self.patch.setattr(f"cff_runtime.{module}.find_gpu", lambda: gpu)
        self.patch.setattr("cff_runtime.engines.validity.find_gpu", lambda: None)
        self.flavour, self.gpu = flavour, gpu
        self.use(double.RecordingDevice())

    def use(self, device: Any) -> Any:
        """Let the next backend find this device."""
        self.device = device
        module = double.make_tensorrt(device, self.record)
        self.patch.setitem(sys.modules, self.flavour.replace("-", "_"), module)
        self.new_device = lambda: device
        return device

    def write_engines(self) -> None:
        _write_engines(self.bundle, self.folder, self.flavour)

    def accept_engines(self) -> None:
        """As after an opening that passed the gate."""
        store = EngineStore(self.folder)
        for engine in store.engines():
            store.accept(engine.key, {"gpu": self.gpu.name if self.gpu else ""})

    def open(self, **options: Any) -> Any:
        options = {"flavour": self.flavour, "engines": str(self.folder), **options}
        return open_backend("tensorrt", self.bundle, options)

    def _open_device(self, _package: str) -> Any:
        return self.new_device()


@pytest.fixture
def box(lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box(lite_bundle, tmp_path / "engines", monkeypatch)
    box.write_engines()
    box.accept_engines()
    return box


@pytest.fixture(scope="module")
def reference(lite_bundle: Bundle) -> Any:
    return open_backend("onnxruntime", lite_bundle, {"threads": 1})


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def text(lite_bundle: Bundle) -> NDArray[np.float32]:
    return lite_bundle.condition_of_word("object")


def _unit_rows(seed: int, n_rows: int, width: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _brute_force(
    features: NDArray[np.float32], bank: NDArray[np.float32]
) -> NDArray[np.floating[Any]]:
    return (features.astype(np.float64) @ bank.astype(np.float64).T).max(axis=1)


def _on_device(device: Any, array: NDArray[Any], **changes: Any) -> Any:
    """Return an object with the CUDA Array Interface, its pixels on the device."""
    with device.current():
        address = device.allocate(array.nbytes)
    device.view(address, array.shape, array.dtype)[:] = array
    interface = {
        "shape": array.shape,
        "typestr": "|u1",
        "data": (address, False),
        "version": 3,
        "stream": None,
        **changes,
    }
    return SimpleNamespace(__cuda_array_interface__=interface, address=address)


# numbers


def test_encodings_and_searches_are_those_of_onnxruntime(
    box: Box, reference: Any, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()

    found, expected = backend.encode(image, text), reference.encode(image, text)

    np.testing.assert_allclose(found.map, expected.map, atol=TOLERANCE, rtol=0)
    assert found.map.shape == (96, 96) and found.map.dtype == np.float32
    before = found.map.copy()
    backend.encode(255 - image, text)  # its pinned memory is another's by now
    np.testing.assert_array_equal(found.map, before)
    assert found.score is None
    for stage, info in enumerate(box.bundle.manifest.stages):
        features = backend.download(found.features[stage])
        answer = reference.download(expected.features[stage])
        np.testing.assert_allclose(features, answer, atol=TOLERANCE, rtol=0)
        assert features.shape == (info.n_tokens, info.width) and features.flags.owndata
        for n_rows in (1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 333):
            bank = _unit_rows(n_rows, n_rows, info.width)
            nearest = backend.search(stage, found.features[stage], backend.upload_bank(bank))
            np.testing.assert_allclose(
                nearest, _brute_force(answer, bank), atol=TOLERANCE * 10, rtol=0
            )
            one = reference.search(stage, expected.features[stage], reference.upload_bank(bank))
            np.testing.assert_allclose(nearest, one, atol=TOLERANCE, rtol=0)
            assert nearest.shape == (info.n_tokens,) and nearest.flags.owndata
    backend.close()
    box.device.assert_nothing_left()


def test_a_bundle_with_a_template_and_nothing_to_search_runs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).parents[1] / "conformance" / "bundles" / "template"
    bundle = Bundle.open(folder)
    box = Box(bundle, tmp_path / "engines", monkeypatch)
    box.write_engines()
    box.accept_engines()
    size, condition = bundle.manifest.preprocessing, bundle.manifest.condition
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
    template = rng.normal(size=condition.shape).astype(np.float32)

    found = box.open().encode(image, template)

    expected = open_backend("onnxruntime", bundle, {"threads": 1}).encode(image, template)
    np.testing.assert_allclose(found.map, expected.map, atol=TOLERANCE, rtol=0)
    assert found.score is None
    assert len(EngineStore(box.folder).engines()) == 1  # the encoder's alone


@pytest.mark.parametrize("graph", [False, True])
def test_an_inspector_gives_the_scores_of_onnxruntime(
    graph: bool,
    box: Box,
    lite_inspector: Inspector,
    lite_profile: Profile,
    bad_part: NDArray[np.uint8],
    good_parts: list[NDArray[np.uint8]],
) -> None:
    inspector = Inspector(box.bundle, box.open(graph=graph))

    for part in [bad_part, *good_parts[:2]]:
        found = inspector.inspect(part, lite_profile)
        expected = lite_inspector.inspect(part, lite_profile)
        assert found.score == pytest.approx(expected.score, abs=TOLERANCE)
        assert found.verdict == expected.verdict
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=TOLERANCE)


def test_a_product_is_enrolled_as_onnxruntime_enrols_it(
    box: Box, lite_profile: Profile, good_parts: list[NDArray[np.uint8]]
) -> None:
    profile = Inspector(box.bundle, box.open()).enroll(good_parts, "ring")

    assert profile.threshold.value == pytest.approx(lite_profile.threshold.value, abs=TOLERANCE)
    for bank, expected in zip(profile.banks, lite_profile.banks, strict=True):
        np.testing.assert_allclose(bank, expected, atol=TOLERANCE, rtol=0)


def test_negative_cosines_stay_negative_through_the_padding(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    """Rows of zeros as padding would hide how far a part is from everything good."""
    backend = box.open()
    features = backend.encode(image, text).features[0]
    mean = backend.download(features).mean(axis=0)
    bank = -(mean / np.linalg.norm(mean))[None].astype(np.float32)

    nearest = backend.search(0, features, backend.upload_bank(bank))

    expected = _brute_force(backend.download(features), bank)
    assert expected.min() < 0
    np.testing.assert_allclose(nearest, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_token_without_a_cosine_is_an_error(
    value: float, box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    """TensorRT's maximum may drop a NaN, and the search's start comes out instead."""
    backend = box.open()
    encoding = backend.encode(image, text)
    bank = backend.upload_bank(_unit_rows(0, 5, box.bundle.manifest.stages[0].width))
    features = encoding.features[0]
    box.device.view(features.address, features.shape, np.float32)[0, 5] = value

    with pytest.raises(BackendError, match="no cosine for some tokens of stage 0"):
        backend.search(0, features, bank)


# order, addresses, lifetimes


def test_one_encoding_is_copies_then_the_engine_then_copies_then_one_wait(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()
    backend.encode(image, text)
    box.device.calls.clear()

    backend.encode(image, text)

    names = [call[0] for call in box.device.calls]
    assert names == [
        *("current", "record", "to_device", "to_device", "enqueue", "to_host", "record"),
        *("synchronize", "elapsed_ms"),
    ]
    sizes = [call[2] for call in box.device.named("to_device", "to_host")]
    assert sizes == [96 * 96 * 3, text.nbytes, 96 * 96 * 4]
    assert backend.times_ms == {"encode": 0.25}


def test_a_search_goes_chunk_by_chunk_and_waits_once(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    info = box.bundle.manifest.stages[1]
    backend = box.open()
    features = backend.encode(image, text).features[1]
    bank = backend.upload_bank(_unit_rows(1, 3 * ROWS - 7, info.width))
    backend.search(1, features, bank)
    box.device.calls.clear()

    backend.search(1, features, bank)

    runs = [call[2] for call in box.device.named("enqueue")]
    starts = [run["bank"] for run in runs]
    assert [start - starts[0] for start in starts] == [
        0,
        ROWS * info.width * 4,
        2 * ROWS * info.width * 4,
    ]
    assert {run["features"] for run in runs} == {features.address}
    assert [run["best_so_far"] for run in runs[1:]] == [run["best"] for run in runs[:-1]]
    assert runs[0]["best_so_far"] not in {run["best"] for run in runs}
    assert len(box.device.named("synchronize")) == 1
    assert box.device.named("to_host")[0][1:] == (runs[-1]["best"], info.n_tokens * 4)


def test_after_a_first_inspection_nothing_is_allocated(
    box: Box, lite_profile: Profile, good_parts: list[NDArray[np.uint8]]
) -> None:
    inspector = Inspector(box.bundle, box.open())
    inspector.inspect(good_parts[0], lite_profile)
    box.device.calls.clear()

    for part in good_parts:
        inspector.inspect(part, lite_profile)

    assert not box.device.named("allocate", "allocate_pinned", "free", "free_pinned")
    assert not box.device.named("create_event", "create_stream", "create_execution_context")


def test_features_stay_while_others_encode_and_their_memory_is_used_again(
    box: Box, text: NDArray[np.float32]
) -> None:
    backend = box.open()
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(3)]
    alone = [backend.download(backend.encode(one, text).features[2]) for one in images]

    held = [backend.encode(one, text) for one in images]

    for encoding, expected in zip(held, alone, strict=True):
        np.testing.assert_array_equal(backend.download(encoding.features[2]), expected)
    used = box.device.used_bytes
    features = held[0].features[2]
    del held, encoding
    for one in images:
        backend.encode(one, text)
    assert box.device.used_bytes == used
    np.testing.assert_array_equal(backend.download(features), alone[0])


def test_scorers_of_one_shape_share_an_engine(box: Box) -> None:
    box.open()

    stages = box.bundle.manifest.stages
    shapes = {(stage.n_tokens, stage.width) for stage in stages}
    assert len(box.device.named("deserialize")) == 1 + len(shapes)
    assert len(box.device.named("create_execution_context")) == 1 + len(shapes)


def test_closing_gives_everything_back_in_order(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open(graph=True)
    encoding = backend.encode(image, text)
    bank = backend.upload_bank(_unit_rows(0, 10, encoding.features[0].shape[2]))
    box.device.calls.clear()

    backend.close()
    backend.close()

    box.device.assert_nothing_left()
    names = [call[0] for call in box.device.calls]
    order = ["synchronize", "destroy_graph", "free", "free_pinned", "destroy_event"]
    order += ["destroy_stream", "close"]
    firsts = [names.index(name) for name in order]
    assert firsts == sorted(firsts)
    kinds = [gone.split()[0] for gone in box.record.gone]
    assert kinds[-1] == "runtime" and kinds.count("runtime") == 1
    contexts = [gone.split()[1] for gone in box.record.gone if gone.startswith("context")]
    engines = [gone.split()[1] for gone in box.record.gone if gone.startswith("engine")]
    assert contexts == engines and len(contexts) >= 2
    for name in contexts:
        gone = box.record.gone
        assert gone.index(f"context {name}") < gone.index(f"engine {name}")
    calls: list[Callable[[], Any]] = [
        lambda: backend.encode(image, text),
        lambda: backend.search(0, encoding.features[0], bank),
        lambda: backend.download(encoding.features[0]),
        lambda: encoding.features[0].__cuda_array_interface__,
    ]
    for call in calls:
        with pytest.raises(BackendError, match="was closed; open it again"):
            call()


def test_a_backend_that_is_forgotten_is_closed(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()
    encoding = backend.encode(image, text)
    del backend
    gc.collect()
    assert box.device.n_closed == 0  # its features are held

    del encoding
    gc.collect()

    box.device.assert_nothing_left()


def test_a_backend_is_closed_when_the_process_ends(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    backend, forgotten = box.open(), box.use(double.RecordingDevice())
    box.open().close()

    for function, *arguments in registered:
        function(*arguments)

    assert len(registered) == 2 and forgotten.n_closed == 1
    with pytest.raises(BackendError, match="was closed"):
        backend.require_open()


# banks under a budget


def _bank_of_mib(mib: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return _unit_rows(seed, (mib << 20) // (4 * width) // ROWS * ROWS, width)


def test_the_bank_used_longest_ago_leaves_and_comes_back(
    box: Box,
    image: NDArray[np.uint8],
    text: NDArray[np.float32],
    caplog: pytest.LogCaptureFixture,
) -> None:
    width = box.bundle.manifest.stages[0].width
    backend = box.open(memory_mb=3)
    features = backend.encode(image, text).features[0]
    rows = [_bank_of_mib(1, width, seed) for seed in range(4)]
    assert len(rows[0]) >= ROWS
    with caplog.at_level(logging.WARNING):
        banks = [backend.upload_bank(bank) for bank in rows[:3]]
        backend.search(0, features, banks[0])  # now the second is the one used longest ago
        banks.append(backend.upload_bank(rows[3]))
        box.device.calls.clear()
        for index in (0, 2, 3):
            backend.search(0, features, banks[index])
        assert not box.device.named("allocate", "free", "to_device")
        found = backend.search(0, features, banks[1])

    assert len(box.device.named("free")) == 1
    expected = _brute_force(backend.download(features), rows[1])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * 10, rtol=0)
    assert sum("do not fit into the GPU's share" in text for text in caplog.messages) == 1


def test_a_bank_that_can_never_fit_says_how_much_it_takes(box: Box) -> None:
    width = box.bundle.manifest.stages[0].width
    backend = box.open(memory_mb=1)

    with pytest.raises(BackendError, match=r"takes 2\.\d MiB on the GPU, `memory_mb` allows 1 MiB"):
        backend.upload_bank(_unit_rows(0, 22 * ROWS, width))


def test_memory_of_banks_that_nobody_holds_is_given_back(box: Box) -> None:
    width = box.bundle.manifest.stages[0].width
    backend = box.open()
    before = box.device.used_bytes
    bank = backend.upload_bank(_unit_rows(0, 10, width))
    assert box.device.used_bytes == before + ROWS * width * 4
    del bank
    gc.collect()

    other = backend.upload_bank(_unit_rows(1, 10, width))

    assert box.device.used_bytes == before + ROWS * width * 4
    assert other.n_bytes == ROWS * width * 4


def test_a_gpu_that_is_full_lets_older_banks_go(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    width = box.bundle.manifest.stages[0].width
    backend = box.open()
    features = backend.encode(image, text).features[0]
    first = backend.upload_bank(_unit_rows(0, ROWS, width))
    box.device.memory_bytes = box.device.used_bytes + 100

    second = backend.upload_bank(_unit_rows(1, ROWS, width))

    for seed, bank in enumerate((first, second)):
        found = backend.search(0, features, bank)
        expected = _brute_force(backend.download(features), _unit_rows(seed, ROWS, width))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * 10, rtol=0)
    with pytest.raises(BackendError, match=r"must have \d+\.\d MiB free for a bank of 20480 rows"):
        backend.upload_bank(_unit_rows(2, 20 * ROWS, width))
    assert backend.search(0, features, first).shape == (features.shape[1],)


@pytest.mark.parametrize("shape", [(0, 24), (5, 7), (5,), (2, 3, 24)])
def test_what_is_no_bank_is_refused(shape: tuple[int, ...], box: Box) -> None:
    with pytest.raises(
        BackendError, match="could not upload a bank: a bank must have rows as wide"
    ):
        box.open().upload_bank(np.zeros(shape, np.float32))


def test_foreign_handles_are_refused(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()
    encoding = backend.encode(image, text)
    bank = backend.upload_bank(_unit_rows(0, 5, encoding.features[0].shape[2]))
    box.use(double.RecordingDevice())
    other = box.open()

    calls: list[Callable[[], Any]] = [
        lambda: other.search(0, encoding.features[0], bank),
        lambda: other.download(encoding.features[0]),
        lambda: backend.download(np.zeros((1, 144, 24), np.float32)),
    ]
    for call in calls:
        with pytest.raises(BackendError, match="features must be of an encoding of this backend"):
            call()
    for wrong in (other.upload_bank(_unit_rows(0, 5, bank.width)), [1], None):
        with pytest.raises(BackendError, match="could not run scorer 0: features and bank must be"):
            backend.search(0, encoding.features[0], wrong)
    with pytest.raises(BackendError, match="could not run scorer 3"):
        backend.search(3, encoding.features[0], bank)


@pytest.mark.parametrize(
    ("image_shape", "image_type", "text_shape", "text_type"),
    [
        ((96, 95, 3), np.uint8, (64, 2), np.float32),
        ((96, 96, 3), np.float32, (64, 2), np.float32),
        ((96, 96, 3), np.uint8, (32, 2), np.float32),
        ((96, 96, 3), np.uint8, (64, 2), np.float64),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_the_gpu_sees_them(
    image_shape: Any, image_type: Any, text_shape: Any, text_type: Any, box: Box
) -> None:
    backend = box.open()
    box.device.calls.clear()

    with pytest.raises(BackendError, match="could not run the encoder: it takes"):
        backend.encode(np.zeros(image_shape, image_type), np.zeros(text_shape, text_type))
    assert not box.device.calls


def test_views_are_encoded_like_their_copies(box: Box, text: NDArray[np.float32]) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)[:, ::-2]
    backend = box.open()

    from_view = backend.encode(wide, np.asfortranarray(text))
    from_copy = backend.encode(wide.copy(), text)

    np.testing.assert_array_equal(from_view.map, from_copy.map)


# images and features on the device


@pytest.mark.parametrize("stream", [None, 1, 2, 0x5500])
def test_an_image_on_the_device_never_comes_to_the_host(
    stream: int | None, box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()
    expected = backend.encode(image, text)
    given = _on_device(box.device, image, stream=stream, strides=(96 * 3, 3, 1))
    if stream is not None:  # its producer is not done yet
        pixels = box.device.view(given.address, image.shape, np.uint8)
        pixels[:] = 0
        box.device.foreign[stream] = functools.partial(np.copyto, pixels, image)
    box.device.calls.clear()

    found = backend.encode(given, text)

    np.testing.assert_array_equal(found.map, expected.map)
    sizes = [call[2] for call in box.device.named("to_device")]
    assert sizes == [text.nbytes]
    assert [call[1] for call in box.device.named("follow")] == ([] if stream is None else [stream])
    assert len(box.device.named("within_device")) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 2}, "must be of version 3"),
        ({"version": "3"}, "must be of version 3"),
        ({"typestr": "<f4"}, "must be uint8"),
        ({"shape": (96, 95, 3)}, r"shape \(96, 96, 3\), got \(96, 95, 3\)"),
        ({"shape": (1, 96, 96, 3)}, "must have the encoder's shape"),
        ({"strides": (300, 3, 1)}, "must be C-contiguous"),
        ({"strides": (1, 96, 96 * 96)}, "must be C-contiguous"),
        ({"mask": object()}, "must have no mask"),
        ({"data": (0, False)}, "must be a device address"),
        ({"data": None}, "must be a device address"),
        ({"stream": 0}, "0 is ambiguous"),
        ({"stream": "legacy"}, "`stream` must be None, 1, 2"),
    ],
)
def test_an_image_on_the_device_that_does_not_fit_is_refused(
    changes: dict[str, Any],
    expected: str,
    box: Box,
    image: NDArray[np.uint8],
    text: NDArray[np.float32],
) -> None:
    backend = box.open()
    given = _on_device(box.device, image, **changes)
    box.device.calls.clear()

    with pytest.raises(ImageError, match=expected):
        backend.encode(given, text)
    assert not box.device.calls


def test_features_and_text_map_are_offered_on_the_device(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open()
    encoding = backend.encode(image, text)

    arrays = [*encoding.features, backend.map_on_device(encoding)]

    for array in arrays:
        facts = array.__cuda_array_interface__
        assert facts["version"] == 3 and facts["typestr"] == "<f4" and facts["strides"] is None
        assert facts["stream"] is None and facts["data"][0] % 256 == 0
    facts = arrays[-1].__cuda_array_interface__
    on_device = box.device.view(facts["data"][0], facts["shape"], np.float32)
    np.testing.assert_array_equal(on_device[0], encoding.map)
    stage = box.bundle.manifest.stages[0]
    assert arrays[0].__cuda_array_interface__["shape"] == (1, stage.n_tokens, stage.width)


# graphs


def test_a_graph_is_recorded_once_per_slot_and_launched(
    box: Box, reference: Any, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open(graph=True)
    opening = [call[0] for call in box.device.calls]
    at = opening.index("begin_capture")
    assert "enqueue" in opening[:at] and opening[at - 1] == "synchronize"
    assert opening[at : at + 3] == ["begin_capture", "enqueue", "end_capture"]
    box.device.calls.clear()

    held = [backend.encode(one, text) for one in (image, image[::-1].copy())]

    assert not box.device.named("to_host")[2:]
    assert len(box.device.named("launch")) == 2
    assert len(box.device.named("begin_capture")) == 1  # a second slot, the first is held
    assert len({call[1] for call in box.device.named("launch")}) == 2
    for encoding, one in zip(held, (image, image[::-1].copy()), strict=True):
        expected = reference.encode(one, text)
        np.testing.assert_allclose(encoding.map, expected.map, atol=TOLERANCE)
        for handle, answer in zip(encoding.features, expected.features, strict=True):
            np.testing.assert_allclose(
                backend.download(handle), reference.download(answer), atol=TOLERANCE
            )


def test_a_capture_that_fails_is_ended(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = box.device.begin_capture

    def refuse_from_now_on(stream: int) -> None:
        begin(stream)
        box.record.refuse = "execute"

    monkeypatch.setattr(box.device, "begin_capture", refuse_from_now_on)

    with pytest.raises(BackendError, match="`execute_async_v3` was refused"):
        box.open(graph=True)
    assert box.device.named("end_capture")
    box.device.assert_nothing_left()


def test_a_package_without_graphs_says_so(box: Box) -> None:
    box.use(double.RecordingDevice(has_graphs=False))

    with pytest.raises(UsageError, match="`graph` must be off with double"):
        box.open(graph=True)
    box.device.assert_nothing_left()


def test_tensorrt_rtx_makes_its_graphs_itself(
    lite_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: NDArray[np.uint8],
    text: NDArray[np.float32],
) -> None:
    box = Box(lite_bundle, tmp_path / "rtx", monkeypatch)
    box.put_in(ADA, "tensorrt-rtx")
    box.write_engines()
    box.accept_engines()

    backend = box.open(graph=True)
    backend.encode(image, text)

    strategies = [call[1] for call in box.device.named("create_execution_context")]
    assert strategies[0] == "WHOLE_GRAPH_CAPTURE" and not any(strategies[1:])
    assert not box.device.named("begin_capture", "launch")


# threads


def test_threads_share_a_backend(
    box: Box, reference: Any, text: NDArray[np.float32], lite_profile: Profile
) -> None:
    backend = box.open()
    inspector = Inspector(box.bundle, backend)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(4)]
    widths = [stage.width for stage in box.bundle.manifest.stages]
    banks = [_unit_rows(9, ROWS + 5, width) for width in widths]
    uploaded = [backend.upload_bank(bank) for bank in banks]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            expected = reference.encode(images[index], text)
            for _ in range(3):
                encoding: Encoding = backend.encode(images[index], text)
                for stage, bank in enumerate(uploaded):
                    nearest = backend.search(stage, encoding.features[stage], bank)
                    answer = reference.download(expected.features[stage])
                    np.testing.assert_allclose(
                        nearest, _brute_force(answer, banks[stage]), atol=TOLERANCE * 10
                    )
                inspector.inspect(images[index], lite_profile)
        except BaseException as error:  # told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    backend.close()
    box.device.assert_nothing_left()


# failures


def _scenario(backend: Any, image: Any, text: Any, width: int) -> None:
    encoding = backend.encode(image, text)
    bank = backend.upload_bank(_unit_rows(0, ROWS + 1, width))
    nearest = backend.search(0, encoding.features[0], bank)
    features = backend.download(encoding.features[0])
    expected = _brute_force(features, _unit_rows(0, ROWS + 1, width))
    np.testing.assert_allclose(nearest, expected, atol=TOLERANCE * 10, rtol=0)


def _count_calls(box: Box, image: Any, text: Any, width: int) -> tuple[int, int]:
    device = box.use(double.RecordingDevice())
    backend = box.open(graph=True)
    opened = device.n_counted
    _scenario(backend, image, text, width)
    return opened, device.n_counted


@pytest.mark.parametrize("sticky", [False, True])
def test_a_failure_at_any_call_leaks_nothing_and_says_what_next(
    sticky: bool, box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    width = box.bundle.manifest.stages[0].width
    n_opening, n_calls = _count_calls(box, image, text, width)
    assert n_opening > 40 and n_calls > n_opening + 30

    for number in range(n_calls):
        device = box.use(double.RecordingDevice())
        device.fail_at, device.sticky = number, sticky
        if number < n_opening:
            with pytest.raises(BackendError, match="injected"):
                box.open(graph=True)
            _assert_all_was_tried(device, number)
            continue
        backend = box.open(graph=True)
        with pytest.raises(BackendError, match=r"could not .*injected"):
            _scenario(backend, image, text, width)
        if sticky:
            with pytest.raises(
                BackendError, match=r"cannot be used any more after an earlier error|current failed"
            ):
                _scenario(backend, image, text, width)
        else:
            _scenario(backend, image, text, width)
        with contextlib.suppress(BackendError):  # of a GPU that is lost from `current` on
            backend.close()
        _assert_all_was_tried(device, number)


def _assert_all_was_tried(device: Any, number: int) -> None:
    """Everything was given back, or tried once where the device refused."""
    assert device.n_closed == 1
    assert len(device.freed) == len(set(device.freed))
    assert not set(device.blocks) - set(device.freed), f"call {number}"
    assert not device.streams and not device.events and not device.pinned, f"call {number}"
    assert not device.graphs, f"call {number}"


def test_a_failure_while_closing_does_not_stop_the_rest(
    box: Box, image: NDArray[np.uint8], text: NDArray[np.float32]
) -> None:
    backend = box.open(graph=True)
    backend.encode(image, text)
    first = box.device.n_counted
    backend.close()
    last = box.device.n_counted
    assert last - first > 15

    for number in range(first, last):
        device = box.use(double.RecordingDevice())
        backend = box.open(graph=True)
        backend.encode(image, text)
        device.fail_at = number

        with pytest.raises(BackendError, match=r"was not all given back: .*injected"):
            backend.close()
        _assert_all_was_tried(device, number)


@pytest.mark.parametrize(
    ("refuse", "expected"),
    [
        ("deserialize", "it is refused .the engine plan file is not compatible.; build it again"),
        ("context", "no execution context, which is how it says out of memory"),
        ("set_tensor_address", "`set_tensor_address` of `\\w+` was refused"),
        ("execute", "`execute_async_v3` was refused; the log at level DEBUG says why"),
    ],
)
def test_what_tensorrt_refuses_is_one_sentence(refuse: str, expected: str, box: Box) -> None:
    box.record.refuse = refuse

    with pytest.raises(BackendError, match=expected):
        box.open()
    box.device.assert_nothing_left()


def test_an_engine_with_other_tensors_is_refused(box: Box) -> None:
    box.record.dtype = "HALF"

    with pytest.raises(BackendError, match=r"`\w+` must be input UINT8 .*, it is input HALF"):
        box.open()
    box.device.assert_nothing_left()


def test_too_little_memory_at_opening_says_what_for(box: Box) -> None:
    box.use(double.RecordingDevice(memory_bytes=1000))

    with pytest.raises(BackendError, match=r"must have \d+\.\d MiB free for an image"):
        box.open()
    box.device.assert_nothing_left()


# opening and the gate


@pytest.fixture
def fresh(lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """A box whose engines were built and not tried yet."""
    box = Box(lite_bundle, tmp_path / "fresh", monkeypatch)
    box.write_engines()
    return box


def test_the_gate_runs_once(fresh: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.open().close()
    accepted = [engine.accepted for engine in EngineStore(fresh.folder).engines()]
    assert all(entry and entry["parity"]["gpu"] == "Orin" for entry in accepted)
    assert all(entry and entry["parity"]["passed"] for entry in accepted)
    monkeypatch.setattr("cff_runtime.backends.tensorrt_gate.verify_bundle", pytest.fail)
    fresh.use(double.RecordingDevice())

    fresh.open().close()


def test_an_engine_accepted_on_another_gpu_runs_the_gate_again(
    lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(lite_bundle, tmp_path / "rtx", monkeypatch)
    box.put_in(Gpu("NVIDIA L4", "8.9"), "tensorrt-rtx")
    box.write_engines()
    box.accept_engines()
    box.put_in(ADA, "tensorrt-rtx")

    box.open().close()

    accepted = [engine.accepted for engine in EngineStore(box.folder).engines()]
    assert all(entry and entry["parity"]["gpu"] == ADA.name for entry in accepted)


def test_engines_that_give_wrong_answers_are_refused(
    fresh: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another encoder of the same shape stands in for a TensorRT that computes wrongly."""
    run = double._execute

    def wrong(device: Any, graph: str, io: Any, addresses: dict[str, int]) -> None:
        run(device, graph, io, addresses)
        if "features_0" in addresses:
            shape = io["features_0"][0]
            features = device.view(addresses["features_0"], shape, np.float32)
            features[:] = np.roll(features, 1, axis=2)

    monkeypatch.setattr(double, "_execute", wrong)

    with pytest.raises(BackendError, match=r"must give the golden answers on this GPU \(Orin\)"):
        fresh.open()
    assert not any(engine.accepted for engine in EngineStore(fresh.folder).engines())
    fresh.device.assert_nothing_left()


def test_a_read_only_store_does_not_keep_engines_from_running(
    fresh: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cff_runtime.errors import StorageError

    def refuse(*_: Any) -> None:
        raise StorageError("`engines` could not be written: read-only file system")

    monkeypatch.setattr(EngineStore, "accept", refuse)
    with caplog.at_level(logging.WARNING):
        fresh.open().close()
    assert "read-only file system" in caplog.text


def test_a_missing_engine_names_the_command(fresh: Box) -> None:
    for path in fresh.folder.glob("encoder*"):
        path.unlink()

    with pytest.raises(BackendError, match="cff-run engine BUNDLE --flavour tensorrt"):
        fresh.open()
    assert not fresh.device.calls


def test_a_changed_engine_is_not_opened(box: Box) -> None:
    path = next(box.folder.glob("encoder*.engine"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.raises(BackendError, match="was changed since it was built"):
        box.open()
    assert not box.device.calls


def test_a_box_without_a_gpu_says_so(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cff_runtime.backends.tensorrt.find_gpu", lambda: None)

    with pytest.raises(
        BackendError, match="must have an NVIDIA GPU and its driver, none was found"
    ):
        box.open()


def test_a_box_without_tensorrt_says_so(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(MissingDependencyError, match=r"install cff-edge\[tensorrt\]"):
        box.open()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"flavour": "tensorflow"}, "`flavour` must be one of tensorrt, tensorrt-rtx"),
        ({"memory_mb": 0}, "`memory_mb` must be 1 to"),
        ({"memory_mb": 1 << 21}, "`memory_mb` must be 1 to"),
        ({"provider": "cuda"}, "must be one of flavour, memory_mb, graph, cuda, engines, tf32"),
    ],
)
def test_a_wrong_option_is_a_wrong_call(options: Any, expected: str, box: Box) -> None:
    with pytest.raises(UsageError, match=expected):
        box.open(**options)


def test_the_sidecar_keeps_the_gates_numbers_as_json(fresh: Box) -> None:
    fresh.open().close()

    sidecar = json.loads(next(fresh.folder.glob("encoder*.engine.json")).read_text())
    parity = sidecar["accepted"]["parity"]
    assert parity["n_images"] > 0 and parity["score_max_diff"] < 1e-3


def test_the_real_parser_sees_the_tensors_that_engines_must_have(
    lite_bundle: Bundle,
) -> None:
    """Names, shapes, dtypes and directions, by TensorRT-RTX itself; it needs no GPU to parse."""
    pytest.importorskip("tensorrt_rtx")
    flavour, manifest = load_flavour("tensorrt-rtx"), lite_bundle.manifest
    wanted = {manifest.encoder: encoder_tensors(manifest)}
    for stage, name in zip(manifest.stages, manifest.scorers, strict=True):
        wanted[name] = scorer_tensors(stage.n_tokens, stage.width, ROWS)

    for name, tensors in wanted.items():
        with collected_log(flavour) as build_log:
            network = parse_graph(flavour, lite_bundle.file(name), build_log)
            config = network.builder.create_builder_config()
            fix_sizes(network, config, {"image": static(1), "bank": static(ROWS)})
            parsed = network.definition
            found = {
                tensor.name: Tensor(tuple(tensor.shape), tensor.dtype.name, is_input)
                for is_input, tensor in [
                    *((True, parsed.get_input(i)) for i in range(parsed.num_inputs)),
                    *((False, parsed.get_output(i)) for i in range(parsed.num_outputs)),
                ]
            }
        assert found == tensors
