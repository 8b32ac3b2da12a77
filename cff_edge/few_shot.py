"""The few-shot detector over frozen tokens: text map plus memory bank, in PyTorch and unfolded.

    D_n     = min over the bank of 1 - cosine              [B,h_n,w_n]  per stage
    map     = sum over n of up(d(D_n)) + text_weight * text map     [B,H,W]
    d       = D, or log(1 + D / 0.01)                      `head.distance`
    up      = bilinear, align_corners

CFF (Sensors 2026, section 3.2) searches calibrated features; APRIL-GAN (arXiv 2305.17382, section
3.3) searches raw tokens and weighs the text map with 1. `head.bank` chooses between them. This is
what experiments evaluate; the exporter's graphs and `cff_runtime` compute the same on the line.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.backbones import BackboneInfo
from cff_edge.config import HeadConfig
from cff_edge.detector import (
    abnormal_maps,
    bank_features,
    resize_planes,
    text_map_of,
    text_probability,
)
from cff_edge.feature_cache import FeatureCache
from cff_edge.heads import Head
from cff_runtime.errors import UsageError
from cff_runtime.finishing import LOG_SCALE, peak_scale_of
from cff_runtime.thresholds import augmentations, without_border

# of a memory bank, searched at once: B * N_s cosines for each are all that is ever held
_CHUNK_ROWS = 1024
# squared singular values below this share of the largest are rounding, not a direction
_RANK_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class FewShotOutput:
    """Maps and text scores of a batch.

    Attributes
    ----------
    maps : Tensor of shape (B, H, W), float32
    text_scores : Tensor of shape (B,), float32, or None
        Probability of "abnormal" of the image embedding; None without a text tower.
    """

    maps: Tensor
    text_scores: Tensor | None


@dataclass(frozen=True, eq=False)
class Projection:
    """What a batch gives without regard to any memory bank.

    Attributes
    ----------
    features : list of S tensors of shape (B, N_s, C_s), float32
        What memory banks are searched with, unit length.
    text_maps : Tensor of shape (B, H, W), float32
    text_scores : Tensor of shape (B,), float32, or None
    """

    features: list[Tensor]
    text_maps: Tensor
    text_scores: Tensor | None

    @property
    def n_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.nbytes for tensor in (*self.features, self.text_maps))


@dataclass(frozen=True, eq=False)
class _Bank:
    """Unit rows [M,r] in the coordinates of an orthonormal basis [C,r]; None is the whole space."""

    rows: Tensor
    basis: Tensor | None


class FewShotDetector:
    """Scores frozen tokens with a head, a product's text vectors and, once fitted, memory banks.

    Before `fit` it is the zero-shot detector: its maps are the text map alone, whatever its weight.

    Parameters
    ----------
    info : BackboneInfo
        Of the backbone that made the tokens.
    head : Head
        In eval mode. Everything runs on its device; results come back there.
    config : HeadConfig
        `bank`, `distance`, `text_map` and `text_weight` count here.
    text : Tensor of shape (C, 2)
        Unit text vectors of the product.
    """

    def __init__(self, info: BackboneInfo, head: Head, config: HeadConfig, text: Tensor) -> None:
        self._head = head
        self._config = config
        self._device = next(head.parameters()).device
        self._text = text.to(self._device)
        self._grids = [stage.grid for stage in info.stages]
        self._size = (info.image_size, info.image_size)
        self._banks: list[_Bank] | None = None

    @torch.no_grad()
    def fit(self, stages: Sequence[Tensor]) -> None:
        """Build the memory banks from the tokens [K,N_s,E_s] of K references, S stages.

        Banks of an earlier call are replaced.

        Raises
        ------
        UsageError
            If there is no reference.
        """
        if len(stages[0]) == 0:
            raise UsageError("`stages` must hold the tokens of at least one reference, got none")
        tokens = [stage.to(self._device) for stage in stages]
        features = bank_features(tokens, self._head(tokens), self._config.bank)
        self._banks = [_reduced(stage.flatten(0, 1)) for stage in features]  # rows [M_s,C_s]

    def score(self, stages: Sequence[Tensor], embedding: Tensor | None) -> FewShotOutput:
        """Score a batch.

        Parameters
        ----------
        stages : sequence of S tensors of shape (B, N_s, E_s), float32
            Raw tokens.
        embedding : Tensor of shape (B, C) or None
            Image embeddings, of any length.
        """
        return self.search(self.project(stages, embedding))

    @torch.no_grad()
    def project(self, stages: Sequence[Tensor], embedding: Tensor | None) -> Projection:
        """Do the part of `score` that is the same for all memory banks of a product."""
        tokens = [stage.to(self._device) for stage in stages]
        calibrated = self._head(tokens)
        kind = self._config.text_map
        probabilities = abnormal_maps(calibrated, self._text, self._grids, self._size, kind)
        return Projection(
            features=bank_features(tokens, calibrated, self._config.bank),
            text_maps=text_map_of(probabilities, len(tokens)),
            text_scores=None
            if embedding is None
            else text_probability(embedding.to(self._device), self._text),
        )

    @torch.no_grad()
    def search(self, projection: Projection) -> FewShotOutput:
        """Do the rest of `score`: search the memory banks and add the text map."""
        maps = projection.text_maps
        if self._banks is not None:
            bank_map = self._bank_map(projection.features, self._banks)
            maps = bank_map + self._config.text_weight * maps
        return FewShotOutput(maps, projection.text_scores)

    def _bank_map(self, features: Sequence[Tensor], banks: Sequence[_Bank]) -> Tensor:
        """Sum of the stages' distance maps, [B,H,W]."""
        maps = []
        for stage, bank, grid in zip(features, banks, self._grids, strict=True):
            queries = stage if bank.basis is None else stage @ bank.basis
            nearest = nearest_cosine(queries, bank.rows)  # [B,N_s]
            maps.append(distance_map(nearest, grid, self._size, self._config.distance))
        return torch.stack(maps).sum(dim=0)


def _reduced(rows: Tensor) -> _Bank:
    """Write a bank's rows [M,C] in the coordinates of the space that they span.

    With an orthonormal basis Q of the span, q.b = (Q'q).(Q'b) for every row b and any q, so that
    the cosines stay the same. Features of a stage of width E < C span at most E + 1 dimensions,
    which makes the search of the embedded pyramid several times faster.
    """
    double = rows.double()
    values, vectors = torch.linalg.eigh(double.T @ double)
    basis = vectors[:, values > _RANK_TOLERANCE * values[-1]]
    if 2 * basis.shape[1] > rows.shape[1]:
        return _Bank(rows, None)  # as quick as it is
    return _Bank((double @ basis).to(rows.dtype), basis.to(rows.dtype))


def distance_map(
    nearest: Tensor, grid: tuple[int, int], size: tuple[int, int], distance: str
) -> Tensor:
    """Upsample one stage's distances, as `cff_runtime.finishing` has them.

    Parameters
    ----------
    nearest : Tensor of shape (B, N_s)
        Largest cosines to the memory bank.
    grid : (h_s, w_s)
    size : (H, W)
    distance : {'cosine', 'log'}

    Returns
    -------
    Tensor of shape (B, H, W)
    """
    plane = 1.0 - nearest
    if distance == "log":
        plane = torch.log1p(plane.clamp(min=0.0) / LOG_SCALE)
    return resize_planes(plane.view(-1, 1, *grid), size)[:, 0]


def nearest_cosine(features: Tensor, bank: Tensor) -> Tensor:
    """Return the largest cosine [B,N] of unit features [B,N,C] to the rows of a bank [M,C].

    The bank is searched in chunks: no [N,M] tensor for all of it ever exists.
    """
    best = features.new_full(features.shape[:2], -torch.inf)
    for rows in torch.split(bank, _CHUNK_ROWS):
        best = torch.maximum(best, (features @ rows.T).amax(dim=-1))
    return best


def measure_peak_scale(
    detector: FewShotDetector, cache: FeatureCache, references: Sequence[NDArray[np.uint8]]
) -> float:
    """Return the constant that scales a map's maximum in the deployable image score.

    The rule of enrolment (`cff_runtime.enrolment`): one half over the largest maximum of the
    references' maps and of their augmentations' (borders cut off), each against the bank of the
    *other* references. A lone reference is not scored, and its augmentations search its own bank.
    Feed the constant to `cff_runtime.finishing.image_score`.

    Parameters
    ----------
    detector : FewShotDetector
        Fitted or not; it stays as it is.
    cache : FeatureCache
        Encodes the images; nothing is stored.
    references : sequence of K ndarrays of shape (h, w, 3), uint8

    Raises
    ------
    UsageError
        If there is no reference.
    ImageError
        If an image is not uint8 RGB of at least 16 x 16 px.
    """
    if len(references) == 0:
        raise UsageError("`references` must hold at least one image, got none")
    images = [cache.preprocessing(image) for image in references]
    stages, _ = cache.encode(images)
    probe = copy.copy(detector)  # `fit` replaces banks, it does not change them
    peaks = []
    for index, image in enumerate(images):
        others = [i for i in range(len(images)) if i != index] or [index]
        probe.fit([stage[others] for stage in stages])
        if len(images) > 1:
            own = probe.score([stage[[index]] for stage in stages], None)
            peaks.append(float(own.maps.max()))
        augmented, _ = cache.encode(list(augmentations(image)))
        maps = probe.score(augmented, None).maps.cpu().numpy()
        peaks += [float(without_border(anomaly_map).max()) for anomaly_map in maps]
    return peak_scale_of(peaks)


def transductive_scores(
    peaks: NDArray[np.floating], text_scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return APRIL-GAN's published image scores 0.5 (s_text + m') [n], of one class's test images.

    m' is the map's maximum, min-max normalised over the whole class, so that a score depends on
    the other test images: for tables only, nothing that could be deployed.

    Parameters
    ----------
    peaks : ndarray of shape (n,), float
        Maxima of the anomaly maps. Where all are equal, m' is 0.
    text_scores : ndarray of shape (n,), float

    Raises
    ------
    UsageError
        If the shapes differ or there is no image.
    """
    m, s_text = np.asarray(peaks, np.float64), np.asarray(text_scores, np.float64)
    if m.ndim != 1 or m.shape != s_text.shape or not m.size:
        raise UsageError(
            f"`peaks` and `text_scores` must both have shape (n,), n >= 1, got {m.shape} and "
            f"{s_text.shape}; give every test image of the class"
        )
    spread = m.max() - m.min()
    scaled = (m - m.min()) / spread if spread > 0 else np.zeros_like(m)
    scores: NDArray[np.float64] = 0.5 * (s_text + scaled)
    return scores
