import json
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Inspector, Profile, Result
from cff_runtime.errors import BackendError, ImageError, ProfileMismatchError, UsageError

# log(1 + D / 0.01) turns the rounding of a cosine near 1, 1e-7 or two, into 100 times that a stage
LOG_ATOL = 1e-4

Images = list[NDArray[np.uint8]]


def _reference_map(
    inspector: Inspector, image: NDArray[np.uint8], profile: Profile
) -> NDArray[np.float64]:
    """Anomaly map in float64, all cosines at once, upsampled by PyTorch."""
    manifest, backend = inspector.bundle.manifest, inspector._backend
    encoding = backend.encode(manifest.preprocessing(image), profile.condition)
    total = manifest.map.weight * encoding.map.astype(np.float64)
    for handle, bank, stage in zip(encoding.features, profile.banks, manifest.stages, strict=True):
        cosine = backend.download(handle).astype(np.float64) @ bank.astype(np.float64).T
        plane = 1.0 - cosine.max(axis=1)
        if manifest.distance == "log":
            plane = np.log1p(np.maximum(plane, 0.0) / 0.01)
        grid = torch.from_numpy(plane).view(1, 1, *stage.grid)
        total += torch.nn.functional.interpolate(
            grid, encoding.map.shape, mode="bilinear", align_corners=True
        )[0, 0].numpy()
    return total


def test_a_result_is_the_brute_force(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images, bad_part: NDArray
) -> None:
    for image in (*good_parts, bad_part):
        result = lite_inspector.inspect(image, lite_profile)

        expected = _reference_map(lite_inspector, image, lite_profile)
        assert result.anomaly_map.shape == (96, 96) and result.anomaly_map.dtype == np.float32
        np.testing.assert_allclose(result.anomaly_map, expected, atol=LOG_ATOL, rtol=0)
        assert result.score == pytest.approx(expected.max(), abs=LOG_ATOL)
        assert result.threshold == lite_profile.threshold.value
        assert result.text_score is None


def test_good_parts_pass_and_the_bad_one_is_found_where_it_is(
    lite_inspector: Inspector,
    lite_profile: Profile,
    draw_part: Callable[..., NDArray[np.uint8]],
    bad_part: NDArray[np.uint8],
) -> None:
    for seed in (50, 51, 52):
        good = lite_inspector.inspect(draw_part(seed), lite_profile)
        assert (good.verdict, good.regions) == ("pass", ())

    bad = lite_inspector.inspect(bad_part, lite_profile)

    assert bad.verdict == "reject"
    strongest = bad.regions[0]
    assert strongest.peak == bad.score
    x, y, width, height = strongest.box
    assert x <= 80 and x + width >= 115  # the bar is drawn at rows 52-60, columns 80-115
    assert y <= 52 and y + height >= 60
    assert 0 < strongest.area_px <= width * height


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_with_a_text_tower_the_score_is_half_text_half_peak(
    distance: str,
    numpy_inspector: Callable[..., Inspector],
    good_parts: Images,
    bad_part: NDArray,
) -> None:
    inspector = numpy_inspector(text_tower=True, distance=distance)
    profile = inspector.enroll(good_parts, "ring")

    result = inspector.inspect(bad_part, profile)

    peak = _reference_map(inspector, bad_part, profile).max()
    resized = inspector.bundle.manifest.preprocessing(bad_part)
    assert result.text_score == pytest.approx(resized.mean() / 255)
    expected = 0.5 * (resized.mean() / 255 + profile.peak_scale * peak)
    assert result.score == pytest.approx(expected, abs=1e-5)


def test_the_verdict_is_strict(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray
) -> None:
    score = lite_inspector.inspect(bad_part, lite_profile).score

    def verdict(threshold: float) -> str:
        rule = replace(lite_profile.threshold, value=threshold, review=threshold)
        return lite_inspector.inspect(bad_part, replace(lite_profile, threshold=rule)).verdict

    assert verdict(score) == "pass"
    assert verdict(math.nextafter(score, math.inf)) == "pass"
    assert verdict(math.nextafter(score, -math.inf)) == "reject"


def test_between_the_thresholds_a_part_is_for_review(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray
) -> None:
    score = lite_inspector.inspect(bad_part, lite_profile).score
    below = math.nextafter(score, -math.inf)
    rule = replace(lite_profile.threshold, value=score, review=below)

    result = lite_inspector.inspect(bad_part, replace(lite_profile, threshold=rule))

    assert result.verdict == "review"
    assert (result.threshold, result.review_threshold) == (score, below)
    assert result.to_dict()["review_threshold"] == below


def test_regions_use_the_pixel_threshold_and_the_images_own_pixels(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray
) -> None:
    anomaly_map = lite_inspector.inspect(bad_part, lite_profile).anomaly_map
    limit = 0.5 * float(np.median(anomaly_map) + anomaly_map.max())
    assert 0 < (anomaly_map > limit).sum() < 0.5 * anomaly_map.size
    rule = replace(lite_profile.threshold, value=99.0, review=99.0, pixel_value=limit)
    profile = replace(lite_profile, threshold=rule)
    large = np.repeat(np.repeat(bad_part, 3, axis=0), 2, axis=1)

    for image, (height, width) in ((bad_part, (120, 150)), (large, (360, 300))):
        result = lite_inspector.inspect(image, profile)

        assert result.verdict == "pass" and result.regions
        above = int((result.anomaly_map > limit).sum())
        total_area = sum(region.area_px for region in result.regions)
        assert total_area == pytest.approx(above * height * width / 96**2)
        for x, y, w, h in (region.box for region in result.regions):
            assert 0 <= x < x + w <= width and 0 <= y < y + h <= height


def test_equal_parts_get_equal_results_and_no_scale_of_their_own(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images, bad_part: NDArray
) -> None:
    first = lite_inspector.inspect(good_parts[0], lite_profile)
    lite_inspector.inspect(bad_part, lite_profile)
    again = lite_inspector.inspect(good_parts[0], lite_profile)

    assert first.score == again.score
    np.testing.assert_array_equal(first.anomaly_map, again.anomaly_map)


def test_a_file_gives_what_its_array_gives(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray, tmp_path: Path
) -> None:
    Image.fromarray(bad_part).save(tmp_path / "bad.png")
    expected = lite_inspector.inspect(bad_part, lite_profile)

    for path in (tmp_path / "bad.png", str(tmp_path / "bad.png")):
        result = lite_inspector.inspect(path, lite_profile)
        np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)
        assert (result.score, result.regions) == (expected.score, expected.regions)


def test_a_saved_profile_gives_the_same_results(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray, tmp_path: Path
) -> None:
    lite_profile.save(tmp_path / "ring")

    result = lite_inspector.inspect(bad_part, Profile.load(tmp_path / "ring"))

    assert result.score == lite_inspector.inspect(bad_part, lite_profile).score


def test_a_result_is_ready_for_json(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray
) -> None:
    result = lite_inspector.inspect(bad_part, lite_profile)

    fields = json.loads(json.dumps(result.to_dict()))

    assert fields["score"] == result.score and fields["verdict"] == "reject"
    assert fields["regions"][0]["box"] == list(result.regions[0].box)
    assert list(fields["stages_ms"]) == ["preprocess", "encode", "search", "finish"]
    assert all(ms > 0 for ms in result.stages_ms.values())
    assert result.total_ms == pytest.approx(sum(result.stages_ms.values()))
    assert "anomaly_map" not in fields


def test_another_bundles_profile_is_refused(
    lite_inspector: Inspector, lite_profile: Profile, bad_part: NDArray
) -> None:
    foreign = replace(lite_profile, bundle_id="0" * 64)

    with pytest.raises(ProfileMismatchError, match="enrol the product again"):
        lite_inspector.inspect(bad_part, foreign)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((96, 96), np.uint8),
        np.zeros((96, 96, 4), np.uint8),
        np.zeros((96, 96, 3), np.float32),
        None,
        [[1, 2, 3]],
    ],
)
def test_what_is_no_image_is_refused(
    image: object, lite_inspector: Inspector, lite_profile: Profile
) -> None:
    with pytest.raises(ImageError, match="must"):
        lite_inspector.inspect(image, lite_profile)


def test_a_missing_image_is_a_wrong_call(
    lite_inspector: Inspector, lite_profile: Profile, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="existing file"):
        lite_inspector.inspect(tmp_path / "none.png", lite_profile)


@pytest.mark.parametrize("where", ["map", "features"])
def test_a_part_never_passes_because_of_nan(
    where: str, numpy_inspector: Callable[..., Inspector], good_parts: Images
) -> None:
    inspector = numpy_inspector()
    profile = inspector.enroll(good_parts, "ring")
    encode = inspector._backend.encode

    def broken(image: NDArray[np.uint8], text: NDArray[np.float32]) -> object:
        encoding = encode(image, text)
        if where == "map":
            encoding.map[3, 3] = np.nan
        else:
            encoding.features[0][0, 0] = np.nan
        return encoding

    inspector._backend.encode = broken

    with pytest.raises(BackendError, match="must be finite, got nan"):
        inspector.inspect(good_parts[0], profile)


def _collect(
    inspector: Inspector, jobs: list[tuple[NDArray[np.uint8], Profile]], n_threads: int
) -> list[Result]:
    """Inspect all jobs from `n_threads` threads, which start together."""
    results: list[Result | None] = [None] * len(jobs)
    errors: list[BaseException] = []
    barrier = threading.Barrier(n_threads)

    def work(first: int) -> None:
        try:
            barrier.wait(timeout=30)
            for index in range(first, len(jobs), n_threads):
                results[index] = inspector.inspect(*jobs[index])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return [result for result in results if result is not None]


@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_get_the_results_that_one_gets(
    n_threads: int,
    lite_inspector: Inspector,
    draw_part: Callable[..., NDArray[np.uint8]],
    good_parts: Images,
) -> None:
    profiles = [
        lite_inspector.enroll(good_parts[:2], "ring"),
        lite_inspector.enroll([255 - image for image in good_parts[2:]], "negative"),
    ]
    jobs = [(draw_part(n, defective=n % 3 == 0), profiles[n % 2]) for n in range(24)]
    jobs += [(image, profiles[1 - n % 2]) for n, (image, _) in enumerate(jobs)]
    expected = [lite_inspector.inspect(*job) for job in jobs]
    fresh = Inspector(lite_inspector.bundle, lite_inspector._backend)  # uploads race too

    results = _collect(fresh, jobs, n_threads)

    assert len(results) == len(jobs) == 48
    for result, one in zip(results, expected, strict=True):
        assert result.score == pytest.approx(one.score, abs=LOG_ATOL)
        assert result.verdict == one.verdict
        np.testing.assert_allclose(result.anomaly_map, one.anomaly_map, atol=LOG_ATOL, rtol=0)
    # the two profiles disagree, so that a mix-up would show
    assert abs(expected[1].score - expected[25].score) > 1.0


def test_a_bank_is_uploaded_once_however_many_threads_ask(
    numpy_inspector: Callable[..., Inspector], good_parts: Images
) -> None:
    inspector = numpy_inspector()
    profiles = [inspector.enroll(good_parts[:2], name) for name in ("one", "two")]
    inspector._backend.n_uploads = 0

    _collect(inspector, [(image, p) for image in good_parts for p in profiles] * 4, 4)

    assert inspector._backend.n_uploads == 2 * 4  # profiles x stages


def test_banks_go_when_their_profile_goes(
    numpy_inspector: Callable[..., Inspector], good_parts: Images
) -> None:
    inspector = numpy_inspector()
    profiles = [inspector.enroll(good_parts[:2], name) for name in ("one", "two")]
    uploaded: list[weakref.ref[NDArray[np.float32]]] = []
    upload = inspector._backend.upload_bank

    def remembered(bank: NDArray[np.float32]) -> NDArray[np.float32]:
        copy = upload(bank)
        uploaded.append(weakref.ref(copy))
        return copy

    inspector._backend.upload_bank = remembered
    for profile in profiles:
        inspector.inspect(good_parts[0], profile)
    assert len(inspector._banks) == 2
    del profile, profiles[0]

    assert [bank() is None for bank in uploaded] == [True] * 4 + [False] * 4
    assert list(inspector._banks) == profiles
    profiles.clear()

    assert not inspector._banks
    assert all(bank() is None for bank in uploaded)


def test_a_profile_may_go_while_its_banks_are_searched(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    """ONNX Runtime reads the bank from the profile's own memory on the CPU."""
    profile = lite_inspector.enroll(good_parts[1:3], "ring")
    banks = lite_inspector._device_banks(profile)
    encoding = lite_inspector._backend.encode(
        lite_inspector.bundle.manifest.preprocessing(good_parts[0]), profile.condition
    )
    before = [
        lite_inspector._backend.search(stage, features, bank)
        for stage, (features, bank) in enumerate(zip(encoding.features, banks, strict=True))
    ]
    del profile
    _ = [np.full((576, 64), 7.0, np.float32) for _ in range(20)]  # takes freed memory

    after = [
        lite_inspector._backend.search(stage, features, bank)
        for stage, (features, bank) in enumerate(zip(encoding.features, banks, strict=True))
    ]

    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_opening_what_is_no_bundle_is_a_wrong_call(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a bundle"):
        Inspector.open(tmp_path if kind == "folder" else tmp_path / "none")
