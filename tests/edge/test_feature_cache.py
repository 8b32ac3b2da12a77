"""The feature cache: what it holds, when it computes, what it distrusts."""

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cff_edge.backbones import Backbone, BackboneInfo, StageInfo
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.heads import Head
from cff_runtime.errors import ImageError, StorageError

CPU = torch.device("cpu")


class _Trunk:
    """Counts the images that a backbone's trunk encodes."""

    def __init__(self, backbone: Backbone) -> None:
        self.n_images = 0
        self.handle = backbone.module.register_forward_hook(self._count)

    def _count(self, _module: object, inputs: tuple[Tensor], _output: object) -> None:
        self.n_images += len(inputs[0])


@pytest.fixture
def trunk(small_backbone: Backbone) -> Iterator[_Trunk]:
    counter = _Trunk(small_backbone)
    yield counter
    counter.handle.remove()


@pytest.fixture
def detector(small_backbone: Backbone) -> Detector:
    widths = [stage.width for stage in small_backbone.info.stages]
    return Detector(small_backbone, Head(widths, small_backbone.info.joint_dim)).eval()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five images of different content and size."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(5):
        pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _expected(backbone: Backbone, path: Path) -> list[Tensor]:
    """Encode one image with Pillow and the trunk alone."""
    with Image.open(path) as image:
        pixels = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), np.float32)
    normalized = (pixels - np.array(backbone.info.mean)) / np.array(backbone.info.std)
    with torch.inference_mode():
        batch = torch.from_numpy(normalized.transpose(2, 0, 1).astype(np.float32))[None]
        stages: list[Tensor] = backbone.module(batch)[0]
    return [stage[0] for stage in stages]


def test_entries_are_the_trunks_tokens_in_half_precision(
    small_backbone: Backbone, detector: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    cache.fill(images)
    assert len(_entries(tmp_path / "cache")) == 5
    order = [images[i] for i in (3, 0, 3)]
    stages = cache.load(order)
    for stage, info in zip(stages, small_backbone.info.stages, strict=True):
        assert stage.shape == (3, info.grid[0] * info.grid[1], info.width)
        assert stage.dtype == torch.float32
    for index, path in enumerate(order):
        for stage, tokens in zip(stages, _expected(small_backbone, path), strict=True):
            # half precision keeps 11 bits
            torch.testing.assert_close(stage[index], tokens, rtol=2**-10, atol=1e-4)
    stored = load_file(_entries(tmp_path / "cache")[0])
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_images_are_encoded_once(
    trunk: _Trunk, detector: Detector, images: list[Path], tmp_path: Path
) -> None:
    FeatureCache(tmp_path / "cache", detector, CPU).fill(images[:2])
    assert trunk.n_images == 2
    again = FeatureCache(tmp_path / "cache", detector, CPU)
    again.fill(images)
    again.load(images)
    assert trunk.n_images == 5


def test_a_head_plays_no_part(
    small_backbone: Backbone,
    trunk: _Trunk,
    detector: Detector,
    images: list[Path],
    tmp_path: Path,
) -> None:
    FeatureCache(tmp_path / "cache", detector, CPU).fill(images)
    widths = [stage.width for stage in small_backbone.info.stages]
    other = Detector(small_backbone, Head(widths, 32, "mlp", "default"))
    FeatureCache(tmp_path / "cache", other, CPU).fill(images)
    assert trunk.n_images == 5


def test_a_changed_image_gets_a_new_entry(
    small_backbone: Backbone,
    trunk: _Trunk,
    detector: Detector,
    images: list[Path],
    tmp_path: Path,
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    cache.fill(images)
    before = cache.load(images[:1])
    stamp = images[0].stat().st_mtime_ns
    Image.new("RGB", (40, 50), (200, 30, 30)).save(images[0])
    os.utime(images[0], ns=(stamp, stamp))
    cache.fill(images)
    assert trunk.n_images == 6
    after = cache.load(images[:1])
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(
        after[3][0], _expected(small_backbone, images[0])[3], rtol=2**-10, atol=1e-4
    )


def test_a_moved_image_keeps_its_entry(
    trunk: _Trunk, detector: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    cache.fill(images)
    cache.fill([images[2].rename(tmp_path / "moved.png")])
    assert trunk.n_images == 5


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "0" * 64},
        {"activation": "quick_gelu"},
        {"mean": (0.0, 0.0, 0.0)},
        {"image_size": 96},
    ],
)
def test_another_backbone_never_finds_an_entry(
    detector: Detector,
    images: list[Path],
    tmp_path: Path,
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    names = {cache._entry(path).name for path in images}
    monkeypatch.setattr(detector, "info", dataclasses.replace(detector.info, **change))
    other = FeatureCache(tmp_path / "cache", detector, CPU)
    assert names.isdisjoint(other._entry(path).name for path in images)


def _truncate(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-7])


def _of_something_else(entry: Path) -> None:
    save_file({"other": torch.zeros(2)}, entry)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _of_something_else,
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(b"not a safetensors file at all"),
        lambda entry: entry.unlink(),
    ],
    ids=["truncated", "of something else", "empty", "text", "deleted"],
)
@pytest.mark.parametrize("refill", [True, False])
def test_a_damaged_entry_is_computed_again(
    trunk: _Trunk,
    detector: Detector,
    images: list[Path],
    tmp_path: Path,
    damage: object,
    refill: bool,
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    cache.fill(images[:2])
    before = cache.load(images[:2])
    assert callable(damage)
    damage(cache._entry(images[1]))
    if refill:
        cache.fill(images[:2])
        assert trunk.n_images == 3
    after = cache.load(images[:2])
    assert trunk.n_images == 3
    for first, second in zip(before, after, strict=True):
        # alone or in a batch of two, convolutions may round differently
        torch.testing.assert_close(first, second, rtol=2**-9, atol=1e-3)


def test_interrupted_filling_continues_where_it_stopped(
    trunk: _Trunk,
    detector: Detector,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    with monkeypatch.context() as patch:
        patch.setattr("cff_edge.feature_cache._ENCODE_BATCH", 2)
        patch.setattr("cff_edge.feature_cache.load_image", _interrupted_after(3, images))
        with pytest.raises(KeyboardInterrupt):
            cache.fill(images)
    assert len(_entries(tmp_path / "cache")) == trunk.n_images == 2
    cache.fill(images)
    assert len(_entries(tmp_path / "cache")) == trunk.n_images == 5


def _interrupted_after(n_images: int, images: list[Path]) -> object:
    def load(path: Path) -> np.ndarray:
        if images.index(path) >= n_images:
            raise KeyboardInterrupt
        with Image.open(path) as image:
            return np.asarray(image)

    return load


def test_unusable_images_are_named(detector: Detector, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png` must be a readable PNG"):
        cache.fill([text])
    with pytest.raises(ImageError, match=r"gone\.png` must be a readable file"):
        cache.fill([tmp_path / "gone.png"])
    assert not _entries(tmp_path / "cache")


def test_a_full_disk_leaves_no_half_entry(
    detector: Detector, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match="No space left on device"):
            cache.fill(images)
    assert not _entries(tmp_path / "cache")


# --- embeddings, and images that are no files


class _Pooling(nn.Module):
    """Tokens by average pooling, and the mean colour as embedding."""

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        pooled = nn.functional.avg_pool2d(images, 4)
        return [pooled.flatten(2).transpose(1, 2)], images.mean(dim=(2, 3))


class _WithTextTower:
    unpadded_stem = None

    def __init__(self) -> None:
        self.module = _Pooling()
        self.info = BackboneInfo(
            name="pooling",
            weights="none",
            weights_sha256="",
            activation="none",
            image_size=16,
            mean=(120.0, 110.0, 100.0),
            std=(60.0, 65.0, 70.0),
            stages=(StageInfo("pool4", 3, (4, 4)),),
            joint_dim=3,
            has_text_tower=True,
            licence="none",
        )

    def text_vectors(self, product: str) -> Tensor:
        raise NotImplementedError


@pytest.fixture
def towered() -> Detector:
    return Detector(_WithTextTower(), Head([3], 3))


def test_embeddings_are_kept_in_full_precision(
    towered: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", towered, CPU)
    cache.fill(images)
    order = [images[i] for i in (3, 0)]
    embeddings = cache.load_embeddings(order)
    assert embeddings is not None
    for embedding, path in zip(embeddings, order, strict=True):
        with Image.open(path) as image:
            pixels = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), np.float64)
        expected = ((pixels - [120, 110, 100]) / [60, 65, 70]).mean(axis=(0, 1))
        np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_an_entry_without_embedding_is_computed_again(
    towered: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", towered, CPU)
    cache.fill(images)
    entry = cache._entry(images[1])
    old = load_file(entry)
    expected = old.pop("embedding")
    save_file(old, entry)  # as earlier versions wrote it
    found = cache.load_embeddings(images)
    assert found is not None
    torch.testing.assert_close(found[1], expected)
    assert "embedding" in load_file(entry)


def test_without_a_text_tower_there_are_no_embeddings(
    detector: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", detector, CPU)
    cache.fill(images[:1])
    assert cache.load_embeddings(images[:1]) is None
    assert cache.encode([np.zeros((30, 20, 3), np.uint8)])[1] is None


def test_encoded_images_are_those_of_the_files_and_not_stored(
    towered: Detector, images: list[Path], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache", towered, CPU)
    pixels = []
    for path in images:
        with Image.open(path) as image:
            pixels.append(np.asarray(image))
    stages, embedding = cache.encode(pixels)
    assert not _entries(tmp_path / "cache")
    cache.fill(images)
    assert (stages[0].shape, stages[0].dtype) == ((5, 16, 3), torch.float32)
    torch.testing.assert_close(stages[0], cache.load(images)[0], rtol=2**-10, atol=1e-6)
    assert embedding is not None
    assert not embedding.requires_grad
    stored = cache.load_embeddings(images)
    assert stored is not None
    torch.testing.assert_close(embedding, stored)
    with pytest.raises(ImageError, match="must be a uint8 array, got float64"):
        cache.encode([np.zeros((30, 20, 3))])  # type: ignore[list-item]
