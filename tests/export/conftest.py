"""Exported bundles of both backbone families, each made once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import open_clip
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from open_clip import factory

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.config import Config, load_config
from cff_edge.heads import Head
from cff_export import ExportSettings, export_bundle
from cff_runtime import Bundle

Image = NDArray[np.uint8]
VIT = "open_clip:tiny-export"
VIT_SIZE_PX = 64

_VIT_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": VIT_SIZE_PX,
        "layers": 4,
        "width": 48,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Exported:
    """A bundle and what it was made from."""

    backbone: Backbone
    head: Head
    config: Config
    bundle: Bundle


@pytest.fixture(scope="session", autouse=True)
def _one_thread(_few_threads: None) -> Iterator[None]:
    """Models as small as these lose by a second thread, and much on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def vit_name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make a tiny vision transformer known to open_clip; return its name."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{VIT.removeprefix('open_clip:')}.json").write_text(json.dumps(_VIT_CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        open_clip.add_model_config(folder)
        yield VIT


@pytest.fixture(scope="session")
def vit_backbone(vit_name: str) -> Backbone:
    """A vision transformer of random weights: four grids of 4 x 4, C = 32, a text tower."""
    return load_backbone(vit_name, "random", VIT_SIZE_PX, seed=1)


@pytest.fixture(scope="session")
def vit_config(vit_name: str) -> Config:
    named = [f"backbone.name={vit_name}", "backbone.weights=random", "train.seed=1"]
    return load_config(None, [*named, f"backbone.image_size={VIT_SIZE_PX}"])


@pytest.fixture(scope="session")
def exported(
    lite_backbone: Backbone,
    lite_config: Config,
    lite_bundle: Bundle,
    vit_backbone: Backbone,
    vit_config: Config,
    make_head: Callable[..., Head],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Exported]:
    """Return ``exported(family, calibrator)`` with family `lite` or `vit`; bundles are shared."""
    made: dict[tuple[str, str], Exported] = {}
    folder = tmp_path_factory.mktemp("exported")

    def export(family: str, calibrator: str) -> Exported:
        key = (family, calibrator)
        if key in made:
            return made[key]
        backbone = lite_backbone if family == "lite" else vit_backbone
        base = lite_config if family == "lite" else vit_config
        overrides = [f"head.calibrator={calibrator}"]
        config = load_config(None, [*_as_overrides(base), *overrides])
        head = make_head(backbone, calibrator)
        if key == ("lite", "affine"):
            bundle = lite_bundle
        else:
            out = folder / "-".join(key)
            bundle = export_bundle(backbone, head, config, out, ExportSettings(), ["ring"])
        made[key] = Exported(backbone, head, config, bundle)
        return made[key]

    return export


def _as_overrides(config: Config) -> list[str]:
    backbone = config.backbone
    return [
        f"backbone.name={backbone.name}",
        f"backbone.weights={backbone.weights}",
        f"backbone.image_size={backbone.image_size}",
        f"backbone.joint_dim={backbone.joint_dim}",
        f"train.seed={config.train.seed}",
    ]


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bundle], None]:
    """Return a function that lets `torch.onnx.export` give the graph of a bundle already made.

    Tracing a model takes seconds; what is made of the traced graph does not.
    """

    def use(bundle: Bundle) -> None:
        path = bundle.path / bundle.manifest.encoder

        def export(*_arguments: object, **_options: object) -> SimpleNamespace:
            model = ir.load(path)
            for node in model.graph:  # as PyTorch marks them, see `cff_export.graphs`
                module = (node.name or "").partition("/")[0]
                scopes = ["", "operator"] if module == "encoder" else ["", module, "operator"]
                node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(scopes)
            return SimpleNamespace(model=model)

        monkeypatch.setattr(torch.onnx, "export", export)

    return use


@pytest.fixture(scope="session")
def photos() -> dict[str, Image]:
    """Crops of photographs, RGB, of several sizes and aspect ratios."""
    names = ("astronaut", "coffee", "chelsea", "rocket")
    astronaut, coffee, cat, rocket = (getattr(skimage.data, name)() for name in names)
    return {
        "face": astronaut[0:256, 100:356],
        "face, moved": astronaut[6:262, 94:350],
        "face, narrow": astronaut[10:250, 130:330],
        "flag": astronaut[250:500, 0:180],
        "coffee": coffee[40:360, 100:500],
        "cat": cat,
        "rocket": rocket[0:300, 200:500],
    }
