"""Bundles of TFA-Net: the graph against PyTorch, templates, hosts, precisions, the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cff_edge.checkpoint import CONFIG_NAME
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.run_files import save_tfa_run
from cff_export import ExportSettings, export_bundle
from cff_export.cli import main as export_main
from cff_export.hosts import write_standalone
from cff_export.precision import StageProbe
from cff_export.variants import extend_bundle
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.cli import main as run_main
from cff_runtime.errors import ParityError, UsageError
from cff_runtime.manifest import Stage
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.references import pixels_sha256
from cff_runtime.verification import golden_condition

Image = NDArray[np.uint8]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def profile(tfa: Any, good_parts: list[Image]) -> Profile:
    return Inspector.open(tfa.bundle.path).enroll(good_parts, "ring")


def _run(path: Path, feed: dict[str, Any]) -> dict[str, NDArray[Any]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _map(tfa: Any, image: Image, template: NDArray[np.float32]) -> NDArray[np.float64]:
    """The product of distance and direction, with SciPy's blur and PyTorch's interpolation."""
    detector = TfaDetector(tfa.backbone, tfa.net).eval()
    with torch.inference_mode():
        fused = detector.fused(torch.tensor(image)[None])
        rebuilt = tfa.net.reconstruct(tfa.net.tokens(fused), torch.tensor(template))
    f, r = (planes[0].double().numpy() for planes in (fused, rebuilt))
    distance = np.mean((f - r) ** 2, axis=0)
    lengths = np.linalg.norm(f, axis=0) * np.linalg.norm(r, axis=0)
    direction = 1.0 - (f * r).sum(axis=0) / lengths
    blurred = []
    for plane in (distance, direction):
        up = torch.nn.functional.interpolate(
            torch.from_numpy(plane)[None, None],
            image.shape[:2],
            mode="bilinear",
            align_corners=True,
        )
        blurred.append(gaussian_filter(up[0, 0].numpy(), tfa.net.config.blur_sigma))
    return np.asarray(blurred[0] * blurred[1], np.float64)


# --- the bundle


def test_manifest_says_what_the_graph_takes_and_gives(tfa: Any) -> None:
    manifest = tfa.bundle.manifest
    assert manifest.scorers == ()
    assert manifest.stages == (Stage("tokens", (6, 6), 64),)
    condition = manifest.condition
    assert (condition.input, condition.shape, condition.stage) == ("template", (36, 64), 0)
    assert (condition.source, condition.choice, condition.file) == ("reference", "medoid", None)
    assert (manifest.map.output, manifest.map.weight) == ("anomaly_map", 1.0)
    assert (manifest.score.output, manifest.score.statistic) == (None, "std")
    assert [entry["pass"] for entry in manifest.passes] == [
        "fold_normalization",
        "fold_upsampling",
        "split_attention",
        "order_gelu",
        "drop_unused",
    ]
    assert manifest.head["model"] == "tfa-net"
    assert manifest.head["trained_on"] == ["ring"]
    assert manifest.parity["passed"] is True
    assert not [name for name in manifest.files if "scorer" in name or "text" in name]
    graph = onnx.load(tfa.bundle.file(manifest.encoder)).graph
    assert [value.name for value in graph.input] == ["image", "template"]
    assert [value.name for value in graph.output] == ["features_0", "anomaly_map"]


def test_golden_answers_are_those_of_the_golden_profiles_template(tfa: Any) -> None:
    answers = tfa.bundle.tensors(tfa.bundle.manifest.golden)
    template = golden_condition(tfa.bundle)
    # of two references each is as much like the other: the first
    np.testing.assert_allclose(template, answers["features_0_0"], atol=1e-4)
    for index in (1, 6):
        expected = _map(tfa, answers[f"resized_{index}"], template)
        np.testing.assert_allclose(answers[f"map_{index}"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(answers[f"map_{index}"], answers[f"encoder_map_{index}"])
        assert answers[f"score_{index}"][0] == pytest.approx(expected.std(), rel=1e-4)


# --- templates


def test_another_template_changes_the_map_and_not_the_graph(
    tfa: Any, profile: Profile, photos: dict[str, Image]
) -> None:
    encoder = tfa.bundle.file(tfa.bundle.manifest.encoder)
    image = np.ascontiguousarray(photos["coffee"][:96, :96])
    other = photos["cat"][50:146, 50:146]
    templates = [
        profile.condition,
        _run(encoder, {"image": other[None], "template": profile.condition})["features_0"][0],
        np.zeros((36, 64), np.float32),
    ]
    maps = []
    for template in templates:
        got = _run(encoder, {"image": image[None], "template": template})
        expected = _map(tfa, image, template)
        np.testing.assert_allclose(got["anomaly_map"][0], expected, rtol=2e-4, atol=1e-5)
        maps.append(expected)
    assert np.abs(maps[0] - maps[1]).max() > 1e-2 * maps[0].max()


def test_one_bundle_serves_profiles_of_different_templates(
    tfa: Any, profile: Profile, photos: dict[str, Image]
) -> None:
    inspector = Inspector.open(tfa.bundle.path)
    face = inspector.enroll([photos["face"], photos["face, moved"]], "face")
    assert face.bundle_id == profile.bundle_id == tfa.bundle.manifest.id
    assert np.abs(face.condition - profile.condition).max() > 1e-2
    assert (face.condition_name, face.banks) == ("image 1", ())
    resized = Preprocessing(96, 96)(photos["coffee"])
    for one in (face, profile):
        result = inspector.inspect(photos["coffee"], one)
        expected = _map(tfa, resized, one.condition)
        np.testing.assert_allclose(result.anomaly_map, expected, rtol=2e-4, atol=1e-5)
        assert result.score == pytest.approx(expected.std(), rel=1e-4)


# --- hosts


@pytest.mark.parametrize("inputs", [False, True])
def test_standalone_is_the_runtimes_answer(
    tfa: Any,
    profile: Profile,
    good_parts: list[Image],
    bad_part: Image,
    tmp_path: Path,
    inputs: bool,
) -> None:
    report = write_standalone(tfa.bundle, profile, tmp_path / "ring.onnx", inputs)
    inspector = Inspector.open(tfa.bundle.path)
    resize = tfa.bundle.manifest.preprocessing
    images = np.stack([resize(image) for image in (good_parts[0], bad_part)])
    feed: dict[str, Any] = {"image": images}
    if inputs:
        feed |= {
            "template": profile.condition,
            "threshold": np.array([profile.threshold.value], np.float32),
        }
    got = _run(report.path, feed)
    assert set(got) == {"anomaly_map", "score", "reject"}
    for index, image in enumerate(images):
        want = inspector.inspect(image, profile)
        largest = float(want.anomaly_map.max())
        np.testing.assert_allclose(got["anomaly_map"][index], want.anomaly_map, atol=1e-5 * largest)
        assert got["score"][index] == pytest.approx(
            want.anomaly_map.astype(np.float64).std(), rel=1e-5
        )
        assert got["reject"][index] == (want.verdict == "reject")


# --- precisions


def test_fp16_and_int8_pass_or_say_why(tfa: Any, tmp_path: Path) -> None:
    bundle, outcomes = extend_bundle(tfa.bundle.path, tmp_path / "more", ["fp16", "int8"])
    fp16, int8 = outcomes
    assert fp16.refused == ""
    assert "fp16" in bundle.manifest.precisions
    assert 0.9995 <= min(fp16.parity["feature_mean_cosine"]) < 1.0
    # a small network may be no faster in int8, and is refused then
    assert int8.refused == "" or "of fp32's time" in int8.refused
    assert int8.parity["passed"] is True
    half = onnx.load(bundle.file(fp16.encoder)).graph
    kinds = {value.name: value.data_type for value in half.initializer}
    products = [node for node in half.node if "net.aggregation.1.fc" in node.name]
    weights = [node.input[1] for node in products if node.op_type == "MatMul"]
    assert [kinds[name] for name in weights] == [onnx.TensorProto.FLOAT16] * 2


def test_a_broken_reconstruction_is_seen_by_the_probe(tfa: Any, tmp_path: Path) -> None:
    """No stage shows what the transformer does: the map is judged as well."""
    source = tfa.bundle.file(tfa.bundle.manifest.encoder)
    model = onnx.load(source)
    (bias,) = [value for value in model.graph.initializer if value.name == "net.prediction.bias"]
    array = onnx.numpy_helper.to_array(bias) + 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), bias.name))
    onnx.save(model, tmp_path / "broken.onnx")
    image = tfa.bundle.tensors(tfa.bundle.manifest.golden)["resized_5"]
    condition = golden_condition(tfa.bundle)
    assert StageProbe(source, [image], condition)(tmp_path / "broken.onnx").error < 1e-6
    probe = StageProbe(source, [image], condition, 1e-4, ["anomaly_map"])
    judgement = probe(tmp_path / "broken.onnx")
    assert not judgement.passed
    assert judgement.error > 1e-4


# --- the gate and refusals


def test_a_wrong_graph_leaves_the_gate(
    tfa: Any,
    replay: Callable[[Bundle], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replay(tfa.bundle)
    traced = torch.onnx.export

    def wrong(*arguments: Any, **options: Any) -> Any:
        program: Any = traced(*arguments, **options)
        value = program.model.graph.initializers["up"]
        array = value.const_value.numpy().copy()
        array[40] *= 1.05
        value.const_value = ir.tensor(array, name="up")
        return program

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(ParityError, match=r"left the parity gate: .*map differs by"):
        export_bundle(tfa.backbone, tfa.net, tfa.config, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ExportSettings(("bottle",)), "`text_names` must be left out for a detector without text"),
        (ExportSettings(text_weight=0.5), "`text_weight` must be left out for a detector without"),
    ],
)
def test_words_are_refused(
    tfa: Any, tmp_path: Path, settings: ExportSettings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_bundle(tfa.backbone, tfa.net, tfa.config, tmp_path / "bundle", settings)
    assert not list(tmp_path.iterdir())


# --- the commands


def test_from_a_run_to_a_verdict(
    tfa: Any,
    replay: Callable[[Bundle], None],
    good_parts: list[Image],
    tmp_path: Path,
    capsys: Captured,
) -> None:
    from PIL import Image as Pillow

    run, out = tmp_path / "run", tmp_path / "bundle"
    seen = pixels_sha256(Preprocessing(96, 96)(good_parts[1]))
    facts = {
        "products": ["ring"],
        "template": {"name": "a.png", "sha256": "0" * 64},
        "trained_images": [seen],
    }
    save_tfa_run(run, tfa.net, tfa.backbone.info, facts)
    (run / CONFIG_NAME).write_text(tfa.config.to_toml())
    replay(tfa.bundle)
    assert export_main([str(run), "--out", str(out)]) == 0
    assert Bundle.open(out).manifest.id == tfa.bundle.manifest.id
    assert capsys.readouterr().out.startswith(f"{out}  id {tfa.bundle.manifest.id[:12]}")
    assert export_main([str(run), "--out", str(tmp_path / "b"), "--text-names", "bottle"]) == 2
    assert "`text_names` must be left out" in capsys.readouterr().err

    paths = []
    for index, part in enumerate(good_parts):
        paths.append(str(tmp_path / f"good_{index}.png"))
        Pillow.fromarray(part).save(paths[-1])
    profile = str(tmp_path / "ring.safetensors")
    enroll = ["enroll", str(out), *paths, "--product", "ring", "--out", profile]
    assert run_main([*enroll, "--strict"]) != 0
    assert run_main(enroll) == 0
    told = capsys.readouterr().err
    assert told.count("warning: good_1.png: trained on: the network was trained on this") == 2
    assert "good_0.png: trained on" not in told
    assert run_main(["inspect", str(out), paths[0], "--profile", profile, "--json"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    loaded = Profile.load(Path(profile))
    resized = Preprocessing(96, 96)(good_parts[0])
    expected = _map(tfa, resized, loaded.condition)
    assert answer["score"] == pytest.approx(expected.std(), rel=1e-3)
    assert loaded.condition_name in {Path(path).name for path in paths}
    assert run_main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.startswith("passed  fp32, 8 golden images")
