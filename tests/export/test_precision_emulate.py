"""The emulation of float16 against NumPy's and PyTorch's own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from cff_export.graph_files import read_graph
from cff_export.precision.emulate import emulated_half
from cff_export.precision.half import to_half

Half = NDArray[np.float16]


def _emulated(text: str, level: Any, **constants: NDArray[Any]) -> Callable[..., NDArray[Any]]:
    """Return the emulation of a graph in float16, as a function of its input `x`."""
    proto = onnx.parser.parse_model(text)
    for index, node in enumerate(proto.graph.node):
        node.name = f"trunk.a/{node.op_type}_{index}"
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for name, array in constants.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    to_half(model)
    emulation = ir.to_proto(emulated_half(model))
    onnx.checker.check_model(emulation, full_check=True)
    elements = {value.type.tensor_type.elem_type for value in emulation.graph.value_info}
    assert {tensor.data_type for tensor in emulation.graph.initializer} <= {1, 7}
    casts = [node for node in emulation.graph.node if node.op_type == "Cast"]
    assert elements <= {1, 7, 10}
    assert len(casts) >= 2
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    data = emulation.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


_CHAIN = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[N,4] x) => (float[N,4] y)
<float[4] a = {1.0, 1.0, 1.0, 1.0}, float[4] b = {1.0, 1.0, 1.0, 1.0}, float c = {3.0}>
{
    p = Mul (x, a)
    q = Add (p, b)
    r = Div (q, c)
    s = Sub (r, x)
    y = Mul (s, q)
}
"""
LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)


@pytest.mark.parametrize("level", LEVELS)
def test_chain_of_arithmetic_is_numpys_to_the_last_bit(level: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 30, (2, 4)).astype(np.float32)
    x = rng.normal(0, 50, (500, 4)).astype(np.float32)
    y = _emulated(_CHAIN, level, a=a, b=b)(x)
    half_a, half_b, half_x = (array.astype(np.float16) for array in (a, b, x))
    with np.errstate(over="ignore"):
        q = half_x * half_a + half_b
        expected = (q / np.float16(3.0) - half_x) * q
    assert expected.dtype == np.float16
    assert np.isinf(expected).any()  # 65504 is exceeded now and then
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    assert y.dtype == np.float32


_PRODUCT = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[N,64] x) => (float[N,16] y)
<float[64,16] w = {0.0}, float[16] b = {0.0}>
{
    p = MatMul (x, w)
    q = Add (p, b)
    y = Relu (q)
}
"""


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_pytorchs_half_modules(level: Any) -> None:
    """PyTorch accumulates in float32 too; the order of a sum may move the last of 11 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(64, 16)
        x = torch.randn(200, 64) * 3
    weight = layer.weight.detach().numpy().T.copy()
    bias = layer.bias.detach().numpy()
    text = _PRODUCT.replace("= {0.0}", f"= {{{', '.join(['0.0'] * 64 * 16)}}}", 1)
    text = text.replace("b = {0.0}", f"b = {{{', '.join(['0.0'] * 16)}}}")
    y = _emulated(text, level, w=weight, b=bias)(x.numpy())
    with torch.inference_mode():
        product = torch.nn.functional.linear(x.half(), layer.weight.half())
        expected = torch.relu(product + layer.bias.half()).float().numpy()
        exact = torch.relu(layer(x)).numpy()
    last_bit = np.maximum(np.abs(expected), 2.0**-14) * 2.0**-10
    assert (np.abs(y - expected) <= 2 * last_bit + 2.0**-10).all()
    assert np.mean(y == expected) > 0.95
    assert np.mean((y == exact)[exact > 0]) < 0.05  # float32 is something else


def test_overflow_becomes_infinite_as_on_a_gpu() -> None:
    a = np.full(4, 300.0, np.float32)
    run = _emulated(_CHAIN.replace("y = Mul (s, q)", "y = Add (p, b)"), LEVELS[1], a=a)
    y = run(np.array([[218.0, 219.0, -300.0, 1.0]], np.float32))
    # 300 * 218 = 65400 rounds to 65408; 65700 and 90000 do not fit
    np.testing.assert_array_equal(y, [[65408.0, np.inf, -np.inf, 301.0]])


@pytest.mark.parametrize("family", ["lite", "vit"])
def test_encoder_against_the_reference_evaluator(
    exported: Callable[..., Any], photos: dict[str, NDArray[np.uint8]], family: str
) -> None:
    """ONNX's NumPy evaluator runs the float16 graph itself."""
    bundle = exported(family, "affine").bundle
    size = bundle.manifest.preprocessing.height
    model = read_graph(bundle.path / bundle.manifest.encoder)
    feeds = {
        "image": next(iter(photos.values()))[None, :size, :size],
        "text": bundle.condition_of_word("object"),
    }
    float32 = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, feeds)
    to_half(model)
    before = ir.to_proto(model).SerializeToString()
    emulation = ir.to_proto(emulated_half(model))
    assert ir.to_proto(model).SerializeToString() == before  # it stays as it is
    onnx.checker.check_model(emulation, full_check=True)
    got = ort.InferenceSession(
        emulation.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, feeds)
    if family == "lite":
        return  # the evaluator's convolutions take minutes
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    for stage in range(4):
        rounding = np.abs(np.asarray(float32[stage]) - np.asarray(expected[stage])).max()
        diff = np.abs(np.asarray(got[stage]) - np.asarray(expected[stage])).max()
        assert diff < 1.5e-3
        assert diff <= 1.5 * rounding
