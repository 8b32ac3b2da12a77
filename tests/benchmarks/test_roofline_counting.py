"""Operations of a graph, against hand counts, a formula for transformers and PyTorch's counter."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cff_bench.roofline.counting import count_graph, count_model, product_flops
from cff_edge.backbones import Backbone
from cff_runtime import Bundle
from cff_runtime.errors import BundleError

INFO = helper.make_tensor_value_info


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    weights: dict[str, tuple[int, ...]],
    output: str = "y",
) -> onnx.ModelProto:
    tensors = [
        numpy_helper.from_array(np.zeros(shape, np.float32), n) for n, shape in weights.items()
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [INFO(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [INFO(output, TensorProto.FLOAT, None)],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def test_products_by_hand() -> None:
    node = helper.make_node
    model = graph(
        [
            node("Conv", ["x", "k"], ["c"], "conv", group=2, pads=[1] * 4, strides=[2, 2]),
            node("Relu", ["c"], ["r"], "relu"),
            node("Flatten", ["r"], ["f"], "flat"),
            node("Gemm", ["f", "w", "b"], ["g"], "gemm", transB=1),
            node("MatMul", ["g", "v"], ["y"], "vector"),
        ],
        {"x": ["batch", 4, 8, 8]},
        {"k": (6, 2, 3, 3), "w": (10, 96), "b": (10,), "v": (10,)},
    )
    counts = {count.name: count for count in count_model(model, batch=3)}
    # 3 images x 6 channels x 4 x 4 places x (2 channels x 9)
    assert counts["conv"].flops == 2 * 3 * 6 * 4 * 4 * 2 * 9
    assert counts["relu"].flops == counts["flat"].flops == 0
    assert counts["gemm"].flops == 2 * 3 * 10 * 96
    assert counts["vector"].flops == 2 * 3 * 10
    assert counts["gemm"].weight_bytes == 4 * (10 * 96 + 10)
    assert counts["gemm"].weight_shape == (10, 96)


def test_transposed_operands_and_attention() -> None:
    assert product_flops("FusedMatMul", [(1, 40, 1024), (40, 41)], (1, 1024, 41), True) == (
        2 * 1024 * 41 * 40
    )
    assert product_flops("ConvTranspose", [(1, 8, 5, 5), (8, 3, 2, 2)], (1, 3, 10, 10)) == (
        2 * 8 * 25 * 3 * 4
    )
    # 12 queries, 20 keys, 2 heads of 8: Q K^T and P V
    shapes = [(1, 12, 16), (1, 20, 16), (1, 20, 16)]
    assert product_flops("MultiHeadAttention", shapes, (1, 12, 16)) == 2 * 2 * 12 * 20 * 16


@pytest.mark.parametrize(("n_tokens", "width", "layers"), [(1370, 1024, 2), (50, 64, 3)])
def test_a_transformer_against_its_formula(n_tokens: int, width: int, layers: int) -> None:
    heads, n = width // 64, n_tokens
    nodes, weights = [], {}
    shape = numpy_helper.from_array(np.array([0, n, heads, 64], np.int64), "split_shape")
    back = numpy_helper.from_array(np.array([0, n, width], np.int64), "join_shape")

    def linear(value: str, name: str, inside: int, outside: int) -> str:
        weights[f"{name}.w"] = (inside, outside)
        nodes.append(helper.make_node("MatMul", [value, f"{name}.w"], [name], name))
        return name

    value = "x"
    for layer in range(layers):
        parts = {}
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            name = linear(value, f"{layer}.{part}", width, width)
            nodes.append(helper.make_node("Reshape", [name, "split_shape"], [f"{name}4"]))
            parts[part] = f"{name}t"
            nodes.append(helper.make_node("Transpose", [f"{name}4"], [f"{name}t"], perm=perm))
        nodes += [
            helper.make_node("MatMul", [parts["q"], parts["k"]], [f"{layer}.s"], f"{layer}.s"),
            helper.make_node("Softmax", [f"{layer}.s"], [f"{layer}.p"]),
            helper.make_node("MatMul", [f"{layer}.p", parts["v"]], [f"{layer}.o"], f"{layer}.o"),
            helper.make_node("Transpose", [f"{layer}.o"], [f"{layer}.ot"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"{layer}.ot", "join_shape"], [f"{layer}.oj"]),
        ]
        value = linear(f"{layer}.oj", f"{layer}.out", width, width)
        value = linear(value, f"{layer}.fc", width, 4 * width)
        value = linear(value, f"{layer}.proj", 4 * width, width)
    model = graph(nodes, {"x": ["batch", n, width]}, weights, value)
    model.graph.initializer.extend([shape, back])
    total = sum(count.flops for count in count_model(model))
    assert total == layers * (2 * n * 12 * width**2 + 4 * n**2 * width)


def test_a_whole_encoder_against_pytorchs_counter(
    lite_backbone: Backbone, lite_bundle: Bundle
) -> None:
    """Trunk by PyTorch's own counter; heads, text and upsampling by hand."""
    manifest = lite_bundle.manifest
    counts = count_graph(lite_bundle.file(manifest.encoder))
    size = manifest.preprocessing.height
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        lite_backbone.module(torch.zeros(1, 3, size, size))
    trunk = sum(count.flops for count in counts if count.name.startswith("trunk"))
    assert trunk == counter.get_total_flops()
    beside = 2 * manifest.condition.shape[0] * 2  # text [C,2] x [2]
    for stage, tap in zip(manifest.stages, lite_backbone.info.stages, strict=True):
        (rows, columns), rank = stage.grid, stage.width
        beside += 2 * math.prod(stage.grid) * tap.width * rank  # head
        if rank < manifest.condition.shape[0]:
            beside += 2 * manifest.condition.shape[0] * rank  # text direction in the stage's basis
        beside += 2 * math.prod(stage.grid) * rank  # cosine to it
        beside += 2 * size * rows * columns + 2 * size * columns * size  # upsampling
    assert sum(count.flops for count in counts) - trunk == beside


def test_a_small_network_against_pytorchs_counter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 8))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 10, 24))
    exported = graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], "one"),
            helper.make_node("Erf", ["h"], ["e"], "erf"),
            helper.make_node("MatMul", ["e", "b"], ["y"], "two"),
        ],
        {"x": [1, 10, 24]},
        {"a": (24, 48), "b": (48, 8)},
    )
    assert sum(count.flops for count in count_model(exported)) == counter.get_total_flops()


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match="must be an ONNX graph"):
        count_graph(path)


def test_a_shape_that_does_not_follow_is_told() -> None:
    model = graph(
        [helper.make_node("Unknown", ["x"], ["u"]), helper.make_node("MatMul", ["u", "w"], ["y"])],
        {"x": [1, 4]},
        {"w": (4, 4)},
    )
    with pytest.raises(BundleError, match="`u`"):
        count_model(model)
