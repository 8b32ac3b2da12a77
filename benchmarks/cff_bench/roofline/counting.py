"""Exact operations of an ONNX graph, node by node, from the shapes of its tensors.

A multiply-add is two operations. Counted are the products: MatMul, Gemm, convolutions and
attention, whatever their precision. Everything else (biases, activations, norms) is left out, as it
is in the papers' figures; it costs bytes, not operations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from cff_runtime.errors import BundleError

_LARGE = 1024  # elements; smaller constants may hold shapes, which inference must see
_ATTENTION = frozenset({"Attention", "MultiHeadAttention"})
_MATMULS = frozenset({"MatMul", "MatMulInteger", "FusedMatMul", "QLinearMatMul"})
_CONVS = frozenset({"Conv", "ConvInteger", "FusedConv", "QLinearConv"})
PRODUCTS = _MATMULS | _CONVS | _ATTENTION | {"Gemm", "ConvTranspose"}

Shape = Sequence[int]


@dataclass(frozen=True)
class NodeCount:
    """A node of a graph as it lies in the file.

    Attributes
    ----------
    name, operator : str
    flops : int
    weight_bytes : int
        Of its constants.
    weight_shape : tuple of int
        Of the largest one; empty without any.
    inputs, outputs : tuple of str
        Names of tensors.
    """

    name: str
    operator: str
    flops: int
    weight_bytes: int
    weight_shape: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def count_graph(path: Path, batch: int = 1) -> list[NodeCount]:
    """Count a graph file.

    Parameters
    ----------
    path : Path
    batch : int, default=1
        Taken for every free dimension of the inputs.

    Raises
    ------
    BundleError
        If the file is no ONNX graph, or a product's shape cannot be inferred.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises kinds of its own
        raise BundleError(f"`{path}` must be an ONNX graph, got: {error}") from error
    return count_model(model, batch)


def count_model(model: onnx.ModelProto, batch: int = 1) -> list[NodeCount]:
    """Count a graph in memory, whose weights and shapes are changed by it; see `count_graph`."""
    sizes = {tensor.name: _tensor_bytes(tensor) for tensor in model.graph.initializer}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes: dict[str, tuple[int, ...]] = dict(weights)
    _drop_large_weights(model)
    _fix_batch(model.graph, batch)
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return [
        NodeCount(
            node.name,
            node.op_type,
            _flops_of_node(node, shapes),
            sum(sizes.get(name, 0) for name in set(node.input)),
            max((weights[name] for name in node.input if name in weights), key=prod, default=()),
            tuple(node.input),
            tuple(node.output),
        )
        for node in model.graph.node
    ]


def product_flops(
    operator: str,
    inputs: Sequence[Shape],
    output: Shape,
    transposed: bool = False,
) -> int:
    """Return the operations of one product.

    Parameters
    ----------
    operator : str
        One of `PRODUCTS`.
    inputs : sequence of shapes
        Of both operands; of attention, queries, keys and values.
    output : shape
    transposed : bool
        Whether the first operand is transposed in its last two dimensions.
    """
    if operator in _CONVS:  # weight [O,C/groups,kh,kw]: O is counted in the output
        return 2 * prod(output) * prod(inputs[1][1:])
    if operator == "ConvTranspose":  # weight [C,O/groups,kh,kw]
        return 2 * prod(inputs[0]) * prod(inputs[1][1:])
    if operator in _ATTENTION:
        return _attention_flops(*inputs[:3])
    left = inputs[0]
    depth = left[-2] if transposed else left[-1]
    return 2 * prod(output) * depth


def _attention_flops(queries: Shape, keys: Shape, values: Shape) -> int:
    """Q K^T and P V of [B,N,H d] or [B,H,N,d]; heads do not change the number."""
    n_queries = queries[-2]
    n_keys = keys[-2]
    return 2 * prod(queries) * n_keys + 2 * prod(values) * n_queries


def _flops_of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    if node.op_type not in PRODUCTS:
        return 0
    names = list(node.input)
    if node.op_type == "QLinearConv" or node.op_type == "QLinearMatMul":
        names = [names[0], names[3]]
    operands = names[: 3 if node.op_type in _ATTENTION else 2]
    missing = [name for name in (*operands, node.output[0]) if name not in shapes]
    if missing:
        raise BundleError(
            f"the shape of `{missing[0]}` at `{node.name}` must follow from the graph, it does "
            "not; export the bundle again with this version"
        )
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    inputs = [shapes[name] for name in operands]
    return product_flops(node.op_type, inputs, shapes[node.output[0]], transposed)


def _drop_large_weights(model: onnx.ModelProto) -> None:
    """Turn large constants into inputs: inference needs their shapes, not a gigabyte."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > _LARGE]
    known = {value.name for value in graph.input}
    for tensor in large:
        if tensor.name not in known:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(info)
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= _LARGE]
    del graph.initializer[:]
    graph.initializer.extend(small)


def _fix_batch(graph: onnx.GraphProto, batch: int) -> None:
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
                dim.dim_value = batch
    # what the file says of inner and output shapes is free in the batch: inferred anew
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
