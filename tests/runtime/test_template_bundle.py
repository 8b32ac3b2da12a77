"""A bundle whose condition is a reference's features, made by hand: every answer is NumPy's.

features_0 : means of the blocks of 4 x 4 px, [16,3];   features_1 : of 8 x 8 px, [4,3]
difference_map : squared distance of features_0 and template, its blocks repeated, [16,16]
score          : 2 x standard deviation of the map, whose weight is 2; nothing is searched
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.backends import open_backend
from cff_runtime.cli import main
from cff_runtime.curve.gallery import build_gallery, n_encodings
from cff_runtime.curve.trials import run_trial
from cff_runtime.doctor.needs import read_needs
from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.errors import BundleError, ProfileError, ProfileMismatchError, UsageError
from cff_runtime.manifest import FileEntry, Manifest, Stage, parse_manifest
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.templates import choose_template
from cff_runtime.thresholds import DEFAULT_MARGIN, augmentations
from cff_runtime.thresholds.moving import move_threshold
from cff_runtime.verification import golden_condition, verify_bundle

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
SIDE, WEIGHT = 16, 2.0
TOLERANCE = 1e-6  # float32 sums of some hundred numbers below 1


def tokens(image: Pixels, blocks: int = 4) -> Floats:
    """features_s in float64, [blocks * blocks, 3]."""
    side = SIDE // blocks
    parts = (image / 255.0).reshape(blocks, side, blocks, side, 3)
    return parts.mean(axis=(1, 3)).reshape(-1, 3)


def anomaly_map(image: Pixels, template: Pixels) -> Floats:
    distances = np.square(tokens(image) - tokens(template)).sum(axis=1).reshape(4, 4)
    return WEIGHT * distances.repeat(4, axis=0).repeat(4, axis=1)


def medoid(images: Sequence[Pixels]) -> int:
    """The first image of the largest sum of cosines to the others."""
    means = [tokens(image).mean(axis=0) for image in images]
    units = [mean / np.linalg.norm(mean) for mean in means]
    sums = [sum(float(a @ b) for j, b in enumerate(units) if j != i) for i, a in enumerate(units)]
    return next(i for i, value in enumerate(sums) if value >= max(sums) - 1e-7)


def expected_scores(images: Sequence[Pixels]) -> tuple[list[float], list[float]]:
    """Scores and map maxima: references left out, then augmentations without their border."""
    own, moved = [], []
    for index, image in enumerate(images):
        others = [other for i, other in enumerate(images) if i != index] or [image]
        template = others[medoid(others)]
        own.append(anomaly_map(image, template))
        moved += [anomaly_map(one, template)[1:15, 1:15] for one in augmentations(image)]
    maps = [*(own if len(images) > 1 else []), *moved]
    return [float(m.std()) for m in maps], [float(m.max()) for m in maps]


def write_encoder(path: Path) -> None:
    def constant(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype), name)

    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["shades"], to=TensorProto.FLOAT),
        node("Div", ["shades", "white"], ["scaled"]),
        node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    for stage, side in enumerate((4, 8)):
        pooled, flat = f"pooled_{stage}", f"flat_{stage}"
        nodes += [
            node("AveragePool", ["planes"], [pooled], kernel_shape=[side] * 2, strides=[side] * 2),
            node("Reshape", [pooled, "flat_shape"], [flat]),
            node("Transpose", [flat], [f"features_{stage}"], perm=[0, 2, 1]),
        ]
    nodes += [
        node("Sub", ["features_0", "template"], ["difference"]),
        node("Mul", ["difference", "difference"], ["squared"]),
        node("ReduceSum", ["squared", "last_axis"], ["distances"], keepdims=0),
        node("Reshape", ["distances", "grid_shape"], ["grid"]),
        node("MatMul", ["repeat", "grid"], ["tall"]),
        node("MatMul", ["tall", "repeat_across"], ["difference_map"]),
    ]
    repeat = np.eye(4, dtype=np.float32).repeat(4, axis=0)
    constants = [
        constant("white", 255.0),
        constant("flat_shape", [0, 3, -1], np.int64),
        constant("grid_shape", [-1, 4, 4], np.int64),
        constant("last_axis", [2], np.int64),
        constant("repeat", repeat),
        constant("repeat_across", repeat.T),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            value("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3]),
            value("template", TensorProto.FLOAT, [16, 3]),
        ],
        [
            value("features_0", TensorProto.FLOAT, ["batch", 16, 3]),
            value("features_1", TensorProto.FLOAT, ["batch", 4, 3]),
            value("difference_map", TensorProto.FLOAT, ["batch", SIDE, SIDE]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    files = {
        path.relative_to(folder).as_posix(): FileEntry(
            hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = replace(manifest, files=files)
    manifest = replace(manifest, id=manifest.compute_id())
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def draw(seed: int, shade: tuple[float, float, float] = (120, 90, 60)) -> Pixels:
    """A part: a shade for each channel, and blocks that differ."""
    rng = np.random.default_rng(seed)
    blocks = rng.normal(0, 14, (4, 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    return np.clip(np.array(shade) + blocks, 0, 255).astype(np.uint8)


# the third lies between the others, in shade
SHADES = [(150, 80, 60), (90, 90, 80), (120, 88, 68), (140, 70, 90), (100, 110, 50)]
PARTS = [draw(seed, shade) for seed, shade in enumerate(SHADES)]


def defective() -> Pixels:
    image = draw(60, SHADES[2])
    image[4:8, 8:12] = 255 - image[4:8, 8:12]
    return image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Encoder, manifest and golden images, of which two are references."""
    folder = tmp_path_factory.mktemp("template") / "bundle"
    (folder / "golden").mkdir(parents=True)
    write_encoder(folder / "encoder.fp32.onnx")
    golden = folder / "golden" / "expected.safetensors"
    save_file({"roles": np.zeros(1, np.uint8)}, golden)
    manifest = Manifest(
        id="",
        precision="fp32",
        encoder="encoder.fp32.onnx",
        scorers=(),
        preprocessing=Preprocessing(SIDE, SIDE),
        stages=(Stage("blocks 4", (4, 4), 3), Stage("blocks 8", (2, 2), 3)),
        distance="log",
        condition=Condition("template", (16, 3), "reference", None, (), 0, "medoid"),
        map=MapOutput("difference_map", WEIGHT),
        score=ScoreOutput(None, "std"),
        golden="golden/expected.safetensors",
        files={},
        backbone={"name": "blocks", "weights": "none"},
        head={},
        parity={},
        passes=(),
        tools={},
        licences={},
        notes=(),
        created="2026-11-22T00:00:00+00:00",
    )
    write_manifest(folder, manifest)
    images = [*PARTS[:3], defective()]
    inspector = Inspector.open(folder)
    inspector.enroll(images[:2], "golden").save(folder / "golden" / "profile.fp32.safetensors")
    answers: dict[str, Any] = {"roles": np.array([0, 0, 1, 2], np.uint8)}
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / "golden" / f"golden_{index}.png")
        found = anomaly_map(image, images[0])  # of two alike in number the first
        answers |= {
            f"resized_{index}": image,
            f"features_0_{index}": tokens(image).astype(np.float32),
            f"features_1_{index}": tokens(image, 2).astype(np.float32),
            f"encoder_map_{index}": (found / WEIGHT).astype(np.float32),
            f"map_{index}": found.astype(np.float32),
            f"score_{index}": np.array([found.std()], np.float32),
        }
    save_file(answers, golden)
    write_manifest(folder, manifest)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def inspector(bundle: Bundle) -> Inspector:
    return Inspector(bundle, open_backend("onnxruntime", bundle, {"threads": 1}))


@pytest.fixture(scope="module")
def profile(inspector: Inspector) -> Profile:
    return inspector.enroll(PARTS, "blocks")


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5])
def test_the_template_is_the_medoid_and_scores_are_of_the_others(
    n_parts: int, inspector: Inspector
) -> None:
    images = PARTS[:n_parts]
    profile = inspector.enroll(images, "blocks")

    chosen = medoid(images)
    assert profile.condition_name == f"image {chosen + 1}"
    np.testing.assert_allclose(profile.condition, tokens(images[chosen]), atol=TOLERANCE)
    assert profile.banks == () and profile.compression is None
    scores, peaks = expected_scores(images)
    np.testing.assert_allclose(profile.threshold.scores, scores, rtol=1e-4)
    np.testing.assert_allclose(profile.threshold.peaks, peaks, rtol=1e-4)


def test_the_medoid_is_not_the_first_of_these_parts() -> None:
    assert medoid(PARTS) == 2
    assert medoid(PARTS[:2]) == 0


def test_thresholds_are_set_from_deviations_and_pixels_from_maxima(profile: Profile) -> None:
    scores, peaks = expected_scores(PARTS)
    rise = 1.0 + DEFAULT_MARGIN / 25
    assert profile.threshold.value == pytest.approx(max(scores) * rise, rel=1e-4)
    assert profile.threshold.pixel_value == pytest.approx(max(peaks) * rise, rel=1e-4)
    # one statistic of the map is bounded once, as the maximum is
    assert profile.threshold.expected_false_rejects == pytest.approx(1 / 6)
    assert profile.threshold.card["score"] == "map"


def test_a_threshold_moved_by_hand_keeps_pixels_and_promise(profile: Profile) -> None:
    moved = move_threshold(profile.threshold, reject=2 * profile.threshold.value)

    assert moved.pixel_value == profile.threshold.pixel_value
    assert moved.expected_false_rejects == pytest.approx(1 / 6)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_an_image_is_encoded_again_only_for_another_template(n_parts: int, bundle: Bundle) -> None:
    backend: Any = open_backend("onnxruntime", bundle, {"threads": 1})
    encode, told, conditions = backend.encode, [], []

    def count(image: Any, condition: Any) -> Any:
        conditions.append(condition)
        return encode(image, condition)

    backend.encode = count
    Inspector(bundle, backend).enroll(
        PARTS[:n_parts], "blocks", progress=lambda *n: told.append(n), further=[PARTS[4]]
    )

    again = n_parts if n_parts > 1 else 0
    assert len(conditions) == n_parts + again + 4 * n_parts + 1
    assert told == [(done, len(conditions)) for done in range(1, len(conditions) + 1)]
    assert not any(condition.any() for condition in conditions[:n_parts])
    assert all(condition.any() for condition in conditions[n_parts:])


def test_further_and_defective_parts_are_judged_with_the_final_template(
    inspector: Inspector,
) -> None:
    further, defect = draw(70, SHADES[2]), defective()
    profile = inspector.enroll(PARTS, "blocks", further=[further], defects=[defect])

    template = PARTS[2]
    further_map, defect_map = (anomaly_map(one, template) for one in (further, defect))
    scores = profile.threshold.card["scores"]
    assert scores["further"] == pytest.approx([further_map.std()], rel=1e-4)
    assert scores["further_peaks"] == pytest.approx([further_map.max()], rel=1e-4)
    assert scores["defective"] == pytest.approx([defect_map.std()], rel=1e-4)


def test_the_first_reference_can_be_the_template(bundle: Bundle) -> None:
    condition = replace(bundle.manifest.condition, choice="first")
    first = Bundle(bundle.path, replace(bundle.manifest, condition=condition))
    profile = Inspector(first, open_backend("onnxruntime", first, {"threads": 1})).enroll(
        PARTS, "blocks"
    )

    assert profile.condition_name == "image 1"
    score = anomaly_map(PARTS[0], PARTS[1]).std()  # left out, the second is the first
    assert profile.threshold.scores[0] == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize(
    ("angles", "chosen"),
    [((0.0, 0.9, 0.5, 0.42), 3), ((0.2, 0.7), 0), ((0.7,), 0), ((0.3,) * 3, 0)],
)
def test_the_medoid_is_most_like_the_others(angles: tuple[float, ...], chosen: int) -> None:
    means = np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)
    assert choose_template("medoid", means) == chosen
    assert choose_template("first", means) == 0


def test_a_tie_goes_to_the_first() -> None:
    one, other = np.array([[0.6, 0.8], [0.8, 0.6]], np.float32)
    assert choose_template("medoid", np.stack([one, other])) == 0
    assert choose_template("medoid", np.stack([other, one, one])) == 1
    assert choose_template("medoid", np.stack([one, other, one, other])) == 0


def test_results_are_numpys(inspector: Inspector, profile: Profile) -> None:
    result = inspector.inspect(defective(), profile)

    expected = anomaly_map(defective(), PARTS[2])
    np.testing.assert_allclose(result.anomaly_map, expected, atol=TOLERANCE)
    assert result.score == pytest.approx(expected.std(), rel=1e-5)
    assert result.text_score is None and len(result.stage_distances) == 2
    assert result.verdict == ("reject" if expected.std() > profile.threshold.value else "pass")


def test_adding_and_removing_choose_anew(inspector: Inspector) -> None:
    profile = inspector.enroll(PARTS[:2], "blocks")
    extended = inspector.add_normals(profile, PARTS[2:])
    assert profile.condition_name == "image 1"
    np.testing.assert_allclose(extended.condition, tokens(PARTS[2]), atol=TOLERANCE)

    smaller = inspector.remove_reference(extended, "3")

    left = [PARTS[index] for index in (0, 1, 3, 4)]
    np.testing.assert_allclose(smaller.condition, tokens(left[medoid(left)]), atol=TOLERANCE)
    np.testing.assert_allclose(smaller.threshold.scores, expected_scores(left)[0], rtol=1e-4)


def test_a_profile_comes_back_as_it_was(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "blocks.safetensors")
    loaded = Profile.load(tmp_path / "blocks.safetensors")

    assert loaded.banks == () and loaded.condition_name == profile.condition_name
    np.testing.assert_array_equal(loaded.condition, profile.condition)
    for name in ("origin", "threshold", "references", "settings"):
        assert getattr(loaded, name) == getattr(profile, name)


def test_a_curves_trial_is_an_enrolment_and_inspections(
    bundle: Bundle, inspector: Inspector
) -> None:
    backend: Any = open_backend("onnxruntime", bundle, {"threads": 1})
    encode, calls = backend.encode, []

    def count(image: Any, condition: Any) -> Any:
        calls.append(condition)
        return encode(image, condition)

    backend.encode = count
    gallery = build_gallery(backend, bundle.manifest, PARTS, [defective()], None)
    assert len(calls) == n_encodings(bundle.manifest, 5, 1) == 5

    for references in ([2], [0, 4], [3, 1, 4]):
        trial = run_trial(gallery, references, DEFAULT_MARGIN)
        profile = inspector.enroll([PARTS[i] for i in references], "blocks")
        assert trial.threshold == pytest.approx(profile.threshold.value, rel=1e-5)
        for index, image in enumerate(PARTS):
            if index not in references:
                score = inspector.inspect(image, profile).score
                assert trial.good[index] == pytest.approx(score, rel=1e-5)
        score = inspector.inspect(defective(), profile).score
        assert trial.defective == pytest.approx([score], rel=1e-5)
    n_calls = len(calls)
    run_trial(gallery, [3, 1, 4], DEFAULT_MARGIN)
    assert len(calls) == n_calls  # nothing is encoded twice with a template


def test_features_of_any_length_are_compared_in_proportion(
    bundle: Bundle, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows ten times as long may differ ten times as much."""
    backend: Any = open_backend("onnxruntime", bundle, {"threads": 1})
    name, download = bundle.manifest.golden, backend.download
    answers = bundle.tensors(name)
    for key in [key for key in answers if key.startswith("features_")]:
        answers[key] = answers[key] * np.float32(10)
    longest = [np.linalg.norm(10 * tokens(one), axis=1).max() for one in [*PARTS[:3], defective()]]
    monkeypatch.setattr(Bundle, "tensors", lambda self, file: answers)
    backend.download = lambda handle: 10 * download(handle) + np.float32(1e-3)

    found = verify_bundle(bundle, backend).feature_max_diff[0]

    assert found == pytest.approx(1e-3 / min(longest), rel=0.01)


def test_the_golden_images_pass(bundle: Bundle, inspector: Inspector) -> None:
    report = verify_bundle(bundle, open_backend("onnxruntime", bundle, {"threads": 1}))

    assert report.passed, report.failures
    assert report.encoder_map_max_diff < TOLERANCE and report.encoder_score_max_diff == 0.0
    np.testing.assert_allclose(golden_condition(bundle), tokens(PARTS[0]), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"source": "template"}, "`condition.source` must be one of words, reference"),
        ({"shape": [16, 4]}, "must be that of the features of stage 0, [16, 3], got [16, 4]"),
        ({"stage": 1}, "must be that of the features of stage 1, [4, 3]"),
        ({"stage": 2}, "`condition.stage` must be 0 to 1, got 2"),
        ({"stage": -1}, "`condition.stage` must be 0 to 1, got -1"),
        ({"stage": None}, "`condition.stage` must be 0 to 1, got None"),
        ({"choice": "last"}, "`condition.choice` must be one of medoid, first"),
        ({"choice": None}, "`condition.choice` must be one of medoid, first"),
        ({"names": ["object"]}, "must have no `file` and no `names`"),
        ({"file": "encoder.fp32.onnx"}, "must have no `file` and no `names`"),
        ({"input": "difference_map"}, "tensors must have different names"),
        ({"input": "features_2"}, "`condition.input` must be at most 64 of a-z"),
    ],
)
def test_a_wrong_condition_is_refused(edit: Any, expected: str, bundle: Bundle) -> None:
    fields = json.loads(bundle.manifest.to_json())
    fields["condition"] |= edit

    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps(fields))
    assert expected in str(caught.value)


def test_a_score_is_either_the_encoders_or_the_deviation(bundle: Bundle) -> None:
    fields = json.loads(bundle.manifest.to_json())
    fields["score"]["output"] = "anomaly_score"

    with pytest.raises(BundleError, match="must be max where the encoder gives a score"):
        parse_manifest(json.dumps(fields))


def test_the_id_covers_the_choice(bundle: Bundle) -> None:
    fields = json.loads(bundle.manifest.to_json())
    fields["condition"]["choice"] = "first"

    with pytest.raises(BundleError, match="`id` must be the hash"):
        parse_manifest(json.dumps(fields))


def test_another_statistic_is_told_in_words(bundle: Bundle, profile: Profile) -> None:
    other = replace(bundle.manifest, score=ScoreOutput(None, "max"))

    with pytest.raises(ProfileMismatchError, match="score from the map's std, here its max"):
        profile.require_bundle(replace(other, id=other.compute_id()))


def test_wrong_shapes_are_refused(bundle: Bundle, profile: Profile, tmp_path: Path) -> None:
    banks = tuple(mean.copy() for mean in profile.means)
    with pytest.raises(ProfileMismatchError, match=r"must have widths \[\], got \[3, 3\]"):
        replace(profile, banks=banks).require_bundle(bundle.manifest)
    with pytest.raises(ProfileMismatchError, match=r"must have shape \(16, 3\), got \(15, 3\)"):
        replace(profile, condition=profile.condition[:15]).require_bundle(bundle.manifest)
    replace(profile, banks=banks[:1]).save(tmp_path / "one.safetensors")
    with pytest.raises(ProfileError, match="or no bank"):
        Profile.load(tmp_path / "one.safetensors")


def test_what_it_has_not_cannot_be_asked_for(inspector: Inspector) -> None:
    with pytest.raises(UsageError, match="text name must be left out for this bundle"):
        inspector.enroll(PARTS, "blocks", "object")
    with pytest.raises(UsageError, match="`max_bank` must be left out for this bundle, got 5"):
        inspector.enroll(PARTS, "blocks", max_bank=5)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_commands_serve_it(bundle: Bundle, run: Any, tmp_path: Path) -> None:
    for index, image in enumerate(PARTS):
        Image.fromarray(image).save(tmp_path / f"good_{index}.png")
    Image.fromarray(defective()).save(tmp_path / "bad.png")
    good, path = [tmp_path / f"good_{i}.png" for i in range(5)], tmp_path / "blocks.safetensors"
    enroll = ("enroll", bundle.path, *good[:4], "--product", "blocks", "--out", path)

    def done(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert code == 0, err
        return str(out)

    template = f"good_{medoid(PARTS[:4])}.png"
    assert f"blocks, K = 4, template {template}, threshold" in done(*enroll)
    facts = json.loads(done("show", path, "--json"))
    assert facts["condition_name"] == template
    assert facts["bank_rows"] == [] and facts["bank_mb"] == 0
    assert json.loads(done("show", bundle.path, "--json"))["condition"]["source"] == "reference"
    done("add-normals", bundle.path, good[4], "--profile", path)
    done("diff", path)
    code, out, err = run("inspect", bundle.path, "--profile", path, tmp_path / "bad.png", "--json")
    assert code in (0, 3), err
    score = anomaly_map(defective(), PARTS[2]).std()
    assert json.loads(out.splitlines()[0])["score"] == pytest.approx(score, rel=1e-5)
    done("threshold", path, "--max-false-reject", "0.5")  # from the stored scores
    assert Profile.load(path).threshold.expected_false_rejects == pytest.approx(1 / 6)
    done("remove", bundle.path, "good_4.png", "--profile", path)
    done("verify", bundle.path)
    curve = json.loads(
        done("curve", bundle.path, "--good", *good, "--shots", "1,2", "--draws", 3, "--json")
    )
    assert curve["n_good"] == 5


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--text-name", "object", "text name must be left out"), ("--max-bank", 9, "`max_bank` must")],
)
def test_a_wrong_option_is_one_sentence(
    option: str, value: object, expected: str, bundle: Bundle, run: Any, tmp_path: Path
) -> None:
    Image.fromarray(PARTS[0]).save(tmp_path / "good.png")
    out = tmp_path / "blocks.safetensors"
    arguments = ("enroll", bundle.path, tmp_path / "good.png", "--product", "b", "--out", out)

    code, _, err = run(*arguments, option, value)

    assert code == 2 and not out.exists()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0]


def test_the_doctor_counts_no_bank(bundle: Bundle, run: Any) -> None:
    needs = read_needs(bundle.path)
    assert needs.bank_bytes == 0 and not needs.is_transformer
    _, out, _ = run("doctor", bundle.path)
    assert re.search(r"memory bank +none", out)
