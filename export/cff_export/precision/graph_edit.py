"""Adding nodes to a graph under names of its own kind, each right before its reader."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cff_export.blocks import ENCODER_SCOPE


class GraphEdit:
    """Inserts nodes; every new node is named after the module of the node that it serves."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.n_added = 0
        self._next = 1 + max((_index_of(node) for node in graph), default=0)
        self._names = {value.name for node in graph for value in node.outputs}
        self._names.update(value.name for value in graph.inputs)
        self._names.update(graph.initializers)

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        reader: ir.Node,
        types: Sequence[ir.DataType],
        shapes: Sequence[ir.Shape | Sequence[int] | None],
        attributes: Mapping[str, int] | None = None,
        after: bool = False,
    ) -> tuple[ir.Value, ...]:
        """Insert a node right before (or after) `reader`; return its outputs.

        Parameters
        ----------
        op_type : str
        inputs : sequence of ir.Value or None
        reader : ir.Node
        types, shapes : sequences
            Of the outputs.
        attributes : mapping of str to int, optional
        after : bool
        """
        module = module_of(reader) or ENCODER_SCOPE
        name = f"{module}/{op_type}_{self._next + self.n_added}"
        outputs = []
        for dtype, shape in zip(types, shapes, strict=True):
            output = ir.Value(
                name=self.unique(f"{inputs[0].name}_{op_type}" if inputs[0] else name)
            )
            output.type = ir.TensorType(dtype)
            output.shape = None if shape is None else ir.Shape(shape)
            outputs.append(output)
        node = ir.node(op_type, inputs, attributes, outputs=outputs, name=name)
        (self.graph.insert_after if after else self.graph.insert_before)(reader, node)
        self.n_added += 1
        return tuple(outputs)

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Add an initialiser."""
        value = ir.Value(name=self.unique(name))
        value.const_value = ir.tensor(array, name=value.name)
        value.shape = ir.Shape(array.shape)
        value.type = ir.TensorType(value.const_value.dtype)
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` stand for the only output of `node`, by its name, and remove `node`."""
        (old,) = node.outputs
        name = old.name
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        value.name = name

    def unique(self, name: str) -> str:
        """Return `name`, or it with a suffix where the graph has it already."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def module_of(node: ir.Node) -> str:
    """Return the PyTorch module that a node is named after."""
    return (node.name or "").partition("/")[0]


def _index_of(node: ir.Node) -> int:
    """Return the number that a node's name ends with, 0 if it has none."""
    digits = (node.name or "").rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
