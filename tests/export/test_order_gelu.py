"""The order of GELU's factors."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from cff_export.passes import order_gelu

MODEL = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[N,3] x) => (float[N,4] y)
<float[3,4] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, float[4] bias = {0.5, -0.5, 1, 2},
 float root = {1.4142135}, float one = {1}, float half = {0.5}>
{
    product = MatMul (x, weight)
    hidden = Add (product, bias)
    scaled = Div (hidden, root)
    curve = Erf (scaled)
    shifted = Add (curve, one)
    halved = Mul (half, shifted)
    y = Mul (hidden, halved)
}
"""


def _session(model: onnx.ModelProto, optimized: str = "") -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.optimized_model_filepath = optimized
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def test_results_stay_equal_to_the_bit() -> None:
    proto = onnx.parser.parse_model(MODEL)
    model = ir.from_proto(proto)
    assert order_gelu(model) == 1
    ordered = ir.to_proto(model)
    onnx.checker.check_model(ordered, full_check=True)
    mul = [list(node.input) for node in ordered.graph.node if node.op_type == "Mul"]
    assert mul == [["hidden", "shifted"], ["halved", "half"]]
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (proto, ordered))
    np.testing.assert_array_equal(before, after)


def test_onnxruntime_fuses_the_new_order_only(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(MODEL)
    model = ir.from_proto(proto)
    order_gelu(model)
    operators = []
    for name, graph in (("before", proto), ("after", ir.to_proto(model))):
        path = str(tmp_path / f"{name}.onnx")
        _session(graph, path)
        operators.append({node.op_type for node in onnx.load(path).graph.node})
    assert "Erf" in operators[0]
    assert "Erf" not in operators[1] and operators[1] & {"Gelu", "BiasGelu"}


def test_other_products_are_left_alone() -> None:
    twice = MODEL.replace("half = {0.5}", "half = {0.25}")
    read_twice = MODEL.replace(
        "y = Mul (hidden, halved)", "z = Mul (hidden, halved)\n    y = Add (z, halved)"
    )
    for text in (twice, read_twice):
        model = ir.from_proto(onnx.parser.parse_model(text))
        assert order_gelu(model) == 0
