"""The heads that Table 6 measures: as the exporter folds them, as ONNX graphs, and what they cost.

Folding leaves one linear layer per stage (none, linear), or two with a ReLU between them (MLP).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from cff_edge.heads import Head
from cff_export.head_chains import chain_module, fold_head
from cff_runtime.errors import UsageError

OPSET = 18
IR_VERSION = 8  # of opset 18: the oldest ONNX Runtime that the project allows reads it


@dataclass(frozen=True)
class HeadShape:
    """C, S, N and the side of the input image in pixels that the table counts as memory.

    `width` is E, that of the features; None takes C, as the paper's table does.
    """

    dim: int = 768
    n_stages: int = 4
    n_tokens: int = 1369
    image_px: int = 518
    width: int | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """E of every stage."""
        return (self.width or self.dim,) * self.n_stages

    @property
    def name(self) -> str:
        """Such as ``768 x 768, N 1369``: features, channels, tokens."""
        return f"{self.width or self.dim} x {self.dim}, N {self.n_tokens}"


@dataclass(frozen=True)
class HeadCost:
    """What the table counts instead of measuring.

    Attributes
    ----------
    params_mi : float
        Parameters in units of 2^20.
    macs_g : float
        Multiply-accumulates of the linear layers plus 4 per element of a BatchNorm, in 10^9.
    memory_gib : float
        Input image and stage outputs in fp32.
    """

    params_mi: float
    macs_g: float
    memory_gib: float


class FoldedHead(nn.Module):
    """A head as the exporter folds it, called as the head is."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        chains, _ = fold_head(head)
        self.stages = nn.ModuleList(chain_module(chain) for chain in chains)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Map S stages [B,N_s,E_s] to S calibrated features [B,N_s,C]."""
        return [fold(stage) for fold, stage in zip(self.stages, stages, strict=True)]


def head_to_onnx(module: Head | FoldedHead, n_tokens: int) -> onnx.ModelProto:
    """Write a head as one graph: `stage_i` [N,E_i] in, `calibrated_i` [N,C] out.

    A linear layer is a Gemm, BatchNorm and ReLU are nodes of their own, dropout is gone.

    Raises
    ------
    UsageError
        If the head holds a layer of another kind.
    """
    nodes, weights, inputs, outputs = [], [], [], []
    for stage, layers in enumerate(_layers_of_stages(module)):
        value = f"stage_{stage}"
        first, last = _linear(layers[0]), _linear(layers[-1])
        inputs.append(_tensor_info(value, n_tokens, first.in_features))
        for index, layer in enumerate(layers):
            operator, tensors, attributes = _operator(layer)
            names = [f"{stage}.{index}.{part}" for part in range(len(tensors))]
            weights += [
                numpy_helper.from_array(tensor.detach().numpy(), name)
                for name, tensor in zip(names, tensors, strict=True)
            ]
            result = f"calibrated_{stage}" if layer is last else f"hidden_{stage}_{index}"
            nodes.append(helper.make_node(operator, [value, *names], [result], **attributes))
            value = result
        outputs.append(_tensor_info(value, n_tokens, last.out_features))
    graph = helper.make_graph(nodes, "head", inputs, outputs, weights)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def count_cost(module: nn.Module, shape: HeadShape) -> HeadCost:
    """Count parameters, multiply-accumulates and memory of a built head in one forward pass."""
    macs = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal macs
        per_element = layer.in_features if isinstance(layer, nn.Linear) else 4
        macs += output.numel() * int(per_element)

    counted = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    hooks = [layer.register_forward_hook(count) for layer in counted]
    try:
        with torch.inference_mode():
            outputs = module([torch.zeros(1, shape.n_tokens, width) for width in shape.widths])
    finally:
        for hook in hooks:
            hook.remove()
    n_values = 3 * shape.image_px**2 + sum(output.numel() for output in outputs)
    return HeadCost(
        params_mi=sum(parameter.numel() for parameter in module.parameters()) / 2**20,
        macs_g=macs / 1e9,
        memory_gib=n_values * 4 / 2**30,
    )


def _layers_of_stages(module: Head | FoldedHead) -> list[list[nn.Module]]:
    """Return every stage's layers in the order in which they run."""
    if isinstance(module, FoldedHead):
        return [_leaves(stage) for stage in module.stages]
    return [
        [projector, *_leaves(calibrator)]
        for projector, calibrator in zip(module.projectors, module.calibrators, strict=True)
    ]


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [
        layer
        for layer in module.modules()
        if not list(layer.children()) and not isinstance(layer, nn.Identity | nn.Dropout)
    ]


def _operator(layer: nn.Module) -> tuple[str, list[Tensor], dict[str, Any]]:
    """Return ONNX operator, tensors after its first input, attributes."""
    if isinstance(layer, nn.Linear):
        return "Gemm", [layer.weight, layer.bias], {"transB": 1}
    if isinstance(layer, nn.BatchNorm1d):
        mean, variance = _statistics(layer)
        tensors = [layer.weight, layer.bias, mean, variance]
        return "BatchNormalization", tensors, {"epsilon": layer.eps}
    if isinstance(layer, nn.ReLU):
        return "Relu", [], {}
    raise UsageError(
        f"a head's layer must be Linear, BatchNorm1d or ReLU, got {type(layer).__name__}"
    )


def _statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise UsageError("BatchNorm must track running statistics, this one tracks none")
    return norm.running_mean, norm.running_var


def _linear(module: nn.Module) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise UsageError(f"layer must be linear, got {type(module).__name__}")
    return module


def _tensor_info(name: str, n_tokens: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [n_tokens, width])
