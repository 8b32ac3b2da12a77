"""Calibrators trained on memory banks: episodes, losses, interruptions, alignment, errors."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cff_edge.objective as objective
import cff_edge.training as training
from cff_edge.backbones import Backbone
from cff_edge.checkpoint import HEAD_NAME, LOG_NAME, STATE_NAME, read_tensors
from cff_edge.config import Config
from cff_edge.datasets import Sample, load_mask, read_dataset
from cff_edge.detector import on_common_grid
from cff_edge.episodes import Episode
from cff_edge.heads import Head
from cff_edge.losses import alignment_loss
from cff_edge.run_state import RunState
from cff_edge.training import train
from cff_runtime.errors import CffError, CheckpointError, DatasetError

Fit = Callable[..., Head]
Interrupted = Callable[[type, str, int], AbstractContextManager[None]]
MakeConfig = Callable[..., Config]
State = dict[str, Tensor]
BANK = ("train.calibrator_map=bank", "train.calibrator_learning_rate=3e-4")
N_EPISODES = 3  # of 5 queries, for 11 images


@pytest.fixture(scope="module")
def normals(tiny_dataset: Path) -> list[Sample]:
    """Two good parts of each product, named as good parts of the test split are."""
    return read_dataset(tiny_dataset).select("train", False)


@pytest.fixture
def fit(train_small: Fit, normals: list[Sample]) -> Fit:
    """Return ``fit(*overrides, run="run", resume=False, samples=..., normals=...)``."""
    return partial(train_small, "train.projector_epochs=1", *BANK, normals=normals)


@pytest.fixture
def episodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Episode, float]]:
    """Record the episodes trained on, each with its loss."""
    seen: list[tuple[Episode, float]] = []
    original = training._Trainer._loss

    def record(trainer: Any, phase: str, batch: Any) -> Tensor:
        loss = original(trainer, phase, batch)
        if phase == "calibrators":
            seen.append((batch, loss.item()))
        return loss

    monkeypatch.setattr(training._Trainer, "_loss", record)
    return seen


@pytest.fixture
def make_trainer(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    normals: list[Sample],
    shared_cache: Path,
    tmp_path: Path,
) -> Callable[..., training._Trainer]:
    """Return ``make_trainer(*overrides)``: a trainer whose calibrators are not the identity."""

    def make(*overrides: str) -> training._Trainer:
        trainer = training._Trainer(
            small_config(*BANK, *overrides),
            small_backbone,
            tiny_samples,
            normals,
            tmp_path,
            shared_cache,
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in trainer.head.calibrators.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        trainer.cache.fill([s.path for s in (*tiny_samples, *normals)])
        return trainer

    return make


@pytest.fixture
def episode(tiny_samples: list[Sample], normals: list[Sample]) -> Episode:
    """One reference; a defective and two good queries."""
    queries = (tiny_samples[0], tiny_samples[4], tiny_samples[6])
    assert [sample.is_defective for sample in queries] == [True, False, False]
    return Episode((normals[0],), normals[1], queries)


def _tensors(run: Path, name: str = HEAD_NAME) -> State:
    return read_tensors(run / name)[0]


def _equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def _part(state: State, prefix: str) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _losses(run: Path, phase: str = "calibrators") -> list[float]:
    entries = [json.loads(line) for line in (run / LOG_NAME).read_text().splitlines()]
    return [entry["loss"] for entry in entries if entry["phase"] == phase]


# --- training


# untrained, epochs differ by 4 % (affine) and 0.7 % (mlp, whose BatchNorm leaves little to gain)
@pytest.mark.parametrize(("calibrator", "share"), [("affine", 0.7), ("mlp", 0.985)])
def test_the_loss_falls_and_the_calibrators_alone_are_trained(
    fit: Fit, tmp_path: Path, calibrator: str, share: float
) -> None:
    kind = f"head.calibrator={calibrator}"
    fit(kind, "train.calibrator_epochs=0", run="before")
    bank_alone = ("train.align_weight=0", "train.calibrator_learning_rate=1e-3")
    head = fit(kind, "train.calibrator_epochs=10", *bank_alone)
    losses = _losses(tmp_path / "run")
    assert len(losses) == 10
    assert np.mean(losses[-3:]) < share * np.mean(losses[:3])
    before, after = _tensors(tmp_path / "before"), _tensors(tmp_path / "run")
    assert _equal(_part(after, "projectors"), _part(before, "projectors"))
    changed = _part(after, "calibrators")
    for name, tensor in changed.items():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before[name]), name
    assert _equal(dict(head.state_dict()), after)
    assert not head.training
    if calibrator == "affine":
        for stage in range(4):  # far beyond rounding
            assert (changed[f"calibrators.{stage}.weight"] - torch.eye(32)).abs().max() > 1e-3


def test_an_epoch_judges_as_many_images_as_there_are(
    fit: Fit, episodes: list[tuple[Episode, float]], tmp_path: Path
) -> None:
    fit()
    assert len(episodes) == 2 * N_EPISODES
    # the means of the log are over the images judged
    for epoch, logged in enumerate(_losses(tmp_path / "run")):
        part = episodes[epoch * N_EPISODES : (epoch + 1) * N_EPISODES]
        n_judged = [len(episode.queries) for episode, _ in part]
        mean = np.average([loss for _, loss in part], weights=n_judged)
        assert logged == pytest.approx(mean, rel=1e-9)
    episodes.clear()
    fit("train.episode_queries=2", "train.calibrator_epochs=1", run="small")
    assert len(episodes) == 6
    assert {len(episode.queries) for episode, _ in episodes} == {2}


def test_banks_are_filled_from_the_normals(
    fit: Fit,
    episodes: list[tuple[Episode, float]],
    tiny_samples: list[Sample],
    normals: list[Sample],
) -> None:
    fit("train.calibrator_epochs=6")
    drawn = [episode for episode, _ in episodes]
    assert {s for e in drawn for s in (*e.references, e.control)} == set(normals)
    assert {s for e in drawn for s in e.queries} == set(tiny_samples)
    # each epoch has its own
    epochs = {tuple(drawn[i : i + N_EPISODES]) for i in range(0, len(drawn), N_EPISODES)}
    assert len(epochs) == 6


def test_samples_fill_the_banks_where_there_are_no_normals(
    fit: Fit, episodes: list[tuple[Episode, float]], tiny_samples: list[Sample], tmp_path: Path
) -> None:
    fit(normals=(), run="alone")
    assert {s for e, _ in episodes for s in e.samples} <= set(tiny_samples)
    assert np.isfinite(_losses(tmp_path / "alone")).all()


def test_same_seed_same_weights(fit: Fit, tmp_path: Path) -> None:
    torch.manual_seed(1)
    fit("head.calibrator=mlp", run="a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    fit("head.calibrator=mlp", run="b")
    assert torch.equal(torch.get_rng_state(), state)
    assert (tmp_path / "a" / HEAD_NAME).read_bytes() == (tmp_path / "b" / HEAD_NAME).read_bytes()


def test_normals_play_no_part_on_the_text_map(
    fit: Fit, train_small: Fit, small_backbone: Backbone, tmp_path: Path
) -> None:
    text = ("train.calibrator_map=text", "train.calibrator_epochs=1")
    train_small("train.projector_epochs=1", *BANK, *text, run="without")
    fit(*text, run="with", normals=[Sample(tmp_path / "absent.png", "ring", "train", "good", None)])
    states = [_tensors(tmp_path / run, STATE_NAME) for run in ("without", "with")]
    assert _equal(*states)


# --- one episode's loss


def test_the_loss_of_an_episode(
    make_trainer: Callable[..., training._Trainer], small_backbone: Backbone, episode: Episode
) -> None:
    trainer = make_trainer("train.align_weight=0.7")
    with torch.no_grad():
        tokens = trainer.cache.load([sample.path for sample in episode.samples])
        calibrated = trainer.head(tokens)
        masks = np.stack([load_mask(sample, 64, 64) for sample in episode.queries])
        whole = [None] * 4
        segmentation = trainer.objective.few_shot(calibrated, 1, torch.from_numpy(masks), whole)
        # of the control and the good queries: neither references nor defective images
        units = [torch.nn.functional.normalize(s[[1, 3, 4]], dim=-1) for s in calibrated]
        grids = [stage.grid for stage in small_backbone.info.stages]
        aligned = alignment_loss(on_common_grid(units, grids))
        got = trainer._loss("calibrators", episode)
    expected = segmentation + 0.7 * aligned
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected > 1.05 * segmentation


def test_no_alignment_without_its_weight(
    make_trainer: Callable[..., training._Trainer],
    fit: Fit,
    episode: Episode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("alignment was asked for")

    with_it = make_trainer()._loss("calibrators", episode).item()
    monkeypatch.setattr(objective, "alignment_loss", never)
    assert make_trainer("train.align_weight=0")._loss("calibrators", episode).item() < with_it
    fit("train.align_weight=0", "train.calibrator_epochs=1")


@pytest.fixture
def on_references(tiny_dataset: Path) -> list[str]:
    """Overrides that align on two training images of the other product."""
    names = [str(path) for path in sorted((tiny_dataset / "washer/train/good").iterdir())]
    assert len(names) == 2
    return [f"data.align_references={json.dumps(names)}", "train.align_on=references"]


def test_alignment_can_see_given_references_instead(
    make_trainer: Callable[..., training._Trainer],
    small_backbone: Backbone,
    on_references: list[str],
    episode: Episode,
) -> None:
    plain, trainer = make_trainer("train.align_weight=0"), make_trainer(*on_references)
    with torch.no_grad():
        segmentation, both = (t._loss("calibrators", episode).item() for t in (plain, trainer))
        tokens = trainer.cache.load(trainer.references)
        units = [torch.nn.functional.normalize(s, dim=-1) for s in trainer.head(tokens)]
        grids = [stage.grid for stage in small_backbone.info.stages]
        aligned = alignment_loss(on_common_grid(units, grids)).item()
    weight = trainer.config.train.align_weight
    assert both - segmentation == pytest.approx(weight * aligned, rel=1e-4)


@pytest.mark.parametrize("calibrator", ["affine", "mlp"])
def test_references_move_the_calibrators(
    fit: Fit, on_references: list[str], tmp_path: Path, calibrator: str
) -> None:
    kind = f"head.calibrator={calibrator}"
    fit(kind, run="episodes")
    fit(kind, *on_references, run="references")
    a, b = _tensors(tmp_path / "episodes"), _tensors(tmp_path / "references")
    assert _equal(_part(a, "projectors"), _part(b, "projectors"))
    name = "weight" if calibrator == "affine" else "expand.weight"
    assert not torch.equal(a[f"calibrators.0.{name}"], b[f"calibrators.0.{name}"])


# --- interruptions


@pytest.fixture(scope="module")
def whole_runs(
    small_backbone: Backbone,
    small_config: MakeConfig,
    tiny_samples: list[Sample],
    normals: list[Sample],
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Uninterrupted runs, by calibrator."""
    runs = {kind: tmp_path_factory.mktemp("whole") / kind for kind in ("affine", "mlp")}
    for kind, run in runs.items():
        epochs = ("train.projector_epochs=1", "train.calibrator_epochs=2")
        config = small_config(*epochs, *BANK, f"head.calibrator={kind}")
        train(config, small_backbone, tiny_samples, run, shared_cache, normals=normals)
    return runs


@pytest.mark.parametrize("calibrator", ["affine", "mlp"])
@pytest.mark.parametrize(
    ("owner", "method", "at_call"),
    [
        (training._Trainer, "_loss", 3),  # in the projectors' only epoch (3 batches)
        (training._Trainer, "_loss", 4),  # before the first episode
        (training._Trainer, "_loss", 8),  # in the second epoch of episodes
        (RunState, "save", 3),  # after the last episode, before it is written
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    fit: Fit,
    whole_runs: dict[str, Path],
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
    whole = whole_runs[calibrator]
    assert _equal(_tensors(tmp_path / "run"), _tensors(whole))
    assert _equal(_tensors(tmp_path / "run", STATE_NAME), _tensors(whole, STATE_NAME))
    assert _losses(tmp_path / "run") == _losses(whole)


def test_resuming_with_other_normals_is_refused(
    fit: Fit,
    whole_runs: dict[str, Path],
    tiny_samples: list[Sample],
    normals: list[Sample],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_runs["affine"], run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    good = [sample for sample in tiny_samples if not sample.is_defective]
    namesakes = [good[0], good[1], good[4], good[5]]
    assert [s.path.name for s in namesakes] == [s.path.name for s in normals]
    for others in ((), normals[:-1], normals[::-1], namesakes):
        with pytest.raises(CheckpointError, match="with the images and backbone weights it was"):
            fit(resume=True, normals=others)
    fit(resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


# --- errors


def test_too_few_good_images_are_refused_before_anything_is_written(
    fit: Fit, tiny_samples: list[Sample], normals: list[Sample], tmp_path: Path
) -> None:
    samples = [s for s in tiny_samples if s.is_defective or s.path.stem == "000"]
    assert sum(not sample.is_defective for sample in samples) == 2  # one of each product
    with pytest.raises(DatasetError, match="needs a product with two good images beside a def"):
        fit(samples=samples, normals=())
    assert not (tmp_path / "run").exists()
    fit("train.calibrator_map=text", samples=samples, normals=(), run="text")
    fit("head.calibrator=none", samples=samples, normals=(), run="none")
    fit(samples=samples, run="enough")


def test_a_diverging_run_names_the_rate_of_its_stage(fit: Fit, tmp_path: Path) -> None:
    for n_epochs, phase, key in (
        (1, "projectors", "train.learning_rate"),
        (0, "calibrators", "train.calibrator_learning_rate"),
    ):
        message = f"got inf in epoch 1 of the {phase}; start a new run with a smaller `{key}`"
        with pytest.raises(CffError, match=message):
            fit("train.focal_weight=1e300", f"train.projector_epochs={n_epochs}", run=phase)
        assert not (tmp_path / phase / HEAD_NAME).exists()
