"""open_clip backbones, against hooks, open_clip's own encoders and work by hand."""

import gc
import json
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cff_edge.backbones.open_clip import OpenClipBackbone
from cff_edge.prompts import prompts
from cff_runtime.errors import CffError, MissingDependencyError, UsageError

TINY = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 64,
        "layers": 8,
        "width": 64,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make `tiny` and `tiny-quickgelu` known to open_clip for this module alone."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    (folder / "tiny-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        open_clip.add_model_config(folder)
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a whole open_clip model, made without the code under test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return open_clip.create_model("tiny").eval()


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def backbone(checkpoint: str) -> OpenClipBackbone:
    return OpenClipBackbone("tiny", checkpoint)


def _images(size_px: int = 64) -> Tensor:
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_residual_stream_after_each_tap(
    model: Any, backbone: OpenClipBackbone
) -> None:
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        for block in model.visual.transformer.resblocks
    ]
    with torch.no_grad():
        model.encode_image(_images())
    for handle in handles:
        handle.remove()
    stages, _ = backbone.module(_images())
    assert [stage.tap for stage in backbone.info.stages] == ["block2", "block4", "block6", "block8"]
    for stage, tap in zip(stages, (2, 4, 6, 8), strict=True):
        assert stage.shape == (2, 16, 64)
        torch.testing.assert_close(stage, outputs[tap - 1][:, 1:], atol=1e-5, rtol=0)


def test_tokens_are_row_major(backbone: OpenClipBackbone) -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 16:32, 48:64] = 5.0  # row 1, column 3
    stem = backbone.unpadded_stem(images).flatten(2)[0]  # [E,N]
    assert int(stem.norm(dim=0).argmax()) == 1 * 4 + 3


def test_embedding_is_that_of_encode_image(model: Any, backbone: OpenClipBackbone) -> None:
    with torch.no_grad():
        expected = model.encode_image(_images())
    _, embedding = backbone.module(_images())
    assert embedding.shape == (2, 32)
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)


def test_taps_can_be_chosen(checkpoint: str, backbone: OpenClipBackbone) -> None:
    chosen = OpenClipBackbone("tiny", checkpoint, taps=(1, 4))
    assert [stage.tap for stage in chosen.info.stages] == ["block1", "block4"]
    stages, _ = chosen.module(_images())
    assert len(stages) == 2
    torch.testing.assert_close(stages[1], backbone.module(_images())[0][1])


def test_facts(backbone: OpenClipBackbone) -> None:
    info = backbone.info
    assert (info.name, info.weights) == ("open_clip:tiny", "file:tiny.safetensors")
    assert (info.image_size, info.joint_dim, info.has_text_tower) == (64, 32, True)
    assert [(stage.width, stage.grid) for stage in info.stages] == [(64, (4, 4))] * 4
    np.testing.assert_allclose(info.mean, [122.7709383, 116.7460125, 104.0937362], atol=1e-6)
    np.testing.assert_allclose(info.std, [68.5005327, 66.6321579, 70.3231630], atol=1e-6)
    assert info.licence == "unknown"
    stem = backbone.unpadded_stem
    assert (stem.padding, stem.kernel_size, stem.stride) == ((0, 0), (16, 16), (16, 16))
    assert not any(module.training for module in backbone.module.modules())
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize("size_px", [32, 96])
def test_position_embedding_is_resized(model: Any, checkpoint: str, size_px: int) -> None:
    resized = OpenClipBackbone("tiny", checkpoint, image_size=size_px)
    side = size_px // 16
    published = model.visual.positional_embedding.detach()  # [1+16,E]
    grid = published[1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    expected = torch.cat([published[:1], grid[0].flatten(1).T])  # [1+side*side,E]
    actual = resized.module.visual.positional_embedding  # type: ignore[union-attr]
    torch.testing.assert_close(actual, expected)
    assert resized.info.stages[0].grid == (side, side)
    assert resized.module(_images(size_px))[0][0].shape == (2, side * side, 64)


def test_text_vectors_match_a_float64_average(model: Any, backbone: OpenClipBackbone) -> None:
    tokenizer = open_clip.get_tokenizer("tiny")
    vectors = backbone.text_vectors("metal_nut")
    assert vectors.shape == (32, 2)
    for column, texts in enumerate(prompts("metal_nut")):
        with torch.no_grad():
            rows = model.encode_text(tokenizer(texts)).numpy().astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        mean = rows.sum(axis=0) / len(texts)
        np.testing.assert_allclose(vectors[:, column], mean / np.linalg.norm(mean), atol=1e-5)


def test_text_tower_can_be_released(checkpoint: str) -> None:
    backbone = OpenClipBackbone("tiny", checkpoint)
    before = backbone.text_vectors("bottle")
    tokens, _ = backbone.module(_images())
    text_weight = weakref.ref(backbone._clip.token_embedding.weight)  # type: ignore[union-attr]
    backbone.release_text_tower()
    gc.collect()
    assert text_weight() is None
    assert torch.equal(backbone.text_vectors("bottle"), before)
    assert torch.equal(backbone.module(_images())[0][3], tokens[3])
    with pytest.raises(CffError, match=r"text tower of open_clip:tiny must be loaded"):
        backbone.text_vectors("cable")


def test_a_product_is_encoded_once(
    backbone: OpenClipBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backbone.text_vectors("screw")
    monkeypatch.setattr(backbone, "_encode", None)
    second = backbone.text_vectors("screw")
    assert torch.equal(first, second)
    second.zero_()  # a caller's copy
    assert torch.equal(backbone.text_vectors("screw"), first)


@pytest.mark.parametrize("nested", [False, True])
def test_torch_checkpoints_give_the_same_weights(
    model: Any, backbone: OpenClipBackbone, tmp_path: Path, nested: bool
) -> None:
    state = model.state_dict()
    path = tmp_path / "own.pt"
    torch.save({"epoch": 1, "state_dict": state} if nested else state, path)
    loaded = OpenClipBackbone("tiny", str(path))
    assert loaded.info.weights == "file:own.pt"
    assert loaded.info.weights_sha256 == backbone.info.weights_sha256
    assert torch.equal(loaded.text_vectors("screw"), backbone.text_vectors("screw"))


def test_random_weights_follow_their_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = OpenClipBackbone("tiny", "random", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = OpenClipBackbone("tiny", "random", seed=3)
    assert first.info.weights == "random"
    assert first.info.weights_sha256 == again.info.weights_sha256
    assert torch.equal(first.text_vectors("screw"), again.text_vectors("screw"))
    other = OpenClipBackbone("tiny", "random", seed=4)
    assert first.info.weights_sha256 != other.info.weights_sha256


def test_activation_is_read_from_the_model(checkpoint: str, backbone: OpenClipBackbone) -> None:
    quick = OpenClipBackbone("tiny-quickgelu", checkpoint)
    assert (backbone.info.activation, quick.info.activation) == ("gelu", "quick_gelu")
    assert backbone.info.weights_sha256 == quick.info.weights_sha256
    assert not torch.allclose(backbone.module(_images())[1], quick.module(_images())[1], atol=1e-5)


def test_a_tag_brings_its_normalisation_and_licence(
    checkpoint: str, backbone: OpenClipBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = {"file": checkpoint, "quick_gelu": True, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", {"openai": tag, "other_b8": tag})
    # open_clip says it where weights were trained with another activation; the name decides.
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        openai = OpenClipBackbone("tiny", "openai", image_size=96)
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        other = OpenClipBackbone("tiny", "other-b8")
    assert (openai.info.weights, openai.info.licence) == ("openai", "MIT")
    assert (other.info.weights, other.info.licence) == ("other_b8", "unknown")
    np.testing.assert_allclose(openai.info.mean + openai.info.std, [127.5] * 3 + [51.0] * 3)
    assert openai.info.stages[0].grid == (6, 6)
    assert other.info.weights_sha256 == backbone.info.weights_sha256
    with pytest.raises(UsageError, match="got 'opena1'; tags of this model are openai"):
        OpenClipBackbone("tiny", "opena1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "ResNet, which has no patch tokens"),
        ("ViT-B-16-SigLIP", "vit_base_patch16_siglip_224 of timm"),
        ("ViT-L14-336", "no model of this name; the nearest usable names are .*ViT-L-14-336"),
        ("", "no model of this name; the nearest usable names are ViT-B-16"),
    ],
)
def test_models_without_patch_tokens_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        OpenClipBackbone(name, "random")


@pytest.mark.parametrize("size_px", [0, 8, 70, -16])
def test_impossible_image_sizes_are_refused(size_px: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of the patch size 16, got {size_px}"):
        OpenClipBackbone("tiny", "random", image_size=size_px)


@pytest.mark.parametrize("taps", [(), (4, 2), (2, 2), (0, 4), (2, 9)])
def test_impossible_taps_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"`taps` must be ascending .* in 1\.\.8"):
        OpenClipBackbone("tiny", "random", taps=taps)


def test_joint_dim_is_fixed_by_the_model(checkpoint: str) -> None:
    assert OpenClipBackbone("tiny", checkpoint, joint_dim=32).info.joint_dim == 32
    with pytest.raises(UsageError, match="`joint_dim` must be 32"):
        OpenClipBackbone("tiny", checkpoint, joint_dim=512)


def test_unusable_files_are_refused(model: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    for path in (other, broken):
        with pytest.raises(UsageError, match=f"`{path}` does not fit it; choose another file"):
            OpenClipBackbone("tiny", str(path))
    scripted = tmp_path / "ViT-L-14-336px.pt"
    with zipfile.ZipFile(scripted, "w") as archive:
        archive.writestr("ViT/constants.pkl", b"")
    with pytest.raises(UsageError, match="TorchScript archive"):
        OpenClipBackbone("tiny", str(scripted))
    with pytest.raises(UsageError, match="tags of this model are none"):
        OpenClipBackbone("tiny", str(tmp_path / "absent.pt"))


def test_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", {"openai": {"url": "x"}})
    monkeypatch.setattr(factory, "download_pretrained", fail)
    with pytest.raises(CffError, match="no route to host; check the network") as caught:
        OpenClipBackbone("tiny", "openai")
    assert not isinstance(caught.value, UsageError)


def test_missing_tokenizer_package_is_named(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    backbone = OpenClipBackbone("tiny", checkpoint)
    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(MissingDependencyError, match="pip install transformers"):
        backbone.text_vectors("bottle")
