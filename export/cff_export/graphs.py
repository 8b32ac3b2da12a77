"""Writing the graphs of a bundle: the encoder from PyTorch, the scorers node by node."""

import ast
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper
from torch import nn

from cff_export.blocks import ENCODER_SCOPE
from cff_export.graph_files import write_graph
from cff_export.passes import drop_unused, order_gelu
from cff_export.split_attention import split_attention

# TensorRT 10.3 (JetPack 6) parses opset 20 and below
OPSET = 18
IR_VERSION = 9
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class GraphPasses:
    """How often each pass over the encoder's graph applied.

    Attributes
    ----------
    n_attentions : int
        Of `split_attention`.
    n_gelus : int
        Of `order_gelu`.
    n_dropped : int
        Nodes and initialisers that `drop_unused` removed.
    """

    n_attentions: int
    n_gelus: int
    n_dropped: int

    def records(self) -> list[dict[str, object]]:
        """As a manifest lists them."""
        facts = (
            ("split_attention", self.n_attentions, "attentions as three projections"),
            ("order_gelu", self.n_gelus, "GELUs in ONNX Runtime's order"),
            ("drop_unused", self.n_dropped, "nodes and initialisers without a path to an output"),
        )
        return [
            {"pass": name, "applied": count > 0, "reason": f"{count} {what}"}
            for name, count, what in facts
        ]


class EncoderModule(Protocol):
    """An `nn.Module` from ``image`` [B,H,W,3] uint8 and a condition to the encoder's outputs.

    Attributes
    ----------
    condition : tuple of name and shape
        The second input, float32.
    """

    condition: tuple[str, tuple[int, int]]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns."""
        ...

    def eval(self) -> nn.Module:
        """Return it in eval mode."""
        ...


def write_encoder(encoder: EncoderModule, image_size: int, path: Path) -> GraphPasses:
    """Export the encoder with a free batch dimension.

    Weights above protobuf's limit go to ``<path>.data`` beside the graph, and their hash into it,
    so that graphs of different weights are different files.
    """
    name, shape = encoder.condition
    # a batch of 2: the exporter would take a batch of 1 for a constant
    image = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    module = encoder.eval()
    with (
        split_attention(module) as n_attentions,
        warnings.catch_warnings(),
        torch.inference_mode(),
    ):
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            module,
            (image, torch.zeros(*shape)),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image", name],
            output_names=list(encoder.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)}, None),
        )
    if program is None:
        raise AssertionError("torch.onnx.export returns a program when dynamo is used")
    model = program.model
    batch = model.graph.inputs[0].shape
    if batch is None or isinstance(batch[0], int):
        raise AssertionError("the module reads the batch dimension as a number: `len` of a tensor")
    n_dropped = drop_unused(model)
    n_gelus = order_gelu(model)
    model.ir_version = min(model.ir_version, IR_VERSION)
    _name_nodes(model)
    _strip_origins(model)
    logging.getLogger(__name__).info("encoder: %d nodes", len(model.graph))
    write_graph(model, path)
    return GraphPasses(n_attentions, n_gelus, n_dropped)


def write_scorer(n_tokens: int, width: int, path: Path) -> None:
    """Write the graph that updates the largest cosine with one chunk of a memory bank.

    in   features [1,N_s,C_s], bank [m,C_s] (m is free), best_so_far [N_s]
    out  best [N_s] = max(best_so_far, max over m of features . bank)
    """
    tokens = helper.make_tensor("token_shape", TensorProto.INT64, [2], [n_tokens, width])
    axes = helper.make_tensor("chunk_axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Reshape", ["features", "token_shape"], ["tokens"]),
        helper.make_node("Gemm", ["tokens", "bank"], ["cosine"], transB=1),
        helper.make_node("ReduceMax", ["cosine", "chunk_axis"], ["nearest"], keepdims=0),
        helper.make_node("Max", ["best_so_far", "nearest"], ["best"]),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, n_tokens, width]),
        helper.make_tensor_value_info("bank", TensorProto.FLOAT, ["chunk", width]),
        helper.make_tensor_value_info("best_so_far", TensorProto.FLOAT, [n_tokens]),
    ]
    outputs = [helper.make_tensor_value_info("best", TensorProto.FLOAT, [n_tokens])]
    graph = helper.make_graph(nodes, "scorer", inputs, outputs, [tokens, axes])
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _name_nodes(model: ir.Model) -> None:
    """Name every node after the PyTorch module it came from: ``trunk.blocks.3.bn0/Conv_17``.

    Reports, parser errors and `cff_export.blocks` speak of nodes by these names.
    """
    for index, node in enumerate(model.graph.all_nodes()):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        # the outermost scope is the encoder itself, the innermost the operator
        module = scopes[-2] if len(scopes) > 1 and scopes[0] == "" else ""
        node.name = f"{module or ENCODER_SCOPE}/{node.op_type}_{index}"


def _strip_origins(model: ir.Model) -> None:
    """Drop stack traces and paths of the exporting machine; equal models get equal files."""
    model.producer_name, model.producer_version = "cff-export", ""
    for holder in (model, model.graph):
        holder.metadata_props.clear()
        holder.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
