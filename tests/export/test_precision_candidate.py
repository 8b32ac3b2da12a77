"""Candidates of real encoders: files, facts, planted faults, costs, speed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import cff_export.precision as precision_package
from cff_export import graph_files
from cff_export.blocks import block_of
from cff_export.graph_files import read_graph, write_graph
from cff_export.precision import (
    PRECISIONS,
    Judgement,
    StageProbe,
    build_candidate,
    compare_speed,
    graph_blocks,
)
from cff_export.precision.costs import block_costs, share_kept, upstream_blocks
from cff_runtime.errors import BackendError, BundleError, UsageError

Images = list[NDArray[np.uint8]]
VIT_BLOCK = "trunk.visual.transformer.resblocks"
REDUCED = ("fp16", "int8", "int8-qdq")


@pytest.fixture
def case(
    exported: Callable[..., Any], photos: dict[str, NDArray[np.uint8]]
) -> Callable[[str], tuple[Path, Images, NDArray[np.float32]]]:
    """Return ``case(family) -> (encoder, images of its size, text)``."""

    def make(family: str) -> tuple[Path, Images, NDArray[np.float32]]:
        bundle = exported(family, "affine").bundle
        images = [bundle.manifest.preprocessing(photo) for photo in photos.values()]
        return bundle.path / bundle.manifest.encoder, images, bundle.condition_of_word("object")

    return make


# --- files and facts


@pytest.mark.parametrize("family", ["lite", "vit"])
@pytest.mark.parametrize("precision", REDUCED)
def test_candidate_is_valid_and_close(
    case: Any, tmp_path: Path, family: str, precision: str
) -> None:
    source, images, text = case(family)
    found = build_candidate(precision, source, tmp_path, (), images[:3], text)
    assert found.graph == tmp_path / f"encoder.{precision}.onnx"
    assert found.runnable.exists()
    assert (found.runnable == found.graph) == (precision == "int8")
    assert found.kept == ()
    assert found.forced == {}
    assert found.facts["share_fp32"] == {"parameters": 0.0, "multiply_adds": 0.0}
    assert found.facts["n_bytes"] == found.graph.stat().st_size
    assert not found.facts["external_data"]
    for path in {found.graph, found.runnable}:
        onnx.checker.check_model(onnx.load(path), full_check=True)
    # three images in the batch, unless int8 scales them together
    batch = onnx.load(found.runnable).graph.input[0].type.tensor_type.shape.dim[0]
    assert (batch.dim_value == 1) == (precision == "int8") == (found.facts.get("batch") == 1)
    limit = {"fp16": 2e-4, "int8": 1e-3, "int8-qdq": 2e-2}[precision]
    judgement = StageProbe(source, images[3:5], text, limit)(found.runnable)
    assert judgement.passed, judgement
    assert judgement.error > 1e-8
    if family == "vit" and precision != "int8":
        assert found.graph.stat().st_size < 0.6 * source.stat().st_size


@pytest.mark.parametrize("precision", REDUCED)
def test_kept_blocks_are_named_in_file_and_facts(case: Any, tmp_path: Path, precision: str) -> None:
    source, images, text = case("vit")
    kept = (f"{VIT_BLOCK}.3", f"{VIT_BLOCK}.1")
    found = build_candidate(precision, source, tmp_path, kept, images[:2], text)
    assert found.graph.name == f"encoder.{precision}-mixed.onnx"
    assert found.kept == tuple(sorted(kept))
    shares = found.facts["share_fp32"]
    # two of four equal blocks, beside a patch embedding of 36,864 weights, heads and text maps
    assert 0.3 < shares["multiply_adds"] < 0.5
    assert 0.3 < shares["parameters"] < 0.5
    model = read_graph(found.graph)
    types = {
        tensor.dtype
        for node in model.graph
        if block_of(node.name or "") in kept and node.op_type in ("MatMul", "Gemm")
        for tensor in node.outputs
    }
    assert types == {ir.DataType.FLOAT}


def test_same_call_same_bytes(case: Any, tmp_path: Path) -> None:
    source, images, text = case("vit")
    for precision in REDUCED:
        files = []
        for name in ("a", "b"):
            found = build_candidate(precision, source, tmp_path / name, (), images[:2], text)
            files.append((found.graph.read_bytes(), found.runnable.read_bytes()))
        assert files[0] == files[1]


def test_float32_is_the_source_itself(case: Any, tmp_path: Path) -> None:
    source, _, text = case("vit")
    found = build_candidate("fp32", source, tmp_path, (), None, text)
    assert found.graph == found.runnable == source
    assert graph_blocks(source, "fp32") == []
    assert not list(tmp_path.iterdir())


def test_blocks_of_a_precision_in_graph_order(case: Any) -> None:
    vit, lite = case("vit")[0], case("lite")[0]
    blocks = [f"{VIT_BLOCK}.{index}" for index in range(4)]
    heads = [f"heads.{index}" for index in range(4)]
    for precision in ("fp16", "int8-qdq"):
        found = graph_blocks(vit, precision)
        assert "encoder" not in found
        assert found == ["trunk.visual", "trunk", *blocks, *heads]
        lite_blocks = [block for block in graph_blocks(lite, precision) if "blocks" in block]
        assert lite_blocks == [f"trunk.blocks.{index}" for index in range(16)]
    assert set(graph_blocks(vit, "int8")) == {"trunk", *blocks, *heads}
    assert graph_blocks(lite, "int8") == heads


def test_weights_above_the_limit_stand_beside_the_graph(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, images, text = case("vit")
    plain = {
        precision: build_candidate(precision, source, tmp_path / "plain", (), images[:2], text)
        for precision in REDUCED
    }
    monkeypatch.setattr(graph_files, "MAX_SINGLE_FILE_BYTES", 10_000)
    large = write_graph(read_graph(source), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").exists()
    probe = StageProbe(large, images[3:4], text, 0.0)
    assert probe(source) == Judgement(True, 0.0, ())
    for precision in REDUCED:
        found = build_candidate(precision, large, tmp_path / "big", (), images[:2], text)
        data = found.graph.with_name(f"{found.graph.name}.data")
        assert found.facts["external_data"]
        assert found.facts["n_bytes"] == found.graph.stat().st_size + data.stat().st_size
        assert len(read_graph(found.graph).metadata_props["weights_sha256"]) == 64
        onnx.checker.check_model(str(found.graph), full_check=True)
        assert probe(found.runnable) == probe(plain[precision].runnable)
    # other weights, another hash: the graph file differs
    changed = read_graph(large)
    name, value = next(
        (n, v) for n, v in changed.graph.initializers.items() if v.dtype == ir.DataType.FLOAT
    )
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.5), name=name)
    other = write_graph(changed, tmp_path / "other.onnx")
    hashes = {read_graph(path).metadata_props["weights_sha256"] for path in (large, other)}
    assert len(hashes) == 2


def test_calibration_is_done_once_a_folder(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, images, text = case("vit")
    calls = []
    original = precision_package.candidate.activation_clips

    def counted(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(precision_package.candidate, "activation_clips", counted)
    for kept in ((), (f"{VIT_BLOCK}.0",)):
        build_candidate("int8-qdq", source, tmp_path, kept, images[:2], text)
    assert len(calls) == 1
    build_candidate("int8-qdq", source, tmp_path, (), images[:3], text)
    assert len(calls) == 2


# --- costs


def test_costs_against_a_count_by_hand(case: Any) -> None:
    model = read_graph(case("vit")[0])
    before = ir.to_proto(model).SerializeToString()
    costs = block_costs(model)
    assert ir.to_proto(model).SerializeToString() == before
    width, tokens, heads = 48, 17, 3
    linear = tokens * (3 * width * width + width * width + 2 * 4 * width * width)
    attention = 2 * heads * tokens * tokens * (width // heads)
    assert costs[f"{VIT_BLOCK}.1"].multiply_adds == linear + attention
    weights = 12 * width * width
    parameters = costs[f"{VIT_BLOCK}.1"].parameters
    assert weights + 4 * width <= parameters <= weights + 13 * width + 8
    assert costs["trunk.visual"].multiply_adds == 16 * width * 3 * 16 * 16
    assert share_kept(costs, costs) == {"parameters": 1.0, "multiply_adds": 1.0}
    assert share_kept(costs, ()) == {"parameters": 0.0, "multiply_adds": 0.0}


def test_upstream_of_a_stage_are_the_blocks_before_its_tap(case: Any) -> None:
    model = read_graph(case("vit")[0])
    names = [value.name for value in model.graph.outputs]
    first = upstream_blocks(model, "features_0")
    last = upstream_blocks(model, str(names[3]))
    assert f"{VIT_BLOCK}.0" in first and f"{VIT_BLOCK}.1" not in first
    assert "heads.0" in first and "heads.1" not in first
    assert set(first) - {"heads.0"} < set(last)


# --- speed and errors


def test_speed_is_a_median_of_interleaved_runs(case: Any, tmp_path: Path) -> None:
    source, images, text = case("lite")
    feeds = {"image": images[0][None], "text": text}
    nine = {"image": np.stack([images[0]] * 9), "text": text}
    graphs = {"one": source, "other": source}
    timings = compare_speed(graphs, feeds, n=15, warmup=2, threads=1)
    assert list(timings) == ["one", "other"]
    assert {timing.n for timing in timings.values()} == {15}
    assert 0.4 < timings["one"].p50_ms / timings["other"].p50_ms < 2.5
    more = compare_speed({"one": source}, nine, n=5, warmup=1, threads=1)
    assert more["one"].p50_ms > 3 * timings["one"].p50_ms
    with pytest.raises(UsageError, match="`n` must be at least 1"):
        compare_speed(graphs, feeds, n=0)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"cannot load `.*bad\.onnx`"):
        compare_speed({"bad": tmp_path / "bad.onnx"}, feeds, n=1)


def test_bad_input_is_named(case: Any, tmp_path: Path) -> None:
    source, images, text = case("vit")
    assert PRECISIONS == ("fp32", "fp16", "int8", "int8-qdq")
    with pytest.raises(UsageError, match=r"`precision` must be one of fp32, .* got 'fp8'"):
        build_candidate("fp8", source, tmp_path, (), images, text)
    with pytest.raises(UsageError, match="`precision` must be one of"):
        graph_blocks(source, "half")
    with pytest.raises(UsageError, match=r"`kept` must name blocks of the graph, got trunk\.x;"):
        build_candidate("fp16", source, tmp_path, ("trunk.x",), None, text)
    with pytest.raises(UsageError, match="`calibration` must hold images"):
        build_candidate("int8-qdq", source, tmp_path, (), None, text)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x01no graph")
    with pytest.raises(BundleError, match=r"bad\.onnx` must be an ONNX graph"):
        graph_blocks(tmp_path / "bad.onnx", "fp16")
    model = read_graph(source)
    for index, node in enumerate(model.graph):
        node.name = f"node_{index}"
    ir.save(model, tmp_path / "unnamed.onnx")
    with pytest.raises(BundleError, match=r"named after PyTorch modules.*export the bundle"):
        build_candidate("fp16", tmp_path / "unnamed.onnx", tmp_path, (), None, text)


def test_public_names_are_sorted_and_there() -> None:
    names = precision_package.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), n[0].islower(), n)) == names
    assert all(hasattr(precision_package, name) for name in names)


def test_no_pytorch_is_needed() -> None:
    """A box that adds a precision to a bundle has none."""
    code = """
import sys, types
import importlib.util
package = types.ModuleType("cff_export")
package.__path__ = list(importlib.util.find_spec("cff_export").submodule_search_locations)
sys.modules["cff_export"] = package
sys.modules["torch"] = None
import cff_export.precision
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
