"""A standalone graph in ONNX Runtime alone, against the runtime and a float64 brute force."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from cff_export.blocks import block_of
from cff_export.hosts import StandaloneReport, scoring_graph, write_standalone
from cff_export.hosts.scoring_graph import round_down
from cff_export.hosts.staging import staged_folder
from cff_export.hosts.standalone import METADATA_KEY
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import BundleError, ProfileMismatchError, StorageError, UsageError

Image = NDArray[np.uint8]
Array = NDArray[Any]
TOLERANCE = 1e-4  # of a score; the figure
CASES = [(family, k) for family in ("lite", "vit") for k in (1, 4)]


@dataclass(frozen=True)
class Case:
    bundle: Bundle
    inspector: Inspector
    profile: Profile
    images: Image  # [3,H,W,3]: a reference, another good part, a defective one


@pytest.fixture(scope="module")
def make_case(
    exported: Callable[..., Any], good_parts: list[Image], draw_part: Callable[..., Image]
) -> Callable[[str, int], Case]:
    made: dict[tuple[str, int], Case] = {}

    def make(family: str, k: int) -> Case:
        if (family, k) not in made:
            bundle = exported(family, "affine").bundle
            inspector = Inspector.open(bundle.path, options={"threads": 1})
            profile = inspector.enroll(good_parts[:k], "ring")
            parts = [good_parts[0], draw_part(50), draw_part(51, defective=True)]
            images = np.stack([bundle.manifest.preprocessing(part) for part in parts])
            made[family, k] = Case(bundle, inspector, profile, images)
        return made[family, k]

    return make


def _run(path: Path, feed: dict[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def _inputs(report: StandaloneReport) -> dict[str, Array]:
    assert report.inputs is not None
    return dict(load_file(report.inputs))


# --- the same numbers


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(("family", "k"), CASES)
def test_onnx_runtime_alone_gives_the_runtimes_answer(
    make_case: Callable[..., Case], tmp_path: Path, family: str, k: int, inputs: bool
) -> None:
    case = make_case(family, k)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx", inputs)
    feed = _inputs(report) if inputs else {}
    verdicts = set()
    for images in (case.images[:1], case.images):
        got = _run(report.path, {"image": images, **feed})
        assert got["anomaly_map"].dtype == got["score"].dtype == np.float32
        assert got["reject"].dtype == np.bool_
        for index, image in enumerate(images):
            want = case.inspector.inspect(image, case.profile)
            assert np.abs(got["anomaly_map"][index] - want.anomaly_map).max() <= TOLERANCE
            assert got["score"][index] == pytest.approx(want.score, abs=TOLERANCE)
            assert ("reject" if got["reject"][index] else "pass") == want.verdict
            verdicts.add(want.verdict)
            assert ("text_score" in got) == (want.text_score is not None)
            if want.text_score is not None:
                assert got["text_score"][index] == pytest.approx(want.text_score, abs=1e-6)
    if family == "lite":  # random weights tell no defect from a good part
        assert verdicts == {"pass", "reject"}
    assert got["anomaly_map"].shape == case.images.shape[:3]
    assert got["score"].shape == got["reject"].shape == (3,)


@pytest.mark.parametrize(("family", "k"), CASES)
def test_brute_force_in_float64(
    make_case: Callable[..., Case], tmp_path: Path, family: str, k: int
) -> None:
    case = make_case(family, k)
    manifest, profile = case.bundle.manifest, case.profile
    feed: dict[str, Array] = {"image": case.images, "text": profile.condition}
    encoded = _run(case.bundle.file(manifest.encoder), feed)
    total = manifest.map.weight * encoded["text_map"].astype(np.float64)
    for stage, info in enumerate(manifest.stages):
        bank = profile.banks[stage].astype(np.float64)
        cosine = encoded[f"features_{stage}"].astype(np.float64) @ bank.T
        plane = 1.0 - cosine.max(axis=2)
        if manifest.distance == "log":
            plane = np.log(1.0 + np.maximum(plane, 0.0) / 0.01)
        planes = plane.reshape(len(plane), *info.grid)
        total += np.stack([_upsample(grid, total.shape[1:]) for grid in planes])
    score = total.max(axis=(1, 2))
    if manifest.score.output is not None:
        score = 0.5 * (encoded["text_score"] + profile.peak_scale * score)
    report = write_standalone(case.bundle, profile, tmp_path / "ring.onnx")
    got = _run(report.path, {"image": case.images})
    assert np.abs(got["anomaly_map"] - total).max() <= TOLERANCE
    np.testing.assert_allclose(got["score"], score, atol=TOLERANCE)
    np.testing.assert_array_equal(got["reject"], score > profile.threshold.value)


def _upsample(grid: Array, size: tuple[int, ...]) -> Array:
    """Bilinear with aligned corners, axis by axis."""
    for axis, n_out in enumerate(size):
        n_in = grid.shape[axis]
        places = np.linspace(0.0, n_in - 1.0, n_out)

        def line(row: Array, n_in: int = n_in, places: Array = places) -> Array:
            return np.interp(places, np.arange(n_in), row)

        grid = np.apply_along_axis(line, axis, grid)
    return grid


@pytest.mark.parametrize("inputs", [False, True])
def test_the_bank_is_searched_in_chunks(
    make_case: Callable[..., Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: bool,
) -> None:
    case = make_case("lite", 4)
    whole = write_standalone(case.bundle, case.profile, tmp_path / "whole.onnx", inputs)
    monkeypatch.setattr(scoring_graph, "CHUNK_ROWS", 100)
    cut = write_standalone(case.bundle, case.profile, tmp_path / "cut.onnx", inputs)
    model = onnx.shape_inference.infer_shapes(onnx.load(cut.path), strict_mode=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    rows = [len(bank) for bank in case.profile.banks]  # 4 * (144, 144, 36, 9)
    for stage, n_rows in enumerate(rows):
        products = [
            node
            for node in model.graph.node
            if node.op_type == "Gemm" and block_of(node.name) == f"search_{stage}"
        ]
        widths = [shapes[node.output[0]][1] for node in products]
        full, rest = divmod(n_rows, 100)
        assert widths == [100] * full + [rest] * (rest > 0)
    n_slices = sum(node.op_type == "Slice" for node in model.graph.node if "search" in node.name)
    assert n_slices == (6 + 6 + 2 if inputs else 0)  # a bank of one chunk is not cut
    feed = {"image": case.images, **(_inputs(whole) if inputs else {})}
    one, other = _run(whole.path, feed), _run(cut.path, feed)
    np.testing.assert_allclose(one["anomaly_map"], other["anomaly_map"], atol=1e-5)


def test_a_chunk_has_the_runtimes_rows() -> None:
    from cff_runtime.backends import onnxruntime

    assert scoring_graph.CHUNK_ROWS == onnxruntime.CHUNK_ROWS == 1024


# --- decisions


@pytest.mark.parametrize("value", [0.1, 1 / 3, -2.7, 0.5, 1e-42, 1e300, -1e300, 16777217.0])
def test_a_float32_is_above_the_rounded_threshold_if_it_is_above_the_threshold(
    value: float,
) -> None:
    rounded = round_down(value)
    assert rounded.dtype == np.float32
    assert float(rounded) <= value
    with np.errstate(over="ignore"):
        near = [np.float32(value), rounded]
        near += [np.nextafter(x, np.float32(side)) for x in near for side in (-np.inf, np.inf)]
    for score in near:
        assert bool(score > rounded) == (float(score) > value)


@pytest.mark.parametrize("family", ["lite", "vit"])
def test_ties_are_decided_as_in_python(
    make_case: Callable[..., Case], tmp_path: Path, family: str
) -> None:
    case = make_case(family, 1)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx", inputs=True)
    feed = {"image": case.images[:1], **_inputs(report)}
    score = float(_run(report.path, feed)["score"][0])
    for threshold in (score, np.nextafter(score, -1.0), np.nextafter(score, 99.0)):
        feed["threshold"] = np.array([round_down(float(threshold))])
        got = _run(report.path, feed)
        assert float(got["score"][0]) == score
        assert bool(got["reject"][0]) == (score > threshold)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("family", ["lite", "vit"])
def test_what_is_not_a_number_is_rejected(
    make_case: Callable[..., Case], tmp_path: Path, family: str, poison: float
) -> None:
    case = make_case(family, 1)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx", inputs=True)
    feed = {"image": case.images[:2], **_inputs(report)}
    feed["threshold"] = np.array([1e30], np.float32)
    assert not _run(report.path, feed)["reject"].any()
    feed["bank_0"] = np.full_like(feed["bank_0"], -poison)
    got = _run(report.path, feed)
    assert np.isnan(got["score"]).all()
    assert got["reject"].all()


def test_another_product_of_as_many_references_can_be_fed(
    make_case: Callable[..., Case], tmp_path: Path, photos: dict[str, Image]
) -> None:
    case = make_case("vit", 1)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx", inputs=True)
    other = case.inspector.enroll([photos["cat"]], "cat")
    feed = _inputs(write_standalone(case.bundle, other, tmp_path / "cat.onnx", inputs=True))
    assert set(feed) == {"bank_0", "bank_1", "bank_2", "bank_3", "text", "threshold", "peak_scale"}
    got = _run(report.path, {"image": case.images, **feed})
    for index, image in enumerate(case.images):
        want = case.inspector.inspect(image, other)
        assert got["score"][index] == pytest.approx(want.score, abs=TOLERANCE)
        assert ("reject" if got["reject"][index] else "pass") == want.verdict
        assert abs(want.score - case.inspector.inspect(image, case.profile).score) > 5 * TOLERANCE


# --- the file


@pytest.mark.parametrize("family", ["lite", "vit"])
def test_encoder_as_it_was_and_named_nodes_behind_it(
    make_case: Callable[..., Case], tmp_path: Path, family: str
) -> None:
    case = make_case(family, 4)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx")
    model, encoder = onnx.load(report.path), onnx.load(case.bundle.file("encoder.fp32.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert model.ir_version == encoder.ir_version
    n_encoder = len(encoder.graph.node)
    assert [n.SerializeToString() for n in model.graph.node[:n_encoder]] == [
        n.SerializeToString() for n in encoder.graph.node
    ]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    scopes = {block_of(name) for name in names[n_encoder:]}
    assert scopes == {"search_0", "search_1", "search_2", "search_3", "finish"}
    assert [value.name for value in model.graph.input] == ["image"]
    assert not any(
        tensor.data_type == onnx.TensorProto.DOUBLE for tensor in model.graph.initializer
    )
    size = case.bundle.manifest.preprocessing.height
    assert {v.name: _signature(v) for v in (*model.graph.input, *model.graph.output)} == {
        "image": (onnx.TensorProto.UINT8, ["batch", size, size, 3]),
        "anomaly_map": (onnx.TensorProto.FLOAT, ["batch", size, size]),
        "score": (onnx.TensorProto.FLOAT, ["batch"]),
        "reject": (onnx.TensorProto.BOOL, ["batch"]),
        **({"text_score": (onnx.TensorProto.FLOAT, ["batch"])} if family == "vit" else {}),
    }


def _signature(value: onnx.ValueInfoProto) -> tuple[int, list[str | int]]:
    tensor = value.type.tensor_type
    return tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def test_what_the_file_says_of_itself(make_case: Callable[..., Case], tmp_path: Path) -> None:
    case = make_case("vit", 4)
    saved = tmp_path / "ring.safetensors"
    case.profile.save(saved)
    report = write_standalone(case.bundle, case.profile, tmp_path / "ring.onnx", inputs=True)
    assert report.batch is None
    assert report.data is None
    assert report.inputs == tmp_path / "ring.onnx.inputs.safetensors"
    assert report.n_bytes == sum(f.stat().st_size for f in (report.path, report.inputs))
    facts = {p.key: p.value for p in onnx.load(report.path).metadata_props}
    assert facts["cff_product"] == "ring"
    assert facts["cff_bundle_id"] == case.bundle.manifest.id
    assert float(facts["cff_threshold"]) == case.profile.threshold.value
    from cff_runtime.storage import sha256_file

    assert facts["cff_profile_sha256"] == sha256_file(saved)
    assert "64 x 64" in facts["cff_preprocessing"]
    assert "bicubic" in facts["cff_preprocessing"]
    assert json.loads(facts["cff_licences"]) == dict(case.bundle.manifest.licences)
    assert any("random" in note for note in json.loads(facts["cff_notes"]))
    with safe_open(report.inputs, framework="numpy") as file:
        assert json.loads(file.metadata()[METADATA_KEY]) == facts
    again = write_standalone(case.bundle, case.profile, tmp_path / "b" / "ring.onnx", inputs=True)
    assert again.inputs is not None
    assert again.path.read_bytes() == report.path.read_bytes()
    assert again.inputs.read_bytes() == report.inputs.read_bytes()


def test_refusals(make_case: Callable[..., Case], tmp_path: Path) -> None:
    case, other = make_case("lite", 1), make_case("vit", 1)
    bundle, profile = case.bundle, case.profile
    with pytest.raises(ProfileMismatchError, match="belongs to bundle"):
        write_standalone(bundle, other.profile, tmp_path / "ring.onnx")
    with pytest.raises(UsageError, match="outside the bundle"):
        write_standalone(bundle, profile, bundle.path / "encoder.fp32.onnx")
    with pytest.raises(UsageError, match=r"ending in `\.onnx`"):
        write_standalone(bundle, profile, tmp_path / "ring")
    folder = tmp_path / "wrong"
    folder.mkdir()
    (folder / "scorer.onnx").write_bytes(bundle.file("scorer_0.fp32.onnx").read_bytes())
    (folder / "junk.onnx").write_bytes(b"\x08\xff no graph")
    for name, message in (("scorer.onnx", "must have an input"), ("junk.onnx", "ONNX")):
        files = {name: bundle.manifest.files["encoder.fp32.onnx"]}
        wrong = Bundle(folder, replace(bundle.manifest, encoder=name, files=files))
        with pytest.raises(BundleError, match=message):
            write_standalone(wrong, profile, tmp_path / "out" / "ring.onnx")
    assert not list(tmp_path.rglob("ring*"))


def test_a_failure_leaves_the_old_file_and_nothing_else(
    make_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("lite", 1)
    out = tmp_path / "ring.onnx"
    out.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx.checker, "check_model", full)
    with pytest.raises(StorageError, match="No space left"):
        write_standalone(case.bundle, case.profile, out)
    assert [path.name for path in tmp_path.iterdir()] == ["ring.onnx"]
    assert out.read_bytes() == b"old"
    with pytest.raises(StorageError), staged_folder(out / "under a file"):
        raise AssertionError("no folder can be made there")


def test_no_torch(make_case: Callable[..., Case], tmp_path: Path) -> None:
    case = make_case("vit", 1)
    case.profile.save(tmp_path / "ring.safetensors")
    program = """
import sys
from pathlib import Path
sys.modules["torch"] = None  # an import of it fails
from cff_export import hosts
assert "onnx" not in sys.modules and "onnxruntime" not in sys.modules
for name in hosts.__all__:
    getattr(hosts, name)
from cff_runtime import Bundle, Profile
bundle, profile = Bundle.open(sys.argv[1]), Profile.load(sys.argv[2])
out = Path(sys.argv[3])
hosts.check_external_data(hosts.write_standalone(bundle, profile, out / "ring.onnx").path)
hosts.write_triton_repository(bundle, profile, out / "models", model_name="ring")
"""
    arguments = [str(case.bundle.path), str(tmp_path / "ring.safetensors"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "models" / "ring" / "1" / "model.onnx").is_file()
