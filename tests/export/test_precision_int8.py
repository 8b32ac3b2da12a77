"""int8: dynamic for the CPU, explicit scales for TensorRT, and how the scales are chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cff_export.blocks import block_of
from cff_export.graph_files import read_graph
from cff_export.precision.fixed_batch import fix_batch
from cff_export.precision.half import to_half
from cff_export.precision.histogram import Histogram
from cff_export.precision.int8_dynamic import to_int8_dynamic
from cff_export.precision.int8_qdq import activation_clips, qdq_layers, to_int8_qdq
from cff_export.precision.linear_layers import half_scale, linear_layers, quantise_weight
from cff_runtime.errors import UsageError

FAMILIES = ("lite", "vit")


@pytest.fixture
def encoder(exported: Callable[..., Any]) -> Callable[[str], Path]:
    def path(family: str) -> Path:
        bundle = exported(family, "affine").bundle
        return Path(bundle.path / bundle.manifest.encoder)

    return path


@pytest.fixture
def feeds(
    exported: Callable[..., Any], photos: dict[str, NDArray[np.uint8]]
) -> Callable[[str], list[dict[str, NDArray[Any]]]]:
    """Return inputs, one image each, of the family's size."""

    def make(family: str) -> list[dict[str, NDArray[Any]]]:
        bundle = exported(family, "affine").bundle
        preprocessing = bundle.manifest.preprocessing
        text = bundle.condition_of_word("object")
        return [{"image": preprocessing(photo)[None], "text": text} for photo in photos.values()]

    return make


def _check(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    known = {value.name for value in (*proto.graph.input, *proto.graph.initializer)} | {""}
    for node in proto.graph.node:
        assert known.issuperset(node.input), node.name
        known.update(node.output)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert {opset.domain for opset in proto.opset_import} == {""}
    return proto


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _mean_cosines(
    model: ir.Model, source: Path, feeds: list[dict[str, NDArray[Any]]]
) -> list[float]:
    got, want = _session(model), _session(read_graph(source))
    pairs = [(got.run(None, feed), want.run(None, feed)) for feed in feeds]
    return [
        float(np.mean([(np.asarray(g[s]) * np.asarray(w[s])).sum(-1).mean() for g, w in pairs]))
        for s in range(4)
    ]


# --- weights


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("largest", [63, 127])
def test_weights_are_within_half_a_step_of_their_channel(axis: int, largest: int) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(6, 5)) * 10.0 ** np.arange(-2, 3)).astype(np.float32)
    weight = weight.T.copy() if axis == 0 else weight
    integers, scale = quantise_weight(weight, axis, largest)
    assert integers.dtype == np.int8
    assert scale.shape == (5,)
    assert np.abs(integers).max() == largest
    steps = scale.reshape((-1, 1) if axis == 0 else (1, -1))
    assert (np.abs(integers * steps - weight) <= steps / 2 * 1.0001).all()
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=1 - axis) / largest, rtol=1e-6)


def test_scales_survive_float16_and_still_cover_the_weights() -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(50, 40)).astype(np.float32) * 0.02
    weight[:, 3] = 0.0
    weight[:, 4] *= 1e-5  # scales below float16's normal range
    integers, scale = quantise_weight(weight, 1, 127, half_scales=True)
    np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)
    assert (scale > 0).all()
    assert (np.abs(weight).max(axis=0) <= 127 * scale * 1.000001).all()
    assert (np.abs(integers * scale - weight) <= scale / 2 * 1.0001).all()
    assert not integers[:, 3].any()
    exact = np.array([0.5, 2.0**-24, 1.0], np.float32)
    np.testing.assert_array_equal(half_scale(exact), exact)


_GEMMS = """
<ir_version: 9, opset_import: ["" : 18]>
graph (float[3,4] image) => (float[3,2] out)
<float[4,5] w0 = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20},
 float[2,5] w1 = {1,-2,3,-4,5,-6,7,-8,9,-10}, float[2] b1 = {0.5,-0.5},
 float[2,2] w2 = {1,2,3,4}>
{
    a = Gemm (image, w0)
    b = Gemm <transB = 1> (a, w1, b1)
    c = Gemm <alpha = 0.5> (b, w2)
    square = MatMul (c, c2)
    out = Identity (square)
}
"""


def _gemm_model() -> ir.Model:
    text = _GEMMS.replace("    square = MatMul (c, c2)\n", "    square = MatMul (c, w2)\n")
    proto = onnx.parser.parse_model(text)
    names = ["trunk.a/Gemm_0", "trunk.b/Gemm_1", "trunk.c/Gemm_2", "encoder/MatMul_3"]
    for node, name in zip(proto.graph.node, [*names, "encoder/Identity_4"], strict=True):
        node.name = name
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def test_only_plain_products_with_constant_weights_count() -> None:
    model = _gemm_model()
    layers = linear_layers(model)
    # `alpha` is no plain product, and the block `encoder` stays
    assert [(layer.node.name, layer.axis) for layer in layers] == [
        ("trunk.a/Gemm_0", 1),
        ("trunk.b/Gemm_1", 0),
    ]
    assert [layer.block for layer in linear_layers(model, {"trunk.a"})] == ["trunk.b"]


def test_dynamic_gemms_against_float64() -> None:
    model = _gemm_model()
    assert to_int8_dynamic_without_image(model) == 2
    proto = _check(model)
    assert [node.op_type for node in proto.graph.node].count("MatMulInteger") == 2
    assert "Gemm" in {node.op_type for node in proto.graph.node}
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (out,) = _session(model).run(None, {"image": x})
    w0 = np.arange(1.0, 21).reshape(4, 5)
    w1 = np.array([[1, -2, 3, -4, 5], [-6, 7, -8, 9, -10]])
    w2 = np.array([[1.0, 2], [3, 4]])
    expected = 0.5 * (x.astype(np.float64) @ w0 @ w1.T + [0.5, -0.5]) @ w2 @ w2
    assert np.abs(np.asarray(out) - expected).max() < 0.03 * np.abs(expected).max()


def to_int8_dynamic_without_image(model: ir.Model) -> int:
    assert not isinstance(model.graph.inputs[0].shape[0], ir.SymbolicDim)  # type: ignore[index]
    return to_int8_dynamic(model)


# --- dynamic, whole encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_quantises_linear_layers_alone(
    encoder: Callable[[str], Path], feeds: Callable[[str], Any], family: str
) -> None:
    source = encoder(family)
    model = read_graph(source)
    n_layers = sum(layer.node.op_type != "Conv" for layer in linear_layers(model))
    n_products = sum(node.op_type in ("MatMul", "Gemm") for node in model.graph)
    assert to_int8_dynamic(model) == n_layers == (4 if family == "lite" else 4 * 6 + 1 + 4)
    _check(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMulInteger") == n_layers
    # attention and text maps stay
    assert kinds.count("MatMul") + kinds.count("Gemm") == n_products - n_layers > 8
    assert not any(
        block_of(node.name or "") == "encoder" for node in model.graph if "Integer" in node.op_type
    )
    # one shared scale per input, and float32 weights are gone
    assert kinds.count("DynamicQuantizeLinear") <= n_layers
    weights = [v.const_value for v in model.graph.initializers.values()]
    n_int8 = [w.numpy() for w in weights if w is not None and w.dtype == ir.DataType.INT8]
    assert max(int(np.abs(w.astype(int)).max()) for w in n_int8) == 63
    assert min(_mean_cosines(model, source, feeds(family))) > 0.999


def test_dynamic_takes_one_image_at_a_time(
    encoder: Callable[[str], Path], feeds: Callable[[str], Any]
) -> None:
    model = read_graph(encoder("vit"))
    to_int8_dynamic(model)
    session = _session(model)
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes["image"] == [1, 64, 64, 3]
    assert shapes["features_2"] == [1, 16, 32]
    feed = feeds("vit")[0]
    with pytest.raises(Exception, match="image"):
        session.run(None, {**feed, "image": np.concatenate([feed["image"]] * 2)})


def test_dynamic_keeps_blocks_and_is_idempotent(encoder: Callable[[str], Path]) -> None:
    model = read_graph(encoder("vit"))
    kept = {"trunk.visual.transformer.resblocks.1", "heads.0"}
    assert to_int8_dynamic(model, kept) == 29 - 7
    blocks = {block_of(n.name or "") for n in model.graph if n.op_type == "MatMulInteger"}
    assert blocks.isdisjoint(kept)
    before = ir.to_proto(model).SerializeToString()
    assert to_int8_dynamic(model, kept) == 0
    assert ir.to_proto(model).SerializeToString() == before


def test_fixed_batch_fixes_every_shape(
    encoder: Callable[[str], Path], feeds: Callable[[str], Any]
) -> None:
    source = encoder("vit")
    model = read_graph(source)
    fix_batch(model, 3)
    _check(model)
    for node in model.graph:
        for value in node.outputs:
            assert value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
    feed = feeds("vit")
    images = np.concatenate([f["image"] for f in feed[:3]])
    got = _session(model).run(None, {**feed[0], "image": images})
    want = _session(read_graph(source)).run(None, {**feed[0], "image": images})
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)


# --- scales for TensorRT


def test_histogram_counts_as_numpy_and_grows() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 2000).astype(np.float32) for scale in (0.1, 5.0, 1.0)]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    together = np.concatenate(parts)
    assert histogram.peak == np.abs(together).max()
    # the clip of least squared error, found by quantising for real
    clips = np.linspace(0.1, 1.0, 91) * histogram.peak
    errors = []
    for clip in clips:
        rounded = np.clip(np.rint(together / (clip / 127)), -127, 127) * (clip / 127)
        errors.append(np.mean((rounded - together) ** 2))
    chosen = int(np.argmin(np.abs(clips - histogram.best_clip(127))))
    assert errors[chosen] <= 1.1 * min(errors)


def test_one_outlier_is_clipped_and_zeros_are_harmless() -> None:
    histogram = Histogram()
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    values[0] = 60.0
    histogram.add(values)
    # the minimum of n T^2 / (12 * 127^2) + (60 - T)^2, on a grid of 0.6
    best = 60.0 / (1.0 + len(values) / (12 * 127**2))
    assert abs(histogram.best_clip(127) - best) <= 0.31
    empty = Histogram()
    empty.add(np.zeros(5, np.float32))
    assert empty.best_clip(127) == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_qdq_has_int8_weights_and_scales_from_images(
    encoder: Callable[[str], Path], feeds: Callable[[str], Any], family: str
) -> None:
    source = encoder(family)
    inputs = feeds(family)
    clips = activation_clips(source, [feed["image"][0] for feed in inputs[:4]], inputs[0]["text"])
    model = read_graph(source)
    layers = qdq_layers(model)
    named = {layer.node.name: layer for layer in layers}
    assert set(clips) == {layer.node.inputs[0].name for layer in layers}  # type: ignore[union-attr]
    if family == "lite":  # 32 pointwise convolutions; no stem, depthwise or head
        assert len(layers) == 31
        assert not any(layer.is_depthwise for layer in layers)
    assert not any("conv1" in str(name) or "heads" in str(name) for name in named)
    assert to_int8_qdq(model, clips) == len(layers)
    proto = _check(model)
    assert proto.opset_import[0].version == 19
    assert proto.ir_version == 9
    for node in model.graph:
        if node.name in named:
            activation, weight = node.inputs[:2]
            assert activation is not None and weight is not None
            both = (activation.producer(), weight.producer())
            assert [p.op_type for p in both if p is not None] == ["DequantizeLinear"] * 2
            integers = both[1].inputs[0].const_value.numpy()  # type: ignore[union-attr]
            assert integers.dtype == np.int8
            # the bias stays in float32
            assert len(node.inputs) < 3 or node.inputs[2].dtype == ir.DataType.FLOAT  # type: ignore[union-attr]
    zeros = [
        value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if "_zero" in str(name) and value.const_value is not None
    ]
    assert len(zeros) > len(layers)
    assert not any(array.any() for array in zeros)
    cosines = _mean_cosines(model, source, inputs[4:])
    assert min(cosines) > (0.98 if family == "lite" else 0.999)
    assert min(cosines) < 1 - 1e-6


def test_qdq_in_float16_is_valid_and_keeps_blocks(
    encoder: Callable[[str], Path], feeds: Callable[[str], Any]
) -> None:
    """Scales become float16 with the tensors that they belong to, and lose nothing."""
    source, inputs = encoder("vit"), feeds("vit")
    clips = activation_clips(source, [inputs[0]["image"][0]], inputs[0]["text"])
    kept = {"trunk.visual.transformer.resblocks.0"}
    model = read_graph(source)
    to_int8_qdq(model, clips, kept)
    scales = _scales(model)
    to_half(model, kept)
    _check(model)
    for name, scale in _scales(model).items():
        assert scale.dtype == np.float16
        np.testing.assert_array_equal(scale, scales[name.removesuffix("_fp16")])
    for node in model.graph:
        is_int8 = "quantizeLinear" in node.op_type or node.op_type == "QuantizeLinear"
        assert not (is_int8 and block_of(node.name or "") in kept)
    before = ir.to_proto(model).SerializeToString()
    assert to_int8_qdq(model, clips, kept) == 0
    assert ir.to_proto(model).SerializeToString() == before


def _scales(model: ir.Model) -> dict[str, NDArray[Any]]:
    return {
        str(value.name): value.const_value.numpy()
        for value in model.graph.initializers.values()
        if "_scale" in str(value.name) and value.const_value is not None
    }


def test_calibration_needs_images(encoder: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="`calibration` must hold images, got none"):
        activation_clips(encoder("vit"), [], np.zeros((32, 2), np.float32))
