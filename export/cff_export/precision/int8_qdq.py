"""int8 for TensorRT: QuantizeLinear and DequantizeLinear written into the graph.

    y = (s_x q_x) (s_w q_w) + b,   q_x = clip(round(x / s_x), -128, 127)

symmetric per tensor for activations, symmetric per output channel for weights, biases not
quantised. TensorRT takes each DequantizeLinear into the product behind it. Scales are values that
float16 holds, so that the rest of the graph can be made float16 afterwards (`to_half`; its scales
need opset 19): attention is then not computed in float32.

Layers that stay as they are (`qdq_layers`): depthwise convolutions, whose channels differ far more
than one scale per tensor serves; the stem, which reads pixels; the heads, behind which nothing
averages an error away.

Scales come from images (`activation_clips`): least squared error between clipping and rounding.
Measured on EfficientNet-Lite0 (256 px, the rest in float16, through its emulation, 16 photographs
of 8 products, none used for calibration), mean cosine to float32 at stages 0 to 3:

    scales           images  stages 0, 1, 2, 3
    least squares    32      0.9993 0.9983 0.9973 0.9959
    least squares    4       0.9992 0.9981 0.9973 0.9960
    least squares    1       0.9992 0.9981 0.9971 0.9953
    99.99 percent    32      0.9993 0.9982 0.9971 0.9953
    99.9 percent     32      0.9992 0.9982 0.9965 0.9928
    largest value    32      0.9992 0.9977 0.9965 0.9946
    least squares, stem and heads in int8 too:
                     32      0.9979 0.9960 0.9932 0.9929
    least squares, depthwise convolutions in int8 as well:
                     32      0.9927 0.9841 0.9777 0.9795

so how a scale is chosen matters a little, what is quantised a lot, and a handful of images is
enough. Shifting values that lie in 0..6 by 3, to use all 8 bits, lost (0.9758 at stage 3): zeros,
the most frequent value, are then no longer exact. ViT-B/16 (random weights, 224 px): 0.99991 at
stage 3. TensorRT-RTX 1.7 parses and builds both. On a CPU these graphs are slow (EfficientNet-Lite0
in ONNX Runtime: about 5 times float32): they are for GPUs.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cff_export.feeds import feeds
from cff_export.graph_files import read_graph, write_graph
from cff_export.passes.drop_unused import drop_unused
from cff_export.precision.graph_edit import GraphEdit
from cff_export.precision.histogram import Histogram
from cff_export.precision.linear_layers import (
    LinearLayer,
    half_scale,
    linear_layers,
    quantise_weight,
)
from cff_runtime.backends.cpu_session import CpuSession
from cff_runtime.errors import UsageError

LARGEST = 127
# float16 scales came with it; TensorRT 10.3 (JetPack 6) parses opset 20 and below
QDQ_OPSET = 19
_PIXEL_CHANNELS = 3


def qdq_layers(model: ir.Model, kept: Collection[str] = ()) -> list[LinearLayer]:
    """Return the layers that `to_int8_qdq` quantises."""
    return [
        layer
        for layer in linear_layers(model, kept)
        if not (layer.is_depthwise or _is_stem(layer) or layer.block.startswith("heads."))
    ]


def activation_clips(
    source: Path, images: Sequence[NDArray[np.uint8]], condition: NDArray[np.float32]
) -> dict[str, float]:
    """Return where to clip the input of every layer of `qdq_layers`, by the value's name.

    Parameters
    ----------
    source : Path
        The float32 encoder.
    images : sequence of ndarrays of shape (H, W, 3), uint8
        Calibration images of the encoder's size.
    condition : ndarray, float32
        The encoder's second input.

    Raises
    ------
    UsageError
        If there are no images.
    BackendError
        If ONNX Runtime cannot load the graph.
    """
    if not images:
        raise UsageError("`calibration` must hold images, got none; int8 scales come from them")
    model = read_graph(source)
    inputs = [layer.node.inputs[0] for layer in qdq_layers(model)]
    values = list(dict.fromkeys(value for value in inputs if value is not None))
    names = [str(value.name) for value in values]
    shown = set(model.graph.outputs)
    model.graph.outputs.extend(value for value in values if value not in shown)
    histograms = {name: Histogram() for name in names}
    with TemporaryDirectory(prefix="cff-calibration-") as folder:
        session = CpuSession(write_graph(model, Path(folder) / "watched.onnx"))
        for image in images:
            arrays = session.run(names, feeds(session, image[None], condition))
            for name, array in zip(names, arrays, strict=True):
                histograms[name].add(array)
        del session  # before the folder with its weights goes
    return {name: histogram.best_clip(LARGEST) for name, histogram in histograms.items()}


def to_int8_qdq(model: ir.Model, clips: Mapping[str, float], kept: Collection[str] = ()) -> int:
    """Quantise in place, except in the blocks `kept`; return the number of layers.

    Parameters
    ----------
    model : ir.Model
    clips : mapping of str to float
        Of `activation_clips`.
    kept : collection of str
    """
    # nothing that an encoder holds changed its meaning from 18 to 19
    model.graph.opset_imports[""] = max(model.graph.opset_imports[""], QDQ_OPSET)
    edit = GraphEdit(model.graph)
    restored: dict[ir.Value, ir.Value] = {}
    layers = qdq_layers(model, kept)
    for layer in layers:
        value, weight = layer.node.inputs[:2]
        if value is None or weight is None:
            raise AssertionError("a linear layer has an input and a weight")
        if value not in restored:
            restored[value] = _through_int8(edit, layer.node, value, clips[str(value.name)])
        layer.node.replace_input_with(0, restored[value])
        layer.node.replace_input_with(1, _int8_weight(edit, layer, str(weight.name)))
    drop_unused(model)
    return len(layers)


def _through_int8(edit: GraphEdit, node: ir.Node, value: ir.Value, clip: float) -> ir.Value:
    exact = half_scale(np.array([clip / LARGEST], np.float32)).reshape(())
    scale = edit.constant(f"{value.name}_scale", exact)
    zero = edit.constant(f"{value.name}_zero", np.zeros((), np.int8))
    int8, float32 = (ir.DataType.INT8,), (ir.DataType.FLOAT,)
    (quantised,) = edit.insert("QuantizeLinear", [value, scale, zero], node, int8, (value.shape,))
    inputs = [quantised, scale, zero]
    (restored,) = edit.insert("DequantizeLinear", inputs, node, float32, (value.shape,))
    return restored


def _int8_weight(edit: GraphEdit, layer: LinearLayer, name: str) -> ir.Value:
    integers, scales = quantise_weight(layer.weight, layer.axis, LARGEST, half_scales=True)
    inputs = [
        edit.constant(f"{name}_int8", integers),
        edit.constant(f"{name}_scale", scales),
        edit.constant(f"{name}_zero", np.zeros(scales.shape, np.int8)),
    ]
    axis = {"axis": layer.axis}
    float32, shape = (ir.DataType.FLOAT,), (integers.shape,)
    (restored,) = edit.insert("DequantizeLinear", inputs, layer.node, float32, shape, axis)
    return restored


def _is_stem(layer: LinearLayer) -> bool:
    return layer.node.op_type == "Conv" and layer.weight.shape[1] == _PIXEL_CHANNELS
