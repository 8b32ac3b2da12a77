"""Which precision every layer has, and asking for one where TensorRT is weakly typed.

In a strongly typed network a layer computes in the type that the graph gives it, and the report is
a fact. TensorRT 8.6 is weakly typed: precisions are asked for, layer by layer, and TensorRT is told
to obey. That is documented, has not been run here, and the report says so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cff_runtime.engines.flavours import Flavour
from cff_runtime.engines.network import layers_of
from cff_runtime.errors import BackendError

_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_MOVING = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE")
# hold or rename values; a precision of their own would mean nothing
_NOT_COMPUTING = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "IDENTITY")
_NEEDED = {"fp16": "HALF", "int8": "INT8"}


@dataclass(frozen=True)
class LayerReport:
    """Precision per layer.

    Attributes
    ----------
    layers : tuple of mapping
        Name, type and output types of each layer, constants left out.
    n_by_type : mapping of str to int
        Number of layers by the type of their first output, in TensorRT's words.
    kept_fp32 : tuple of str
        Layers in fp32 of a graph that is not an fp32 graph. Of an int8 graph these are the products
        and convolutions that take no quantised input: between a DEQUANTIZE and a QUANTIZE layer the
        network says FLOAT, and TensorRT computes in int8.
    typing : {'strong', 'weak'}
    """

    layers: tuple[Mapping[str, Any], ...]
    n_by_type: Mapping[str, int]
    kept_fp32: tuple[str, ...]
    typing: str

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "typing": self.typing,
            "n_by_type": dict(self.n_by_type),
            "kept_fp32": list(self.kept_fp32),
            "layers": list(self.layers),
        }


def describe_layers(flavour: Flavour, definition: Any, precision: str) -> LayerReport:
    """Report the precision of every layer of a network.

    Raises
    ------
    BackendError
        If the graph is called fp16 or int8 and no layer is.
    """
    layers = [layer for layer in layers_of(definition) if _type_name(layer) != "CONSTANT"]
    entries = [
        {"name": layer.name, "type": _type_name(layer), "outputs": _output_types(layer)}
        for layer in layers
    ]
    counts = Counter(entry["outputs"][0] for entry in entries if entry["outputs"])
    needed = _NEEDED.get(precision.partition("-")[0])
    if needed is not None and needed not in counts:
        raise BackendError(
            f"a graph of precision {precision} must have {needed} layers, this one has "
            f"{', '.join(counts)} only; export it again"
        )
    in_fp32 = [layer for layer in layers if _output_types(layer)[:1] == ["FLOAT"]]
    if needed == "INT8":
        quantised = _quantised_tensors(layers)
        in_fp32 = [
            layer
            for layer in in_fp32
            if _type_name(layer) in _PRODUCTS and layer.get_input(0).name not in quantised
        ]
    kept = tuple(layer.name for layer in in_fp32) if needed else ()
    typing = "strong" if flavour.is_strongly_typed else "weak"
    return LayerReport(tuple(entries), dict(counts.most_common()), kept, typing)


def ask_for_precisions(flavour: Flavour, definition: Any, config: Any) -> list[str]:
    """Tell a weakly typed TensorRT to keep the graph's precisions; return notes for the report.

    A graph with Q/DQ nodes sets the precision of what stands between them by itself. In others
    every layer that computes in fp16 or fp32 gets the precision of its output.
    """
    if flavour.is_strongly_typed:
        return []
    flag, layers = flavour.trt.BuilderFlag, layers_of(definition)
    types = {name for layer in layers for name in _output_types(layer)}
    note = f"{flavour.title} is weakly typed: the precision of a layer is a request"
    if "INT8" in types:
        config.set_flag(flag.INT8)
    if "HALF" in types:
        config.set_flag(flag.FP16)
    if "INT8" in types:
        return [f"{note}, made by the Q/DQ nodes alone"]
    if "HALF" not in types:
        return [f"{note}; only fp32 was allowed"]
    config.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
    for layer in layers:
        if _type_name(layer) not in _NOT_COMPUTING and _is_float(layer):
            layer.precision = layer.get_output(0).dtype
            for index in range(layer.num_outputs):
                layer.set_output_type(index, layer.get_output(index).dtype)
    return [f"{note}, made for each layer and obeyed as a constraint"]


def _quantised_tensors(layers: Sequence[Any]) -> set[str]:
    """Return the names of what DEQUANTIZE layers give, through layers that only move values."""
    names: set[str] = set()
    for layer in layers:  # in topological order
        kind = _type_name(layer)
        if kind == "DEQUANTIZE" or (kind in _MOVING and layer.get_input(0).name in names):
            names.add(layer.get_output(0).name)
    return names


def _is_float(layer: Any) -> bool:
    types = _output_types(layer)
    return bool(types) and all(name in ("FLOAT", "HALF") for name in types)


def _output_types(layer: Any) -> list[str]:
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    return [str(tensor.dtype.name) for tensor in outputs if tensor is not None]


def _type_name(layer: Any) -> str:
    return str(layer.type.name)
