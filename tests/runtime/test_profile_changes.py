"""Adding and removing references: the same profile as enrolling all of them at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import ProfileError, ProfileMismatchError, UsageError
from cff_runtime.manifest import Manifest, Variant

Images = list[NDArray[np.uint8]]


def _require_same(one: Profile, other: Profile, atol: float = 1e-6) -> None:
    for name in ("banks", "means"):
        for left, right in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(left, right, atol=atol)
    np.testing.assert_array_equal(one.reference_images, other.reference_images)
    np.testing.assert_allclose(one.threshold.scores, other.threshold.scores, atol=1e-4)
    assert one.threshold.value == pytest.approx(other.threshold.value, abs=2e-4)
    assert one.product_limit == pytest.approx(other.product_limit, abs=1e-3)
    assert one.settings == other.settings


def test_adding_gives_what_enrolling_all_gives(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    first = lite_inspector.enroll(good_parts[:2], "ring", margin=0.3)

    added = lite_inspector.add_normals(first, good_parts[2:])

    _require_same(added, lite_inspector.enroll(good_parts, "ring", margin=0.3))
    assert added.n_references == added.threshold.n_parts == 4
    assert [entry["action"] for entry in added.history] == ["enroll", "add-normals"]
    assert added.references[:2] == first.references
    assert first.n_references == 2


def test_removing_gives_what_enrolling_the_others_gives(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images
) -> None:
    smaller = lite_inspector.remove_reference(lite_profile, "2")

    others = [good_parts[0], *good_parts[2:]]
    _require_same(smaller, lite_inspector.enroll(others, "ring"))
    assert smaller.history[-1]["removed"] == ["image 2"]
    assert [reference.name for reference in smaller.references] == ["image 1", "image 3", "image 4"]


def test_a_wish_is_kept_over_changes(
    numpy_inspector: Callable[..., Inspector], good_parts: Images
) -> None:
    inspector = numpy_inspector()
    wishes = {"max_false_reject": 0.2, "confidence": 0.8}
    first = inspector.enroll(good_parts[:2], "ring", wishes=wishes)

    added = inspector.add_normals(first, good_parts[2:])

    assert first.settings["max_false_reject"] == added.settings["max_false_reject"] == 0.2
    assert added.threshold.card["wishes"]["confidence"] == 0.8


def test_further_parts_and_defects_set_the_threshold_and_are_not_remembered(
    lite_inspector: Inspector,
    lite_profile: Profile,
    draw_part: Callable[..., NDArray[np.uint8]],
    good_parts: Images,
) -> None:
    further = [draw_part(seed) for seed in range(20, 26)]
    defects = [draw_part(seed, defective=True) for seed in range(30, 33)]

    profile = lite_inspector.enroll(good_parts, "ring", further=further, defects=defects)

    scores = [lite_inspector.inspect(part, profile).score for part in further]
    defective = [lite_inspector.inspect(part, profile).score for part in defects]
    np.testing.assert_allclose(profile.threshold.card_scores("further"), scores, atol=1e-4)
    np.testing.assert_allclose(profile.threshold.card_scores("defective"), defective, atol=1e-4)
    for one, other in zip(profile.banks, lite_profile.banks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert profile.n_references == 4


def test_a_compressed_bank_is_compressed_again(
    lite_inspector: Inspector, good_parts: Images, draw_part: Callable[..., NDArray[np.uint8]]
) -> None:
    first = lite_inspector.enroll(good_parts[:3], "ring", max_bank=100)
    assert [len(bank) for bank in first.banks] == [100, 100, 100, 27]
    assert first.compression is not None and first.compression["n_rows_full"] == [432, 432, 108, 27]

    added = lite_inspector.add_normals(first, good_parts[3:])

    assert [len(bank) for bank in added.banks] == [100, 100, 100, 36]
    _require_same(added, lite_inspector.enroll(good_parts, "ring", max_bank=100))
    whole = lite_inspector.enroll(good_parts, "ring", max_bank=10_000)
    assert whole.compression is None
    # fewer rows to be near to: no score falls
    assert np.all(np.array(added.threshold.scores) >= np.array(whole.threshold.scores) - 1e-4)
    further = draw_part(50)
    assert (
        lite_inspector.inspect(further, added).score
        >= lite_inspector.inspect(further, whole).score - 1e-4
    )


def test_files_keep_their_names_and_sizes(
    lite_inspector: Inspector, good_parts: Images, tmp_path: Path
) -> None:
    for index, image in enumerate(good_parts[:2]):
        Image.fromarray(image).save(tmp_path / f"part {index}.png")

    profile = lite_inspector.enroll([tmp_path / "part 0.png", str(tmp_path / "part 1.png")], "ring")

    assert [reference.name for reference in profile.references] == ["part 0.png", "part 1.png"]
    assert {reference.size for reference in profile.references} == {(150, 120)}


def test_removing_needs_one_reference_that_is_there(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images
) -> None:
    for which in ("0", "5", "-1", "none.png", "", "²"):
        with pytest.raises(UsageError, match="a name or a number from 1 to 4"):
            lite_inspector.remove_reference(lite_profile, which)
    twins = replace(lite_profile, references=(lite_profile.references[0],) * 4)
    with pytest.raises(UsageError, match="the numbers 1, 2, 3, 4"):
        lite_inspector.remove_reference(twins, "image 1")
    lonely = lite_inspector.enroll(good_parts[:1], "ring")
    with pytest.raises(UsageError, match="at least one reference"):
        lite_inspector.remove_reference(lonely, "1")


@pytest.mark.parametrize("images", [[], "part.png"])
def test_adding_needs_images(
    images: object, lite_inspector: Inspector, lite_profile: Profile
) -> None:
    with pytest.raises(UsageError, match="`images` must"):
        lite_inspector.add_normals(lite_profile, images)


def test_changed_images_are_not_enrolled_again(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images
) -> None:
    images = lite_profile.reference_images.copy()
    images[1, 3, 3, 0] ^= 1

    with pytest.raises(ProfileError, match="'image 2' must have the hash"):
        lite_inspector.add_normals(replace(lite_profile, reference_images=images), good_parts)


def _other_encoder(manifest: Manifest) -> Manifest:
    entry = replace(manifest.files[manifest.encoder], sha256="0" * 64)
    return replace(manifest, id="f" * 64, files={**manifest.files, manifest.encoder: entry})


def _other_size(manifest: Manifest) -> Manifest:
    return replace(manifest, id="f" * 64, preprocessing=replace(manifest.preprocessing, height=64))


def _other_precision(manifest: Manifest) -> Manifest:
    variant = Variant("encoder.int8.onnx", "f" * 64, (), {}, {})
    files = {**manifest.files, variant.encoder: manifest.files[manifest.scorers[0]]}
    return replace(manifest, variants={"int8": variant}, files=files).view("int8")


@pytest.mark.parametrize(
    ("change", "expected", "absent"),
    [
        (_other_encoder, "another encoder", "preprocessing"),
        (_other_size, r"another preprocessing \(height 96, here 64\)", "encoder"),
        (_other_precision, "precision fp32, not the int8 of this bundle", "encoder"),
        (lambda m: replace(m, id="f" * 64, distance="cosine"), "distance log, here cosine", "enc"),
        (lambda m: replace(m, id="f" * 64), "another scorer or another schema", "encoder"),
    ],
)
def test_a_refusal_names_what_differs(
    change: Callable[[Manifest], Manifest],
    expected: str,
    absent: str,
    lite_inspector: Inspector,
    lite_profile: Profile,
    good_parts: Images,
) -> None:
    bundle = Bundle(lite_inspector.bundle.path, change(lite_inspector.bundle.manifest))
    other = Inspector(bundle, lite_inspector._backend)

    with pytest.raises(ProfileMismatchError, match=expected) as caught:
        other.add_normals(lite_profile, good_parts)

    reason = str(caught.value).partition(": ")[2].partition("; enrol")[0]
    assert absent not in reason


def test_a_precision_that_the_bundle_has_not_is_named(
    lite_profile: Profile, lite_bundle: Bundle
) -> None:
    origin = replace(lite_profile.origin, precision="fp16")
    foreign = replace(lite_profile, origin=origin, bundle_id="e" * 64)

    with pytest.raises(ProfileMismatchError, match=r"precision fp16, .* which has fp32"):
        foreign.precision_in(lite_bundle.manifest)
