"""What a GPU computes from a float16 graph, in float32 with the roundings written out.

ONNX Runtime computes float16 graphs in float32 on the CPU and drops the roundings, so running such
a graph shows nothing. Here every float16 tensor t of the graph becomes

    float32(float16(t))

float16 storage with float32 arithmetic and accumulation. What exceeds 65504 becomes infinite, as on
the GPU. Operators that only move values need no rounding. ONNX Runtime's optimiser keeps pairs of
explicit Casts at every level.
"""

import numpy as np
import onnx_ir as ir

from cff_export.precision.graph_edit import GraphEdit
from cff_export.precision.half import MOVING_OPS


def emulated_half(model: ir.Model) -> ir.Model:
    """Return a float32 graph that gives what float16 would; `model` stays as it is."""
    model = model.clone()
    graph = model.graph
    edit = GraphEdit(graph)
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT16 and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT16:
                _round(edit, node, output)
    return model


def _round(edit: GraphEdit, node: ir.Node, output: ir.Value) -> None:
    if node.op_type in MOVING_OPS:
        output.type = ir.TensorType(ir.DataType.FLOAT)
        return
    readers = list(output.uses())
    half, last = output, node
    if node.op_type != "Cast":
        output.type = ir.TensorType(ir.DataType.FLOAT)
        half = _cast_after(edit, last, output, ir.DataType.FLOAT16)
        last = half.producer() or node
    full = _cast_after(edit, last, half, ir.DataType.FLOAT)
    for reader, index in readers:
        reader.replace_input_with(index, full)


def _cast_after(edit: GraphEdit, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    (output,) = edit.insert("Cast", [value], node, (dtype,), (value.shape,), {"to": dtype}, True)
    return output
