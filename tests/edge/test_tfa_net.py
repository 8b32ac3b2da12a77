"""TFA-Net against an independent transcription of its description, and its published sizes."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cff_edge.backbones import Backbone, StageInfo
from cff_edge.config import load_config
from cff_edge.tfa_net import maps
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.masking import draw_masks
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.options import TfaConfig
from cff_runtime.errors import UsageError

TOLERANCE = 1e-4
STAGES = (
    StageInfo("a", 5, (8, 8)),
    StageInfo("b", 7, (4, 4)),
    StageInfo("c", 3, (2, 2)),
)
SMALL = TfaConfig(
    patch=2,
    width=24,
    heads=3,
    aggregation_blocks=2,
    refinement_width=16,
    refinement_heads=4,
    refinement_blocks=2,
)
PUBLISHED_STAGES = (
    StageInfo("stem", 64, (64, 64)),
    StageInfo("layer1", 256, (64, 64)),
    StageInfo("layer2", 512, (32, 32)),
    StageInfo("layer3", 1024, (16, 16)),
)
AGGREGATION = ("embedding", "class_token", "aggregation", "aggregation_norm")
REFINEMENT = ("narrow", "refinement", "refinement_norm", "prediction")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = Path(__file__).with_name("tfa_reference.py")
    spec = importlib.util.spec_from_file_location("tfa_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def net() -> TfaNet:
    """A network with random weights, biases and gains of usual size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = TfaNet(STAGES, SMALL)
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return net.eval()


def _stages(seed: int, n_images: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_images, s.grid[0] * s.grid[1], s.width, generator=generator) for s in STAGES
    ]


def _float64(net: TfaNet) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}


@torch.no_grad()
def test_network_equals_its_transcription(net: TfaNet, reference: ModuleType) -> None:
    state = _float64(net)
    fused = net.fuse(_stages(1, 2))
    expected = [
        reference.fuse([s[i].double().numpy() for s in _stages(1, 2)], [8, 4, 2], 8)
        for i in range(2)
    ]
    np.testing.assert_allclose(fused, np.stack(expected), atol=TOLERANCE)
    template = net.tokens(net.fuse(_stages(2)))[0]
    template_fused = reference.fuse([s[0].double().numpy() for s in _stages(2)], [8, 4, 2], 8)
    template_tokens = reference.embed(template_fused, state, 2)
    np.testing.assert_allclose(template, template_tokens, atol=TOLERANCE)
    found = net.reconstruct(net.tokens(fused), template)
    assert found.shape == (2, 15, 8, 8)
    for index, one in enumerate(expected):
        tokens = reference.embed(one, state, 2)
        rebuilt = reference.reconstruct(tokens, template_tokens, state, (2, 2), (3, 4), 2)
        assert np.abs(rebuilt).max() > 0.5  # something to agree on
        np.testing.assert_allclose(found[index], rebuilt, atol=TOLERANCE)
        for fusion in ("product", "weighted"):
            drawn = maps.anomaly_map(fused, found, (40, 40), fusion, 4.0)[index]
            wanted = reference.anomaly_map(one, rebuilt, 40, fusion, 4.0)
            np.testing.assert_allclose(drawn, wanted, atol=TOLERANCE)


@torch.no_grad()
def test_first_rows_alone_are_those_of_all(net: TfaNet) -> None:
    block = net.aggregation[0]
    tokens = torch.randn(2, 33, 24, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(block(tokens, 17), block(tokens)[:, :17], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_masked_tokens_are_the_mask_token(net: TfaNet, reference: ModuleType) -> None:
    tokens, template = net.tokens(net.fuse(_stages(4)))[0], net.tokens(net.fuse(_stages(5)))[0]
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, [0, 7, 15]] = True
    state = _float64(net)
    replaced = tokens.double().numpy().copy()
    replaced[[0, 7, 15]] = state["mask_token"][0, 0]
    expected = reference.reconstruct(replaced, template.double().numpy(), state, (2, 2), (3, 4), 2)
    found = net.reconstruct(tokens[None], template, mask)[0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_patches_go_forth_and_back(net: TfaNet) -> None:
    fused = torch.arange(2 * 15 * 64, dtype=torch.float32).view(2, 15, 8, 8)
    patches = net.patchify(fused)
    assert patches.shape == (2, 16, 60)
    # token 6 is row 1, column 2; its second cell is one to the right
    assert torch.equal(patches[1, 6, 15:30], fused[1, :, 2, 5])
    assert torch.equal(net.unpatchify(patches), fused)


def test_published_sizes() -> None:
    config = load_config(preset="tfa-net-published")
    with torch.device("meta"):
        net = TfaNet(PUBLISHED_STAGES, config.tfa)
    counts = dict.fromkeys((*AGGREGATION, *REFINEMENT), 0)
    for name, parameter in net.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    aggregation, refinement = (
        sum(counts[part] for part in parts) for parts in (AGGREGATION, REFINEMENT)
    )
    # convolution, bias and class token; blocks of 12 D^2 + 13 D; a norm
    assert aggregation == 1856 * 16 * 768 + 2 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    assert (round(aggregation / 1e6, 2), round(refinement / 1e6, 2)) == (107.86, 40.85)
    assert (net.n_channels, net.grid, net.n_tokens) == (1856, 64, 256)
    assert net.prediction.out_features == 29_696


def test_channels_are_normalised_when_asked() -> None:
    net = TfaNet(STAGES, dataclasses.replace(SMALL, feature_norm="channels"))
    plain = TfaNet(STAGES, dataclasses.replace(SMALL, feature_norm="none")).fuse(_stages(6))
    net.channel_mean.copy_(torch.linspace(-1, 1, 15))
    net.channel_std.copy_(torch.linspace(0.5, 2, 15))
    expected = (plain[0].numpy() - np.linspace(-1, 1, 15)[:, None, None]) / np.linspace(0.5, 2, 15)[
        :, None, None
    ]
    np.testing.assert_allclose(net.fuse(_stages(6))[0], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "sigma"), [(40, 57, 4.0), (5, 9, 4.0), (12, 3, 1.3)])
def test_blur_is_scipys(height: int, width: int, sigma: float) -> None:
    image = np.random.default_rng(0).random((height, width))
    found = maps.blur_matrix(height, sigma) @ image @ maps.blur_matrix(width, sigma).T
    np.testing.assert_allclose(found, gaussian_filter(image, sigma), atol=1e-12)


def test_no_blur_is_the_identity() -> None:
    np.testing.assert_array_equal(maps.blur_matrix(4, 0.0), np.eye(4))


def test_scores() -> None:
    anomaly = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]])
    np.testing.assert_allclose(maps.image_score(anomaly, "std"), [np.sqrt(5.0), 0.0])
    np.testing.assert_allclose(maps.image_score(anomaly, "max"), [7.0, 2.0])


def test_masks_have_the_shares_they_say() -> None:
    rng = np.random.default_rng(1)
    fraction = dataclasses.replace(SMALL, masking="fraction", mask_fraction=0.25)
    masks = draw_masks(rng, 50, 16, fraction)
    assert masks is not None
    assert (masks.sum(axis=1) == 4).all()
    assert (masks.any(axis=0)).all()  # any token may be hidden
    uniform = draw_masks(rng, 4000, 16, SMALL)
    assert uniform is not None
    counts = np.bincount(uniform.sum(axis=1), minlength=17) / 4000
    # round(16 u) of u in 0..1: the ends have half a share
    np.testing.assert_allclose(counts, [1 / 32, *[1 / 16] * 15, 1 / 32], atol=0.015)
    assert draw_masks(rng, 4, 16, dataclasses.replace(SMALL, masking="none")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, "`tfa.patch` must divide the grid of 8 cells, got 3"),
        ({"width": 26}, "`tfa.width` must be a multiple of 4"),
        ({"refinement_heads": 3}, "`tfa.refinement_heads`"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TfaNet(STAGES, dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=patchcore", "`model.name` must be one of cff, tfa-net"),
        ("tfa.masking=block", "`tfa.masking` must be one of uniform, fraction, none"),
        ("tfa.mask_fraction=1.5", "`tfa.mask_fraction` must be a probability"),
        ("tfa.held_out=1.0", r"`tfa.held_out` must be in \[0, 1\)"),
        ("tfa.heads=0", "`tfa.heads` must be above 0"),
        ("tfa.aggregation_blocks=0", "`tfa.aggregation_blocks` must be above 0"),
        ("tfa.hieght=3", "did you mean"),
    ],
)
def test_wrong_options_are_refused(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, [override], "tfa-net")


def test_keeping_the_best_needs_held_out_images() -> None:
    with pytest.raises(UsageError, match="must be above 0 for"):
        load_config(None, ["tfa.selection=held_out", "tfa.held_out=0"], "tfa-net")


def test_recipe_comes_with_the_name() -> None:
    by_preset = load_config(preset="tfa-net")
    assert load_config(None, ["model.name=tfa-net"]) == by_preset
    assert by_preset.train.adam_betas == (0.9, 0.95)
    assert by_preset.train.learning_rate == 5e-4
    assert load_config(preset="tfa-net-published").train.learning_rate == 1e-4
    assert load_config().train.adam_betas == (0.9, 0.999)


@torch.no_grad()
@pytest.mark.parametrize("normalization", ["like_input", "as_published"])
def test_detector_judges_on_a_template(small_backbone: Backbone, normalization: str) -> None:
    config = dataclasses.replace(SMALL, template_normalization=normalization)
    detector = TfaDetector(small_backbone, TfaNet(small_backbone.info.stages, config)).eval()
    images = torch.from_numpy(
        np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    )
    shifted = (images.permute(0, 3, 1, 2).double() - 127) / 128
    unit = images.permute(0, 3, 1, 2).double() / 255
    scaled = shifted if normalization == "like_input" else unit
    net = detector.net
    template = net.tokens(net.fuse(small_backbone.module(scaled.float())[0]))
    torch.testing.assert_close(detector.template(images), template, atol=1e-4, rtol=1e-4)
    found = detector(images, template[0])
    torch.testing.assert_close(found.features, template, atol=1e-4, rtol=1e-4)
    fused = net.fuse(small_backbone.module(shifted.float())[0])
    rebuilt = net.reconstruct(net.tokens(fused), template[0])
    expected = maps.anomaly_map(fused, rebuilt, (64, 64), "product", 4.0)
    torch.testing.assert_close(found.anomaly_map, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        detector.score(found.anomaly_map), torch.from_numpy(found.anomaly_map.numpy().std((1, 2)))
    )
