"""Two-stage training of the head (CFF section 4), on frozen features from disk.

Stage 1 trains the projectors on focal and dice loss of the text map; stage 2 freezes them and
trains the calibrators, which start at the identity, on L_total: of the text map again, or of the
memory bank's map in few-shot episodes (`train.calibrator_map`). Every epoch draws its order,
mosaics, episodes and dropout from the seed and its own number, so that a resumed run equals one
that was never interrupted.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cff_edge.backbones import Backbone
from cff_edge.batches import BatchLoader, Item
from cff_edge.checkpoint import HEAD_NAME, save_head
from cff_edge.config import Config
from cff_edge.datasets import Sample
from cff_edge.detector import Detector
from cff_edge.episodes import Episode, EpisodePool
from cff_edge.feature_cache import FeatureCache
from cff_edge.heads import Head
from cff_edge.models import configured_backbone
from cff_edge.mosaic import MosaicPool
from cff_edge.objective import Objective
from cff_edge.run_state import RunState, epoch_seed, run_key
from cff_edge.selection import select_normals, select_samples
from cff_runtime.errors import CffError, DatasetError, UsageError

log = logging.getLogger(__name__)

PHASES = ("projectors", "calibrators")
_RATES = {"projectors": "learning_rate", "calibrators": "calibrator_learning_rate"}


def train_run(config: Config, out: Path, cache: Path | None = None, resume: bool = False) -> None:
    """Train a head as a configuration says and write the run's folder; see `train`.

    Raises
    ------
    UsageError
        If no data set is named, a product or backbone is unknown, or as `train` says.
    CffError
        As `train` says.
    """
    samples = select_samples(config)
    backbone = configured_backbone(config)
    n_defective = sum(sample.is_defective for sample in samples)
    log.info("%d images, %d of them defective", len(samples), n_defective)
    train(config, backbone, samples, out, cache, resume, select_normals(config, samples))


def train(
    config: Config,
    backbone: Backbone,
    samples: Sequence[Sample],
    run: Path,
    cache: Path | None = None,
    resume: bool = False,
    normals: Sequence[Sample] = (),
) -> Head:
    """Train a head and write the run's folder.

    Parameters
    ----------
    config : Config
    backbone : Backbone
    samples : sequence of Sample
        Labelled images, normal and defective, with masks.
    run : Path
        Folder of the run.
    cache : Path, optional
        Folder of the feature cache; ``<run>/cache`` by default.
    resume : bool
        Continue an interrupted run.
    normals : sequence of Sample
        Further good images, which fill the memory banks of episodes; without any, `samples` do.

    Returns
    -------
    Head
        Trained, in eval mode, on the CPU.

    Raises
    ------
    UsageError
        If `run` holds another run, or nothing to resume, or a reference to align on is no file.
    DatasetError
        If there is no defective or no normal sample, or too few to fill memory banks.
    CheckpointError
        If the run to resume is damaged, or was started with another configuration or images.
    CffError
        If the loss is no longer finite.
    """
    if not any(s.is_defective for s in samples) or all(s.is_defective for s in samples):
        raise DatasetError(
            "training needs normal and defective images with masks; "
            f"got {len(samples)} images, {sum(s.is_defective for s in samples)} of them defective"
        )
    trainer = _Trainer(config, backbone, samples, normals, run, cache or run / "cache")
    trainer.state.start(resume)
    trainer.cache.fill([*(sample.path for sample in trainer.shown), *trainer.references])
    for phase, n_epochs in zip(PHASES, _epochs(config), strict=True):
        trainer.run_phase(phase, n_epochs)
    head = trainer.head.to("cpu").eval()
    products = sorted({sample.product for sample in samples})
    save_head(run, head, backbone.info, products)
    return head


class _Trainer:
    """What a run needs: head, images, losses, and where it stands."""

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        samples: Sequence[Sample],
        normals: Sequence[Sample],
        run: Path,
        cache: Path,
    ) -> None:
        self.config = config
        self.samples = samples
        self.device = resolve_device(config.train.device)
        self.info = backbone.info
        self.objective = Objective(config, self.info)
        self.references = _existing(config.data.align_references)
        self.mosaics = MosaicPool(samples)
        self.shown = list(samples)
        self.episodes: EpisodePool | None = None
        if config.train.calibrator_map == "bank" and _epochs(config)[1] > 0:
            roots = [Path(root) for root in config.data.roots]
            self.episodes = EpisodePool(samples, normals, roots)
            self.shown += normals
        with torch.random.fork_rng():
            torch.manual_seed(config.train.seed)
            widths = [stage.width for stage in self.info.stages]
            self.head = Head(
                widths, self.info.joint_dim, config.head.calibrator, config.head.projector_init
            )
        self.detector = Detector(backbone, self.head).to(self.device).eval()
        self.cache = FeatureCache(cache, self.detector, self.device)
        self.loader = BatchLoader(self.cache, self.info.image_size, self.device)
        products = sorted({sample.product for sample in samples})
        self.text = {name: backbone.text_vectors(name).to(self.device) for name in products}
        key = run_key(config, self.info.weights_sha256, self.shown)
        self.state = RunState(run, config, key, self.head, PHASES, HEAD_NAME)

    def run_phase(self, phase: str, n_epochs: int) -> None:
        """Train one of the two stages from where it stands to its last epoch."""
        n_done = self.state.done[phase]
        if n_done >= n_epochs:
            return
        module = self.head.projectors if phase == "projectors" else self.head.calibrators
        self.head.requires_grad_(False)
        module.requires_grad_(True)
        parameters = dict(module.named_parameters())
        first, second = self.config.train.adam_betas
        optimiser = torch.optim.Adam(
            parameters.values(),
            lr=getattr(self.config.train, _RATES[phase]),
            betas=(first, second),
        )
        if n_done > 0:
            self.state.restore(optimiser, parameters)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda")
        for epoch in range(n_done, n_epochs):
            started = time.monotonic()
            loss = self._run_epoch(phase, epoch, n_epochs, optimiser, scaler)
            self.state.save(phase, epoch + 1, optimiser, parameters)
            seconds = time.monotonic() - started
            log.info("%s %d/%d: loss %.4f, %.1f s", phase, epoch + 1, n_epochs, loss, seconds)
            self.state.log({"phase": phase, "epoch": epoch + 1, "loss": loss, "seconds": seconds})

    def _run_epoch(
        self,
        phase: str,
        epoch: int,
        n_epochs: int,
        optimiser: torch.optim.Optimizer,
        scaler: "torch.amp.GradScaler",
    ) -> float:
        seed = epoch_seed(self.config.train.seed, phase, epoch)
        rng = np.random.default_rng(seed)
        batches = self._batches(phase, rng)
        total = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head.calibrators.train(phase == "calibrators")
            bar = tqdm(batches, desc=f"{phase} {epoch + 1}/{n_epochs}", unit="batch", disable=None)
            for batch in bar:
                loss = self._loss(phase, batch)
                if not torch.isfinite(loss):
                    raise CffError(
                        f"the loss must be finite, got {loss.item()} in epoch {epoch + 1} of the "
                        f"{phase}; start a new run with a smaller `train.{_RATES[phase]}`"
                    )
                optimiser.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimiser)
                scaler.update()
                total += loss.item() * _n_judged(batch)
                bar.set_postfix(loss=f"{loss.item():.4f}")
            self.head.eval()
        return total / sum(_n_judged(batch) for batch in batches)

    def _batches(self, phase: str, rng: np.random.Generator) -> list[list[Item] | Episode]:
        """Draw an epoch: every sample once, or episodes with as many queries."""
        n_samples, size = len(self.samples), self.config.train.batch_size
        if phase == "calibrators" and self.episodes is not None:
            n_queries = self.config.train.episode_queries
            n_episodes = math.ceil(n_samples / n_queries)
            return [self.episodes.draw(rng, n_queries) for _ in range(n_episodes)]
        order = rng.permutation(n_samples)
        items = [self._drawn(self.samples[index], rng) for index in order]
        return [items[start : start + size] for start in range(0, n_samples, size)]

    def _drawn(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Return the sample, or with the configured probability a mosaic of its product."""
        if self.config.train.mosaic > 0 and rng.random() < self.config.train.mosaic:
            return self.mosaics.draw(sample.product, rng)
        return sample

    def _loss(self, phase: str, batch: list[Item] | Episode) -> Tensor:
        """L_focal and L_dice, and in stage 2 L_align on normal images."""
        items = batch.samples if isinstance(batch, Episode) else batch
        stages, target = self.loader.load(items)
        # an episode's references fill the bank; its control and good queries are aligned
        first = len(batch.references) if isinstance(batch, Episode) else 0
        normal = [i for i, item in enumerate(items) if i >= first and not item.is_defective]
        aligns = phase == "calibrators" and self.config.train.align_weight > 0
        if aligns and self.references:
            # in one batch with the others, so that BatchNorm sees them together
            normal = [len(items) + index for index in range(len(self.references))]
            added = [stage.to(self.device) for stage in self.cache.load(self.references)]
            stages = [torch.cat(pair) for pair in zip(stages, added, strict=True)]
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            calibrated = self.head.composed(stages)
        shown = [stage[: len(items)] for stage in calibrated]
        if isinstance(batch, Episode):
            n_shots = len(batch.references)
            spans = self.head.spans()
            loss = self.objective.few_shot(shown, n_shots, target[n_shots + 1 :], spans)
        else:
            text = torch.stack([self.text[item.product] for item in items])  # [B,C,2]
            loss = self.objective.segmentation(shown, text, target)
        if aligns and normal:
            loss = loss + self.objective.alignment([stage[normal] for stage in calibrated])
        return loss


def resolve_device(name: str) -> torch.device:
    """Return the device; ``auto`` is CUDA where PyTorch has it.

    Raises
    ------
    UsageError
        If ``cuda`` is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("`train.device` is cuda, but PyTorch sees no CUDA device; use cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _existing(names: Sequence[str]) -> list[Path]:
    """Return the paths of `data.align_references`, after a look that they are files."""
    for name in names:
        if not Path(name).is_file():
            raise UsageError(f"`data.align_references` must name existing files, got {name!r}")
    return [Path(name) for name in names]


def _epochs(config: Config) -> tuple[int, int]:
    has_calibrator = config.head.calibrator != "none"
    return config.train.projector_epochs, config.train.calibrator_epochs if has_calibrator else 0


def _n_judged(batch: list[Item] | Episode) -> int:
    return len(batch.queries if isinstance(batch, Episode) else batch)
