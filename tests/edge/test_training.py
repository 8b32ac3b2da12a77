"""Two-stage training on the text map, as published: stages, seeds, interruptions, losses, errors.

Training the calibrators on memory banks is in `test_bank_training`.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import cff_edge.objective as objective
import cff_edge.training as training
from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import (
    CONFIG_NAME,
    HEAD_NAME,
    LOG_NAME,
    STATE_NAME,
    read_tensors,
    write_tensors,
)
from cff_edge.config import Config, load_config
from cff_edge.datasets import Sample
from cff_edge.detector import on_common_grid
from cff_edge.heads import Head
from cff_edge.losses import alignment_loss, dice_loss, focal_loss
from cff_edge.mosaic import Mosaic
from cff_edge.run_state import RunState
from cff_edge.training import resolve_device, train
from cff_runtime.errors import CffError, CheckpointError, DatasetError, StorageError, UsageError

MakeConfig = Callable[..., Config]
Interrupted = Callable[[type, str, int], AbstractContextManager[None]]
State = dict[str, Tensor]
TEXT = "train.calibrator_map=text"
PUBLISHED = (
    TEXT,
    "train.projector_epochs=2",
    "train.calibrator_epochs=2",
    "train.learning_rate=1e-4",
    "train.calibrator_learning_rate=1e-4",
)


@pytest.fixture
def fit(train_small: Callable[..., Head]) -> Callable[..., Head]:
    """Return ``fit(*overrides, run="run", resume=False, samples=...)``."""
    return partial(train_small, *PUBLISHED)


def _tensors(run: Path, name: str = HEAD_NAME) -> State:
    return read_tensors(run / name)[0]


def _equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG_NAME).read_text().splitlines()]


def _losses(run: Path) -> list[tuple[str, int, float]]:
    return [(entry["phase"], entry["epoch"], entry["loss"]) for entry in _log(run)]


def _initial(config: Config, backbone: Backbone) -> State:
    """The head before training, made as the seed says."""
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        widths = [stage.width for stage in backbone.info.stages]
        return Head(widths, 32, config.head.calibrator, config.head.projector_init).state_dict()


def _part(state: State, prefix: str) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize("calibrator", ["affine", "mlp"])
def test_each_stage_trains_its_own_part(
    fit: Callable[..., Head],
    small_backbone: Backbone,
    small_config: MakeConfig,
    tmp_path: Path,
    calibrator: str,
) -> None:
    kind = f"head.calibrator={calibrator}"
    start = _initial(small_config(*PUBLISHED, kind), small_backbone)
    fit(kind, "train.calibrator_epochs=0", run="first")
    fit(kind, run="both")
    first, both = _tensors(tmp_path / "first"), _tensors(tmp_path / "both")
    moved = [name for name, tensor in first.items() if not torch.equal(tensor, start[name])]
    # a stage whose softmax is saturated from the start has no gradient to move it
    assert len(moved) >= 4
    assert all(name.startswith("projectors.") for name in moved)
    assert _equal(_part(first, "calibrators"), _part(start, "calibrators"))
    assert _equal(_part(both, "projectors"), _part(first, "projectors"))
    for name, tensor in _part(both, "calibrators").items():
        assert not torch.equal(tensor, start[name]), name


def test_the_backbone_stays_as_it_was(fit: Callable[..., Head], small_backbone: Backbone) -> None:
    before = {n: t.clone() for n, t in small_backbone.module.state_dict().items()}
    head = fit()
    assert _equal(before, small_backbone.module.state_dict())
    assert not any(p.requires_grad for p in small_backbone.module.parameters())
    assert not head.training


def test_loss_goes_down_in_both_stages(fit: Callable[..., Head], tmp_path: Path) -> None:
    rates = ("train.learning_rate=1e-3", "train.calibrator_learning_rate=1e-3")
    fit("train.projector_epochs=8", "train.calibrator_epochs=4", *rates)
    losses = _losses(tmp_path / "run")
    assert [(phase, epoch) for phase, epoch, _ in losses] == [
        *(("projectors", epoch) for epoch in range(1, 9)),
        *(("calibrators", epoch) for epoch in range(1, 5)),
    ]
    projectors, calibrators = [v for *_, v in losses[:8]], [v for *_, v in losses[8:]]
    assert projectors[-1] < 0.8 * projectors[0]
    assert calibrators[-1] < 0.95 * calibrators[0]
    assert all(entry["seconds"] > 0 for entry in _log(tmp_path / "run"))


def test_same_seed_same_weights(fit: Callable[..., Head], tmp_path: Path) -> None:
    torch.manual_seed(1)
    fit("head.calibrator=mlp", run="a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    fit("head.calibrator=mlp", run="b")
    assert torch.equal(torch.get_rng_state(), state)
    fit("head.calibrator=mlp", "train.seed=7", run="c")
    a, b, c = (_tensors(tmp_path / run) for run in "abc")
    assert (tmp_path / "a" / HEAD_NAME).read_bytes() == (tmp_path / "b" / HEAD_NAME).read_bytes()
    assert _equal(a, b)
    assert not torch.equal(a["projectors.0.weight"], c["projectors.0.weight"])


def test_returned_head_is_the_written_one(fit: Callable[..., Head], tmp_path: Path) -> None:
    head = fit("head.calibrator=mlp")
    assert _equal(dict(head.state_dict()), _tensors(tmp_path / "run"))
    facts = read_tensors(tmp_path / "run" / HEAD_NAME)[1]
    assert facts["products"] == ["ring", "washer"]


def test_without_calibrator_there_is_one_stage(fit: Callable[..., Head], tmp_path: Path) -> None:
    fit("head.calibrator=none")
    assert [phase for phase, *_ in _losses(tmp_path / "run")] == ["projectors"] * 2


# --- interruptions


@pytest.mark.parametrize("calibrator", ["affine", "mlp"])
@pytest.mark.parametrize(
    ("owner", "method", "at_call"),
    [
        (training._Trainer, "_loss", 2),  # in the first epoch (3 batches each)
        (training._Trainer, "_loss", 5),  # in the second
        (RunState, "log", 2),  # after the last epoch of the projectors
        (training._Trainer, "_loss", 8),  # in the calibrators' first
        (training._Trainer, "_loss", 12),  # in the last batch of all
        (RunState, "save", 3),  # after an epoch, before it is written
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    fit: Callable[..., Head],
    reference_runs: dict[str, Path],
    tmp_path: Path,
    interrupted: Interrupted,
    calibrator: str,
    owner: type,
    method: str,
    at_call: int,
) -> None:
    kind = f"head.calibrator={calibrator}"
    with interrupted(owner, method, at_call):
        fit(kind)
    assert not (tmp_path / "run" / HEAD_NAME).exists()
    torch.manual_seed(at_call)  # of no effect
    fit(kind, resume=True)
    whole = reference_runs[calibrator]
    assert _equal(_tensors(tmp_path / "run"), _tensors(whole))
    assert _equal(_tensors(tmp_path / "run", STATE_NAME), _tensors(whole, STATE_NAME))
    resumed = [entry for entry in _losses(whole) if entry in _losses(tmp_path / "run")]
    n_lost = 1 if method == "log" else 0  # a line of the log, at most
    assert len(resumed) == len(_losses(tmp_path / "run")) == 4 - n_lost


@pytest.fixture(scope="module")
def reference_runs(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Uninterrupted runs, by calibrator."""
    runs = {kind: tmp_path_factory.mktemp("whole") / kind for kind in ("affine", "mlp")}
    for kind, run in runs.items():
        config = small_config(*PUBLISHED, f"head.calibrator={kind}")
        train(config, small_backbone, tiny_samples, run, shared_cache)
    return runs


def test_resuming_a_finished_run_changes_nothing(
    fit: Callable[..., Head], reference_runs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(reference_runs["affine"], tmp_path / "run")
    before = (tmp_path / "run" / HEAD_NAME).read_bytes()
    fit(resume=True)
    assert (tmp_path / "run" / HEAD_NAME).read_bytes() == before
    assert len(_log(tmp_path / "run")) == 4


def test_an_existing_run_is_refused(
    fit: Callable[..., Head], reference_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference_runs["affine"], run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UsageError, match=r"must be a new folder, it holds a run; .*--resume"):
        fit("train.seed=3")
    (run / HEAD_NAME).unlink()
    with pytest.raises(UsageError, match="must be a new folder"):
        fit()
    del before[HEAD_NAME]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    "override", ["train.learning_rate=2e-4", "head.text_weight=0.5", "head.calibrator=mlp"]
)
@pytest.mark.parametrize("at_call", [1, 4])
def test_resuming_with_another_configuration_is_refused(
    fit: Callable[..., Head], interrupted: Interrupted, tmp_path: Path, override: str, at_call: int
) -> None:
    with interrupted(training._Trainer, "_loss", at_call):
        fit()
    assert (tmp_path / "run" / STATE_NAME).exists() == (at_call == 4)
    with pytest.raises(CheckpointError, match=r"resumed with the configuration .*--config"):
        fit(override, resume=True)


def test_resuming_with_other_images_or_weights_is_refused(
    fit: Callable[..., Head],
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    shared_cache: Path,
    reference_runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(reference_runs["affine"], tmp_path / "run")
    with pytest.raises(CheckpointError, match="with the images and backbone weights it was"):
        fit(resume=True, samples=tiny_samples[:-1])
    config = small_config(*PUBLISHED)
    other = load_backbone("efficientnet-lite0", "random", 64, 32)
    with pytest.raises(CheckpointError, match="with the images and backbone weights it was"):
        train(config, other, tiny_samples, tmp_path / "run", shared_cache, resume=True)


def test_there_must_be_something_to_resume(fit: Callable[..., Head], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must hold an interrupted run to resume"):
        fit(resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "facts",
    [{"done": {"projectors": 1}}, {"done": {"projectors": "x", "calibrators": 0}}, {}],
)
def test_a_damaged_state_is_refused(
    fit: Callable[..., Head],
    reference_runs: dict[str, Path],
    tmp_path: Path,
    facts: dict[str, object],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference_runs["affine"], run)
    tensors, written = read_tensors(run / STATE_NAME)
    write_tensors(run / STATE_NAME, tensors, {"run_key": written["run_key"], **facts})
    with pytest.raises(CheckpointError, match=r"state\.safetensors` must fit its run"):
        fit(resume=True)
    (run / STATE_NAME).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"state\.safetensors` must be a checkpoint"):
        fit(resume=True)


# --- batches and losses


def test_the_loss_is_that_of_the_paper(
    fit: Callable[..., Head],
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    fit()
    config = small_config(
        TEXT, "train.focal_weight=0.5", "train.dice_weight=0.3", "train.align_weight=0.7"
    )
    trainer = training._Trainer(config, small_backbone, tiny_samples, (), tmp_path, shared_cache)
    batch = [tiny_samples[i] for i in (0, 4, 8, 5)]  # two defective, two normal
    assert [sample.is_defective for sample in batch] == [True, False, True, False]
    masks = torch.stack([_mask(sample) for sample in batch])
    with torch.no_grad():
        tokens = [stage.float() for stage in trainer.cache.load([s.path for s in batch])]
        features = [F.normalize(stage, dim=-1) for stage in trainer.head(tokens)]
        fused = torch.zeros(4, 64, 64)
        planes = []
        for stage, info in zip(features, small_backbone.info.stages, strict=True):
            text = small_backbone.text_vectors("ring")
            logits = (100 * stage @ text).transpose(1, 2).reshape(4, 2, *info.grid)
            up = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=True)
            fused += up.softmax(dim=1)[:, 1] / 4
            grid = stage.transpose(1, 2).reshape(4, 32, *info.grid)
            planes.append(F.interpolate(grid, (8, 8), mode="bilinear", align_corners=True))
        normal = [p.flatten(2).transpose(1, 2)[[1, 3]] for p in planes]
        segmentation = 0.5 * focal_loss(fused, masks) + 0.3 * dice_loss(fused, masks)
        aligned = segmentation + 0.7 * alignment_loss(normal)
        got = [trainer._loss(phase, batch) for phase in training.PHASES]
    assert got[0].item() == pytest.approx(segmentation.item(), rel=1e-5)
    assert got[1].item() == pytest.approx(aligned.item(), rel=1e-5)
    assert aligned > 1.05 * segmentation


def _mask(sample: Sample) -> Tensor:
    if sample.mask is None:
        return torch.zeros(64, 64)
    with Image.open(sample.mask) as image:
        resized = image.convert("L").resize((64, 64), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized) > 127).float()


@pytest.fixture
def aligned_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[tuple[int, ...]]]]:
    """Record the shapes that the alignment loss sees, call by call."""
    calls: list[list[tuple[int, ...]]] = []

    def record(features: list[Tensor], *args: Any) -> Tensor:
        calls.append([tuple(stage.shape) for stage in features])
        return alignment_loss(features, *args)

    monkeypatch.setattr(objective, "alignment_loss", record)
    yield calls


def test_alignment_sees_the_normal_images_alone(
    fit: Callable[..., Head],
    tiny_samples: list[Sample],
    aligned_batches: list[list[tuple[int, ...]]],
) -> None:
    fit("train.calibrator_epochs=1", "train.batch_size=11")
    assert sum(not sample.is_defective for sample in tiny_samples) == 6
    assert aligned_batches == [[(6, 64, 32)] * 4]


def test_batches_of_one_image(
    fit: Callable[..., Head],
    aligned_batches: list[list[tuple[int, ...]]],
    tmp_path: Path,
) -> None:
    fit("train.calibrator_epochs=1", "train.batch_size=1", "head.calibrator=mlp")
    # of 11 batches the 5 of a defective image have nothing to align
    assert aligned_batches == [[(1, 64, 32)] * 4] * 6
    assert all(np.isfinite(loss) for *_, loss in _losses(tmp_path / "run"))


def test_no_alignment_without_its_weight(
    fit: Callable[..., Head], aligned_batches: list[list[tuple[int, ...]]]
) -> None:
    fit("train.align_weight=0")
    assert not aligned_batches


def test_a_single_stage_can_be_trained(
    small_config: MakeConfig, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    backbone = load_backbone("efficientnet-lite0", "imagenet", 64, 32, (4,))
    config = small_config(
        TEXT, "backbone.taps=4", "train.projector_epochs=1", "train.calibrator_epochs=1"
    )
    train(config, backbone, tiny_samples, tmp_path / "run")
    assert len(_losses(tmp_path / "run")) == 2


def test_settings_reach_the_optimiser(
    fit: Callable[..., Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[float, tuple[float, float], int]] = []
    original = torch.optim.Adam

    def record(parameters: Any, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
        kept = list(parameters)
        made.append((lr, betas, sum(parameter.numel() for parameter in kept)))
        return original(kept, lr=lr, betas=betas)

    monkeypatch.setattr(torch.optim, "Adam", record)
    rates = ("train.learning_rate=3e-3", "train.calibrator_learning_rate=2e-3")
    fit(*rates, "train.adam_betas=[0.5, 0.99]")
    n_projectors = 32 * (24 + 40 + 112 + 320 + 4)
    assert made == [(3e-3, (0.5, 0.99), n_projectors), (2e-3, (0.5, 0.99), 4 * 32 * 33)]
    assert original([torch.zeros(1)]).defaults["betas"] == Config().train.adam_betas


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own(
    fit: Callable[..., Head], tiny_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    original = training._Trainer._loss

    def record(trainer: Any, phase: str, batch: list[Sample]) -> Tensor:
        seen.append([str(sample.path) for sample in batch])
        return original(trainer, phase, batch)

    monkeypatch.setattr(training._Trainer, "_loss", record)
    fit("train.batch_size=4")
    assert [len(batch) for batch in seen] == [4, 4, 3] * 4
    epochs = [list(itertools.chain(*seen[start : start + 3])) for start in range(0, 12, 3)]
    everything = sorted(str(sample.path) for sample in tiny_samples)
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_on_common_grid_resizes_to_the_finest() -> None:
    rng = np.random.default_rng(0)
    fine = torch.from_numpy(rng.normal(size=(2, 6, 5)))
    coarse = torch.from_numpy(rng.normal(size=(2, 2, 5)))
    resized = on_common_grid([coarse, fine], [(1, 2), (2, 3)])
    assert resized[1] is fine
    left, right = coarse[:, 0], coarse[:, 1]
    row = [left, (left + right) / 2, right]
    torch.testing.assert_close(resized[0], torch.stack(row + row, dim=1))


def test_the_trunk_runs_once_per_image(
    fit: Callable[..., Head], small_backbone: Backbone, tmp_path: Path
) -> None:
    fit(run="first")
    n_calls = 0

    def count(*_: object) -> None:
        nonlocal n_calls
        n_calls += 1

    handle = small_backbone.module.register_forward_hook(count)
    fit("train.seed=5", run="second")
    handle.remove()
    assert n_calls == 0


def test_the_cache_lies_in_the_run_by_default(
    small_backbone: Backbone, small_config: MakeConfig, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    config = small_config(TEXT, "train.projector_epochs=0", "train.calibrator_epochs=0")
    train(config, small_backbone, tiny_samples, tmp_path / "run")
    assert len(list((tmp_path / "run" / "cache").rglob("*.safetensors"))) == 11
    assert _equal(_tensors(tmp_path / "run"), _initial(config, small_backbone))
    assert load_config(tmp_path / "run" / CONFIG_NAME) == config


@pytest.mark.parametrize("n_images", [1, 4])
def test_the_loss_of_april_gan_is_summed_over_the_stages(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    shared_cache: Path,
    tmp_path: Path,
    n_images: int,
) -> None:
    config = small_config(
        TEXT,
        "train.loss_map=stages",
        "train.focal_weight=1",
        "train.dice_weight=1",
        "train.align_weight=0",
    )
    trainer = training._Trainer(config, small_backbone, tiny_samples, (), tmp_path, shared_cache)
    batch = [tiny_samples[i] for i in (0, 4, 8, 5)][:n_images]
    trainer.cache.fill([sample.path for sample in batch])
    masks = torch.stack([_mask(sample) for sample in batch]).double().numpy()
    with torch.no_grad():
        calibrated = trainer.head(trainer.cache.load([s.path for s in batch]))
        got = [trainer._loss(phase, batch).item() for phase in training.PHASES]
    text = small_backbone.text_vectors("ring")
    expected = 0.0
    for stage, info in zip(calibrated, small_backbone.info.stages, strict=True):
        logits = (100 * F.normalize(stage, dim=-1) @ text).transpose(1, 2)
        planes = logits.reshape(n_images, 2, *info.grid)
        up = F.interpolate(planes, (64, 64), mode="bilinear", align_corners=True)
        for image, p in enumerate(up.double().softmax(dim=1).numpy()):  # both channels
            y = masks[image]
            one_hot = np.clip(np.stack([1.0 - y, y]), 1e-5, 1.0 - 1e-5)
            p_true = (one_hot * p).sum(axis=0) + 1e-5
            expected += np.mean(-((1.0 - p_true) ** 2) * np.log(p_true)) / n_images
            dice = 1.0 - (2.0 * (p[1] * y).sum() + 1.0) / (p[1].sum() + y.sum() + 1.0)
            expected += dice / n_images
    assert got == pytest.approx([expected] * 2, rel=1e-5)
    fused = small_config(
        TEXT, "train.focal_weight=1", "train.dice_weight=1", "train.align_weight=0"
    )
    trainer.objective = objective.Objective(fused, small_backbone.info)
    assert trainer._loss("projectors", batch).item() < 0.5 * expected


def test_summed_features_are_trained_on_their_one_map(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    config = small_config(TEXT, "head.text_map=features", "train.align_weight=0")
    trainer = training._Trainer(config, small_backbone, tiny_samples, (), tmp_path, shared_cache)
    batch = [tiny_samples[i] for i in (0, 4)]
    trainer.cache.fill([sample.path for sample in batch])
    with torch.no_grad():
        summed = torch.zeros(2, 32, 8, 8)
        tokens = trainer.head(trainer.cache.load([sample.path for sample in batch]))
        for stage, info in zip(tokens, small_backbone.info.stages, strict=True):
            planes = stage.transpose(1, 2).reshape(2, 32, *info.grid)
            summed += F.interpolate(planes, (8, 8), mode="bilinear", align_corners=True)
        unit = summed / summed.norm(dim=1, keepdim=True)
        text = small_backbone.text_vectors("ring")
        logits = 100 * torch.einsum("bchw,ck->bkhw", unit, text)
        up = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=True)
        probability = up.softmax(dim=1)[:, 1]
        masks = torch.stack([_mask(sample) for sample in batch])
        expected = 0.6 * focal_loss(probability, masks) + 0.4 * dice_loss(probability, masks)
        got = trainer._loss("projectors", batch)
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


# --- aligning on references


@pytest.fixture
def references(tiny_dataset: Path) -> list[str]:
    """Training images of the other product, as in the layout of MVTec AD."""
    return [str(path) for path in sorted((tiny_dataset / "washer" / "train" / "good").iterdir())]


def _on(references: list[str]) -> list[str]:
    return [f"data.align_references={json.dumps(references)}", "train.align_on=references"]


def test_alignment_can_see_given_references_instead(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    references: list[str],
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    plain, config = small_config(TEXT), small_config(TEXT, *_on(references))
    trainers = [
        training._Trainer(c, small_backbone, tiny_samples, (), tmp_path, shared_cache)
        for c in (plain, config)
    ]
    # of one seed, so of one start; both defective, so that a batch has nothing to align
    batch = [tiny_samples[0], tiny_samples[8]]
    trainers[1].cache.fill([*(s.path for s in batch), *map(Path, references)])
    with torch.no_grad():
        segmentation, both = (trainer._loss("calibrators", batch).item() for trainer in trainers)
        first = trainers[1]._loss("projectors", batch).item()
        tokens = trainers[1].cache.load([Path(name) for name in references])
        features = [F.normalize(stage, dim=-1) for stage in trainers[1].head(tokens)]
        grids = [stage.grid for stage in small_backbone.info.stages]
        aligned = alignment_loss(on_common_grid(features, grids)).item()
    assert len(references) == 2
    assert first == pytest.approx(segmentation, rel=1e-6)
    assert both - segmentation == pytest.approx(0.1 * aligned, rel=1e-4)


def test_references_move_the_calibrators_alone(
    fit: Callable[..., Head], references: list[str], tmp_path: Path
) -> None:
    fit(run="batch")
    fit(*_on(references), run="references")
    a, b = _tensors(tmp_path / "batch"), _tensors(tmp_path / "references")
    assert _equal(_part(a, "projectors"), _part(b, "projectors"))
    assert not torch.equal(a["calibrators.0.weight"], b["calibrators.0.weight"])


def test_references_must_exist(fit: Callable[..., Head], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`data\.align_references` must name existing files, got"):
        fit(*_on([str(tmp_path / "absent.png")]))
    assert not (tmp_path / "run").exists()


# --- mosaics


def test_a_share_of_the_images_become_mosaics_of_their_product(
    fit: Callable[..., Head], tiny_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sample | Mosaic] = []
    original = training._Trainer._loss

    def record(trainer: Any, phase: str, batch: list[Sample | Mosaic]) -> Tensor:
        seen.extend(batch)
        return original(trainer, phase, batch)

    monkeypatch.setattr(training._Trainer, "_loss", record)
    fit("train.mosaic=0.3", run="some")
    mosaics = [item for item in seen if isinstance(item, Mosaic)]
    assert len(seen) == 4 * 11
    assert 5 <= len(mosaics) <= 25
    assert {mosaic.product for mosaic in mosaics} == {"ring", "washer"}
    assert all(
        tile.product == m.product and tile in tiny_samples for m in mosaics for tile in m.tiles
    )
    per_epoch = [tuple(item for item in seen[i : i + 11]) for i in range(0, 44, 11)]
    assert len(set(per_epoch)) == 4
    seen.clear()
    fit("train.mosaic=1", "train.projector_epochs=1", "train.calibrator_epochs=0", run="all")
    assert all(isinstance(item, Mosaic) for item in seen)
    assert Counter(item.product for item in seen) == {"ring": 7, "washer": 4}


@pytest.mark.parametrize("at_call", [2, 5, 11])
def test_a_resumed_run_draws_the_same_mosaics(
    fit: Callable[..., Head], interrupted: Interrupted, tmp_path: Path, at_call: int
) -> None:
    fit("train.mosaic=0.5", run="whole")
    with interrupted(training._Trainer, "_loss", at_call):
        fit("train.mosaic=0.5")
    fit("train.mosaic=0.5", resume=True)
    assert _equal(_tensors(tmp_path / "run"), _tensors(tmp_path / "whole"))


# --- errors


@pytest.mark.parametrize(("defective", "n"), [(True, 5), (False, 6), (None, 0)])
def test_normal_and_defective_images_are_needed(
    fit: Callable[..., Head],
    tiny_samples: list[Sample],
    tmp_path: Path,
    defective: bool | None,
    n: int,
) -> None:
    samples = [sample for sample in tiny_samples if sample.is_defective is defective]
    with pytest.raises(DatasetError, match=f"normal and defective images .*got {n} images"):
        fit(samples=samples)
    assert not (tmp_path / "run").exists()


def test_unusable_settings_are_refused_before_anything_is_written(
    fit: Callable[..., Head], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"one entry per pair of adjacent stages \(3\), got 2"):
        fit("train.adjacent_weights=[1, 2]")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops(fit: Callable[..., Head], tmp_path: Path) -> None:
    for n_epochs, phase, key in (
        (1, "projectors", "learning_rate"),
        (0, "calibrators", "calibrator_learning_rate"),
    ):
        run = f"{phase} diverge"
        message = f"got inf in epoch 1 of the {phase}; .* with a smaller `train.{key}`"
        with pytest.raises(CffError, match=message):
            fit("train.focal_weight=1e300", f"train.projector_epochs={n_epochs}", run=run)
        assert not (tmp_path / run / HEAD_NAME).exists()


def test_an_unwritable_log_is_a_storage_error(fit: Callable[..., Head], tmp_path: Path) -> None:
    (tmp_path / "run" / LOG_NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"log\.jsonl` could not be written.*--resume"):
        fit()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_must_be_there_to_be_asked_for(fit: Callable[..., Head], tmp_path: Path) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"`train\.device` is cuda, but PyTorch sees no CUDA"):
        fit("train.device=cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_on_cuda_trains_to_the_same_losses(
    small_config: MakeConfig, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    runs = {}
    for device in ("cpu", "cuda"):
        backbone = load_backbone("efficientnet-lite0", "imagenet", 64, 32)
        config = small_config(TEXT, f"train.device={device}", "head.calibrator=affine")
        head = train(config, backbone, tiny_samples, tmp_path / device)
        assert {parameter.device.type for parameter in head.parameters()} == {"cpu"}
        assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
        runs[device] = [loss for *_, loss in _losses(tmp_path / device)]
    np.testing.assert_allclose(runs["cuda"], runs["cpu"], rtol=0.02)
