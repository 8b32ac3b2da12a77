"""GELU's factors are multiplied in the order that ONNX Runtime knows.

    x (0.5 (1 + erf(x / sqrt 2))) = (x (1 + erf(x / sqrt 2))) 0.5

PyTorch's exporter writes the left side. ONNX Runtime fuses the right side, with the bias before it,
into one node that reads and writes the widest tensor of a block once instead of five times.
Halving is exact, so that results stay the same to the bit (but for subnormal numbers). The graph
stays plain ONNX; the nodes keep their names.
"""

import onnx_ir as ir


def order_gelu(model: ir.Model) -> int:
    """Reorder every GELU in place; return how many."""
    return sum(_reorder(node) for node in model.graph if node.op_type == "Erf")


def _reorder(erf: ir.Node) -> bool:
    add = _only_reader(erf, "Add")
    inner = None if add is None else _only_reader(add, "Mul")
    outer = None if inner is None else _only_reader(inner, "Mul")
    if add is None or inner is None or outer is None:
        return False
    half, x = _other(inner, add.outputs[0]), _other(outer, inner.outputs[0])
    if half is None or x is None or not _is_half(half) or _is_constant(x):
        return False
    inner.replace_input_with(0, x)
    inner.replace_input_with(1, add.outputs[0])
    outer.replace_input_with(0, inner.outputs[0])
    outer.replace_input_with(1, half)
    return True


def _only_reader(node: ir.Node, operator: str) -> ir.Node | None:
    value = node.outputs[0]
    readers = [use.node for use in value.uses()]
    alone = len(readers) == 1 and not value.is_graph_output()
    return readers[0] if alone and readers[0].op_type == operator else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the other operand of a product."""
    others = [operand for operand in node.inputs if operand is not value]
    return others[0] if len(others) == 1 else None


def _is_half(value: ir.Value) -> bool:
    constant = ir.convenience.get_const_tensor(value)
    return constant is not None and constant.size == 1 and float(constant.numpy().item()) == 0.5


def _is_constant(value: ir.Value) -> bool:
    return ir.convenience.get_const_tensor(value) is not None
