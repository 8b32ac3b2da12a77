"""anomalib's PatchCore, PaDiM, WinCLIP and AnomalyDINO behind one interface.

Embedding, memory banks, scores and maps are those of anomalib's `torch_model` classes with their
default settings; nothing of them is rewritten. Only what surrounds them is ours: which images are
the references, the seed, and where PatchCore and PaDiM get their features from. anomalib takes any
network whose nodes torch.fx can name in place of a timm model's name, and so gets `PeerBackbone`.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.winclip import torch_model as winclip
from torch import Tensor, nn
from torch.nn import functional as F

from cff_edge.backbones.weights import weights_sha256
from cff_peers.backbones import IMAGENET_MEAN, IMAGENET_STD, load_backbone, timm_weights
from cff_peers.peer import MAP_SIZE_PX, InputSpec, unavailable_weights

CORESET_SAMPLING_RATIO = 0.1  # defaults of anomalib's Patchcore
NUM_NEIGHBORS = 9
N_FEATURES = 100  # of its Padim on resnet18; other networks have no default
_WINCLIP_INPUT = InputSpec(
    240, (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)
)  # CLIP's constants times 255
_DINO_INPUT = InputSpec(252, IMAGENET_MEAN, IMAGENET_STD)  # 18 patches of 14 px


class PatchCorePeer:
    """PatchCore on layers 2 and 3: a coreset of a tenth of the patches, nine neighbours."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        self._backbone = load_backbone(backbone, device)
        self._layers = self._backbone.layers[1:3]
        self._device = device
        self.input = self._backbone.input
        self.facts: Mapping[str, Any] = {
            **_facts("PatchCore"),
            **self._backbone.facts,
            "layers": list(self._layers),
            "coreset_sampling_ratio": CORESET_SAMPLING_RATIO,
            "num_neighbors": NUM_NEIGHBORS,
            "image_score": "weighted_peak",
        }

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Fill the bank; the seed decides the coreset, the product's name does not matter."""
        with _seeded(seed):
            self._model = PatchcoreModel(
                self._layers, self._backbone.module, num_neighbors=NUM_NEIGHBORS
            ).to(self._device)
            self._model.train()(references)
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own
                self._model.subsample_embedding(CORESET_SAMPLING_RATIO)
        self._model.eval()

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        return _score(self._model, images)


class PadimPeer:
    """PaDiM on layers 1 to 3, a Gaussian per place over 100 random channels.

    With K images the covariance has rank K - 1 at most; the 0.01 that anomalib adds to its diagonal
    is all that makes it invertible.
    """

    def __init__(self, backbone: str, device: torch.device) -> None:
        self._backbone = load_backbone(backbone, device)
        self._layers = list(self._backbone.layers[:3])
        self._device = device
        self.input = self._backbone.input
        self.facts: Mapping[str, Any] = {
            **_facts("PaDiM"),
            **self._backbone.facts,
            "layers": self._layers,
            "n_features": N_FEATURES,
            "image_score": "peak",
        }

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Fit the Gaussians; the seed decides the channels, the product's name does not matter."""
        with _seeded(seed):
            self._model = PadimModel(self._backbone.module, self._layers, n_features=N_FEATURES).to(
                self._device
            )
        self._model.train()(references)
        self._model.fit()
        self._model.eval()

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        return _score(self._model, images)


class WinClipPeer:
    """WinCLIP, zero-shot without references; the product's name goes into the prompts as it is."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        self.input = _WINCLIP_INPUT
        try:
            self._model = winclip.WinClipModel().eval().to(device)
        except (OSError, RuntimeError) as error:
            raise unavailable_weights(f"{backbone} {winclip.PRETRAINED}", error) from error
        self.facts: Mapping[str, Any] = {
            **_facts("WinCLIP", "open_clip_torch"),
            "backbone": backbone,
            "weights": winclip.PRETRAINED,
            "weights_sha256": weights_sha256(self._model.clip),
            "image_score": "text_and_peak",
        }

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Encode the prompts of the product and the references; nothing is random."""
        self._model.k_shot, self._model.reference_images = 0, None
        self._model.setup(product, references if len(references) else None)

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        return _score(self._model, images)


class AnomalyDinoPeer:
    """AnomalyDINO without masks and with all patches, as anomalib's defaults have it."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        self.input = _DINO_INPUT
        try:
            self._model = AnomalyDINOModel(encoder_name=backbone).to(device)
        except (OSError, RuntimeError) as error:
            raise unavailable_weights(backbone, error) from error
        self.facts: Mapping[str, Any] = {
            **_facts("AnomalyDINO"),
            "backbone": backbone,
            "weights": timm_weights(self._model.feature_encoder.feature_extractor),
            "weights_sha256": weights_sha256(self._model.feature_encoder),
            "image_score": "mean_of_top_percent",
        }

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        """Fill the bank; nothing is random and the product's name does not matter."""
        self._model.train()(references)
        self._model.fit()
        self._model.eval()

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B,3,h,w] to scores [B] and maps [B,MAP_SIZE_PX,MAP_SIZE_PX]."""
        return _score(self._model, images)


def _score(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Score images and bring the maps, of the size of the images, to that of all peers."""
    with torch.no_grad():
        batch = model(images)
    maps = batch.anomaly_map.reshape(len(images), 1, *images.shape[2:])
    if maps.shape[-1] != MAP_SIZE_PX:
        size = (MAP_SIZE_PX, MAP_SIZE_PX)
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return batch.pred_score.reshape(len(images)), maps[:, 0]


def _facts(method: str, *packages: str) -> dict[str, Any]:
    versions = {name: version(name) for name in ("timm", *packages)}
    implementation = f"anomalib {version('anomalib')}"
    return {"method": method, "implementation": implementation, "versions": versions}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed both global generators that anomalib draws from, and put them back afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
