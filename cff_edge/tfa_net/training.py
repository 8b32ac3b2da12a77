"""Training of TFA-Net on the good images of one product (tfa_net.md 2.5, 2.6).

The trunk is frozen and its features come from the cache. A share of the normals is held out for a
validation loss; no test image is looked at. Every epoch draws its order, masks and templates from
the seed and its own number, so that a resumed run equals one that was never interrupted.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cff_edge.backbones import Backbone
from cff_edge.checkpoint import read_tensors, write_tensors
from cff_edge.config import Config
from cff_edge.datasets import Sample
from cff_edge.feature_cache import FeatureCache
from cff_edge.models import configured_backbone
from cff_edge.run_state import RunState, epoch_seed, run_key
from cff_edge.selection import select_one_products_normals
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.masking import draw_masks
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.run_files import MODEL_NAME, new_net, save_tfa_run
from cff_edge.training import resolve_device
from cff_runtime.errors import CffError, DatasetError
from cff_runtime.imaging import load_image
from cff_runtime.references import pixels_sha256
from cff_runtime.storage import sha256_bytes
from cff_runtime.templates import choose_template

log = logging.getLogger(__name__)

BEST_NAME = "best.safetensors"
PHASE = "network"
MIN_NORMALS = 4
_MIN_SEEN = 2  # so that an image has another one as its template
_STD_FLOOR = 1e-6


def train_run(config: Config, out: Path, cache: Path | None = None, resume: bool = False) -> None:
    """Train a network as a configuration says and write the run's folder; see `train_tfa`.

    Raises
    ------
    UsageError
        If not exactly one product is named, or it or the backbone is unknown.
    CffError
        As `train_tfa` says.
    """
    normals = select_one_products_normals(config)
    train_tfa(config, configured_backbone(config), normals, out, cache, resume)


def train_tfa(
    config: Config,
    backbone: Backbone,
    normals: Sequence[Sample],
    run: Path,
    cache: Path | None = None,
    resume: bool = False,
) -> TfaNet:
    """Train a network and write the run's folder.

    Parameters
    ----------
    config : Config
    backbone : Backbone
    normals : sequence of Sample
        Good images of one product.
    run : Path
        Folder of the run.
    cache : Path, optional
        Folder of the feature cache; ``<run>/cache`` by default.
    resume : bool
        Continue an interrupted run.

    Returns
    -------
    TfaNet
        Trained, in eval mode, on the CPU.

    Raises
    ------
    UsageError
        If `run` holds another run, or nothing to resume, or sizes of the network do not fit.
    DatasetError
        If there are too few normals.
    CheckpointError
        If the run to resume is damaged, or was started with another configuration or images.
    CffError
        If the loss is no longer finite.
    """
    if len(normals) < MIN_NORMALS:
        raise DatasetError(
            f"TFA-Net needs at least {MIN_NORMALS} good training images of its product, got "
            f"{len(normals)}; put more into its train/good"
        )
    trainer = _Trainer(config, backbone, normals, run, cache or run / "cache")
    trainer.state.start(resume)
    trainer.read_features()
    trainer.run()
    net = trainer.net.to("cpu").eval()
    template = normals[trainer.template].path
    facts = {
        "products": [normals[0].product],
        "template": {"name": template.name, "sha256": sha256_bytes(template.read_bytes())},
        "n_normals": len(normals),
        "n_held_out": len(trainer.held_out),
        "trained_images": trainer.trained_images(),
    }
    save_tfa_run(run, net, backbone.info, facts)
    return net


def reconstruction_loss(predicted: Tensor, target: Tensor, cosine_weight: float) -> Tensor:
    """Loss of patch vectors [B,T,k*k*C]: weighted mean of 1 - cosine, plus mean squared error."""
    cosine = F.cosine_similarity(predicted, target, dim=-1)  # [B,T]
    return cosine_weight * (1.0 - cosine).mean() + F.mse_loss(predicted, target)


class _Trainer:
    """What a run needs: network, features in memory, and where it stands."""

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        normals: Sequence[Sample],
        run: Path,
        cache: Path,
    ) -> None:
        self.config = config
        self.options = config.tfa
        self.normals = normals
        self.device = resolve_device(config.train.device)
        self.net = new_net(config, backbone.info)
        self.detector = TfaDetector(backbone, self.net).to(self.device).eval()
        self.cache = FeatureCache(cache, self.detector, self.device)
        order = np.random.default_rng(config.train.seed).permutation(len(normals))
        n_held_out = max(round(self.options.held_out * len(normals)), self.options.held_out > 0)
        n_held_out = min(n_held_out, len(normals) - _MIN_SEEN)
        self.held_out, self.seen = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
        self.template = int(self.seen[0])  # until `read_features` chooses
        self.best = run / BEST_NAME
        key = run_key(config, backbone.info.weights_sha256, normals)
        self.state = RunState(run, config, key, self.net, [PHASE], MODEL_NAME)

    def read_features(self) -> None:
        """Fill the cache, keep the stages in half precision, choose the template."""
        paths = [sample.path for sample in self.normals]
        self.cache.fill(paths)
        loaded = [[stage.half() for stage in self.cache.load([path])] for path in paths]
        self.stages = [torch.cat(parts).to(self.device) for parts in zip(*loaded, strict=True)]
        if self.options.feature_norm == "channels" and self.state.done[PHASE] == 0:
            self._set_channel_statistics()
        means = [self._fused([i])[0].mean(dim=(1, 2)) for i in self.seen]
        units = F.normalize(torch.stack(means).double(), dim=1).float().cpu().numpy()
        self.template = int(self.seen[choose_template(self.options.template, units)])
        self.templates = self.stages
        if self.options.template_normalization == "as_published":
            self.templates = self._stages_as_published()

    def trained_images(self) -> list[str]:
        """Return the SHA-256 of the pixels of every image trained on, as the trunk sees them."""
        paths = [self.normals[index].path for index in self.seen]
        return sorted(pixels_sha256(self.cache.preprocessing(load_image(path))) for path in paths)

    def run(self) -> None:
        """Train from where the run stands to its last epoch, and put the kept weights back."""
        parameters = dict(self.net.named_parameters())
        first, second = self.config.train.adam_betas
        optimiser = torch.optim.AdamW(
            parameters.values(),
            lr=self.config.train.learning_rate,
            betas=(first, second),
            weight_decay=self.options.weight_decay,
        )
        n_done, n_epochs = self.state.done[PHASE], self.options.epochs
        if n_done > 0:
            self.state.restore(optimiser, parameters)
        for epoch in range(n_done, n_epochs):
            started = time.monotonic()
            loss = self._run_epoch(epoch, optimiser)
            held_out = self._held_out_loss()
            self._keep_best(held_out)
            self.state.save(PHASE, epoch + 1, optimiser, parameters)
            seconds = time.monotonic() - started
            shown = "" if held_out is None else f", held out {held_out:.4f}"
            log.info("epoch %d/%d: loss %.4f%s, %.1f s", epoch + 1, n_epochs, loss, shown, seconds)
            record = {"epoch": epoch + 1, "loss": loss, "held_out_loss": held_out}
            self.state.log({"phase": PHASE, **record, "seconds": seconds})
        if self.options.selection == "held_out" and self.best.exists():
            self.net.load_state_dict(read_tensors(self.best)[0])

    def _run_epoch(self, epoch: int, optimiser: torch.optim.Optimizer) -> float:
        rng = np.random.default_rng(epoch_seed(self.config.train.seed, PHASE, epoch))
        order, size = rng.permutation(self.seen), self.config.train.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        title, total = f"epoch {epoch + 1}/{self.options.epochs}", 0.0
        self.net.train()
        bar = tqdm(batches, desc=title, unit="batch", disable=None)
        for batch in bar:
            templates = self._drawn_templates(rng, batch)
            masks = draw_masks(rng, len(batch), self.net.n_tokens, self.options)
            mask = None if masks is None else torch.from_numpy(masks).to(self.device)
            loss = self._loss(batch, templates, mask)
            if not torch.isfinite(loss):
                raise CffError(
                    f"the loss must be finite, got {loss.item()} in epoch {epoch + 1}; "
                    "start a new run with a smaller `train.learning_rate`"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(batch)
            bar.set_postfix(loss=f"{loss.item():.4f}")
        self.net.eval()
        return total / len(order)

    def _loss(
        self, batch: NDArray[np.int_], templates: NDArray[np.int_], mask: Tensor | None
    ) -> Tensor:
        fused = self._fused(batch)
        template = fused_of(self.net, self.templates, templates)
        tokens = self.net.tokens(torch.cat([fused, template]))
        inputs, onto = tokens[: len(fused)], tokens[len(fused) :]
        predicted = self.net.refine(self.net.aggregate(inputs, onto, mask))
        target = self.net.patchify(fused)
        return reconstruction_loss(predicted, target, self.options.cosine_weight)

    @torch.no_grad()
    def _held_out_loss(self) -> float | None:
        """Mean loss of the held-out normals, unmasked, on the template; None without any."""
        if not len(self.held_out):
            return None
        template = np.array([self.template])
        losses = [self._loss(np.array([i]), template, None).item() for i in self.held_out]
        return float(np.mean(losses))

    def _keep_best(self, held_out: float | None) -> None:
        if self.options.selection == "last" or held_out is None:
            return
        if not self.best.exists() or held_out < float(read_tensors(self.best)[1]["loss"]):
            tensors = {name: tensor.cpu() for name, tensor in self.net.state_dict().items()}
            write_tensors(self.best, tensors, {"loss": held_out})

    def _drawn_templates(
        self, rng: np.random.Generator, batch: NDArray[np.int_]
    ) -> NDArray[np.int_]:
        """Return the template's number, or for every image that of another one seen."""
        if self.options.training_template == "fixed":
            return np.array([self.template])
        places = np.searchsorted(self.seen, batch)
        steps = rng.integers(1, len(self.seen), len(batch))
        return self.seen[(places + steps) % len(self.seen)]

    def _fused(self, numbers: Sequence[int] | NDArray[np.int_]) -> Tensor:
        return fused_of(self.net, self.stages, numbers)

    def _set_channel_statistics(self) -> None:
        """Mean and deviation of every channel of the normals seen, over images and cells."""
        sums = torch.zeros(2, self.net.n_channels, dtype=torch.float64, device=self.device)
        for index in self.seen:
            fused = self._fused([index])[0].double()
            sums += torch.stack([fused.mean(dim=(1, 2)), fused.square().mean(dim=(1, 2))])
        mean, square = sums / len(self.seen)
        std = (square - mean.square()).clamp_min(0.0).sqrt().clamp_min(_STD_FLOOR)
        self.net.channel_mean.copy_(mean)
        self.net.channel_std.copy_(std)

    @torch.no_grad()
    def _stages_as_published(self) -> list[Tensor]:
        """Encode the templates scaled to 0..1 alone, all normals in their places."""
        all_stages: list[list[Tensor]] = []
        for sample in self.normals:
            image = self.cache.preprocessing(load_image(sample.path))
            pixels = torch.from_numpy(np.stack([image]))
            stages = self.detector.template_stages(pixels.to(self.device))
            all_stages.append([stage.half() for stage in stages])
        return [torch.cat(parts) for parts in zip(*all_stages, strict=True)]


def fused_of(
    net: TfaNet, stages: Sequence[Tensor], numbers: Sequence[int] | NDArray[np.int_]
) -> Tensor:
    """Fuse the stages [n,N_s,E_s] of the images of these numbers: [B,C,g,g], float32."""
    index = torch.as_tensor(numbers, device=stages[0].device)
    return net.fuse([stage[index].float() for stage in stages])
