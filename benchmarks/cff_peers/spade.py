"""SPADE, a reference of our own: anomalib has none.

Cohen and Hoshen, *Sub-Image Anomaly Detection with Deep Pyramid Correspondences* (2020). With
F(x) the mean over the deepest feature map, N(y) the kappa reference images x whose F(x) lie nearest
to F(y), and f_l(x, p) the feature of layer l at place p:

    image score   s(y)      = mean over x in N(y) of ||F(y) - F(x)||
    place         d_l(y, p) = min over x in N(y) and all places q of ||f_l(y, p) - f_l(x, q)||
    map           m(y)      = G * mean over l of up(d_l(y))

up is bilinear to the image's size, G a Gaussian of 4 px; norms are Euclidean. kappa is 50, which in
a few-shot job is all the references. Two choices of later practice: distances are taken in each
layer alone and averaged, and the image is used whole instead of its centre.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from cff_peers.backbones import load_backbone
from cff_peers.peer import MAP_SIZE_PX, InputSpec

N_NEIGHBOURS = 50
BLUR_SIGMA_PX = 4.0
_BLUR_TAPS = 33  # out to four sigma
_QUERIES_AT_ONCE = 1024  # bounds the table of distances: 64 MB for 4 references at 64 x 64


class Spade:
    """SPADE over the feature maps of any network.

    Parameters
    ----------
    layers : sequence of L Tensors of shape (K, E_l, h_l, w_l), float32
        Feature maps of the K references.
    deepest : Tensor of shape (K, E, h, w), float32
        The map whose mean stands for the whole image.
    n_neighbours : int, default=50
        kappa; all K references where there are no more.
    """

    def __init__(
        self, layers: Sequence[Tensor], deepest: Tensor, n_neighbours: int = N_NEIGHBOURS
    ) -> None:
        self._layers = [layer.flatten(2).transpose(1, 2) for layer in layers]  # [K,N_l,E_l]
        self._embeddings = deepest.mean((2, 3))  # [K,E]
        self._n_neighbours = min(n_neighbours, len(deepest))

    def score(
        self, layers: Sequence[Tensor], deepest: Tensor, size_px: int
    ) -> tuple[Tensor, Tensor]:
        """Score images by their feature maps.

        Parameters
        ----------
        layers : sequence of L Tensors of shape (B, E_l, h_l, w_l), float32
        deepest : Tensor of shape (B, E, h, w), float32
        size_px : int
            Side of the square maps to return.

        Returns
        -------
        scores : Tensor of shape (B,), float32
        maps : Tensor of shape (B, size_px, size_px), float32, on the CPU
        """
        all_distances = torch.cdist(deepest.mean((2, 3)), self._embeddings)  # [B,K]
        distances, nearest = all_distances.topk(self._n_neighbours, largest=False)  # [B,kappa]
        maps = [
            self._map([layer[image] for layer in layers], nearest[image], size_px)
            for image in range(len(deepest))
        ]
        return distances.mean(1), torch.stack(maps)

    def _map(self, layers: Sequence[Tensor], nearest: Tensor, size_px: int) -> Tensor:
        """Return the map [size,size] of one image from its layers [E_l,h_l,w_l]."""
        total = torch.zeros(size_px, size_px)
        for layer, references in zip(layers, self._layers, strict=True):
            gallery = references[nearest].flatten(0, 1)  # [kappa,N_l,E_l] -> [kappa*N_l,E_l]
            queries = torch.split(layer.flatten(1).T, _QUERIES_AT_ONCE)  # parts of [N_l,E_l]
            least = torch.cat([torch.cdist(part, gallery).amin(1) for part in queries])
            grid = least.reshape(1, 1, *layer.shape[1:])
            up = F.interpolate(grid, size=(size_px, size_px), mode="bilinear", align_corners=False)
            total += up[0, 0].cpu()
        return torch.from_numpy(_blur((total / len(layers)).numpy()))


def _blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    taps = (_BLUR_TAPS, _BLUR_TAPS)
    blurred = cv2.GaussianBlur(image, taps, BLUR_SIGMA_PX, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32)


class SpadePeer:
    """SPADE on layers 1 to 3 of a backbone, with the mean of layer 4 for the image."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        loaded = load_backbone(backbone, device)
        self.input: InputSpec = loaded.input
        self.facts: Mapping[str, Any] = {
            "method": "SPADE",
            "implementation": "cff_peers.spade",
            **loaded.facts,
            "layers": list(loaded.layers[:3]),
            "image_layer": loaded.layers[3],
            "n_neighbours": N_NEIGHBOURS,
            "blur_sigma_px": BLUR_SIGMA_PX,
            "image_score": "mean_distance_of_pooled_features",
        }
        nodes = {name: name for name in loaded.layers}
        self._extract = create_feature_extractor(loaded.module, return_nodes=nodes)

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Keep the references' feature maps; neither the product's name nor the seed matters."""
        *layers, deepest = self._extract(references).values()
        self._spade = Spade(layers, deepest)

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        *layers, deepest = self._extract(images).values()
        return self._spade.score(layers, deepest, MAP_SIZE_PX)
