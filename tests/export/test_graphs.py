"""The graphs of a bundle: batches, opset, what they must not hold, large weights, scorers."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from cff_edge.detector import Detector
from cff_export import graph_files
from cff_export.batch_check import batch_position_diff
from cff_export.fused_encoder import FusedEncoder, folded_input
from cff_export.graphs import write_encoder, write_scorer
from cff_export.head_chains import fold_head
from cff_runtime import Bundle

FAMILIES = ("lite", "vit")
Float = NDArray[np.float32]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _encoder(bundle: Bundle) -> Path:
    return bundle.path / bundle.manifest.encoder


def _write(case: Any, path: Path) -> int:
    chains, _ = fold_head(case.head)
    info = case.backbone.info
    with folded_input(case.backbone) as folded:
        encoder = FusedEncoder(case.backbone, chains, folded)
        return write_encoder(encoder, info.image_size, path)


# --- encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_size_gives_pytorchs_answer(
    exported: Callable[..., Any], photos: dict[str, NDArray[np.uint8]], family: str
) -> None:
    case = exported(family, "affine")
    size = case.backbone.info.image_size
    images = np.stack([photo[:size, :size] for photo in photos.values()])
    assert len(images) == 7
    text = case.backbone.text_vectors("object")
    with torch.inference_mode():
        found = Detector(case.backbone, case.head).eval()(torch.from_numpy(images), text)
    session = _session(_encoder(case.bundle))
    for n_images in (1, 2, 7):
        feed = {"image": images[-n_images:], "text": text.numpy()}
        outputs = dict(
            zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True)
        )
        for stage, expected in enumerate(found.features):
            features = outputs[f"features_{stage}"]
            width = case.bundle.manifest.stages[stage].width
            assert features.shape == (n_images, expected.shape[1], width)
            assert features.dtype == np.float32
            # cosines between tokens do not depend on the basis that the rank fold chose
            cosines = features @ features.transpose(0, 2, 1)
            reference = expected[-n_images:].double()
            np.testing.assert_allclose(cosines, reference @ reference.transpose(1, 2), atol=1e-4)
        assert outputs["text_map"].shape == (n_images, size, size)
        np.testing.assert_allclose(outputs["text_map"], found.text_map[-n_images:], atol=1e-3)
        assert ("text_score" in outputs) == (family == "vit")
        if found.text_score is not None:
            assert outputs["text_score"].shape == (n_images,)
            np.testing.assert_allclose(
                outputs["text_score"], found.text_score[-n_images:], atol=1e-3
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_is_valid_and_of_an_opset_that_tensorrt_parses(
    exported: Callable[..., Any], family: str
) -> None:
    bundle = exported(family, "affine").bundle
    for name in (bundle.manifest.encoder, *bundle.manifest.scorers):
        model = onnx.load(bundle.file(name))
        onnx.checker.check_model(model, full_check=True)
        assert [opset.domain for opset in model.opset_import] == [""]
        assert model.opset_import[0].version <= 20
        assert model.ir_version <= 9  # opset 20 came with 9
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
    encoder = onnx.load(_encoder(bundle))
    signature = {value.name: value.type.tensor_type for value in encoder.graph.input}
    assert list(signature) == ["image", "text"]
    size = bundle.manifest.preprocessing.height
    dims = [dim.dim_param or dim.dim_value for dim in signature["image"].shape.dim]
    assert dims == ["batch", size, size, 3]
    assert signature["image"].elem_type == onnx.TensorProto.UINT8
    names = [value.name for value in encoder.graph.output]
    assert names[:5] == [*(f"features_{stage}" for stage in range(4)), "text_map"]
    assert names[5:] == (["text_score"] if family == "vit" else [])


@pytest.mark.parametrize("family", FAMILIES)
def test_two_text_vectors_became_one(exported: Callable[..., Any], family: str) -> None:
    encoder = onnx.load(_encoder(exported(family, "affine").bundle))
    head = [node for node in encoder.graph.node if node.op_type == "Sigmoid"]
    assert len(head) == 4 + (family == "vit")
    (product,) = (node for node in encoder.graph.node if "text" in node.input)
    assert product.op_type == "MatMul"
    # attention has softmaxes of its own, one per block
    n_softmax = sum(node.op_type == "Softmax" for node in encoder.graph.node)
    assert n_softmax == (4 if family == "vit" else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_exporting_machine_is_inside(
    exported: Callable[..., Any], family: str
) -> None:
    bundle = exported(family, "affine").bundle
    here = Path(__file__).resolve()
    strangers = [
        b"site-packages",
        b"stack_trace",
        b"pkg.torch",
        b"pkg.onnxscript",
        str(Path.cwd()).encode(),
        str(here.parents[2]).encode(),
        str(bundle.path.parent).encode(),
        str(Path.home()).encode() + b"/",
    ]
    for name in (bundle.manifest.encoder, *bundle.manifest.scorers):
        content = bundle.file(name).read_bytes()
        for stranger in strangers:
            assert stranger not in content, stranger
        assert not re.search(rb"/home/|/root/|/tmp/|\.py\b", content)
    text = (bundle.path / "manifest.json").read_text()
    assert str(here.parents[2]) not in text
    assert str(bundle.path.parent) not in text


def test_equal_models_give_equal_files(exported: Callable[..., Any], tmp_path: Path) -> None:
    case = exported("vit", "affine")
    _write(case, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == _encoder(case.bundle).read_bytes()


# --- weights beyond protobuf's limit


def _changed_weights(path: Path) -> SimpleNamespace:
    """Load a model and change one number of one weight."""
    model = ir.load(path)
    name = max(model.graph.initializers, key=lambda n: _initializer(model, n).nbytes)
    array = _initializer(model, name).numpy().copy()
    array.flat[17] += 1e-3
    model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    return SimpleNamespace(model=model)


def _initializer(model: ir.Model, name: str) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def test_large_weights_go_to_a_file_beside_the_graph(
    exported: Callable[..., Any],
    replay: Callable[[Bundle], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = exported("vit", "affine")
    source = _encoder(case.bundle)
    whole = source.stat().st_size
    replay(case.bundle)
    monkeypatch.setattr(graph_files, "MAX_SINGLE_FILE_BYTES", whole - 200_000)
    _write(case, tmp_path / "apart.onnx")
    graph, weights = tmp_path / "apart.onnx", tmp_path / "apart.onnx.data"
    assert weights.stat().st_size > 100_000
    assert graph.stat().st_size + weights.stat().st_size < whole + 60_000
    onnx.checker.check_model(str(graph), full_check=True)
    feed = {
        "image": np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        "text": case.backbone.text_vectors("object").numpy(),
    }
    for one, other in zip(
        _session(source).run(None, feed), _session(graph).run(None, feed), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(graph_files, "MAX_SINGLE_FILE_BYTES", whole)
    _write(case, tmp_path / "within.onnx")
    assert not (tmp_path / "within.onnx.data").exists()
    assert (tmp_path / "within.onnx").read_bytes() == source.read_bytes()


def test_graphs_of_other_weights_are_other_files(
    exported: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a bundle's id hashes the graph, so it must tell apart weights that it does not hold
    case = exported("vit", "affine")
    source = _encoder(case.bundle)
    monkeypatch.setattr(graph_files, "MAX_SINGLE_FILE_BYTES", 0)
    programs = {
        "one": SimpleNamespace(model=ir.load(source)),
        "two": SimpleNamespace(model=ir.load(source)),
        "other": _changed_weights(source),
    }
    for name, program in programs.items():
        monkeypatch.setattr(torch.onnx, "export", lambda *_, p=program, **__: p)
        (tmp_path / name).mkdir()
        _write(case, tmp_path / name / "encoder.onnx")
    one, two, other = ((tmp_path / n / "encoder.onnx").read_bytes() for n in programs)
    assert one == two
    assert one != other
    assert len(one) == len(other)


# --- scorer


def _unit(rng: np.random.Generator, *shape: int) -> Float:
    array = rng.normal(size=shape)
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n_rows", [1, 5, 1024])
def test_scorer_equals_brute_force(tmp_path: Path, n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    path = tmp_path / "scorer.onnx"
    write_scorer(6, 9, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version <= 20
    features, bank = _unit(rng, 1, 6, 9), _unit(rng, n_rows, 9)
    best = np.full(6, -2.0, np.float32)
    best[2] = 0.999  # nearer to an earlier chunk
    expected = best.astype(np.float64)
    for token in range(6):
        for row in bank.astype(np.float64):
            expected[token] = max(expected[token], features[0, token].astype(np.float64) @ row)
    feed = {"features": features, "bank": bank, "best_so_far": best}
    for evaluator in (_session(path), ReferenceEvaluator(model)):
        (got,) = (np.asarray(output) for output in evaluator.run(None, feed))
        assert got.shape == (6,)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected[2] == np.float32(0.999)


def test_chunks_in_a_row_equal_the_whole_bank(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "scorer.onnx"
    write_scorer(20, 16, path)
    session = _session(path)
    features, bank = _unit(rng, 1, 20, 16), _unit(rng, 300, 16)
    best = np.full(20, -2.0, np.float32)
    for start in range(0, 300, 128):
        chunk = bank[start : start + 128]
        (best,) = session.run(None, {"features": features, "bank": chunk, "best_so_far": best})
    exact = (features[0].astype(np.float64) @ bank.T.astype(np.float64)).max(axis=1)
    np.testing.assert_allclose(best, exact, atol=1e-5)


def test_scorers_of_a_bundle_fit_its_stages(lite_bundle: Bundle) -> None:
    manifest = lite_bundle.manifest
    for stage, name in zip(manifest.stages, manifest.scorers, strict=True):
        inputs = {
            value.name: value.shape for value in _session(lite_bundle.file(name)).get_inputs()
        }
        assert inputs["features"] == [1, stage.n_tokens, stage.width]
        assert inputs["bank"] == ["chunk", stage.width]
        assert inputs["best_so_far"] == [stage.n_tokens]


# --- the same image in every batch


def _model(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "encoder.onnx"
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


_SIGNATURE = """
<ir_version: 9, opset_import: ["" : 18]>
graph (uint8[batch,2,2,3] image, float[1,2] text) => (float[batch,2,2,3] y, float[batch,2,2,3] z)
<int64[1] axis = {0}, float zero = {0}>
{ x = Cast <to = 1> (image) z = Identity (x) %s }
"""


def test_an_encoder_that_mixes_its_batch_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    text = np.zeros((1, 2), np.float32)
    apart = _model(tmp_path, _SIGNATURE % "y = Add (x, x)")
    assert batch_position_diff(apart, images, text) == 0.0
    mixing = _model(tmp_path, _SIGNATURE % "m = ReduceMean (x, axis) y = Sub (x, m)")
    # alone, an image minus its own mean is zero
    exact = images.astype(np.float64)
    expected = np.abs(exact - exact.mean(axis=0)).max()
    assert batch_position_diff(mixing, images, text, (4,)) == pytest.approx(expected, rel=1e-6)
    batches = [images[[(size + p) % 4 for p in range(size)]].astype(np.float64) for size in (2, 3)]
    expected = max(expected, *(np.abs(b - b.mean(axis=0)).max() for b in batches))
    assert batch_position_diff(mixing, images, text) == pytest.approx(expected, rel=1e-6)


def test_a_change_can_be_told_as_a_share_of_the_largest_value(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    text = np.zeros((1, 2), np.float32)
    # alone 2x, in a batch x + mean
    mixing = _model(tmp_path, _SIGNATURE % "m = ReduceMean (x, axis) y = Add (x, m)")
    exact = images.astype(np.float64)
    changed = np.abs(exact - exact.mean(axis=0)).max()
    found = batch_position_diff(mixing, images, text, (4,), relative=True)
    assert found == pytest.approx(changed / (2.0 * exact.max()), rel=1e-6)
    # what stays below 1 is told as it is
    small = "s = Mul (x, t) m = ReduceMean (s, axis) y = Add (s, m)"
    head = _SIGNATURE.replace("float zero = {0}", "float t = {0.001}") % small
    found = batch_position_diff(_model(tmp_path, head), images, text, (4,), relative=True)
    assert found == pytest.approx(changed / 1000.0, rel=1e-5)


def test_a_nan_in_a_batch_is_not_lost(tmp_path: Path) -> None:
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[1] = 7
    body = "m = ReduceMax (x, axis) d = Sub (m, x) n = Div (d, zero) y = Add (n, zero)"
    path = _model(tmp_path, _SIGNATURE % body)
    assert np.isnan(batch_position_diff(path, images, np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_product_is_by_a_vector_and_no_norm_is_written_out(
    exported: Callable[..., Any], family: str
) -> None:
    """ONNX Runtime multiplies by a vector without its last axis 20 times slower."""
    model = onnx.load(_encoder(exported(family, "affine").bundle))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    ranks |= {tensor.name: len(tensor.dims) for tensor in inferred.initializer}
    products = [node for node in inferred.node if node.op_type == "MatMul"]
    assert products and all(ranks[name] >= 2 for node in products for name in node.input)
    norms = {node.output[0] for node in inferred.node if node.op_type in ("ReduceL2", "Clip")}
    assert not [n for n in inferred.node if n.op_type == "Expand" and set(n.input) & norms]
