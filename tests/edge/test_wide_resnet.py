"""WideResNet50-2 as the trunk of the published TFA-Net; random weights, nothing is fetched."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import wide_resnet50_2

from cff_edge.backbones import Backbone, load_backbone
from cff_runtime.errors import UsageError

NAME = "wide_resnet50_2"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(NAME, "random", 64, 16)


def test_facts(backbone: Backbone) -> None:
    info = backbone.info
    assert [(s.tap, s.width, s.grid) for s in info.stages] == [
        ("stem", 64, (16, 16)),
        ("layer1", 256, (16, 16)),
        ("layer2", 512, (8, 8)),
        ("layer3", 1024, (4, 4)),
    ]
    assert (info.name, info.weights, info.activation) == (NAME, "random", "relu")
    assert (info.image_size, info.joint_dim, info.has_text_tower) == (64, 16, False)
    assert info.mean == pytest.approx((123.675, 116.28, 103.53))
    assert info.std == pytest.approx((58.395, 57.12, 57.375))
    assert backbone.unpadded_stem is None
    assert backbone.text_vectors("x").shape == (16, 2)
    assert not backbone.module.training
    assert not any(p.requires_grad for p in backbone.module.parameters())
    # published count of 68.88 M, less the fourth group (41.99 M) and the classifier (2.05 M)
    n_parameters = sum(p.numel() for p in backbone.module.parameters())
    assert n_parameters / 1e6 == pytest.approx(24.86, abs=0.05)


@torch.no_grad()
def test_stages_are_torchvisions(tmp_path: Path) -> None:
    """The whole network's state dict goes in; its own layers, called one by one, are the answer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = wide_resnet50_2(weights=None).eval()
    save_file(whole.state_dict(), tmp_path / "wide.safetensors")
    backbone = load_backbone(NAME, str(tmp_path / "wide.safetensors"), 64)
    assert (backbone.info.weights, backbone.info.licence) == (
        "file:wide.safetensors",
        "BSD-3-Clause",
    )
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    stages, embedding = backbone.module(image)
    assert embedding is None
    features = whole.bn1(torch.nn.functional.conv2d(image, whole.conv1.weight, None, 2, 3)).relu()
    features = torch.nn.functional.max_pool2d(features, 3, 2, 1)
    for stage, layer in zip(stages, (None, whole.layer1, whole.layer2, whole.layer3), strict=True):
        features = features if layer is None else layer(features)
        for row, column in ((0, 0), (1, 3), (3, 2)):
            token = row * features.shape[3] + column
            torch.testing.assert_close(stage[:, token], features[:, :, row, column])


def test_random_weights_keep_a_usual_magnitude_and_follow_the_seed(backbone: Backbone) -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for stage in backbone.module(image)[0]:
            assert 0.05 < stage.std().item() < 20
    other = load_backbone(NAME, "random", 64, 16, seed=1)
    assert other.info.weights_sha256 != backbone.info.weights_sha256
    assert load_backbone(NAME, "random", 64, 16).info == backbone.info


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("imagenet", {}, "must be 'random' or the path of a file"),
        ("random", {"image_size": 100}, "`image_size` must be a multiple of 16"),
        ("random", {"joint_dim": 1}, "`joint_dim` must be at least 2"),
        ("random", {"taps": (1, 2)}, "`taps` of wide_resnet50_2 must be left out"),
    ],
)
def test_wrong_arguments(weights: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(NAME, weights, **options)  # type: ignore[arg-type]


def test_other_networks_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="must hold the state dict of wide_resnet50_2"):
        load_backbone(NAME, str(tmp_path / "other.safetensors"))
    with pytest.raises(UsageError, match="leave out the part after the colon"):
        load_backbone(f"{NAME}:b", "random")
