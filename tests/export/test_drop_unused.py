"""Dropping what no output needs."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from cff_export.passes import drop_unused

# `used` needs three nodes and two initialisers; the rest leads nowhere
MODEL = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[N,3] x) => (float[N,2] used)
<float[3,2] weight = {1, 2, 3, 4, 5, 6}, float[2] bias = {0.5, -0.5},
 float[2,4] classifier = {1, 2, 3, 4, 5, 6, 7, 8}, float[3] lonely = {1, 2, 3}>
{
    hidden = MatMul (x, weight)
    shifted = Add (hidden, bias)
    used = Relu (shifted)
    logits = MatMul (used, classifier)
    probabilities = Softmax (logits)
    doubled = Add (x, x)
}
"""


@pytest.fixture
def proto() -> onnx.ModelProto:
    model = onnx.parser.parse_model(MODEL)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_dead_branches_are_dropped(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    # logits, probabilities, doubled; classifier, lonely
    assert drop_unused(model) == 5
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Relu"]
    assert set(model.graph.initializers) == {"weight", "bias"}
    dropped = ir.to_proto(model)
    onnx.checker.check_model(dropped, full_check=True)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    weight, bias = np.arange(1.0, 7.0).reshape(3, 2), np.array([0.5, -0.5])
    expected = np.maximum(x.astype(np.float64) @ weight + bias, 0)
    assert (expected == 0).any()
    for run in (
        ReferenceEvaluator(dropped).run,
        ort.InferenceSession(dropped.SerializeToString(), providers=["CPUExecutionProvider"]).run,
        ReferenceEvaluator(proto).run,
    ):
        (got,) = run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(got), expected, atol=1e-5)


def test_nothing_to_drop_is_zero(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    drop_unused(model)
    before = ir.to_proto(model).SerializeToString()
    assert drop_unused(model) == 0
    assert ir.to_proto(model).SerializeToString() == before


def test_inputs_stay_even_if_unused(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    model.graph.outputs.clear()
    model.graph.outputs.append(_doubled(model))
    assert drop_unused(model) == 5 + 4
    assert [node.op_type for node in model.graph] == ["Add"]
    assert [value.name for value in model.graph.inputs] == ["x"]


def _doubled(model: ir.Model) -> ir.Value:
    (value,) = (v for node in model.graph for v in node.outputs if v.name == "doubled")
    return value
