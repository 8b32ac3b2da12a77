"""APRIL-GAN's few-shot inference as its authors published it: what a user would otherwise run.

Written from the description of arXiv 2305.17382 and of its public code, in fp32 and batch 1, step
by step and in its order. Numbers on the right are sections of that description, `april_gan.md`.

    input     PIL bicubic to exactly H x W, to float, normalise                            1.2
    zero-shot first forward pass: raw tokens after four blocks, image embedding            1.3
              one Linear(E,C) per block, unit length, 100 P T, upsample to H x W with
              aligned corners, softmax, channel "abnormal", sum over the blocks            1.5
    text      softmax(100 f T) of the unit image embedding f                               1.5
    few-shot  second forward pass of the same image, for the same tokens                   1.6
              per block scikit-learn's cosine similarity of the raw tokens to those of the
              K references, on the host; 1 - cosine, minimum over the bank, upsample, sum  1.6
    fusion    both maps added; 0.5 (text score + maximum of the map)                       1.6

Where it differs from the published code, it is to the baseline's advantage or costs nothing:
fp32 instead of CUDA's fp16 autocast, which a CPU has not; open_clip's own attention, which does not
write down the attention weights that the published fork kept and never used; the maximum of the map
is taken as it is, because the published min-max over all test images cannot score a single one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import pairwise
from torch import Tensor, nn

from cff_bench.peers.answer import Answer, Stopwatch

LOGIT_SCALE = 100.0


class AprilGan:
    """The published inference around an open_clip image tower.

    Parameters
    ----------
    visual : VisionTransformer
        Of open_clip, in eval mode.
    projectors : sequence of S nn.Linear
        From the tower's width E to the joint dimension C.
    taps : sequence of S int
        Counts of executed blocks, from 1.
    text : ndarray of shape (C, 2), float32
        Unit text vectors, column 0 normal, column 1 abnormal. They are made once per product.
    mean, std : sequence of 3 floats
        Of RGB in 0..1.
    """

    def __init__(
        self,
        visual: Any,
        projectors: Sequence[nn.Module],
        taps: Sequence[int],
        text: NDArray[np.float32],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._visual = visual
        self._projectors = nn.ModuleList(projectors).eval()
        self._indices = [tap - 1 for tap in taps]
        self._text = torch.from_numpy(text)
        self._size: tuple[int, int] = visual.image_size  # H, W
        self._grid: tuple[int, int] = visual.grid_size
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)
        self._bank: list[Tensor] = []

    @torch.no_grad()
    def remember(self, references: Sequence[NDArray[np.uint8]]) -> None:
        """Fill the memory bank, per block [K*N,E], with the raw tokens of K good parts (1.6)."""
        tokens = [self._encode(self._prepare(image))[0] for image in references]
        self._bank = [torch.cat([one[n][0] for one in tokens]) for n in range(len(self._indices))]

    @torch.no_grad()
    def inspect(self, image: NDArray[np.uint8]) -> Answer:
        """Inspect an RGB image [h,w,3], uint8, from memory to score and map."""
        watch = Stopwatch()
        pixels = self._prepare(image)
        watch.lap("preprocess")
        tokens, embedding = self._encode(pixels)
        watch.lap("first pass")
        text_score = self._text_score(embedding)
        zero_shot = self._zero_shot_map(tokens)
        watch.lap("text map")
        tokens, _ = self._encode(pixels)
        watch.lap("second pass")
        anomaly_map = zero_shot + self._few_shot_map(tokens)
        watch.lap("search")
        score = 0.5 * (text_score + float(anomaly_map.max()))
        watch.lap("finish")
        return Answer(score, anomaly_map, watch.stages_ms)

    def _prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize to exactly the input's size and normalise, [1,3,H,W]; no side is kept in ratio."""
        height, width = self._size
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized.convert("RGB"))).permute(2, 0, 1)
        return ((pixels.float().div(255) - self._mean) / self._std)[None]

    def _encode(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """One forward pass: raw tokens [1,N,E] after each tapped block, image embedding [1,C]."""
        outputs = self._visual.forward_intermediates(
            pixels, indices=self._indices, normalize_intermediates=False, output_fmt="NLC"
        )
        return outputs["image_intermediates"], outputs["image_features"]

    def _text_score(self, embedding: Tensor) -> float:
        unit = embedding / embedding.norm(dim=-1, keepdim=True)
        return float((LOGIT_SCALE * unit @ self._text).softmax(dim=-1)[0, 1])

    def _zero_shot_map(self, tokens: Sequence[Tensor]) -> NDArray[np.float32]:
        maps = []
        for stage, projector in zip(tokens, self._projectors, strict=True):
            projected = projector(stage)  # [1,N,C]
            projected = projected / projected.norm(dim=-1, keepdim=True)
            logits = LOGIT_SCALE * projected @ self._text  # [1,N,2]
            planes = logits.permute(0, 2, 1).reshape(1, 2, *self._grid)
            maps.append(self._upsample(planes).softmax(dim=1)[0, 1].numpy())
        total: NDArray[np.float32] = np.sum(maps, axis=0)
        return total

    def _few_shot_map(self, tokens: Sequence[Tensor]) -> NDArray[np.float32]:
        maps = []
        for stage, bank in zip(tokens, self._bank, strict=True):
            cosines = pairwise.cosine_similarity(bank.cpu().numpy(), stage[0].cpu().numpy())
            nearest = np.min(1.0 - cosines, axis=0)  # [N] of [K*N,N]
            plane = torch.from_numpy(nearest.astype(np.float32)).reshape(1, 1, *self._grid)
            maps.append(self._upsample(plane)[0, 0].numpy())
        total: NDArray[np.float32] = np.sum(maps, axis=0)
        return total

    def _upsample(self, planes: Tensor) -> Tensor:
        return F.interpolate(planes, self._size, mode="bilinear", align_corners=True)
