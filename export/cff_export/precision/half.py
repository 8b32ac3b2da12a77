"""float16 written into the graph: every tensor has the type that it is computed in.

A node of a low block becomes float16 if it is Conv, MatMul, Gemm or cheap (`HALF_OPS`). float32
stay LayerNormalization, Softmax, GELU, sigmoids, exponentials, norms, means and all of the block
``encoder``: input scale, L2 norms, text maps. So does the sum that a LayerNormalization reads, a
transformer's residual stream: on ViT-B/16 (random weights, 224 px) that takes 1 - cosine of the
last stage from 9.6e-7 to 5.4e-7 for 3 Casts more (105 to 108), and a stream that grows past 65504
stays finite. In a convolutional network it bought nothing (EfficientNet-Lite0: 5.0e-5 both ways)
for 23 Casts more, so its residual sums are float16.

    float32 value x, float16 node f:   f(half(x)),  one half(x) for all such nodes
    float16 value y, float32 node g:   g(full(y)),  one full(y) for all such nodes

What only moves values does so in the type that they come in. (A Cast before a Transpose instead of
behind it makes ONNX Runtime 1.31's fusion of Transpose and MatMul damage the graph and crash.)
Casts stand right before their first reader, so the order stays topological. Constants are converted
here, never by the graph. A Cast from integers is made again for float16, so no Cast follows
another. The graph keeps its inputs and outputs, names and types.

Blocks whose weights float16 cannot hold (`_unfit`) stay float32 and are reported.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx.defs
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from cff_export.blocks import ENCODER_SCOPE, block_of
from cff_export.passes.drop_unused import drop_unused
from cff_export.precision.graph_edit import GraphEdit, module_of

LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# what only moves values, and so adds no rounding of its own
MOVING_OPS = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"}
    | {"Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ARITHMETIC_OPS = frozenset({"Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Where"})
HALF_OPS = (
    LINEAR_OPS
    | MOVING_OPS
    | ARITHMETIC_OPS
    | {"AveragePool", "GlobalAveragePool", "LeakyRelu", "MaxPool", "PRelu", "Relu", "Resize"}
    | {"DequantizeLinear", "QuantizeLinear"}
)
# read the shape alone, whatever the type
_SHAPE_OPS = frozenset({"Shape", "Size"})
# with arithmetic beside them in one module they are an activation function such as GELU
_CURVES = frozenset({"Erf", "Exp", "Sigmoid", "Tanh"})
MAX_WEIGHT_ERROR = 1e-2


@dataclass(frozen=True)
class HalfReport:
    """What `to_half` did.

    Attributes
    ----------
    kept : tuple of str
        Blocks left in float32, asked for or forced, in graph order.
    forced : mapping of str to str
        Blocks that float16 cannot hold, each with the reason.
    n_half : int
        Nodes computed in float16.
    n_casts : int
        Casts added.
    """

    kept: tuple[str, ...]
    forced: Mapping[str, str]
    n_half: int
    n_casts: int


def to_half(model: ir.Model, kept: Collection[str] = ()) -> HalfReport:
    """Write float16 into the graph, in place, except in the blocks `kept`."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    forced = _unfit(half_nodes(model, kept))
    low = half_nodes(model, {*kept, *forced})
    casts = _Casts(model.graph)
    chosen = set(low)
    for node in list(model.graph):
        if node in chosen:
            casts.lower(node)
        elif node.op_type not in _SHAPE_OPS:
            casts.feed_full(node)
    casts.restore_outputs()
    drop_unused(model)
    blocks = dict.fromkeys(block_of(node.name or "") for node in model.graph)
    left = tuple(block for block in blocks if block in kept or block in forced)
    return HalfReport(left, forced, len(low), casts.n_added)


def half_nodes(model: ir.Model, kept: Collection[str] = ()) -> list[ir.Node]:
    """Return the nodes that float16 computes, in graph order."""
    curves = {module_of(node) for node in model.graph if node.op_type in _CURVES}
    low: dict[ir.Node, None] = {}
    for node in model.graph:
        if _may_be_low(node, kept) and not (
            _moves_float32(node, low)
            or (node.op_type in ARITHMETIC_OPS and module_of(node) in curves)
            or _is_residual(node)
        ):
            low[node] = None
    return list(low)


def _may_be_low(node: ir.Node, kept: Collection[str]) -> bool:
    block = block_of(node.name or "")
    if block in ("", ENCODER_SCOPE) or block in kept or node.op_type not in HALF_OPS:
        return False
    return node.op_type == "QuantizeLinear" or any(map(_is_float, node.outputs))


def _moves_float32(node: ir.Node, low: Collection[ir.Node]) -> bool:
    """Whether a node only moves values that come in float32."""
    values = (v for v in node.inputs if v is not None and _is_float(v))
    producers = [value.producer() for value in values if not value.is_initializer()]
    moves = node.op_type in MOVING_OPS and len(producers) > 0
    return moves and not any(producer in low for producer in producers)


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _is_residual(node: ir.Node) -> bool:
    """Whether a node adds to the stream that a transformer's LayerNormalizations read."""
    readers = (reader for reader, _ in node.outputs[0].uses())
    return node.op_type == "Add" and any(r.op_type == "LayerNormalization" for r in readers)


def _module(node: ir.Node) -> str:
    return (node.name or "").partition("/")[0]


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the values of an initialiser; None if `value` is none."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _unfit(nodes: Collection[ir.Node]) -> dict[str, str]:
    """Return the blocks whose constants float16 cannot hold, each with the reason.

    A constant above 65504 becomes infinite. Weights so small that float16 loses more than
    `MAX_WEIGHT_ERROR` of their norm no longer are the layer that was trained.
    """
    reasons: dict[str, str] = {}
    checked: dict[ir.Value, str] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or array.dtype != np.float32:
                continue
            is_weight = index == 1 and node.op_type in LINEAR_OPS
            if node.op_type == "Clip" or value in checked:
                reason = checked.get(value, "")  # an infinite bound of Clip bounds nothing
            else:
                reason = checked[value] = _why_unfit(array.astype(np.float32), is_weight)
            if reason:
                reasons.setdefault(block_of(node.name or ""), f"`{value.name}` {reason}")
    return reasons


def _why_unfit(array: NDArray[np.float32], is_weight: bool) -> str:
    half = _as_half(array)
    if not np.isfinite(half[np.isfinite(array)]).all():
        return f"reaches {np.abs(array).max():.3g}, float16 ends at 65504"
    norm = float(np.linalg.norm(array.astype(np.float64)))
    error = float(np.linalg.norm(half.astype(np.float64) - array)) / norm if norm > 0 else 0.0
    if is_weight and error > MAX_WEIGHT_ERROR:
        return f"loses {error:.1%} of its norm in float16, its values are too small"
    return ""


def _as_half(array: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(np.float16)


class _Casts:
    """Both versions of every value, made where they are first read."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._edit = GraphEdit(graph)
        self._half: dict[ir.Value, ir.Value] = {}
        self._full: dict[ir.Value, ir.Value] = {}
        self._lowered: set[ir.Value] = set()

    @property
    def n_added(self) -> int:
        return self._edit.n_added

    def lower(self, node: ir.Node) -> None:
        """Let a node read and give float16."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT and _takes_half(node, index):
                if value not in self._half:
                    self._half[value] = self._make_half(value, node)
                node.replace_input_with(index, self._half[value])
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(ir.DataType.FLOAT16)
                self._lowered.add(output)

    def feed_full(self, node: ir.Node) -> None:
        """Let a node read float32 where its input has become float16."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._lowered:
                if value not in self._full:
                    self._full[value] = self._cast(value, ir.DataType.FLOAT, node)
                node.replace_input_with(index, self._full[value])

    def restore_outputs(self) -> None:
        """Give the graph's outputs their name and type back."""
        for index, value in enumerate(self._graph.outputs):
            producer = value.producer()
            if value in self._lowered and producer is not None:
                name = value.name
                value.name = self._edit.unique(f"{name}_fp16")
                full = self._cast(value, ir.DataType.FLOAT, producer, after=True)
                full.name = name
                self._graph.outputs[index] = full

    def _make_half(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        array = constant(value)
        if array is not None:
            return self._edit.constant(f"{value.name}_fp16", _as_half(array.astype(np.float32)))
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
            value = producer.inputs[0]  # one Cast instead of two in a row
            if value.dtype == ir.DataType.FLOAT16:
                return value
        return self._cast(value, ir.DataType.FLOAT16, reader)

    def _cast(
        self, value: ir.Value, dtype: ir.DataType, reader: ir.Node, after: bool = False
    ) -> ir.Value:
        (output,) = self._edit.insert(
            "Cast", [value], reader, (dtype,), (value.shape,), {"to": dtype}, after
        )
        return output


def _takes_half(node: ir.Node, index: int) -> bool:
    """Whether the standard allows float16 at this input: not for Resize's scales."""
    version = node.version or node.graph.opset_imports[""]  # type: ignore[union-attr]
    schema = onnx.defs.get_schema(node.op_type, version)
    return "tensor(float16)" in schema.inputs[min(index, len(schema.inputs) - 1)].types
