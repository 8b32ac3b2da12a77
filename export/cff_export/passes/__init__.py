"""The exporter's passes: one fold a file, its algebra in the docstring.

A pass takes a stage's chain of layers in float64 and returns a `PassResult`: the new chain, or the
old one and the reason why it declined. `drop_unused` and `order_gelu` work on the finished ONNX
graph instead, `cff_export.split_attention` on PyTorch's modules: nothing here needs PyTorch.
"""

from cff_export.passes.chain import Layer, Linear, PassResult, Relu, ScaleShift, StageChain
from cff_export.passes.drop_unused import drop_unused
from cff_export.passes.fold_affine import fold_affine
from cff_export.passes.fold_mlp import fold_mlp
from cff_export.passes.fold_normalization import FoldedInput, fold_normalization
from cff_export.passes.fold_rank import fold_rank
from cff_export.passes.fold_text import TEXT_DIFFERENCE, text_difference
from cff_export.passes.fold_upsampling import fold_upsampling
from cff_export.passes.order_gelu import order_gelu

__all__ = [
    "TEXT_DIFFERENCE",
    "FoldedInput",
    "Layer",
    "Linear",
    "PassResult",
    "Relu",
    "ScaleShift",
    "StageChain",
    "drop_unused",
    "fold_affine",
    "fold_mlp",
    "fold_normalization",
    "fold_rank",
    "fold_upsampling",
    "order_gelu",
    "text_difference",
]
