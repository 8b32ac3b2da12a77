"""What a block costs, and what lies upstream of an output."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from cff_export.blocks import block_of
from cff_export.precision.fixed_batch import fix_batch
from cff_export.precision.half import LINEAR_OPS


@dataclass(frozen=True)
class BlockCost:
    """Parameters of a block, and its multiply-adds for one image."""

    parameters: int
    multiply_adds: int


def block_costs(model: ir.Model) -> dict[str, BlockCost]:
    """Return the cost of every block, in graph order; `model` stays as it is.

    Counted are float constants, each where it is first read, and the products of Conv, MatMul and
    Gemm, those of attention included.
    """
    model = model.clone()
    fix_batch(model, 1)
    parameters: dict[str, int] = {}
    products: dict[str, int] = {}
    seen: set[ir.Value] = set()
    for node in model.graph:
        block = block_of(node.name or "")
        new = {value for value in node.inputs if value is not None and _is_parameter(value)} - seen
        seen |= new
        parameters[block] = parameters.get(block, 0) + sum(map(_size, new))
        products[block] = products.get(block, 0) + _multiply_adds(node)
    return {block: BlockCost(parameters[block], products[block]) for block in parameters}


def share_kept(costs: Mapping[str, BlockCost], kept: Collection[str]) -> dict[str, float]:
    """Return the shares of all parameters and multiply-adds that lie in the blocks `kept`."""
    shares = {}
    for name in ("parameters", "multiply_adds"):
        total = sum(getattr(cost, name) for cost in costs.values())
        part = sum(getattr(costs[block], name) for block in kept if block in costs)
        shares[name] = part / total if total else 0.0
    return shares


def upstream_blocks(model: ir.Model, output: str) -> tuple[str, ...]:
    """Return the blocks that a graph output depends on, in graph order."""
    pending = [value for value in model.graph.outputs if value.name == output]
    needed: set[ir.Node] = set()
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            pending.extend(value for value in node.inputs if value is not None)
    return tuple(dict.fromkeys(block_of(n.name or "") for n in model.graph if n in needed))


def _is_parameter(value: ir.Value) -> bool:
    return value.is_initializer() and value.dtype == ir.DataType.FLOAT


def _size(value: ir.Value) -> int:
    return value.const_value.size if value.const_value is not None else 0


def _multiply_adds(node: ir.Node) -> int:
    if node.op_type not in LINEAR_OPS:
        return 0
    output = _dims(node.outputs[0])
    weight = _dims(node.inputs[1])
    if node.op_type in ("Conv", "ConvTranspose"):
        # weight [O, C/groups, kh, kw]: O is counted in the output
        return prod(output) * prod(weight[1:])
    depth = _dims(node.inputs[0])[-1:]
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        depth = _dims(node.inputs[0])[:1]
    return prod(output) * prod(depth)


def _dims(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None:
        return []
    return [dim if isinstance(dim, int) else 1 for dim in value.shape]
