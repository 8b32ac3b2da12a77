"""SPADE against its formulas, written out in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cff_edge.backbones import load_backbone
from cff_peers.backbones import load_backbone as load_peer_backbone
from cff_peers.spade import Spade, SpadePeer

SIZE_PX = 48
SHAPES = ((6, 12), (9, 6), (10, 3))  # channels and side of the layers

Array = NDArray[np.float64]


@pytest.fixture
def pyramids() -> tuple[list[Tensor], Tensor]:
    """Feature maps of nine images: layers [9,E_l,h_l,w_l] and the deepest [9,14,2,3]."""
    generator = torch.Generator().manual_seed(5)
    layers = [torch.randn(9, width, side, side, generator=generator) for width, side in SHAPES]
    return layers, torch.randn(9, 14, 2, 3, generator=generator)


def upsample(grid: Array, size: int) -> Array:
    """Bilinear, centres at half pixels, the border repeated: a matrix on either side."""
    weights = np.zeros((size, len(grid)))
    for row in range(size):
        place = min(max((row + 0.5) * len(grid) / size - 0.5, 0.0), len(grid) - 1.0)
        low = min(int(place), len(grid) - 2)
        weights[row, low], weights[row, low + 1] = low + 1 - place, place - low
    return np.asarray(weights @ grid @ weights.T)


def brute_force(
    layers: list[Array], deepest: Array, image: int, references: list[int], n_neighbours: int
) -> tuple[float, Array]:
    """Return the score and map of one image by the formulas of the module."""
    pooled = deepest.mean(axis=(2, 3))
    distances = {r: float(np.linalg.norm(pooled[image] - pooled[r])) for r in references}
    nearest = sorted(references, key=lambda r: distances[r])[:n_neighbours]
    maps = []
    for layer in layers:
        side = layer.shape[2]
        gallery = np.stack(
            [layer[r, :, y, x] for r in nearest for y in range(side) for x in range(side)]
        )
        grid = np.zeros((side, side))
        for y in range(side):
            for x in range(side):
                grid[y, x] = np.linalg.norm(gallery - layer[image, :, y, x], axis=1).min()
        maps.append(upsample(grid, SIZE_PX))
    blurred = gaussian_filter(np.mean(maps, axis=0), 4.0, mode="reflect", truncate=4.0)
    return float(np.mean([distances[r] for r in nearest])), np.asarray(blurred)


@pytest.mark.parametrize(("n_references", "n_neighbours"), [(1, 50), (4, 50), (6, 2)])
def test_matches_the_formulas(
    pyramids: tuple[list[Tensor], Tensor], n_references: int, n_neighbours: int
) -> None:
    layers, deepest = pyramids
    spade = Spade([layer[:n_references] for layer in layers], deepest[:n_references], n_neighbours)
    scores, maps = spade.score([layer[6:] for layer in layers], deepest[6:], SIZE_PX)
    doubles = [layer.double().numpy() for layer in layers]
    for index in range(3):
        score, expected = brute_force(
            doubles, deepest.double().numpy(), 6 + index, list(range(n_references)), n_neighbours
        )
        assert scores[index].item() == pytest.approx(score, rel=1e-5)
        # Large tables of distances come from a product of matrices, which costs some digits.
        np.testing.assert_allclose(maps[index].numpy(), expected, rtol=1e-4)


def test_places_beyond_one_block_of_queries() -> None:
    """40 x 40 places are two blocks; the second must not be lost or repeated."""
    generator = torch.Generator().manual_seed(1)
    layer, deepest = torch.randn(3, 5, 40, 40, generator=generator), torch.ones(3, 2, 1, 1)
    _, maps = Spade([layer[:2]], deepest[:2]).score([layer[2:]], deepest[2:], 40)
    gallery = layer[:2].double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    queries = layer[2].double().permute(1, 2, 0).reshape(-1, 5).numpy()
    least = np.linalg.norm(queries[:, None] - gallery[None], axis=2).min(1).reshape(40, 40)
    expected = gaussian_filter(least, 4.0, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(maps[0].numpy(), expected, rtol=1e-4)


def test_a_reference_itself_is_normal(pyramids: tuple[list[Tensor], Tensor]) -> None:
    layers, deepest = pyramids
    spade = Spade([layer[:1] for layer in layers], deepest[:1])
    scores, maps = spade.score([layer[:2] for layer in layers], deepest[:2], SIZE_PX)
    assert scores[0] < 1e-5 < 0.1 < scores[1]
    # The root of a cancelled square: single precision leaves about 1e-3.
    assert maps[0].max() < 1e-2 < 0.5 < maps[1].min()


def test_the_embedded_backbone_gives_the_blocks_of_the_trunk() -> None:
    """Layers are the outputs of blocks 2, 4, 10 and 15, before any token is made of them."""
    peer = SpadePeer("efficientnet-lite0", torch.device("cpu"))
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    trunk = load_backbone("efficientnet-lite0", "imagenet", 256).module
    outputs: dict[int, Tensor] = {}
    for index in (2, 4, 10, 15):
        trunk.get_submodule(f"blocks.{index}").register_forward_hook(
            lambda _module, _inputs, output, index=index: outputs.update({index: output})
        )
    trunk(images)
    given = list(peer._extract(images).values())
    assert [tuple(layer.shape[1:]) for layer in given] == [
        (24, 64, 64),
        (40, 32, 32),
        (112, 16, 16),
        (320, 8, 8),
    ]
    for layer, output in zip(given, outputs.values(), strict=True):
        torch.testing.assert_close(layer, output)
    peer.fit(images, "any", seed=0)
    scores, maps = peer.score(images)
    assert scores.shape == (1,)
    assert maps.shape == (1, 256, 256)
    assert peer.facts["layers"] == ["blocks.2", "blocks.4", "blocks.10"]
    assert peer.facts["image_layer"] == "blocks.15"


def test_the_embedded_backbone_is_frozen_and_named() -> None:
    backbone = load_peer_backbone("efficientnet-lite0", torch.device("cpu"))
    info = load_backbone("efficientnet-lite0", "imagenet", 256).info
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert (backbone.input.mean, backbone.input.std) == (info.mean, info.std)
    assert backbone.facts["weights_sha256"] == info.weights_sha256
