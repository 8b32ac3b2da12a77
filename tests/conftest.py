"""Fixtures that several components' tests share."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.config import Config, load_config
from cff_edge.heads import Head
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.run_files import new_net
from cff_runtime import Bundle, Inspector, Profile

IMAGE_SIZE = 96
PART_SIZE = (120, 150)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Keep PyTorch to the cores that CI has; more threads than cores are slower."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    yield


@pytest.fixture(scope="session")
def lite_backbone() -> Backbone:
    """EfficientNet-Lite0 with its ImageNet weights at 96 px: grids 12, 12, 6 and 3."""
    return load_backbone("efficientnet-lite0", "imagenet", IMAGE_SIZE, joint_dim=64)


def _make_head(backbone: Backbone, calibrator: str, seed: int = 0) -> Head:
    """Return a head in eval mode whose calibrators are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [stage.width for stage in backbone.info.stages]
        head = Head(widths, backbone.info.joint_dim, calibrator).eval()
        for module in head.calibrators.modules():
            for parameter in module.parameters(recurse=False):
                parameter.data += 0.05 * torch.randn_like(parameter)
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
    return head


@pytest.fixture(scope="session")
def make_head() -> Callable[..., Head]:
    """Return the factory ``make_head(backbone, calibrator, seed=0) -> Head``."""
    return _make_head


@pytest.fixture(scope="session")
def lite_config() -> Config:
    return load_config(None, [f"backbone.image_size={IMAGE_SIZE}", "backbone.joint_dim=64"])


@pytest.fixture(scope="session")
def lite_bundle(
    lite_backbone: Backbone, lite_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle with affine calibrators; read-only, copy it before damaging it."""
    from cff_export import ExportSettings, export_bundle

    head = _make_head(lite_backbone, "affine")
    out: Path = tmp_path_factory.mktemp("bundles") / "lite"
    return export_bundle(lite_backbone, head, lite_config, out, ExportSettings(("bottle",)))


@dataclass(frozen=True)
class ExportedTfa:
    """A bundle of TFA-Net and what it was made from."""

    backbone: Backbone
    net: TfaNet
    config: Config
    bundle: Bundle


@pytest.fixture(scope="session")
def tfa(lite_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> ExportedTfa:
    """A small network of random weights on EfficientNet-Lite0: 36 tokens of 64 values."""
    from cff_export import ExportSettings, export_bundle

    sizes = {"width": 64, "heads": 4, "refinement_width": 32, "refinement_heads": 2}
    blocks = {"aggregation_blocks": 2, "refinement_blocks": 1}
    options = [f"tfa.{name}={value}" for name, value in {**sizes, **blocks}.items()]
    backbone = [f"backbone.image_size={lite_backbone.info.image_size}", "backbone.joint_dim=64"]
    config = load_config(None, ["model.name=tfa-net", "train.seed=5", *backbone, *options])
    net = new_net(config, lite_backbone.info).eval()
    out = tmp_path_factory.mktemp("tfa") / "bundle"
    bundle = export_bundle(lite_backbone, net, config, out, ExportSettings(), ["ring"])
    return ExportedTfa(lite_backbone, net, config, bundle)


@pytest.fixture(scope="session")
def lite_inspector(lite_bundle: Bundle) -> Inspector:
    return Inspector.open(lite_bundle.path)


def _draw_part(seed: int, defective: bool = False) -> NDArray[np.uint8]:
    """Draw a noisy ring on a grey ground, RGB [120,150,3]; a defective one has a bright bar."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : PART_SIZE[0], 0 : PART_SIZE[1]]
    radius = np.hypot(y - 60 + rng.normal(0, 0.7), x - 75 + rng.normal(0, 0.7))
    grey = np.where((radius > 20) & (radius < 48), 170.0, 70.0)
    if defective:
        grey[52:60, 80:115] = 250.0
    noisy = grey[:, :, None] * np.array([1.0, 0.9, 0.8]) + rng.normal(0, 4, (*PART_SIZE, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw_part() -> Callable[..., NDArray[np.uint8]]:
    """Return the factory ``draw_part(seed, defective=False)`` of RGB images [120,150,3]."""
    return _draw_part


@pytest.fixture(scope="session")
def good_parts() -> list[NDArray[np.uint8]]:
    return [_draw_part(seed) for seed in range(4)]


@pytest.fixture(scope="session")
def bad_part() -> NDArray[np.uint8]:
    return _draw_part(100, defective=True)


@pytest.fixture(scope="session")
def lite_profile(lite_inspector: Inspector, good_parts: list[NDArray[np.uint8]]) -> Profile:
    return lite_inspector.enroll(good_parts, "ring")
