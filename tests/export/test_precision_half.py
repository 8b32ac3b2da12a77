"""float16 written into the graph: types, Casts, constants, order, numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cff_export.blocks import block_of
from cff_export.graph_files import read_graph
from cff_export.precision.half import half_nodes, to_half

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
FAMILIES = ("lite", "vit")


def _source(exported: Callable[..., Any], family: str) -> Path:
    bundle = exported(family, "affine").bundle
    return bundle.path / bundle.manifest.encoder


def _check(model: ir.Model) -> onnx.ModelProto:
    """Check standard, types and topological order; return the proto."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)
    known = {value.name for value in (*proto.graph.input, *proto.graph.initializer)} | {""}
    for node in proto.graph.node:
        assert known.issuperset(node.input), node.name
        known.update(node.output)
    # strict types: inference must agree with what the nodes say
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    return proto


def _named(text: str, names: list[str]) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def _run(model: ir.Model, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feeds)]


# --- whole encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_encoders_keep_signature_and_valid_order(exported: Callable[..., Any], family: str) -> None:
    model = read_graph(_source(exported, family))
    before = ir.to_proto(model)
    report = to_half(model)
    after = _check(model)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert report.kept == ()
    assert report.forced == {}
    n_casts = sum(node.op_type == "Cast" for node in model.graph)
    assert report.n_casts == n_casts - 1  # the image's own
    # a float16 constant is stored as one: no Cast reads an initialiser
    for node in model.graph:
        for value in node.inputs:
            if node.op_type == "Cast" and value is not None:
                assert not value.is_initializer()
                producer = value.producer()
                assert producer is None or producer.op_type != "Cast"
    # and weights that float16 took over are not stored twice
    n_floats = sum(v.dtype == FLOAT for v in model.graph.initializers.values())
    assert n_floats < len(model.graph.initializers) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_half_and_what_stays(exported: Callable[..., Any], family: str) -> None:
    model = read_graph(_source(exported, family))
    to_half(model)
    image = model.graph.inputs[0]
    types: dict[str, set[Any]] = {}
    for node in model.graph:
        is_encoder = block_of(node.name or "") == "encoder"
        for value in node.outputs:
            if value.dtype in (HALF, FLOAT) and node.op_type != "Cast":
                key = "encoder" if is_encoder else node.op_type
                types.setdefault(key, set()).add(value.dtype)
    assert types["encoder"] == {FLOAT}
    for op_type in ("Conv", "MatMul", "Gemm", "Squeeze", "AveragePool"):
        assert types.get(op_type, {HALF}) == {HALF}
    if family == "lite":
        assert types["Clip"] == types["Resize"] == types["Add"] == {HALF}
        return
    for op_type in ("LayerNormalization", "Softmax", "Erf", "Div"):
        assert types[op_type] == {FLOAT}
    modules = {
        (node.name or "").partition("/")[0].rsplit(".", 1)[-1]: node.outputs[0].dtype
        for node in model.graph
        if node.op_type in ("Add", "Mul") and block_of(node.name or "") != "encoder"
    }
    # GELU and the residual stream (directly in block 3) stay; biases and attention's scale do not
    assert modules["gelu"] == FLOAT
    assert modules["3"] == FLOAT
    assert modules["c_fc"] == modules["attn"] == HALF
    # what only moves values keeps their type: a Cast is never before it if it can be behind
    for node in model.graph:
        if node.op_type in ("Transpose", "Reshape", "Slice", "Gather"):
            assert node.inputs[0] is not None
            assert node.outputs[0].dtype == node.inputs[0].dtype
            producer = node.inputs[0].producer()
            assert producer is None or producer.op_type != "Cast" or producer.inputs[0] is image


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_blocks_are_float32_and_the_rest_is_not(
    exported: Callable[..., Any], family: str
) -> None:
    source = _source(exported, family)
    kept = "trunk.blocks.3" if family == "lite" else "trunk.visual.transformer.resblocks.2"
    model = read_graph(source)
    report = to_half(model, {kept})
    _check(model)
    assert report.kept == (kept,)
    for node in model.graph:
        low = any(value.dtype == HALF for value in node.outputs)
        assert not (low and block_of(node.name or "") == kept and node.op_type != "Cast")
    assert report.n_half == len(half_nodes(read_graph(source), {kept}))
    assert 0 < report.n_half < len(half_nodes(read_graph(source)))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_kept_is_the_same_graph(exported: Callable[..., Any], family: str) -> None:
    model = read_graph(_source(exported, family))
    before = ir.to_proto(model).SerializeToString()
    blocks = {block_of(node.name or "") for node in model.graph}
    report = to_half(model, blocks)
    assert (report.n_half, report.n_casts) == (0, 0)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_is_once(exported: Callable[..., Any], family: str) -> None:
    model = read_graph(_source(exported, family))
    to_half(model)
    once = ir.to_proto(model).SerializeToString()
    assert to_half(model).n_casts == 0
    assert ir.to_proto(model).SerializeToString() == once


@pytest.mark.parametrize("family", FAMILIES)
def test_features_stay_close(
    exported: Callable[..., Any], photos: dict[str, NDArray[np.uint8]], family: str
) -> None:
    """ONNX Runtime computes float16 in float32: what is left are weights rounded to 11 bits."""
    case = exported(family, "affine")
    size = case.bundle.manifest.preprocessing.height
    image = np.stack([photo[:size, :size] for photo in photos.values()][:2])
    feeds = {"image": image, "text": case.bundle.condition_of_word("object")}
    model = read_graph(_source(exported, family))
    expected = _run(model, feeds)
    to_half(model)
    got = _run(model, feeds)
    for stage in range(4):
        assert got[stage].dtype == np.float32
        cosine = (got[stage] * expected[stage]).sum(axis=-1)
        assert cosine.min() > 0.999
        assert cosine.min() < 1.0 - 1e-8  # something was rounded


# --- small graphs

_SHARED = """
<ir_version: 9, opset_import: ["" : 18]>
graph (uint8[2,3] image, float[3,3] text) => (float[2,3] low, float[2,3] high, float[2,3] both)
<float[3] shift = {0.1, 0.2, 0.3}>
{
    pixels = Cast <to: int = 1> (image)
    weight = Constant <value = float[3,3] {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}> ()
    product = MatMul (pixels, weight)
    low = Add (product, shift)
    again = MatMul (product, weight)
    high = Add (pixels, shift)
    root = Exp (again)
    both = Add (root, shift)
}
"""
_SHARED_NAMES = [
    "encoder/Cast_0",
    "trunk.a/Constant_1",
    "trunk.a/MatMul_2",
    "trunk.a/Add_3",
    "trunk.b/MatMul_4",
    "encoder/Add_5",
    "trunk.b/Exp_6",
    "trunk.b/Add_7",
]


def test_constants_of_both_precisions_and_outputs_of_low_nodes() -> None:
    """One constant is read by both precisions, one is a node, and an output leaves a low node."""
    model = _named(_SHARED, _SHARED_NAMES)
    report = to_half(model)
    proto = _check(model)
    assert [value.name for value in proto.graph.output] == ["low", "high", "both"]
    assert {value.type.tensor_type.elem_type for value in proto.graph.output} == {1}
    constants = {name: value.dtype for name, value in model.graph.initializers.items()}
    # `both` adds beside an Exp in one module, `high` in the encoder: float32
    assert constants == {"shift": FLOAT, "shift_fp16": HALF, "weight_fp16": HALF}
    # 2, 3 and 4; the Cast from uint8 is made again for float16, not followed by another
    assert report.n_half == 3
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert [(node.inputs[0].name, node.outputs[0].dtype) for node in casts] == [
        ("image", FLOAT),
        ("image", HALF),
        ("low_fp16", FLOAT),
        ("again", FLOAT),
    ]
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    text = np.zeros((3, 3), np.float32)
    low, high, both = _run(model, {"image": image, "text": text})
    weight = np.arange(1, 10).reshape(3, 3) / 10
    shift = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(low, image @ weight + shift, rtol=2e-3)
    np.testing.assert_allclose(high, image + shift, rtol=1e-6)
    np.testing.assert_allclose(both, np.exp(image @ weight @ weight) + shift, rtol=3e-2)


_RESIZE = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[1,1,2,2] image) => (float[1,1,4,4] out)
<float[4] scales = {1.0, 1.0, 2.0, 2.0}, float bound = {3.4e38}, float zero = {0.0}>
{
    bigger = Resize (image, , scales)
    clipped = Clip (bigger, zero, bound)
    out = Exp (clipped)
}
"""


def test_scales_stay_float32_and_an_infinite_bound_is_no_overflow() -> None:
    model = _named(_RESIZE, ["trunk.a/Resize_0", "trunk.a.x/Clip_1", "encoder/Exp_2"])
    report = to_half(model)
    _check(model)
    assert report.forced == {}
    assert model.graph.initializers["scales"].dtype == FLOAT
    bound = model.graph.initializers["bound_fp16"].const_value
    assert bound is not None and np.isposinf(bound.numpy())


_LINEAR = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[1,2] image) => (float[1,2] out)
<float[2,2] first = {1.0, 2.0, 3.0, 4.0}, float[2] bias = {0.0, 0.0},
 float[2,2] second = {1.0, 2.0, 3.0, 4.0}>
{
    hidden = MatMul (image, first)
    shifted = Add (hidden, bias)
    last = MatMul (shifted, second)
    out = Exp (last)
}
"""
_LINEAR_NAMES = ["trunk.a/MatMul_0", "trunk.a/Add_1", "trunk.b/MatMul_2", "encoder/Exp_3"]


@pytest.mark.parametrize(
    ("name", "values", "block", "reason"),
    [
        ("second", [[70000.0, 1], [2, 3]], "trunk.b", "reaches 7e+04, float16 ends at 65504"),
        ("bias", [0.0, -1e5], "trunk.a", "reaches 1e+05, float16 ends at 65504"),
        ("first", [[1e-7, 2e-7], [3e-7, 1e-9]], "trunk.a", "its values are too small"),
    ],
)
def test_weights_that_float16_cannot_hold_keep_their_block(
    name: str, values: Any, block: str, reason: str
) -> None:
    model = _named(_LINEAR, _LINEAR_NAMES)
    model.graph.initializers[name].const_value = ir.tensor(np.array(values, np.float32), name=name)
    report = to_half(model)
    _check(model)
    assert list(report.forced) == list(report.kept) == [block]
    assert f"`{name}` " in report.forced[block]
    assert reason in report.forced[block]
    assert report.n_half == (1 if block == "trunk.a" else 2)


def test_a_small_bias_is_no_reason() -> None:
    """What it would lose is far below the activations that it is added to."""
    model = _named(_LINEAR, _LINEAR_NAMES)
    array = np.array([1e-9, 0.0], np.float32)
    model.graph.initializers["bias"].const_value = ir.tensor(array, name="bias")
    assert to_half(model).forced == {}
