"""What only the unused outputs need is dropped from the graph.

Blocks behind the last tap, a classifier, the projection of an image embedding that nobody reads:
every node and initialiser from which no path leads to an output of the graph.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def drop_unused(model: ir.Model) -> int:
    """Remove unreachable nodes and initialisers in place; return how many were removed."""
    before = _count(model)
    RemoveUnusedNodesPass()(model)
    return before - _count(model)


def _count(model: ir.Model) -> int:
    return len(model.graph) + len(model.graph.initializers)
