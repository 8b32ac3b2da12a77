"""Sessions in C: they encode and search as Python does, and refuse what does not fit."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cff_runtime import Bundle, Inspector
from cff_runtime.backends.onnxruntime import CPU_CHUNK_ROWS

TOLERANCE = 1e-5  # float32 sums of up to 64 products of unit rows
MAX_STAGES = 16
N_STAGES = 4  # of the lite bundle
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
WRAPPED = ("malloc", "calloc", "realloc", "realpath", "pthread_create", "cff__ort")
SOURCES = Path(__file__).parents[3] / "runtime" / "c"

Floats = NDArray[np.float32]


class Encoding(ctypes.Structure):
    """`cff__encoding`."""

    _fields_ = (
        ("features", ctypes.c_void_p * MAX_STAGES),
        ("map", ctypes.POINTER(ctypes.c_float)),
        ("has_score", ctypes.c_bool),
        ("score", ctypes.c_double),
    )


def _compile(c_build: Path, out: Path, *flags: str) -> Path:
    """Compile all of libcff, with the test's provider whose device is the host."""
    lines = (c_build / "CMakeCache.txt").read_text().splitlines()
    cache = dict(line.split("=", 1) for line in lines if "=" in line)
    library = Path(cache["OnnxRuntime_LIBRARY:FILEPATH"])
    command = [
        *[os.environ.get("CC", "cc"), "-std=c99", "-g", "-O1", "-ffp-contract=off"],
        *["-DCFF__TEST_DEVICE", f"-I{SOURCES / 'include'}", f"-I{SOURCES / 'src'}"],
        *[f"-I{cache['OnnxRuntime_INCLUDE_DIR:PATH']}", *flags],
        *[str(path) for path in sorted((SOURCES / "src").glob("*.c"))],
        *["-o", str(out), str(library), f"-Wl,-rpath,{library.parent}", "-lm", "-lpthread"],
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=_clean()
    )
    if "cannot find" in done.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert done.returncode == 0, done.stderr
    return out


def _clean() -> dict[str, str]:
    """The environment without what a sanitized Python needs."""
    names = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture(scope="module")
def device_library(c_build: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """libcff_testing with a provider whose device is the host: all that a GPU's way needs."""
    flags = ["-shared", "-fPIC"]
    if os.environ.get("CFF_C_SANITIZE"):
        flags += SANITIZE
    library = tmp_path_factory.mktemp("device") / "libcff_device.so"
    _compile(c_build, library, *flags)
    loaded = ctypes.CDLL(str(library))
    loaded.cff_last_error.restype = ctypes.c_char_p
    for kind in ("bundle", "profile", "session", "result"):
        function = getattr(loaded, f"cff_{kind}_free")
        function.argtypes, function.restype = [ctypes.c_void_p], None
    return loaded


@pytest.fixture(scope="module", params=["cpu", "test-device"])
def session(
    request: pytest.FixtureRequest, c_session_class: Any, lite_bundle: Bundle
) -> Iterator[Any]:
    """A session that also shows its internal functions."""
    name = "c_internals" if request.param == "cpu" else "device_library"
    opened = c_session_class(
        request.getfixturevalue(name),
        lite_bundle.path,
        n_threads=3,
        provider=request.param.encode(),
    )
    yield opened
    opened.close()


def _floats(array: Floats) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _encode(session: Any, image: NDArray[np.uint8], text: Floats) -> Encoding:
    encoding = Encoding()
    pixels = np.ascontiguousarray(image)
    session.check(
        session.library.cff__encode(
            session.handle,
            pixels.ctypes.data_as(ctypes.c_void_p),
            _floats(np.ascontiguousarray(text)),
            ctypes.byref(encoding),
        )
    )
    return encoding


def _download(session: Any, encoding: Encoding, shapes: Sequence[tuple[int, int]]) -> list[Floats]:
    rows = [np.empty(shape, np.float32) for shape in shapes]
    for stage, array in enumerate(rows):
        session.check(
            session.library.cff__download(
                session.handle, ctypes.byref(encoding), ctypes.c_size_t(stage), _floats(array)
            )
        )
    return rows


def _search(
    session: Any, encoding: Encoding, sets: Sequence[Sequence[Floats]], n_tokens: Sequence[int]
) -> list[Floats]:
    """Search sets of banks, each with a bank per stage."""
    library, handles = session.library, []
    for banks in sets:
        rows = (ctypes.POINTER(ctypes.c_float) * N_STAGES)(*[_floats(bank) for bank in banks])
        n_rows = (ctypes.c_int64 * N_STAGES)(*[len(bank) for bank in banks])
        handle = ctypes.c_void_p()
        session.check(library.cff__banks_make(session.handle, rows, n_rows, ctypes.byref(handle)))
        handles.append(handle)
    nearest = [np.full(n, 9.0, np.float32) for n in n_tokens]
    session.check(
        library.cff__search(
            session.handle,
            ctypes.byref(encoding),
            (ctypes.c_void_p * len(handles))(*handles),
            ctypes.c_size_t(len(handles)),
            (ctypes.POINTER(ctypes.c_float) * N_STAGES)(*[_floats(one) for one in nearest]),
        )
    )
    for handle in handles:
        library.cff__banks_free(session.handle, handle)
    return nearest


def _free(session: Any, encoding: Encoding) -> None:
    session.library.cff__encoding_free(session.handle, ctypes.byref(encoding))


def _unit_rows(rng: np.random.Generator, n_rows: int, width: int) -> Floats:
    rows = rng.normal(size=(n_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def resized(lite_bundle: Bundle, bad_part: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return lite_bundle.manifest.preprocessing(bad_part)


def test_an_image_is_encoded_as_in_python(
    session: Any, lite_bundle: Bundle, lite_inspector: Inspector, resized: NDArray[np.uint8]
) -> None:
    condition = lite_bundle.condition_of_word("bottle")
    expected = lite_inspector._backend.encode(resized, condition)
    shapes = [(stage.n_tokens, stage.width) for stage in lite_bundle.manifest.stages]

    encoding = _encode(session, resized, condition)

    for ours, theirs in zip(_download(session, encoding, shapes), expected.features, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy()[0], atol=TOLERANCE, rtol=0)
    encoder_map = np.ctypeslib.as_array(encoding.map, expected.map.shape)
    np.testing.assert_allclose(encoder_map, expected.map, atol=TOLERANCE, rtol=0)
    assert not encoding.has_score
    _free(session, encoding)
    _free(session, encoding)  # nothing is left to free


@pytest.mark.parametrize("n_sets", [1, 3])
@pytest.mark.parametrize(
    "n_rows", [1, 317, CPU_CHUNK_ROWS - 1, CPU_CHUNK_ROWS, CPU_CHUNK_ROWS + 1, 2600]
)
def test_search_is_exact(
    n_rows: int,
    n_sets: int,
    session: Any,
    lite_bundle: Bundle,
    resized: NDArray[np.uint8],
) -> None:
    stages = lite_bundle.manifest.stages
    rng = np.random.default_rng([n_rows, n_sets])
    encoding = _encode(session, resized, lite_bundle.condition_of_word("bottle"))
    features = _download(session, encoding, [(one.n_tokens, one.width) for one in stages])
    # stages differ in their rows, as compressed banks do
    sets = [
        [_unit_rows(rng, n_rows + 7 * stage, one.width) for stage, one in enumerate(stages)]
        for _ in range(n_sets)
    ]

    nearest = _search(session, encoding, sets, [one.n_tokens for one in stages])

    for stage, found in enumerate(nearest):
        whole = np.concatenate([banks[stage] for banks in sets]).astype(np.float64)
        expected = (features[stage].astype(np.float64) @ whole.T).max(axis=1)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    _free(session, encoding)


def test_a_bank_without_rows_is_farther_than_any_row(
    session: Any, lite_bundle: Bundle, resized: NDArray[np.uint8]
) -> None:
    stages = lite_bundle.manifest.stages
    encoding = _encode(session, resized, lite_bundle.condition_of_word("bottle"))
    empty = [np.empty((0, one.width), np.float32) for one in stages]

    nearest = _search(session, encoding, [empty], [one.n_tokens for one in stages])

    assert all((found == -2.0).all() for found in nearest)
    _free(session, encoding)


def test_nan_is_never_a_low_distance(
    session: Any, lite_bundle: Bundle, resized: NDArray[np.uint8]
) -> None:
    """A token that the encoder could not compute must not look like any row of the bank."""
    stages = lite_bundle.manifest.stages
    encoding = _encode(session, resized, lite_bundle.condition_of_word("bottle"))
    banks = [_unit_rows(np.random.default_rng(3), 2600, one.width) for one in stages]
    for stage, one in enumerate(stages):
        values = ctypes.POINTER(ctypes.c_float)()
        tensor = ctypes.c_void_p(encoding.features[stage])
        session.check(session.library.cff__tensor_floats(tensor, ctypes.byref(values)))
        np.ctypeslib.as_array(values, (one.n_tokens, one.width))[5] = np.nan

    nearest = _search(session, encoding, [banks], [one.n_tokens for one in stages])

    for found in nearest:
        assert np.flatnonzero(np.isnan(found)).tolist() == [5]
    _free(session, encoding)


def test_the_copy_to_a_device_changes_nothing(c_internals: ctypes.CDLL) -> None:
    n_bytes = 51
    model = bytes((ctypes.c_ubyte * n_bytes).in_dll(c_internals, "cff__copier_bytes"))
    parsed = onnx.load_from_string(model)
    copier = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    assert [node.op_type for node in parsed.graph.node] == ["Identity"]
    for shape in [(5,), (3, 4), (1, 6, 2)]:
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        assert np.array_equal(copier.run(["y"], {"x": values})[0], values)


def test_one_thread_and_many_give_the_same_bits(
    c_internals: ctypes.CDLL,
    c_session_class: Any,
    lite_bundle: Bundle,
    resized: NDArray[np.uint8],
) -> None:
    stages = lite_bundle.manifest.stages
    rng = np.random.default_rng(1)
    banks = [_unit_rows(rng, 3000, one.width) for one in stages]
    found = []
    for n_threads in (1, 2, 7):
        session = c_session_class(c_internals, lite_bundle.path, n_threads=n_threads)
        encoding = _encode(session, resized, lite_bundle.condition_of_word("bottle"))
        found.append(_search(session, encoding, [banks], [one.n_tokens for one in stages]))
        _free(session, encoding)
        session.close()

    for stage in range(N_STAGES):
        assert np.array_equal(found[0][stage], found[1][stage])
        assert np.array_equal(found[0][stage], found[2][stage])


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": b"gpu"}, "`provider` must be one of cpu, cuda"),
        ({"provider": b"CPUExecutionProvider"}, "`provider` must be one of"),
        ({"provider": b""}, "`provider` must be one of"),
        ({"n_threads": -1}, "`options.n_threads` must be 0 to 256, got -1"),
        ({"n_threads": 257}, "`options.n_threads` must be 0 to 256"),
        ({"device": -1}, "`device` must be"),
        ({"device": 1}, "`device` must be 0"),
        ({"provider": b"cuda", "device": -1}, "`device` must be the number of a GPU"),
        ({"provider": b"openvino", "device": 1}, "device_type"),
        ({"provider_options": b"a=b"}, "`provider_options` must be empty"),
        ({"provider": b"cuda", "provider_options": b"a"}, "lines of key=value, got `a`"),
        ({"provider": b"cuda", "provider_options": b"a=b\n=c"}, "lines of key=value, got `=c`"),
    ],
)
def test_wrong_options_are_wrong_calls(
    options: dict[str, Any],
    words: str,
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    lite_bundle: Bundle,
) -> None:
    with pytest.raises(c_session_class.Error) as failure:
        c_session_class(c_library, lite_bundle.path, **options)

    assert failure.value.status == c_status.USAGE
    assert words in str(failure.value)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx", "openvino"])
def test_an_absent_provider_is_not_replaced(
    provider: str,
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    lite_bundle: Bundle,
) -> None:
    with pytest.raises(c_session_class.Error) as failure:
        c_session_class(
            c_library,
            lite_bundle.path,
            provider=provider.encode(),
            provider_options=b"key=value\n\nother=\n",
        )

    assert failure.value.status == c_status.BACKEND
    assert f"provider `{provider}`" in str(failure.value)
    assert "CPUExecutionProvider" in str(failure.value)


@pytest.mark.parametrize("size", [0, 3, 1 << 17, 0xFFFFFFFF])
def test_a_wrong_struct_size_is_a_wrong_call(
    size: int, c_library: ctypes.CDLL, c_session_class: Any, c_status: SimpleNamespace
) -> None:
    options = c_session_class.Options()
    bundle = ctypes.c_void_p(1)  # not looked at before the options are
    session = ctypes.c_void_p(1)

    assert (
        c_library.cff_session_options_init(ctypes.byref(options), ctypes.c_uint32(size))
        == c_status.USAGE
    )
    options.struct_size = size
    status = c_library.cff_session_open(bundle, ctypes.byref(options), ctypes.byref(session))
    assert status == c_status.USAGE
    assert session.value is None


@pytest.mark.parametrize("known", [4, 8, 16, 32, 40])
def test_structs_of_other_versions_are_read_as_far_as_they_go(
    known: int, c_library: ctypes.CDLL, c_session_class: Any, lite_bundle: Bundle
) -> None:
    """A shorter one gets the defaults, of a longer one the end is not known."""
    raw = (ctypes.c_ubyte * 48)(*([0xEE] * 48))
    options = ctypes.cast(raw, ctypes.POINTER(c_session_class.Options)).contents

    assert c_library.cff_session_options_init(raw, ctypes.c_uint32(known)) == 0

    assert options.struct_size == known
    assert bytes(raw)[max(known, 4) :] == b"\xee" * (48 - max(known, 4))
    session = c_session_class(c_library, lite_bundle.path)
    opened = ctypes.c_void_p()
    assert c_library.cff_session_open(session.bundle, raw, ctypes.byref(opened)) == 0
    c_library.cff_session_free(opened)
    session.close()


def test_null_is_a_wrong_call(
    c_library: ctypes.CDLL, c_lite_session: Any, c_status: SimpleNamespace
) -> None:
    opened = ctypes.c_void_p(1)
    handle, bundle = c_lite_session.handle, c_lite_session.bundle

    assert c_library.cff_session_open(None, None, ctypes.byref(opened)) == c_status.USAGE
    assert opened.value is None
    assert c_library.cff_session_open(bundle, None, None) == c_status.USAGE
    assert c_library.cff_session_options_init(None, 32) == c_status.USAGE
    assert c_library.cff_session_forget(None, None) == c_status.USAGE
    assert c_library.cff_session_forget(handle, None) == c_status.USAGE
    c_library.cff_session_free(None)


def test_without_options_the_defaults_hold(c_library: ctypes.CDLL, c_lite_session: Any) -> None:
    opened = ctypes.c_void_p()

    assert c_library.cff_session_open(c_lite_session.bundle, None, ctypes.byref(opened)) == 0

    c_library.cff_session_free(opened)


def test_forgetting_frees_what_a_device_keeps(
    session: Any, lite_profile_path: Path, bad_part: NDArray[np.uint8]
) -> None:
    profile, other = session.load(lite_profile_path), session.load(lite_profile_path)
    first = session.inspect(profile, bad_part)
    session.inspect(other, bad_part)

    for _ in range(2):  # the second time there is nothing to forget
        session.check(session.library.cff_session_forget(session.handle, profile))
    again = session.inspect(profile, bad_part)

    assert np.array_equal(first.anomaly_map, again.anomaly_map)


# --- graphs that do not fit -------------------------------------------------------------------

Edit = Callable[[onnx.ModelProto], None]


def _edit_graph(path: Path, edit: Edit) -> None:
    model = onnx.load(path)
    edit(model)
    path.unlink()  # it may be a link to the one that others use
    onnx.save(model, path)


def _rename_output(model: onnx.ModelProto) -> None:
    for output in model.graph.output:
        if output.name == "text_map":
            model.graph.node.append(helper.make_node("Identity", ["text_map"], ["text_maps"]))
            output.name = "text_maps"


def _add_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _replace_output(
    name: str, value: NDArray[Any], shape: Sequence[int | str] | None = None
) -> Edit:
    """Make an output a constant, declared with `shape`."""

    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["old_" + name if out == name else out for out in node.output]
            node.input[:] = ["old_" + name if one == name else one for one in node.input]
        model.graph.initializer.append(numpy_helper.from_array(value, "constant_" + name))
        model.graph.node.append(helper.make_node("Identity", ["constant_" + name], [name]))
        declared = helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(value.dtype),
            value.shape if shape is None else shape,
        )
        outputs = [declared if out.name == name else out for out in model.graph.output]
        del model.graph.output[:]
        model.graph.output.extend(outputs)

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_rename_output, "must have `text_map`"),
        (_add_input, "must have 2 inputs, got 3"),
        (
            _replace_output("text_map", np.zeros((1, 95, 96), np.float32)),
            "shape [1,96,96], as the manifest says, got type 1 and shape [1,95,96]",
        ),
        (_replace_output("features_3", np.zeros((1, 9, 64), np.float64)), "must have type 1"),
        (_replace_output("features_3", np.zeros((9, 64), np.float32)), "shape [1,9,64]"),
        (_replace_output("features_3", np.zeros((1, 1, 1, 9, 64), np.float32)), "another rank"),
    ],
)
def test_an_encoder_that_does_not_fit_is_a_damaged_bundle(
    edit: Edit,
    words: str,
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
) -> None:
    _edit_graph(bundle_copy / "encoder.fp32.onnx", edit)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(c_session_class.Error) as failure:
        c_session_class(c_library, bundle_copy)

    assert failure.value.status == c_status.BUNDLE
    assert words in str(failure.value)


@pytest.mark.parametrize("shape", [(1, 4, 64), (1, 900, 64), (2, 9, 64), (1, 9, 65)])
def test_an_encoder_that_gives_other_shapes_than_it_says_writes_nowhere(
    shape: tuple[int, ...],
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    c_internals: ctypes.CDLL,
    resized: NDArray[np.uint8],
    lite_bundle: Bundle,
) -> None:
    """A shape that is known when the graph is loaded fails there, else when it runs."""
    declared = ["b", "n", "c"]
    _edit_graph(
        bundle_copy / "encoder.fp32.onnx",
        _replace_output("features_3", np.ones(shape, np.float32), declared),
    )
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(c_session_class.Error) as failure:
        session = c_session_class(c_internals, bundle_copy)
        try:
            _encode(session, resized, lite_bundle.condition_of_word("bottle"))
        finally:
            session.close()

    assert failure.value.status in (c_status.BUNDLE, c_status.BACKEND)


def test_a_shape_that_depends_on_the_image_is_held_to_the_manifest(
    c_internals: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    resized: NDArray[np.uint8],
    lite_bundle: Bundle,
) -> None:
    """Rows that only the run can count: as many as the image has pixels of a kind."""

    def edit(model: onnx.ModelProto) -> None:
        _replace_output("features_3", np.ones((1, 9, 64), np.float32), ["b", "n", "c"])(model)
        nodes = model.graph.node
        del nodes[-1]
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 64]), "as_rows"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
        nodes.append(helper.make_node("Cast", ["image"], ["image_f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Reshape", ["image_f", "as_rows"], ["rows"]))
        nodes.append(helper.make_node("Unsqueeze", ["rows", "first"], ["features_3"]))

    _edit_graph(bundle_copy / "encoder.fp32.onnx", edit)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(c_session_class.Error) as failure:
        session = c_session_class(c_internals, bundle_copy)
        try:
            _encode(session, resized, lite_bundle.condition_of_word("bottle"))
        finally:
            session.close()

    assert failure.value.status in (c_status.BUNDLE, c_status.BACKEND)
    assert "encoder.fp32.onnx" in str(failure.value)


def test_scorers_that_changed_places_are_a_damaged_bundle(
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
) -> None:
    edit_manifest(bundle_copy, lambda fields: fields["scorers"].reverse(), rehash=True)

    with pytest.raises(c_session_class.Error, match="`features` of `scorer_3") as failure:
        c_session_class(c_library, bundle_copy)

    assert failure.value.status == c_status.BUNDLE


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -1])
def test_a_truncated_graph_is_a_sentence(
    n_bytes: int,
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = bundle_copy / "scorer_1.fp32.onnx"
    data = path.read_bytes()[:n_bytes]
    path.unlink()
    path.write_bytes(data)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(c_session_class.Error, match=r"scorer_1\.fp32\.onnx") as failure:
        c_session_class(c_library, bundle_copy)

    assert failure.value.status in (c_status.BACKEND, c_status.BUNDLE)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_went_away_is_a_sentence(
    c_library: ctypes.CDLL, c_session_class: Any, c_status: SimpleNamespace, bundle_copy: Path
) -> None:
    session = c_session_class(c_library, bundle_copy)
    opened = ctypes.c_void_p(1)
    (bundle_copy / "scorer_2.fp32.onnx").unlink()

    status = c_library.cff_session_open(session.bundle, None, ctypes.byref(opened))

    assert status == c_status.BACKEND
    assert opened.value is None
    assert b"could not load `scorer_2.fp32.onnx`" in c_library.cff_last_error()
    session.close()


@pytest.mark.parametrize("grid", [[0, 0], [0, 8], [-1, 8], [1 << 16, 2], [1 << 32, 1 << 32]])
def test_a_grid_without_tokens_or_with_too_many_is_a_damaged_bundle(
    grid: list[int],
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        fields["stages"][0]["grid"] = grid

    edit_manifest(bundle_copy, edit, rehash=True)

    with pytest.raises(c_session_class.Error, match=r"`stages\.grid`") as failure:
        c_session_class(c_library, bundle_copy)

    assert failure.value.status == c_status.BUNDLE


@pytest.fixture(scope="module")
def failing_sessions(c_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of that name, which finds leaks, too."""
    wraps = [f"-Wl,--wrap={name}" for name in WRAPPED]
    program = str(SOURCES / "tests" / "failing_sessions.c")
    out = tmp_path_factory.mktemp("failing") / "failing_sessions"
    return _compile(c_build, out, program, *SANITIZE, *wraps)


@pytest.mark.parametrize(
    ("what", "provider"),
    [
        ("inspect", "cpu"),
        ("inspect", "test-device"),
        pytest.param("open", "cpu", marks=pytest.mark.slow),
        pytest.param("open", "test-device", marks=pytest.mark.slow),
    ],
)
def test_every_call_may_fail(
    what: str,
    provider: str,
    failing_sessions: Path,
    lite_bundle: Bundle,
    lite_profile_path: Path,
) -> None:
    """For want of memory or threads, or because ONNX Runtime fails: an error, and no leak."""
    command = [str(failing_sessions), str(lite_bundle.path), str(lite_profile_path), provider, what]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=_clean()
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert counts["threads"] == ("2" if (what, provider) == ("open", "cpu") else "0")
    assert int(counts["memory"]) > 5
    assert int(counts["graphs"]) > 30


@pytest.mark.parametrize("given", [None, "0"])
def test_nothing_reports_usage(
    c_build: Path, lite_bundle: Bundle, tmp_path: Path, given: str | None
) -> None:
    """In a process of its own, as this one has ONNX Runtime's Python package loaded."""
    script = f"""
import ctypes, os
library = ctypes.CDLL({str(c_build / "libcff.so")!r})
bundle, session = ctypes.c_void_p(), ctypes.c_void_p()
assert library.cff_bundle_open({str(lite_bundle.path)!r}.encode(), None, ctypes.byref(bundle)) == 0
options = (ctypes.c_uint32 * 8)()
assert library.cff_session_options_init(options, 32) == 0
options[1] = 1
before = len(os.listdir("/proc/self/task"))
assert library.cff_session_open(bundle, options, ctypes.byref(session)) == 0
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"ORT_DISABLE_TELEMETRY").decode(), len(os.listdir("/proc/self/task")) - before)
"""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    value, more_threads = done.stdout.split()
    assert value == (given or "1")
    if given is None:
        assert int(more_threads) == 0  # one thread was asked for: the caller's
