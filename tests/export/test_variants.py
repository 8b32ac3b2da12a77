"""Precisions added to a bundle: what passes is there and works, what fails is refused by name."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from cff_export import variants
from cff_export.precision import Timing
from cff_export.variants import Outcome, extend_bundle
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import ProfileMismatchError, StorageError, UsageError
from cff_runtime.verification import golden_profile, verify_bundle

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def extended(
    lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, list[Outcome]]:
    """The bundle with an fp16 encoder; read-only."""
    out = tmp_path_factory.mktemp("variants") / "bundle"
    return extend_bundle(lite_bundle.path, out, ["fp16"])


@pytest.fixture
def copy(lite_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lite_bundle.path, tmp_path / "bundle"))


def _timings(int8_ms: float) -> Callable[..., dict[str, Timing]]:
    return lambda *_, **__: {"fp32": Timing(10.0, 7), "int8": Timing(int8_ms, 7)}


# --- what passes


def test_fp16_stands_beside_fp32_with_an_id_of_its_own(
    extended: tuple[Bundle, list[Outcome]], lite_bundle: Bundle
) -> None:
    bundle, (outcome,) = extended

    assert bundle.manifest.precisions == ("fp32", "fp16")
    assert bundle.manifest.id == lite_bundle.manifest.id  # profiles made with it stay good
    fp16 = bundle.view("fp16").manifest
    assert fp16.id != lite_bundle.manifest.id
    assert fp16.encoder == outcome.encoder == "encoder.fp16.onnx"
    assert (outcome.refused, outcome.kept_fp32) == ("", ())
    assert not [path for path in bundle.path.iterdir() if path.name.startswith(".")]
    halves = [
        tensor
        for tensor in onnx.load(bundle.path / fp16.encoder).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16
    ]
    assert sum(np.prod(tensor.dims) for tensor in halves) > 2.9e6  # all of Lite0's convolutions


def test_the_gate_judged_the_roundings_not_what_onnx_runtime_widens(
    extended: tuple[Bundle, list[Outcome]],
) -> None:
    """Run as it is on the CPU, the graph is fp32 but for its weights: half the difference."""
    bundle, (outcome,) = extended
    view = bundle.view("fp16")
    widened = verify_bundle(view, Inspector.open(bundle.path, precision="fp16")._backend)

    judged = min(outcome.parity["feature_mean_cosine"])
    assert 0.9995 < judged < 0.99999
    assert min(widened.feature_mean_cosine) > judged
    assert outcome.parity["passed"] is True and outcome.parity["verdict_flips"] == 0
    assert outcome.parity["auroc_diff"] == 0.0
    assert 0 <= outcome.parity["batch_position_max_diff"] <= 0.02


def test_a_profile_belongs_to_the_precision_that_enrolled_it(
    extended: tuple[Bundle, list[Outcome]], photos: dict[str, Image]
) -> None:
    bundle, _ = extended
    fp16 = Inspector.open(bundle.path, precision="fp16")
    profile = fp16.enroll([photos["face"], photos["face, moved"]], "face")

    assert profile.precision_in(bundle.manifest) == "fp16"
    assert fp16.inspect(photos["face"], profile).verdict == "pass"
    with pytest.raises(ProfileMismatchError, match="precision fp16, not the fp32 of this bundle"):
        Inspector.open(bundle.path).inspect(photos["face"], profile)
    golden = Profile.load(bundle.file(golden_profile("fp32")))
    assert golden.precision_in(bundle.manifest) == "fp32"


def test_reports_are_written_down(extended: tuple[Bundle, list[Outcome]]) -> None:
    bundle, (outcome,) = extended
    reports = json.loads((bundle.path / "parity.json").read_text())

    assert list(reports) == ["fp32", "fp16"]
    assert reports["fp16"]["feature_mean_cosine"] == outcome.parity["feature_mean_cosine"]
    variant = bundle.manifest.variants["fp16"]
    assert variant.parity["limits"]["cosine"] == 0.9995
    assert variant.facts["n_fp16_nodes"] > 80 and variant.facts["share_fp32"]["parameters"] == 0.0
    page = (bundle.path / "parity.html").read_text()
    assert "encoder.fp16.onnx" in page and "data:image/png;base64" in page
    assert {"parity.html", "parity.json", "golden/profile.fp16.safetensors"} <= set(
        bundle.manifest.files
    )


def test_a_precision_is_built_anew_in_place(
    extended: tuple[Bundle, list[Outcome]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(extended[0].path, tmp_path / "bundle"))
    bundle, _ = extend_bundle(path, path, ["fp16"])

    assert bundle.manifest.view("fp16").id == extended[0].manifest.view("fp16").id
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_int8_of_a_transformer_is_kept_where_it_is_faster(
    exported: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported("vit", "affine").bundle
    monkeypatch.setattr(variants, "compare_speed", _timings(4.0))
    bundle, (outcome,) = extend_bundle(source.path, tmp_path / "bundle", ["int8"])

    assert outcome.refused == "" and outcome.encoder == "encoder.int8.onnx"
    assert outcome.facts["speed"]["int8"] == {"p50_ms": 4.0, "n": 7}
    assert outcome.facts["batch"] == 1  # dynamic scales would mix a batch
    report = verify_bundle(
        bundle.view("int8"), Inspector.open(bundle.path, precision="int8")._backend
    )
    assert report.passed
    np.testing.assert_allclose(
        report.feature_mean_cosine, outcome.parity["feature_mean_cosine"], atol=1e-6
    )


def test_int8_qdq_is_calibrated_on_the_images_given(
    copy: Path, photos: dict[str, Image], tmp_path: Path
) -> None:
    from PIL import Image as Pillow

    paths = []
    for index, photo in enumerate(photos.values()):
        paths.append(tmp_path / f"{index}.png")
        Pillow.fromarray(photo).save(paths[-1])
    bundle, (outcome,) = extend_bundle(copy, copy, ["int8-qdq"], paths)

    assert outcome.facts["calibration"]["n_images"] == 32
    if outcome.refused:  # the gate decides, and says which limit
        assert "cosine" in outcome.refused or "moves by" in outcome.refused
    else:
        assert bundle.manifest.variants["int8-qdq"].encoder.startswith("encoder.int8-qdq")
    with pytest.raises(UsageError, match="`--calibration` must name images of good parts"):
        extend_bundle(copy, copy, ["int8-qdq"])


# --- what fails


def _rescale(path: Path, factor: float) -> None:
    """Scale what block 0 gives by `factor` and what block 1 makes of it by its inverse."""
    model = ir.load(path)
    convolutions = [
        [n for n in model.graph if n.op_type == "Conv" and f".blocks.{block}." in (n.name or "")]
        for block in (0, 1)
    ]
    for node, scale in ((convolutions[0][-1], factor), (convolutions[1][0], 1.0 / factor)):
        inputs = node.inputs[1:] if scale == factor else node.inputs[1:2]
        for value in inputs:
            assert value is not None and value.const_value is not None
            array = value.const_value.numpy() * np.float32(scale)
            value.const_value = ir.Tensor(array, name=value.name)
    ir.save(model, path)


def _sign(folder: Path) -> None:
    """Make manifest and golden profile those of the graphs in the folder, as an export would."""
    from cff_export.folders import list_files
    from cff_runtime.manifest import parse_manifest

    text = (folder / "manifest.json").read_text()
    manifest = parse_manifest(text)
    manifest = dataclasses.replace(manifest, files=list_files(folder))
    manifest = dataclasses.replace(manifest, id=manifest.compute_id())
    profile = Profile.load(folder / golden_profile("fp32"))
    dataclasses.replace(profile, bundle_id=manifest.id).save(folder / golden_profile("fp32"))
    manifest = dataclasses.replace(manifest, files=list_files(folder))
    (folder / "manifest.json").write_text(manifest.to_json())


def test_a_block_that_overflows_in_fp16_is_found_named_and_kept(copy: Path) -> None:
    """2**14 is exact in fp32, so that the fp32 encoder gives the same answers as before."""
    _rescale(copy / "encoder.fp32.onnx", 2.0**14)
    _sign(copy)
    assert verify_bundle(Bundle.open(copy), Inspector.open(copy)._backend).passed

    bundle, (outcome,) = extend_bundle(copy, copy, ["fp16"])

    assert outcome.refused == ""
    assert "trunk.blocks.0" in outcome.kept_fp32 and len(outcome.kept_fp32) <= 2
    assert outcome.encoder == "encoder.fp16-mixed.onnx"
    reasons = outcome.facts["repair"]["kept"]
    assert set(reasons) == set(outcome.kept_fp32)
    assert 0 < outcome.facts["share_fp32"]["parameters"] < 0.01
    # told of the graph that was kept, not of the last one tried
    assert outcome.parity["passed"] is True and outcome.parity["failures"] == []
    assert min(outcome.parity["feature_mean_cosine"]) > 0.9995
    assert bundle.manifest.variants["fp16"].kept_fp32 == outcome.kept_fp32


def test_a_precision_that_mixes_its_batch_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = variants.build_candidate

    def mixing(*arguments: Any) -> Any:
        candidate = build(*arguments)
        model = onnx.load(candidate.runnable)
        (cast,) = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] == "image"]
        pixels = cast.output[0]
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == pixels:
                    node.input[index] = "mixed"
        axis = numpy_helper.from_array(np.array([0], np.int64), "batch_axis")
        model.graph.initializer.append(axis)
        position = list(model.graph.node).index(cast) + 1
        mean = onnx.helper.make_node("ReduceMean", [pixels, "batch_axis"], ["batch_mean"])
        both = onnx.helper.make_node("Add", [pixels, "batch_mean"], ["doubled"])
        half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
        model.graph.initializer.append(half)
        mixed = onnx.helper.make_node("Mul", ["doubled", "half"], ["mixed"])
        for node in (mixed, both, mean):  # alone, an image is what it was
            model.graph.node.insert(position, node)
        onnx.save(model, candidate.runnable)
        return candidate

    monkeypatch.setattr(variants, "build_candidate", mixing)
    bundle, (outcome,) = extend_bundle(copy, copy, ["fp16"])

    assert "an image's answers change by" in outcome.refused
    assert bundle.manifest.precisions == ("fp32",)
    assert outcome.parity["batch_position_max_diff"] > 0.02


def test_int8_that_is_not_faster_is_refused_and_leaves_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "compare_speed", _timings(9.5))
    bundle, (outcome,) = extend_bundle(copy, copy, ["int8"])

    assert "int8 must take at most 90% of fp32's time" in outcome.refused
    assert "got 95% (9.5 ms against 10.0 ms, medians of 7)" in outcome.refused
    assert outcome.encoder == "" and bundle.manifest.precisions == ("fp32",)
    assert not list(copy.rglob("*int8*"))
    reports = json.loads((copy / "parity.json").read_text())
    assert reports["int8"]["refused"] == outcome.refused
    assert "got 95% (9.5 ms" in (copy / "parity.html").read_text()


def test_a_precision_outside_its_limits_names_the_stage(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden answers moved away: no choice of blocks can reach them."""
    path = copy / "golden" / "expected.safetensors"
    answers = load_file(path)
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    for index in (0, 5):
        noise = rng.normal(size=answers[f"features_2_{index}"].shape) * 0.02
        answers[f"features_2_{index}"] = (answers[f"features_2_{index}"] + noise).astype(np.float32)
    save_file(answers, path)
    _sign(copy)
    bundle, (outcome,) = extend_bundle(copy, copy, ["fp16"])

    assert "no block's precision is to blame" in outcome.refused
    assert "features of stage 2 have a mean cosine" in outcome.refused
    assert bundle.manifest.precisions == ("fp32",)


def test_a_full_disk_leaves_the_bundle_as_it_was(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(variants, "write_parity_page", no_space)
    with pytest.raises(StorageError, match="No space left on device; nothing was left behind"):
        extend_bundle(copy, copy, ["fp16"])
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]
