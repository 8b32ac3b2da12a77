"""Planted faults: the same answer in float32, an overflow in float16; found, named, repaired."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from cff_export.graph_files import read_graph, write_graph
from cff_export.precision import (
    Candidate,
    StageProbe,
    build_candidate,
    graph_blocks,
    repair,
)

Images = list[NDArray[np.uint8]]
VIT_BLOCK = "trunk.visual.transformer.resblocks"


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


def _multiply(model: ir.Model, node: ir.Node, index: int, factors: NDArray[np.float64]) -> None:
    """Give one node a constant of its own: the old one times `factors`."""
    value = node.inputs[index]
    assert value is not None and value.const_value is not None
    array = (value.const_value.numpy() * factors).astype(np.float32)
    new = ir.Value(name=f"{value.name}_{node.name}", shape=value.shape, type=value.type)
    new.const_value = ir.tensor(array, name=new.name)
    model.graph.register_initializer(new)
    node.replace_input_with(index, new)


def _between_blocks(source: Path, out: Path, factor: float) -> Path:
    """Let block 0 give one channel times a factor, and block 1 take it back."""
    model = read_graph(source)
    for node in model.graph:
        name = (node.name or "").partition("/")[0]
        if node.op_type == "Conv" and name in ("trunk.blocks.0.bn2", "trunk.blocks.1.bn0"):
            factors = np.ones(16)  # channels between the two
            factors[10] = factor  # of small weights and large values: up to 33 here
            if name == "trunk.blocks.0.bn2":
                _multiply(model, node, 1, factors[:, None, None, None])
                _multiply(model, node, 2, factors)
            else:
                _multiply(model, node, 1, 1.0 / factors[:, None, None])
    return write_graph(model, out)


def _repaired(
    source: Path, folder: Path, images: Images, text: NDArray[np.float32], limit: float
) -> Any:
    probe = StageProbe(source, images, text, limit)
    quick = StageProbe(source, images[:1], text, limit)

    def build(kept: tuple[str, ...]) -> Candidate:
        return build_candidate("fp16", source, folder, kept, None, text)

    blocks = graph_blocks(source, "fp16")
    return (
        repair(blocks, build, lambda c: probe(c.runnable), lambda c: quick(c.runnable)),
        build,
        probe,
    )


def test_an_overflow_between_two_blocks_is_found_and_repaired(case: Any, tmp_path: Path) -> None:
    """Block 0 gives what float16 cannot hold, block 1 takes it back: both must be float32."""
    source, images, text = case("lite")
    images = images[:2]
    planted = _between_blocks(source, tmp_path / "planted.onnx", 2.0**12)
    assert StageProbe(source, images, text, 1e-6)(planted).passed  # the same in float32
    found, build, probe = _repaired(planted, tmp_path / "work", images, text, 1e-3)
    assert found.kept == ("trunk.blocks.0", "trunk.blocks.1")
    assert all(reason.startswith("overflow") for reason in found.reasons.values())
    assert found.candidate.graph.name == "encoder.fp16-mixed.onnx"
    assert found.judgement.passed
    assert found.judgement.error < 2e-4
    assert 0.0 < found.candidate.facts["share_fp32"]["multiply_adds"] < 0.25
    for block in found.kept:  # minimal
        assert not probe(build((block,)).runnable).passed


def test_an_overflow_within_a_transformers_block_is_found(case: Any, tmp_path: Path) -> None:
    """The values of attention are linear: scaled up in one layer, down in the next."""
    source, images, text = case("vit")
    images = images[:2]
    block = f"{VIT_BLOCK}.2"
    model = read_graph(source)
    for node in model.graph:
        module, _, operator = (node.name or "").partition("/")
        if module == f"{block}.attn.v":
            _multiply(model, node, 1, np.array(2.0**15))  # projection and its bias
        elif module == f"{block}.attn.out_proj" and operator.startswith("MatMul"):
            _multiply(model, node, 1, np.array(2.0**-15))
    planted = write_graph(model, tmp_path / "planted.onnx")
    assert StageProbe(source, images, text, 1e-6)(planted).passed
    found, build, probe = _repaired(planted, tmp_path / "work", images, text, 1e-4)
    assert found.kept == (block,)
    assert found.reasons[block].startswith("overflow")
    assert found.judgement.passed
    assert probe(found.candidate.runnable).passed
    # stage 2 is the first to break: only what is upstream of it was measured
    broken = probe(build(()).runnable)
    assert broken.error == float("inf")
    assert "`features_2` is not finite" in broken.failures
    assert "`features_1` is not finite" not in broken.failures
    assert block in broken.suspects and f"{VIT_BLOCK}.3" not in broken.suspects
    n_suspects = len(set(broken.suspects) - {"encoder"})
    assert n_suspects < len(graph_blocks(planted, "fp16"))
    # all low, all kept, all suspects kept, each suspect alone, the worst one kept, none kept
    assert found.n_trials == 3 + n_suspects + 1


def test_weights_beyond_float16_keep_their_block_and_the_search_finds_the_next(
    case: Any, tmp_path: Path
) -> None:
    source, images, text = case("lite")
    planted = _between_blocks(source, tmp_path / "planted.onnx", 2.0**20)
    found, build, _ = _repaired(planted, tmp_path / "work", images[:1], text, 1e-3)
    assert found.kept == found.candidate.kept == ("trunk.blocks.0", "trunk.blocks.1")
    assert "float16 ends at 65504" in found.reasons["trunk.blocks.0"]
    assert found.reasons["trunk.blocks.1"].startswith("overflow")
    assert list(build(()).forced) == ["trunk.blocks.0"]
