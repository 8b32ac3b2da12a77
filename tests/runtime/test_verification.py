import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.backends import Backend
from cff_runtime.errors import BundleError, CffError, ParityError, ProfileMismatchError
from cff_runtime.parity import ParityLimits, ParityReport
from cff_runtime.verification import golden_profile, verify_bundle

Answers = dict[str, NDArray]


@pytest.fixture(scope="module")
def backend(lite_inspector: Inspector) -> Backend:
    return lite_inspector._backend


@pytest.fixture
def verify_edited(
    bundle_copy: Path, edit_manifest: Callable[..., None], backend: Backend
) -> Callable[..., ParityReport]:
    """Return ``verify_edited(edit)``: change the golden answers, sign again, verify."""

    def run(edit: Callable[[Answers], object], limits: ParityLimits | None = None) -> ParityReport:
        path = bundle_copy / "golden" / "expected.safetensors"
        answers = load_file(path)
        edit(answers)
        save_file(answers, path)
        edit_manifest(bundle_copy, rehash=True)
        return verify_bundle(Bundle.open(bundle_copy), backend, limits)

    return run


def _add(name: str, amount: float) -> Callable[[Answers], None]:
    def edit(answers: Answers) -> None:
        answers[name] = (answers[name] + np.float32(amount)).astype(answers[name].dtype)

    return edit


def _set_first(name: str, value: float) -> Callable[[Answers], None]:
    def edit(answers: Answers) -> None:
        answers[name].flat[0] = value

    return edit


def test_a_whole_bundle_passes(lite_bundle: Bundle, backend: Backend) -> None:
    report = verify_bundle(lite_bundle, backend)

    report.require_passed()
    assert report.passed and report.failures == ()
    assert report.n_images == 8 and report.verdict_flips == 0 and report.resize_equal
    assert len(report.feature_max_diff) == len(report.feature_min_cosine) == 4
    assert max(report.feature_max_diff) < 1e-4 and min(report.feature_min_cosine) > 0.999999
    assert 0.0 <= report.map_max_diff < 1e-3
    strict = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert strict["passed"] is True and strict["limits"]["features"] == 1e-4


@pytest.mark.parametrize("stage", range(4))
def test_a_stage_outside_its_limit_is_named(
    stage: int, verify_edited: Callable[..., ParityReport]
) -> None:
    report = verify_edited(_add(f"features_{stage}_5", 3e-4))

    assert [diff > 1e-4 for diff in report.feature_max_diff] == [s == stage for s in range(4)]
    assert report.feature_max_diff[stage] == pytest.approx(3e-4, rel=0.1)
    assert len(report.failures) == 1
    assert report.failures[0].startswith(f"features of stage {stage} differ by 3.0")
    with pytest.raises(ParityError, match=f"features of stage {stage} differ"):
        report.require_passed()


def test_every_stage_outside_is_named(verify_edited: Callable[..., ParityReport]) -> None:
    def edit(answers: Answers) -> None:
        _add("features_0_0", 0.01)(answers)
        _add("features_3_5", 0.01)(answers)

    failures = " ".join(verify_edited(edit).failures)

    assert "stage 0" in failures and "stage 3" in failures
    assert "stage 1" not in failures and "stage 2" not in failures


def test_the_smallest_cosine_is_told(verify_edited: Callable[..., ParityReport]) -> None:
    def turn(answers: Answers) -> None:
        answers["features_1_5"][7] *= -1.0

    report = verify_edited(turn)

    assert report.feature_min_cosine[1] == pytest.approx(-1.0, abs=1e-4)
    assert min(report.feature_min_cosine[0], *report.feature_min_cosine[2:]) > 0.999999


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder_map_1", "encoder's map differs by 2.0"),
        ("map_2", "anomaly map differs by 2.0"),
        ("score_0", "score differs by 2.0"),
    ],
)
def test_other_answers_outside_their_limit_are_named(
    name: str, expected: str, verify_edited: Callable[..., ParityReport]
) -> None:
    report = verify_edited(_add(name, 0.02))

    assert report.failures[0].startswith(expected)
    others = [f for f in report.failures[1:] if " of the way to its threshold" not in f]
    assert others == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("features_2_0", "feature_max_diff"),
        ("encoder_map_2", "encoder_map_max_diff"),
        ("map_0", "map_max_diff"),
        ("score_1", "score_max_diff"),
    ],
)
def test_nan_never_passes(
    name: str, field: str, value: float, verify_edited: Callable[..., ParityReport]
) -> None:
    report = verify_edited(_set_first(name, value))

    assert not report.passed
    found = getattr(report, field)
    assert (found[2] if isinstance(found, tuple) else found) == np.inf
    fields = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (fields[field][2] if isinstance(found, tuple) else fields[field]) is None


@pytest.mark.parametrize("name", ["features_1_5", "encoder_map_0", "map_2"])
def test_an_answer_of_another_shape_never_passes(
    name: str, verify_edited: Callable[..., ParityReport]
) -> None:
    def flatten(answers: Answers) -> None:
        answers[name] = np.concatenate([answers[name].reshape(-1)] * 2)

    assert not verify_edited(flatten).passed


def test_a_flipped_verdict_is_counted(
    verify_edited: Callable[..., ParityReport], lite_bundle: Bundle
) -> None:
    threshold = Profile.load(lite_bundle.file(golden_profile("fp32"))).threshold.value
    limits = ParityLimits(score=100.0, score_shift=100.0, rank_correlation=-1.0, auroc=1.0)

    report = verify_edited(_set_first("score_5", threshold - 1e-6), limits)

    assert report.verdict_flips == 1 and report.flipped == ("golden/golden_5.png",)
    assert report.failures == ("1 of 8 verdicts flip: golden/golden_5.png",)


def test_another_resize_is_named(verify_edited: Callable[..., ParityReport]) -> None:
    def nudge(answers: Answers) -> None:
        answers["resized_1"][5, 5, 0] ^= 1

    report = verify_edited(nudge)

    assert not report.resize_equal
    assert "resize differs" in report.failures[0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda answers: answers.update(resized_0=answers["resized_0"][:90]),
        lambda answers: answers.update(resized_0=answers["resized_0"].astype(np.float32)),
        lambda answers: answers.pop("resized_2"),
        lambda answers: answers.pop("features_3_5"),
        lambda answers: answers.pop("map_1"),
        lambda answers: answers.pop("score_1"),
        lambda answers: answers.pop("roles"),
        lambda answers: answers.update(roles=answers["roles"][:7]),
        lambda answers: answers.update(score_1=np.zeros(2, np.float32)),
        lambda answers: answers.clear(),
    ],
)
def test_damaged_answers_are_one_sentence(
    edit: Callable[[Answers], object], verify_edited: Callable[..., ParityReport]
) -> None:
    with pytest.raises(BundleError, match="golden answer"):
        verify_edited(edit)


def test_answers_that_are_no_safetensors_are_one_sentence(
    bundle_copy: Path, edit_manifest: Callable[..., None], backend: Backend
) -> None:
    (bundle_copy / "golden" / "expected.safetensors").write_bytes(b"nothing" * 30)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(BundleError, match="must be a safetensors file"):
        verify_bundle(Bundle.open(bundle_copy), backend)


def test_a_bundle_without_golden_images_does_not_pass(
    bundle_copy: Path, edit_manifest: Callable[..., None], backend: Backend
) -> None:
    def drop(fields: dict) -> None:
        for name in [name for name in fields["files"] if name.endswith(".png")]:
            del fields["files"][name]

    edit_manifest(bundle_copy, drop)

    with pytest.raises(BundleError, match="golden images"):
        verify_bundle(Bundle.open(bundle_copy), backend)


def test_a_golden_image_that_was_exchanged_fails(
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    backend: Backend,
    bad_part: NDArray[np.uint8],
) -> None:
    Image.fromarray(bad_part).save(bundle_copy / "golden" / "golden_1.png")
    edit_manifest(bundle_copy, rehash=True)

    assert not verify_bundle(Bundle.open(bundle_copy), backend).resize_equal


def test_a_golden_profile_of_another_bundle_is_refused(
    bundle_copy: Path, edit_manifest: Callable[..., None], backend: Backend
) -> None:
    path = bundle_copy / golden_profile("fp32")
    profile = Profile.load(path)
    replace(profile, bundle_id="0" * 64, condition=profile.condition[:32]).save(path)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(ProfileMismatchError):
        verify_bundle(Bundle.open(bundle_copy), backend)


def test_a_damaged_golden_profile_is_one_sentence(
    bundle_copy: Path, edit_manifest: Callable[..., None], backend: Backend
) -> None:
    (bundle_copy / golden_profile("fp32")).write_bytes(b"short")
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(CffError, match="complete safetensors file"):
        verify_bundle(Bundle.open(bundle_copy), backend)


def test_a_text_score_is_compared_too(
    numpy_inspector: Callable[..., Inspector],
    good_parts: list[NDArray[np.uint8]],
    bad_part: NDArray[np.uint8],
) -> None:
    """A bundle with a text tower, made here from the NumPy backend's own answers."""
    inspector = numpy_inspector(text_tower=True)
    folder, manifest = inspector.bundle.path, inspector.bundle.manifest
    profile = inspector.enroll(good_parts[:2], "golden")
    profile.save(folder / golden_profile("fp32"))
    answers: Answers = {"roles": np.array([0, 1, 2], np.uint8)}
    for index, image in enumerate([*good_parts[:2], bad_part]):
        Image.fromarray(image).save(folder / "golden" / f"golden_{index}.png")
        resized = manifest.preprocessing(image)
        encoding = inspector._backend.encode(resized, profile.condition)
        result = inspector.inspect(image, profile)
        answers |= {f"features_{s}_{index}": f[0] for s, f in enumerate(encoding.features)}
        answers[f"resized_{index}"] = resized
        answers[f"encoder_map_{index}"] = encoding.map
        answers[f"encoder_score_{index}"] = np.array([encoding.score], np.float32)
        answers[f"map_{index}"] = result.anomaly_map
        answers[f"score_{index}"] = np.array([result.score], np.float32)
    path = folder / "golden" / "expected.safetensors"
    save_file(answers, path)
    files = {n: e for n, e in manifest.files.items() if not re.search(r"golden_[3-7]\.png", n)}
    bundle = Bundle(folder, replace(manifest, files=files))

    assert verify_bundle(bundle, inspector._backend).passed

    answers["encoder_score_1"] += np.float32(0.01)
    save_file(answers, path)
    report = verify_bundle(bundle, inspector._backend)

    assert report.encoder_score_max_diff == pytest.approx(0.01, rel=1e-3)
    assert [failure.split(" differs")[0] for failure in report.failures] == ["encoder's score"]
