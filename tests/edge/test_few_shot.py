"""The few-shot detector: banks, text maps, scores, and agreement with the runtime's enrolment."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import cff_edge.few_shot as few_shot
from cff_edge.backbones import Backbone, BackboneInfo, StageInfo
from cff_edge.config import Config, HeadConfig
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.few_shot import (
    FewShotDetector,
    distance_map,
    measure_peak_scale,
    nearest_cosine,
    transductive_scores,
)
from cff_edge.heads import Head
from cff_runtime import Inspector, Profile
from cff_runtime.errors import ImageError, UsageError

Array = NDArray[np.float64]
CPU = torch.device("cpu")
SIZE_PX = 11

INFO = BackboneInfo(
    name="drawn",
    weights="none",
    weights_sha256="",
    activation="none",
    image_size=SIZE_PX,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    stages=(StageInfo("a", 5, (3, 4)), StageInfo("b", 7, (2, 2))),
    joint_dim=6,
    has_text_tower=True,
    licence="none",
)


def _stages(n: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, 12, 5), (n, 4, 7)]
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def _head(calibrator: str = "affine", seed: int = 0) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head([5, 7], 6, calibrator, "default").eval()
        for parameter in head.calibrators.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return head


def _text() -> Tensor:
    """Two close unit vectors, so that probabilities are not all 0 or 1."""
    rng = np.random.default_rng(1)
    normal = rng.normal(size=6)
    text = np.stack([normal, normal + 0.1 * rng.normal(size=6)], axis=1)
    return torch.from_numpy((text / np.linalg.norm(text, axis=0)).astype(np.float32))


def _unit(array: Array) -> Array:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _upsample(plane: Array, size: tuple[int, int]) -> Array:
    """Bilinear with aligned corners, one axis after the other."""
    for n_out in size:
        position = np.linspace(0, len(plane) - 1, n_out)
        columns = [np.interp(position, np.arange(len(plane)), column) for column in plane.T]
        plane = np.stack(columns, axis=0)  # the axes change places
    return plane


def _calibrated(head: Head, stages: list[Tensor]) -> list[Array]:
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    out = []
    for stage, tokens in enumerate(stages):
        x = tokens.double().numpy()
        for part in ("projectors", "calibrators"):
            if f"{part}.{stage}.weight" in state:
                x = x @ state[f"{part}.{stage}.weight"].T + state[f"{part}.{stage}.bias"]
        out.append(x)
    return out


def _config(bank: str = "calibrated", **changes: Any) -> HeadConfig:
    fields = {"projector_init": "default", "text_weight": 0.3, "bank": bank, **changes}
    return HeadConfig(**fields)


def _brute_force(
    head: Head, config: HeadConfig, references: list[Tensor] | None, stages: list[Tensor]
) -> Array:
    """Maps [B,H,W] by loops over images in float64."""
    text = _text().double().numpy()
    calibrated, grids = _calibrated(head, stages), [(3, 4), (2, 2)]
    size = (SIZE_PX, SIZE_PX)
    maps = []
    for image in range(len(stages[0])):
        own = [stage[image] for stage in calibrated]
        if config.text_map == "features":
            # to the finest grid, as planes, one by one
            coarse = own[1].reshape(2, 2, 6)
            fine = np.stack([_upsample(coarse[..., c], (3, 4)) for c in range(6)], axis=-1)
            summed, scale = [(own[0] + fine.reshape(12, 6), (3, 4))], 2.0
        else:
            summed, scale = list(zip(own, grids, strict=True)), 1.0
        total = np.zeros(size)
        for features, grid in summed:
            logits = 100.0 * _unit(features) @ text
            planes = [_upsample(logits[:, k].reshape(grid), size) for k in range(2)]
            total += scale / (1.0 + np.exp(planes[0] - planes[1]))
        if references is not None:
            total *= config.text_weight
            banked = [r.double().numpy() for r in references]
            searched = [s.double().numpy() for s in stages]
            if config.bank == "calibrated":
                banked, searched = _calibrated(head, references), calibrated
            for bank, tokens, grid in zip(banked, searched, grids, strict=True):
                rows = _unit(bank.reshape(-1, bank.shape[-1]))
                plane = (1.0 - _unit(tokens[image]) @ rows.T).min(axis=1)
                if config.distance == "log":
                    plane = np.log1p(plane / 0.01)
                total += _upsample(plane.reshape(grid), size)
        maps.append(total)
    return np.stack(maps)


@pytest.mark.parametrize("bank", ["calibrated", "raw"])
@pytest.mark.parametrize("distance", ["cosine", "log"])
@pytest.mark.parametrize("text_map", ["maps", "features"])
@pytest.mark.parametrize("calibrator", ["none", "affine"])
def test_maps_equal_brute_force(bank: str, distance: str, text_map: str, calibrator: str) -> None:
    head = _head(calibrator)
    config = _config(bank, calibrator=calibrator, distance=distance, text_map=text_map)
    detector = FewShotDetector(INFO, head, config, _text())
    references, stages = _stages(3, 1), _stages(2, 2)
    zero_shot = detector.score(stages, None)
    expected = _brute_force(head, config, None, stages)
    assert expected.std() > 0.05
    np.testing.assert_allclose(zero_shot.maps, expected, atol=2e-5)
    detector.fit(references)
    found = detector.score(stages, None)
    assert (found.maps.shape, found.maps.dtype) == ((2, SIZE_PX, SIZE_PX), torch.float32)
    assert found.text_scores is None
    np.testing.assert_allclose(
        found.maps, _brute_force(head, config, references, stages), atol=2e-5
    )


@pytest.mark.parametrize(
    "changes", [{"bank": "raw"}, {"text_map": "features"}, {"distance": "cosine"}]
)
def test_kinds_of_bank_text_map_and_distance_differ(changes: dict[str, str]) -> None:
    maps = []
    for config in (_config(), _config(**changes)):
        detector = FewShotDetector(INFO, _head(), config, _text())
        detector.fit(_stages(3, 1))
        maps.append(detector.score(_stages(2, 2), None).maps)
    assert (maps[0] - maps[1]).abs().max() > 0.05


def test_the_logarithm_of_no_distance_is_none() -> None:
    """Rounding may leave a token a hair beyond its own twin; NaN must not become a distance."""
    nearest = torch.tensor([[1.0, 1.0 + 3e-7, 0.99, float("nan")]])
    assert nearest[0, 1] > 1.0
    found = distance_map(nearest, (1, 4), (1, 4), "log")
    assert found.shape == (1, 1, 4)
    assert found[0, 0, :2].tolist() == [0.0, 0.0]
    assert found[0, 0, 2].item() == pytest.approx(math.log(2.0), abs=1e-5)
    assert torch.isnan(found[0, 0, 3])


@pytest.mark.parametrize("text_map", ["maps", "features"])
def test_the_text_map_has_one_range(text_map: str) -> None:
    config = _config(text_weight=1.0, text_map=text_map)
    text = _text()
    certain = torch.stack([-text[:, 1], text[:, 1]], dim=1)
    head = _head("none")
    for projector in head.projectors:  # every token becomes the abnormal vector
        projector.weight.data.zero_()
        projector.bias.data.copy_(text[:, 1])
    maps = FewShotDetector(INFO, head, config, certain).score(_stages(1, 0), None).maps
    np.testing.assert_allclose(maps, 2.0, atol=1e-6)  # S


@pytest.mark.parametrize("bank", ["calibrated", "raw"])
@pytest.mark.parametrize(("distance", "rounding"), [("cosine", 1e-6), ("log", 1e-4)])
def test_a_reference_against_its_own_bank_is_zero(
    bank: str, distance: str, rounding: float
) -> None:
    """Apart from the cosine's rounding, 100 times that of which the logarithm makes."""
    config = _config(bank, text_weight=0.0, distance=distance)
    detector = FewShotDetector(INFO, _head(), config, _text())
    references = _stages(3, 1)
    detector.fit(references)
    assert detector.score(references, None).maps.abs().max() < rounding
    assert detector.score(_stages(1, 5), None).maps.min() > 1e-3


def test_fit_replaces_the_banks() -> None:
    detector = FewShotDetector(INFO, _head(), HeadConfig(text_weight=0.0), _text())
    detector.fit(_stages(3, 1))
    first = detector.score(_stages(2, 2), None).maps
    detector.fit(_stages(1, 7))
    assert not torch.equal(detector.score(_stages(2, 2), None).maps, first)
    detector.fit(_stages(3, 1))
    assert torch.equal(detector.score(_stages(2, 2), None).maps, first)
    with pytest.raises(UsageError, match="at least one reference, got none"):
        detector.fit(_stages(0, 1))


@pytest.mark.parametrize("rows", [1, 5, 36, 1000])
def test_chunks_of_any_size_find_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, bank = _unit(rng.normal(size=(2, 7, 9))), _unit(rng.normal(size=(36, 9)))
    monkeypatch.setattr(few_shot, "_CHUNK_ROWS", rows)
    found = nearest_cosine(torch.from_numpy(features), torch.from_numpy(bank))
    np.testing.assert_allclose(found, (features @ bank.T).max(axis=-1), atol=1e-14)


def test_no_tensor_is_as_large_as_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Counting(torch.Tensor):
        def __matmul__(self, other: Tensor) -> Tensor:
            nonlocal largest
            product = torch.matmul(self.as_subclass(torch.Tensor), other)
            largest = max(largest, product.numel())
            return product

    monkeypatch.setattr(few_shot, "_CHUNK_ROWS", 50)
    nearest_cosine(torch.randn(2, 30, 4).as_subclass(Counting), torch.randn(1000, 4))
    assert 0 < largest <= 2 * 30 * 50


def test_text_scores_are_those_of_the_embedding() -> None:
    embedding = _stages(3, 4)[0][:, 0, :1] * torch.ones(6) + 0.2 * torch.randn(
        3, 6, generator=torch.Generator().manual_seed(0)
    )
    found = FewShotDetector(INFO, _head(), HeadConfig(), _text()).score(_stages(3, 1), embedding)
    logits = 100.0 * _unit(embedding.double().numpy()) @ _text().double().numpy()
    expected = 1.0 / (1.0 + np.exp(logits[:, 0] - logits[:, 1]))
    assert found.text_scores is not None
    np.testing.assert_allclose(found.text_scores, expected, atol=1e-5)


# --- image scores


def test_transductive_scores_follow_the_formula() -> None:
    peaks, text = np.array([1.0, 5.0, 2.0], np.float32), np.array([0.9, 0.1, 0.4])
    np.testing.assert_allclose(transductive_scores(peaks, text), [0.45, 0.55, 0.325], atol=1e-7)
    np.testing.assert_array_equal(transductive_scores(np.ones(2), np.array([0.2, 1.0])), [0.1, 0.5])


@pytest.mark.parametrize(("peaks", "text"), [([], []), ([1.0, 2.0], [0.5]), ([[1.0]], [[1.0]])])
def test_transductive_scores_need_every_image(peaks: object, text: object) -> None:
    with pytest.raises(UsageError, match="must both have shape"):
        transductive_scores(np.array(peaks), np.array(text))


@pytest.fixture(scope="module")
def lite(
    lite_backbone: Backbone,
    lite_config: Config,
    make_head: Callable[..., Head],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[FewShotDetector, FeatureCache]:
    """The detector whose head `lite_bundle` carries, and a cache that encodes for it."""
    head = make_head(lite_backbone, "affine")
    detector = Detector(lite_backbone, head).eval()
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), detector, CPU)
    text = lite_backbone.text_vectors("object")
    return FewShotDetector(lite_backbone.info, head, lite_config.head, text), cache


@pytest.mark.parametrize("n_references", [1, 3])
def test_peak_scale_is_that_of_enrolment(
    lite: tuple[FewShotDetector, FeatureCache],
    lite_inspector: Inspector,
    good_parts: list[NDArray[np.uint8]],
    n_references: int,
) -> None:
    detector, cache = lite
    references = good_parts[:n_references]
    profile = lite_inspector.enroll(references, "ring")
    scale = measure_peak_scale(detector, cache, references)
    assert scale == pytest.approx(profile.peak_scale, rel=1e-4)


def test_maps_are_those_of_the_runtime(
    lite: tuple[FewShotDetector, FeatureCache],
    lite_inspector: Inspector,
    lite_profile: Profile,
    good_parts: list[NDArray[np.uint8]],
    bad_part: NDArray[np.uint8],
) -> None:
    detector, cache = lite
    detector.fit(cache.encode(good_parts)[0])
    before = detector.score(cache.encode([bad_part])[0], None).maps
    expected = lite_inspector.inspect(bad_part, lite_profile).anomaly_map
    np.testing.assert_allclose(before[0], expected, atol=1e-4)
    measure_peak_scale(detector, cache, good_parts[:2])
    after = detector.score(cache.encode([bad_part])[0], None).maps
    assert torch.equal(before, after)  # the banks are those of `fit` still


def test_peak_scale_needs_images(lite: tuple[FewShotDetector, FeatureCache]) -> None:
    with pytest.raises(UsageError, match="at least one image, got none"):
        measure_peak_scale(*lite, [])
    with pytest.raises(ImageError, match="must be a uint8 array"):
        measure_peak_scale(*lite, [np.zeros((64, 64, 3), np.float32)])  # type: ignore[list-item]
