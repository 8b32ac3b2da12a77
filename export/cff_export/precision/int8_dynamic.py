"""int8 for the CPU: dynamic quantisation of the linear layers, per output channel.

    x W ~ s_x s_W (q_x - z_x) q_W

with s_x, z_x from the smallest and largest value of x at run time (DynamicQuantizeLinear), the
product in integers (MatMulInteger) and symmetric weights. Convolutions stay float32: ONNX Runtime
multiplies int8 convolutions no faster that way.

Weights take 7 of the 8 bits (-63..63). CPUs without VNNI instructions add two products of 8 bits in
16 bits, and 2 * 255 * 127 does not fit: they would saturate, silently, and a box give other numbers
than the machine that exported. 2 * 255 * 63 fits everywhere. ViT-B/16 (random weights, 224 px):
mean cosine 0.9998 with 7 bits, 0.9999 with 8, same time (36 ms; float32 96 ms; two cores).

One scale serves the whole tensor x, so neighbours in a batch would change an image's result: this
graph takes one image at a time.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cff_export.passes.drop_unused import drop_unused
from cff_export.precision.fixed_batch import fix_batch
from cff_export.precision.graph_edit import GraphEdit
from cff_export.precision.linear_layers import LinearLayer, linear_layers, quantise_weight

LARGEST_WEIGHT = 63


def dynamic_layers(model: ir.Model, kept: Collection[str] = ()) -> list[LinearLayer]:
    """Return the layers that `to_int8_dynamic` quantises."""
    layers = linear_layers(model, kept)
    return [layer for layer in layers if layer.node.op_type in ("MatMul", "Gemm")]


def to_int8_dynamic(model: ir.Model, kept: Collection[str] = ()) -> int:
    """Quantise in place, except in the blocks `kept`; return the number of layers."""
    fix_batch(model, 1)
    edit = GraphEdit(model.graph)
    inputs: dict[ir.Value, tuple[ir.Value, ...]] = {}
    layers = dynamic_layers(model, kept)
    for layer in layers:
        _quantise(edit, layer, inputs)
    drop_unused(model)
    return len(layers)


def _quantise(
    edit: GraphEdit, layer: LinearLayer, inputs: dict[ir.Value, tuple[ir.Value, ...]]
) -> None:
    node = layer.node
    x = node.inputs[0]
    if x is None:
        raise AssertionError("a linear layer has an input")
    types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    if x not in inputs:
        inputs[x] = edit.insert("DynamicQuantizeLinear", [x], node, types, (x.shape, [], []))
    quantised, x_scale, x_zero = inputs[x]
    weight, scale = quantise_weight(layer.weight, layer.axis, LARGEST_WEIGHT)
    matrix: NDArray[np.int8] = np.ascontiguousarray(weight if layer.axis == 1 else weight.T)
    name = node.inputs[1].name if node.inputs[1] is not None else ""
    w = edit.constant(f"{name}_int8", matrix)
    w_scale = edit.constant(f"{name}_scale", scale)
    w_zero = edit.constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
    shape = node.outputs[0].shape
    float32 = (ir.DataType.FLOAT,)
    (product,) = edit.insert(
        "MatMulInteger", [quantised, w, x_zero, w_zero], node, (ir.DataType.INT32,), (shape,)
    )
    (result,) = edit.insert("Cast", [product], node, float32, (shape,), {"to": ir.DataType.FLOAT})
    (both,) = edit.insert("Mul", [x_scale, w_scale], node, float32, (w_scale.shape,))
    (result,) = edit.insert("Mul", [result, both], node, float32, (shape,))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        (result,) = edit.insert("Add", [result, bias], node, float32, (shape,))
    edit.replace(node, result)
