"""Engines built by the real TensorRT-RTX, which needs no GPU to build."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cff_runtime import Bundle
from cff_runtime.engines import EngineSettings, EngineStore, build_engine, engine_key, open_or_build
from cff_runtime.errors import BackendError, UsageError

pytest.importorskip("tensorrt_rtx")

RTX = EngineSettings("tensorrt-rtx", ("8.6", "8.9"))
MakeGraph = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever box this runs on."""
    for module in ("builder", "store", "validity"):
        monkeypatch.setattr(f"cff_runtime.engines.{module}.find_gpu", lambda: None)


@pytest.fixture
def encoder(lite_bundle: Bundle) -> Path:
    return lite_bundle.file(lite_bundle.manifest.encoder)


@pytest.fixture
def make_graph(tmp_path: Path) -> MakeGraph:
    """Return ``make_graph(name, nodes)``: `image` float [b,4] -> `y`, with weights `w` [4,4]."""

    def make(name: str, nodes: list[onnx.NodeProto], half: bool = False) -> Path:
        weights = np.eye(4, dtype=np.float16 if half else np.float32)
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])],
            [numpy_helper.from_array(weights, "w")],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("odd", 1)]
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path

    return make


@pytest.fixture
def half_graph(make_graph: MakeGraph) -> Path:
    """An fp16 graph as the exporter writes them: casts around it, softmax in fp32."""
    nodes = [
        helper.make_node("Cast", ["image"], ["h"], name="encoder/Cast_0", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="trunk.blocks.0/MatMul_1"),
        helper.make_node("Cast", ["m"], ["f"], name="encoder/Cast_2", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["f"], ["y"], name="encoder/Softmax_3"),
    ]
    return make_graph("encoder.fp16.onnx", nodes, half=True)


def test_an_encoder_is_built_for_two_capabilities_without_a_word(
    encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, float, float | None]] = []

    engine = build_engine(encoder, tmp_path, RTX, progress=lambda *call: calls.append(call))

    assert capfd.readouterr() == ("", "")
    assert engine.path.stat().st_size == engine.n_bytes > encoder.stat().st_size
    assert engine.key.compute_capabilities == ("8.6", "8.9")
    assert engine.key.sizes == (("image", (1, 1, 1)),)  # the bank is the scorers'
    assert (engine.typing, engine.warnings, engine.n_kept_fp32) == ("strong", (), 0)
    assert {"FLOAT", "INT64"} >= set(engine.n_by_type)
    done = [call[1] for call in calls]
    assert calls[0][0] == "parsing"
    assert calls[-1] == ("done", 1.0, 0.0)
    assert done == sorted(done)
    assert {"Building engine", "writing"} <= {call[0] for call in calls}


def test_the_report_names_layers_after_modules(encoder: Path, tmp_path: Path) -> None:
    report = json.loads(build_engine(encoder, tmp_path, RTX).layers_path.read_text())

    names = [layer["name"] for layer in report["layers"]]
    convolutions = [layer for layer in report["layers"] if layer["type"] == "CONVOLUTION"]
    nodes = {node.name for node in onnx.load(encoder).graph.node if node.op_type == "Conv"}
    assert {layer["name"] for layer in convolutions} == nodes
    assert {layer["outputs"][0] for layer in convolutions} == {"FLOAT"}
    assert any(name.startswith("trunk.blocks.3") for name in names)
    assert report["kept_fp32"] == []


def test_what_was_built_is_opened_and_one_changed_byte_is_refused(
    half_graph: Path, tmp_path: Path
) -> None:
    built = build_engine(half_graph, tmp_path, RTX, "fp16")
    assert open_or_build(half_graph, tmp_path, RTX, "fp16").path == built.path

    content = bytearray(built.path.read_bytes())
    content[len(content) // 2] ^= 1
    built.path.write_bytes(content)

    with pytest.raises(BackendError, match="was changed since it was built"):
        open_or_build(half_graph, tmp_path, RTX, "fp16")
    again = open_or_build(half_graph, tmp_path, RTX, "fp16", rebuild=True)
    assert not again.reused
    assert open_or_build(half_graph, tmp_path, RTX, "fp16").reused


def test_a_foreign_engine_is_refused_and_replaced_only_when_asked(
    half_graph: Path, tmp_path: Path
) -> None:
    build_engine(half_graph, tmp_path, EngineSettings("tensorrt-rtx", ("8.6",)), "fp16")
    wanted = EngineSettings("tensorrt-rtx", ("8.9",))

    with pytest.raises(BackendError, match=r"capability 8\.6, not for 8\.9; build one with `cff-"):
        open_or_build(half_graph, tmp_path, wanted, "fp16")
    engine = open_or_build(half_graph, tmp_path, wanted, "fp16", rebuild=True)
    assert engine.key.compute_capabilities == ("8.9",)
    assert len(EngineStore(tmp_path).engines()) == 2


def test_a_changed_graph_makes_its_engine_foreign(make_graph: MakeGraph, tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["image"], ["y"], name="encoder/Relu_0")
    graph = make_graph("encoder.fp32.onnx", [relu])
    build_engine(graph, tmp_path, RTX)
    make_graph("encoder.fp32.onnx", [helper.make_node("Neg", ["image"], ["y"], name="Neg_0")])

    with pytest.raises(BackendError, match="was built from another graph"):
        open_or_build(graph, tmp_path, RTX)


def test_an_fp16_graph_has_half_layers_and_tells_what_stayed_fp32(
    half_graph: Path, tmp_path: Path
) -> None:
    engine = build_engine(half_graph, tmp_path, RTX, "fp16")

    report = json.loads(engine.layers_path.read_text())
    types = {layer["name"]: layer["outputs"] for layer in report["layers"]}
    assert types["trunk.blocks.0/MatMul_1"] == ["HALF"]
    assert types["encoder/Softmax_3"] == ["FLOAT"]
    assert "encoder/Softmax_3" in report["kept_fp32"]
    assert "trunk.blocks.0/MatMul_1" not in report["kept_fp32"]
    assert engine.n_by_type["HALF"] >= 2


def test_an_fp32_graph_called_fp16_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="of precision fp16 must have HALF layers"):
        build_engine(encoder, tmp_path, RTX, "fp16")


def test_unsupported_operators_are_all_named_before_the_build(
    make_graph: MakeGraph, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["a"], name="trunk.blocks.0/Relu_0"),
        helper.make_node("Wobble", ["a"], ["b"], name="trunk.blocks.1/Wobble_1", domain="odd"),
        helper.make_node("Wibble", ["b"], ["y"], name="heads.0/Wibble_2", domain="odd"),
    ]
    calls: list[str] = []

    with pytest.raises(BackendError) as caught:
        build_engine(
            make_graph("encoder.fp32.onnx", nodes),
            tmp_path / "engines",
            RTX,
            progress=lambda phase, _done, _left: calls.append(phase),
        )

    assert "node `trunk.blocks.1/Wobble_1` (Wobble)" in str(caught.value)
    assert "node `heads.0/Wibble_2` (Wibble)" in str(caught.value)
    assert calls == ["parsing"]
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("content", [b"hello" * 100, b""])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    graph = tmp_path / "encoder.fp32.onnx"
    graph.write_bytes(content)

    with pytest.raises(BackendError, match=r"must be an ONNX graph|cannot take"):
        build_engine(graph, tmp_path / "engines", RTX)


def test_weights_beside_the_graph_are_used_hashed_and_missed(
    half_graph: Path, tmp_path: Path
) -> None:
    graph = tmp_path / "outside.fp16.onnx"
    weights = tmp_path / "outside.fp16.onnx.data"
    onnx.save(
        onnx.load(half_graph),
        graph,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=0,
    )
    key = engine_key(graph, RTX, "fp16")

    assert build_engine(graph, tmp_path / "engines", RTX, "fp16").key.graph == key.graph
    weights.write_bytes(weights.read_bytes()[::-1])
    assert engine_key(graph, RTX, "fp16").graph != key.graph
    weights.unlink()
    with pytest.raises(BackendError, match=r"Failed to open file: .*outside\.fp16\.onnx\.data"):
        build_engine(graph, tmp_path / "engines", RTX, "fp16")


def test_a_range_of_batches_becomes_a_profile(half_graph: Path, tmp_path: Path) -> None:
    settings = EngineSettings("tensorrt-rtx", ("8.6",), sizes={"image": (1, 4, 8)})

    profiled = build_engine(half_graph, tmp_path, settings, "fp16")

    assert profiled.key.sizes == (("image", (1, 4, 8)),)
    with pytest.raises(BackendError, match=r"for 1 to 8 \(usually 4\) rows of `image`, not for 1;"):
        open_or_build(half_graph, tmp_path, EngineSettings("tensorrt-rtx", ("8.6",)), "fp16")


def test_a_free_dimension_without_a_size_is_named(half_graph: Path, tmp_path: Path) -> None:
    settings = EngineSettings("tensorrt-rtx", ("8.6",), sizes={"bank": (1, 1, 1)})

    with pytest.raises(BackendError, match=r"input `image` must be free .* given for bank"):
        build_engine(half_graph, tmp_path, settings, "fp16")


def test_an_unknown_capability_lists_those_that_there_are(half_graph: Path, tmp_path: Path) -> None:
    settings = EngineSettings("tensorrt-rtx", ("8.6", "6.1"))

    with pytest.raises(UsageError, match=r"8\.6, 8\.9, 12\.0.*, got 6\.1"):
        build_engine(half_graph, tmp_path, settings, "fp16")


def test_inspection_needs_a_gpu(half_graph: Path, tmp_path: Path) -> None:
    settings = EngineSettings("tensorrt-rtx", ("8.6",), inspect=True)

    with pytest.raises(BackendError, match="with an NVIDIA GPU only, none was found"):
        build_engine(half_graph, tmp_path, settings, "fp16")


def test_ctrl_c_cancels_and_leaves_nothing(encoder: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def interrupt(phase: str, _done: float, _left_s: float | None) -> None:
        calls.append(phase)
        if phase == "Optimizing graph":
            os.kill(os.getpid(), signal.SIGINT)

    # a shell that runs the tests in the background has them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(encoder, tmp_path / "engines", RTX, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)

    assert "writing" not in calls
    assert not (tmp_path / "engines").exists()


def test_what_the_callback_raises_comes_back_and_leaves_nothing(
    encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(phase: str, _done: float, _left_s: float | None) -> None:
        if phase == "Optimizing graph":
            raise ValueError("the window was closed")

    with pytest.raises(ValueError, match="the window was closed"):
        build_engine(encoder, tmp_path / "engines", RTX, progress=fail)

    assert not (tmp_path / "engines").exists()
    assert capfd.readouterr() == ("", "")  # nothing crossed TensorRT's C++ code


def test_a_failed_build_leaves_the_engine_that_was_there(encoder: Path, tmp_path: Path) -> None:
    built = build_engine(encoder, tmp_path, RTX)

    def fail(phase: str, _done: float, _left_s: float | None) -> None:
        if phase == "Optimizing graph":
            raise ValueError

    with pytest.raises(ValueError):
        build_engine(encoder, tmp_path, RTX, progress=fail)

    assert EngineStore(tmp_path).find(built.key).sha256 == built.sha256


def test_a_build_over_an_accepted_engine_keeps_it(half_graph: Path, tmp_path: Path) -> None:
    first = build_engine(half_graph, tmp_path, RTX, "fp16")
    store = EngineStore(tmp_path)
    store.accept(first.key, {"passed": True})

    second = build_engine(half_graph, tmp_path, RTX, "fp16")

    accepted = store.accepted(first.key)
    assert accepted is not None
    assert (accepted.sha256, second.accepted) == (first.sha256, None)
    assert accepted.path.name.endswith(".kept.engine")
    assert accepted.layers_path.is_file()
