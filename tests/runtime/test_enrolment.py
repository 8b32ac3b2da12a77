"""Profiles against a brute force in float64 that shares no code with the enrolment."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile
from cff_runtime.backends import open_backend
from cff_runtime.errors import BackendError, ImageError, UsageError
from cff_runtime.thresholds import augmentations

# log(1 + D / 0.01) turns the rounding of a cosine near 1, 1e-7 or two, into 100 times that a stage
LOG_ATOL = 1e-4

Images = list[NDArray[np.uint8]]
Encoded = tuple[list[NDArray[np.float64]], NDArray[np.float64], float | None]


def _encode(inspector: Inspector, image: NDArray[np.uint8], text: NDArray[np.float32]) -> Encoded:
    backend = inspector._backend
    encoding = backend.encode(image, text)
    features = [backend.download(handle).astype(np.float64) for handle in encoding.features]
    return features, encoding.map.astype(np.float64), encoding.score


def _map(inspector: Inspector, part: Encoded, bank_parts: list[Encoded]) -> NDArray[np.float64]:
    """Anomaly map by definition: all cosines at once, upsampled by PyTorch."""
    features, text_map, _ = part
    total = inspector.bundle.manifest.map.weight * text_map
    for number, stage in enumerate(inspector.bundle.manifest.stages):
        bank = np.concatenate([other[0][number] for other in bank_parts])
        plane = 1.0 - (features[number] @ bank.T).max(axis=1)
        if inspector.bundle.manifest.distance == "log":
            plane = np.log1p(np.maximum(plane, 0.0) / 0.01)
        grid = torch.from_numpy(plane).view(1, 1, *stage.grid)
        up = torch.nn.functional.interpolate(
            grid, text_map.shape, mode="bilinear", align_corners=True
        )
        total = total + up[0, 0].numpy()
    return total


def _brute_force(
    inspector: Inspector, images: Images, text: NDArray[np.float32]
) -> tuple[list[NDArray[np.float64]], list[float | None]]:
    """Maps and text scores in the documented order: references, then their augmentations."""
    resized = [inspector.bundle.manifest.preprocessing(image) for image in images]
    parts = [_encode(inspector, image, text) for image in resized]
    others = [[p for j, p in enumerate(parts) if j != i] or [parts[i]] for i in range(len(parts))]
    probes = list(zip(parts, others, strict=True)) if len(parts) > 1 else []
    for image, bank_parts in zip(resized, others, strict=True):
        probes += [(_encode(inspector, a, text), bank_parts) for a in augmentations(image)]
    maps = [_map(inspector, part, bank_parts) for part, bank_parts in probes]
    n_whole = len(parts) if len(parts) > 1 else 0
    b = len(maps[0]) // 16  # what an augmentation invents at the border does not count
    maps[n_whole:] = [anomaly_map[b:-b, b:-b] for anomaly_map in maps[n_whole:]]
    return maps, [part[2] for part, _ in probes]


@pytest.mark.parametrize("n_references", [1, 2, 4])
def test_scores_leave_one_image_out(
    n_references: int, lite_inspector: Inspector, good_parts: Images
) -> None:
    images = good_parts[:n_references]

    profile = lite_inspector.enroll(images, "ring", margin=0.25)

    maps, _ = _brute_force(lite_inspector, images, profile.condition)
    peaks = np.array([anomaly_map.max() for anomaly_map in maps])
    assert len(maps) == (5 * n_references if n_references > 1 else 4)
    np.testing.assert_allclose(profile.threshold.peaks, peaks, atol=LOG_ATOL, rtol=0)
    np.testing.assert_allclose(profile.threshold.scores, peaks, atol=LOG_ATOL, rtol=0)
    expected = (1.42 if n_references == 1 else 1.0) * peaks.max() * (1 + 0.25 / n_references**2)
    assert profile.threshold.value == pytest.approx(expected, abs=2 * LOG_ATOL)
    assert profile.threshold.pixel_value == pytest.approx(expected, abs=2 * LOG_ATOL)
    low = np.median(np.concatenate([anomaly_map.ravel() for anomaly_map in maps]))
    assert profile.display_range == pytest.approx((low, 2 * expected - low), abs=4 * LOG_ATOL)


def test_a_reference_does_not_search_its_own_rows(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    profile = lite_inspector.enroll(good_parts, "ring")

    for index, image in enumerate(good_parts):
        with_itself = lite_inspector.inspect(image, profile).score
        assert profile.threshold.scores[index] > with_itself + 1.0


def test_twins_are_each_others_neighbours(lite_inspector: Inspector, good_parts: Images) -> None:
    twins = lite_inspector.enroll([good_parts[0], good_parts[0].copy()], "ring")
    itself = lite_inspector.inspect(good_parts[0], twins).score

    np.testing.assert_allclose(twins.threshold.scores[:2], itself, atol=LOG_ATOL)


@pytest.mark.parametrize(("distance", "atol"), [("cosine", 1e-6), ("log", LOG_ATOL)])
@pytest.mark.parametrize("n_references", [1, 3])
def test_a_text_tower_halves_the_score(
    n_references: int,
    distance: str,
    atol: float,
    numpy_inspector: Callable[..., Inspector],
    good_parts: Images,
) -> None:
    inspector = numpy_inspector(text_tower=True, distance=distance)
    images = good_parts[:n_references]

    profile = inspector.enroll(images, "ring", margin=0.0)

    maps, text_scores = _brute_force(inspector, images, profile.condition)
    peaks = np.array([anomaly_map.max() for anomaly_map in maps])
    assert profile.peak_scale == pytest.approx(0.5 / peaks.max(), rel=atol / peaks.max())
    expected = 0.5 * (np.array(text_scores) + 0.5 / peaks.max() * peaks)
    score_atol = 0.5 * atol / peaks.max()
    np.testing.assert_allclose(profile.threshold.scores, expected, atol=score_atol)
    np.testing.assert_allclose(profile.threshold.peaks, peaks, atol=atol)
    factor = 1.42 if n_references == 1 else 1.0  # the image's own bank, without a margin
    assert profile.threshold.value == pytest.approx(factor * expected.max(), abs=2 * score_atol)
    assert profile.threshold.pixel_value == pytest.approx(factor * peaks.max(), abs=2 * atol)


@pytest.mark.parametrize("n_parts", [2, 4])
def test_the_promise_holds_for_exchangeable_parts(
    n_parts: int, numpy_inspector: Callable[..., Inspector]
) -> None:
    """Of parts drawn alike, at most one in K + 1 exceeds the references' largest own score.

    A reference scored against its own rows would score nothing, and nearly every part exceed it.
    """
    inspector = numpy_inspector()
    rng = np.random.default_rng(n_parts)
    n_trials, n_rejected = 150, 0
    for _ in range(n_trials):
        parts = list(rng.integers(0, 256, (n_parts + 1, 32, 32, 3), dtype=np.uint8))
        profile = inspector.enroll(parts[:-1], "noise")
        limit = max(profile.threshold.scores[:n_parts])
        n_rejected += inspector.inspect(parts[-1], profile).score > limit
        assert limit <= profile.threshold.value

    promised = 1 / (n_parts + 1)
    deviation = np.sqrt(promised * (1 - promised) / n_trials)
    assert 0.02 < n_rejected / n_trials < promised + 3 * deviation


def test_banks_hold_the_features_reference_by_reference(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images
) -> None:
    resize = lite_inspector.bundle.manifest.preprocessing
    parts = [_encode(lite_inspector, resize(image), lite_profile.condition) for image in good_parts]

    for stage, bank in enumerate(lite_profile.banks):
        expected = np.concatenate([features[stage] for features, _, _ in parts])
        assert bank.dtype == np.float32
        np.testing.assert_allclose(bank, expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-5)


def test_a_profile_states_where_it_comes_from(
    lite_inspector: Inspector, lite_profile: Profile
) -> None:
    assert lite_profile.product == "ring"
    assert lite_profile.n_references == lite_profile.threshold.n_parts == 4
    assert lite_profile.bundle_id == lite_inspector.bundle.manifest.id
    assert lite_profile.history[0]["n_references"] == 4
    assert lite_profile.history[0]["at"].endswith("+00:00")


def test_enrolling_twice_gives_the_same_profile(
    lite_inspector: Inspector, lite_profile: Profile, good_parts: Images
) -> None:
    again = lite_inspector.enroll(good_parts, "ring")

    assert again.threshold.value == pytest.approx(lite_profile.threshold.value, abs=1e-6)
    for one, other in zip(again.banks, lite_profile.banks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("product", "text_name", "expected"),
    [("bottle", None, "bottle"), ("ring", None, "object"), ("ring", "bottle", "bottle")],
)
def test_the_text_name_is_the_products_if_the_bundle_has_it(
    product: str,
    text_name: str | None,
    expected: str,
    lite_inspector: Inspector,
    good_parts: Images,
) -> None:
    profile = lite_inspector.enroll(good_parts[:1], product, text_name)

    assert profile.condition_name == expected
    np.testing.assert_array_equal(
        profile.condition, lite_inspector.bundle.condition_of_word(expected)
    )


def test_progress_counts_references_and_augmentations(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    calls: list[tuple[int, int]] = []

    lite_inspector.enroll(
        good_parts[:2], "ring", progress=lambda done, total: calls.append((done, total))
    )

    assert calls == [(number, 10) for number in range(1, 11)]


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_must_be_a_finite_share(
    margin: float, lite_inspector: Inspector, good_parts: Images
) -> None:
    with pytest.raises(UsageError, match="`margin` must be 0 to 100"):
        lite_inspector.enroll(good_parts, "ring", margin=margin)


@pytest.mark.parametrize(
    ("images", "expected"),
    [([], "at least one good part"), ("part.png", "must be a list"), ((), "at least one")],
)
def test_images_must_be_a_list_of_some(
    images: list, expected: str, lite_inspector: Inspector
) -> None:
    with pytest.raises(UsageError, match=expected):
        lite_inspector.enroll(images, "ring")


def test_a_single_array_is_no_list_of_images(lite_inspector: Inspector, good_parts: Images) -> None:
    with pytest.raises(ImageError, match=r"must have shape \(h, w, 3\)"):
        lite_inspector.enroll(good_parts[0], "ring")


@pytest.mark.parametrize("product", ["", "  ", "\t"])
def test_a_product_needs_a_name(
    product: str, lite_inspector: Inspector, good_parts: Images
) -> None:
    with pytest.raises(UsageError, match="`product` must be a name"):
        lite_inspector.enroll(good_parts, product)


def test_an_unknown_text_name_is_a_wrong_call(
    lite_inspector: Inspector, good_parts: Images
) -> None:
    with pytest.raises(UsageError, match="one of object, bottle"):
        lite_inspector.enroll(good_parts, "ring", text_name="screw")


def test_an_encoder_that_gives_nan_enrols_nothing(
    numpy_inspector: Callable[..., Inspector], good_parts: Images
) -> None:
    inspector = numpy_inspector()
    encode = inspector._backend.encode

    def broken(image: NDArray[np.uint8], text: NDArray[np.float32]) -> object:
        encoding = encode(image, text)
        return replace(encoding, map=np.full_like(encoding.map, np.nan))

    inspector._backend.encode = broken

    with pytest.raises(BackendError, match="must be finite"):
        inspector.enroll(good_parts, "ring")


def test_enrolling_leaves_nothing_on_the_device(lite_inspector: Inspector) -> None:
    """The banks of single references are not kept after the threshold is set."""
    backend = open_backend("onnxruntime", lite_inspector.bundle, {})
    inspector = Inspector(lite_inspector.bundle, backend)
    alive: list[int] = []
    upload = backend.upload_bank

    class Bank(list):
        def __init__(self, chunks: list) -> None:
            super().__init__(chunks)
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    backend.upload_bank = lambda bank: Bank(upload(bank))
    parts = [np.random.default_rng(s).integers(0, 256, (32, 32, 3), np.uint8) for s in (0, 1)]

    inspector.enroll(parts, "noise")

    assert alive == []
