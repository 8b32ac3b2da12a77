"""The layers that int8 multiplies: Conv, MatMul and Gemm with constant weights, and those weights.

    w[..., c] ~ scale[c] * q[..., c],   scale[c] = max |w[..., c]| / largest

symmetric, one scale per output channel c. Products of two activations (attention) are no such
layers, nor is anything in the block ``encoder``: L2 norms and text maps.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cff_export.blocks import ENCODER_SCOPE, block_of
from cff_export.precision.half import constant


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer with constant weights.

    Attributes
    ----------
    node : ir.Node
        Conv, MatMul, or Gemm that is a plain product and bias.
    weight : ndarray, float32
    axis : int
        Of the output channels in `weight`.
    """

    node: ir.Node
    weight: NDArray[np.float32]
    axis: int

    @property
    def block(self) -> str:
        """Block that the layer belongs to."""
        return block_of(self.node.name or "")

    @property
    def is_depthwise(self) -> bool:
        """Whether this is a convolution in groups, such as one filter per channel."""
        return self.node.op_type == "Conv" and self.node.attributes.get_int("group", 1) > 1


def linear_layers(model: ir.Model, kept: Collection[str] = ()) -> list[LinearLayer]:
    """Return the layers with float32 weights outside the blocks `kept`, in graph order."""
    layers = []
    for node in model.graph:
        if block_of(node.name or "") in ("", ENCODER_SCOPE, *kept):
            continue
        axis = _channel_axis(node)
        weight = constant(node.inputs[1]) if axis is not None else None
        if axis is not None and weight is not None and weight.dtype == np.float32:
            layers.append(LinearLayer(node, weight.astype(np.float32), axis % weight.ndim))
    return layers


def quantise_weight(
    weight: NDArray[np.float32], axis: int, largest: int, half_scales: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to integers; return them and the scale per channel, float32 [C].

    Parameters
    ----------
    weight : ndarray, float32
    axis : int
        Of the C output channels.
    largest : int
        Largest magnitude of an integer, at most 127.
    half_scales : bool
        Take scales that float16 holds exactly.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.abs(weight).max(axis=others)
    scale = np.where(peak > 0, peak, 1.0).astype(np.float32) / np.float32(largest)
    if half_scales:
        scale = half_scale(scale)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    rounded = np.rint(weight / scale.reshape(shape))
    return np.clip(rounded, -largest, largest).astype(np.int8), scale


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round positive scales up to what float16 holds, so that a float16 graph keeps them."""
    half = np.asarray(scale, np.float16)
    up = np.nextafter(half, np.float16(np.inf))
    return np.where(half.astype(np.float32) < scale, up, half).astype(np.float32)


def _channel_axis(node: ir.Node) -> int | None:
    """Axis of the output channels in the weight; None if this is no layer to quantise."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        is_matrix = weight is not None and weight.shape is not None and len(weight.shape) == 2
        return 1 if is_matrix else None
    if node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if not plain or node.attributes.get_int("transA", 0) != 0:
            return None
        return 0 if node.attributes.get_int("transB", 0) != 0 else 1
    return None
