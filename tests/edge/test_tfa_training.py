"""Training TFA-Net: statistics, template, loss, interruptions, and `cff-train`'s errors."""

import importlib
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import cff_edge.tfa_net.training as training
from cff_edge.backbones import Backbone
from cff_edge.checkpoint import CONFIG_NAME, LOG_NAME, STATE_NAME, load_run, read_tensors
from cff_edge.cli import main
from cff_edge.config import Config, load_config
from cff_edge.datasets import Sample, read_dataset
from cff_edge.models import MODELS
from cff_edge.presets import MODEL_RECIPES
from cff_edge.run_state import RunState
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.run_files import MODEL_NAME, load_tfa_run, new_net, run_facts
from cff_edge.tfa_net.training import reconstruction_loss, train_tfa
from cff_runtime.errors import CffError, CheckpointError, DatasetError, UsageError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.references import pixels_sha256
from cff_runtime.storage import sha256_bytes

Interrupted = Callable[[type, str, int], AbstractContextManager[None]]
Fit = Callable[..., TfaNet]
Captured = pytest.CaptureFixture[str]
N_NORMALS = 7
SMALL = (
    "backbone.image_size=64",
    "backbone.joint_dim=32",
    "train.device=cpu",
    "train.batch_size=2",
    "train.learning_rate=1e-3",
    "tfa.width=24",
    "tfa.heads=3",
    "tfa.aggregation_blocks=1",
    "tfa.refinement_width=16",
    "tfa.refinement_heads=2",
    "tfa.refinement_blocks=1",
    "tfa.held_out=0.3",
    "tfa.epochs=2",
)


@pytest.fixture(scope="module")
def dataset(
    draw_part: Callable[..., NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Seven good rings to train on, a washer, and test files that are no images."""
    root: Path = tmp_path_factory.mktemp("tfa") / "data"
    for product, n_images in (("ring", N_NORMALS), ("washer", 3)):
        good = root / product / "train" / "good"
        good.mkdir(parents=True)
        for index in range(n_images):
            Image.fromarray(draw_part(index)).save(good / f"{index:03}.png")
        for kind in ("good", "bar"):
            (root / product / "test" / kind).mkdir(parents=True)
            (root / product / "test" / kind / "000.png").write_bytes(b"never read")
    return root


@pytest.fixture(scope="module")
def normals(dataset: Path) -> list[Sample]:
    return read_dataset(dataset, require_masks=False).of("ring").select("train", False)


@pytest.fixture
def fit(small_backbone: Backbone, normals: list[Sample], shared_cache: Path, tmp_path: Path) -> Fit:
    """Return ``fit(*overrides, run="run", resume=False, images=None)``."""

    def run(
        *overrides: str, run: str = "run", resume: bool = False, images: list[Sample] | None = None
    ) -> TfaNet:
        config = load_config(None, [*SMALL, *overrides], "tfa-net")
        shown = normals if images is None else images
        return train_tfa(config, small_backbone, shown, tmp_path / run, shared_cache, resume)

    return run


def _config(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides], "tfa-net")


def _trainer(
    config: Config, backbone: Backbone, normals: list[Sample], run: Path, cache: Path
) -> Any:
    trainer = training._Trainer(config, backbone, normals, run, cache)
    trainer.state.start(resume=False)
    trainer.read_features()
    return trainer


def _tensors(run: Path, name: str = MODEL_NAME) -> dict[str, Tensor]:
    return read_tensors(run / name)[0]


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG_NAME).read_text().splitlines()]


def test_loss_is_that_of_the_description() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 2, 3, 10))
    cosine = (predicted * target).sum(-1) / np.sqrt((predicted**2).sum(-1) * (target**2).sum(-1))
    expected = 5 * (1 - cosine).mean() + ((predicted - target) ** 2).mean()
    found = reconstruction_loss(torch.from_numpy(predicted), torch.from_numpy(target), 5.0)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_a_run_holds_what_it_says(
    fit: Fit, small_backbone: Backbone, normals: list[Sample], tmp_path: Path
) -> None:
    net = fit("tfa.epochs=16")
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {MODEL_NAME, CONFIG_NAME, LOG_NAME, STATE_NAME}
    config, backbone, loaded = load_tfa_run(run)
    assert config == _config("tfa.epochs=16")
    assert backbone.info == small_backbone.info
    assert not loaded.training
    assert _equal(dict(loaded.state_dict()), dict(net.state_dict()))
    facts = run_facts(run)
    assert facts["products"] == ["ring"]
    assert (facts["n_normals"], facts["n_held_out"]) == (7, 2)
    named = next(s.path for s in normals if s.path.name == facts["template"]["name"])
    assert facts["template"]["sha256"] == sha256_bytes(named.read_bytes())
    side = backbone.info.image_size
    seen = {pixels_sha256(Preprocessing(side, side)(load_image(s.path))) for s in normals}
    assert len(facts["trained_images"]) == 7 - 2 and set(facts["trained_images"]) < seen
    entries = _log(run)
    assert [entry["epoch"] for entry in entries] == list(range(1, 17))
    assert entries[-1]["loss"] < 0.8 * entries[0]["loss"]
    assert entries[-1]["held_out_loss"] < 0.9 * entries[0]["held_out_loss"]


def test_template_and_statistics(
    small_backbone: Backbone, normals: list[Sample], shared_cache: Path, tmp_path: Path
) -> None:
    make = (small_backbone, normals, tmp_path, shared_cache)
    trainer = _trainer(_config("tfa.feature_norm=channels"), *make)
    assert sorted([*trainer.seen, *trainer.held_out]) == list(range(N_NORMALS))
    raw = new_net(_config("tfa.feature_norm=none"), small_backbone.info)
    stages = [stage.float() for stage in trainer.stages]
    fused = raw.fuse(stages)[torch.from_numpy(trainer.seen)].double().numpy()  # [5,C,g,g]
    mean, std = fused.mean(axis=(0, 2, 3)), fused.std(axis=(0, 2, 3))
    np.testing.assert_allclose(trainer.net.channel_mean, mean, atol=1e-5)
    np.testing.assert_allclose(trainer.net.channel_std, std, rtol=1e-4)
    # the means of normalised features, and their cosines
    means = (fused.mean(axis=(2, 3)) - mean) / std
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert trainer.template == trainer.seen[(units @ units.T).sum(axis=1).argmax()]
    (tmp_path / "b").mkdir()
    first = _trainer(_config("tfa.template=first"), *make[:2], tmp_path / "b", shared_cache)
    assert first.template == first.seen.min()


def test_templates_as_published_are_scaled_alone(
    small_backbone: Backbone, normals: list[Sample], shared_cache: Path, tmp_path: Path
) -> None:
    config = _config("tfa.template_normalization=as_published")
    trainer = _trainer(config, small_backbone, normals, tmp_path, shared_cache)
    image = trainer.cache.preprocessing(load_image(normals[3].path))
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(255))
    for found, wanted in zip(trainer.templates, small_backbone.module(pixels)[0], strict=True):
        torch.testing.assert_close(found[3:4].float(), wanted, atol=2e-3, rtol=2e-3)


def test_random_templates_are_others(
    small_backbone: Backbone, normals: list[Sample], shared_cache: Path, tmp_path: Path
) -> None:
    config = _config("tfa.training_template=random")
    trainer = _trainer(config, small_backbone, normals, tmp_path, shared_cache)
    rng = np.random.default_rng(0)
    pairs = {
        (int(i), int(t))
        for _ in range(200)
        for i, t in zip(trainer.seen, trainer._drawn_templates(rng, trainer.seen), strict=True)
    }
    assert pairs == {(int(i), int(t)) for i in trainer.seen for t in trainer.seen if i != t}


# --- seeds and interruptions

OPTIONS = (
    "tfa.masking=uniform",
    "tfa.training_template=random",
    "tfa.selection=held_out",
    "tfa.feature_norm=channels",
    "tfa.epochs=3",
)


@pytest.fixture(scope="module")
def whole_run(
    small_backbone: Backbone,
    normals: list[Sample],
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    run: Path = tmp_path_factory.mktemp("whole")
    train_tfa(_config(*OPTIONS), small_backbone, normals, run, shared_cache)
    return run


@pytest.mark.parametrize(
    ("owner", "method", "at_call"),
    [
        (training._Trainer, "_loss", 2),  # in the first epoch: 3 batches, 2 held out
        (training._Trainer, "_loss", 8),  # in the second
        (training._Trainer, "_loss", 15),  # the last of all
        (RunState, "save", 2),  # behind the best weights, before the state
        (RunState, "log", 3),  # behind the last epoch
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    fit: Fit,
    whole_run: Path,
    tmp_path: Path,
    interrupted: Interrupted,
    owner: type,
    method: str,
    at_call: int,
) -> None:
    with interrupted(owner, method, at_call):
        fit(*OPTIONS)
    assert not (tmp_path / "run" / MODEL_NAME).exists()
    torch.manual_seed(at_call)  # of no effect
    fit(*OPTIONS, resume=True)
    for name in (MODEL_NAME, STATE_NAME, training.BEST_NAME):
        assert _equal(_tensors(tmp_path / "run", name), _tensors(whole_run, name)), name


def test_the_seed_decides(fit: Fit, whole_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    fit(*OPTIONS, run="again")
    assert torch.equal(torch.get_rng_state(), state)
    assert _equal(_tensors(tmp_path / "again"), _tensors(whole_run))
    fit(*OPTIONS, "train.seed=7", run="other")
    assert not _equal(_tensors(tmp_path / "other"), _tensors(whole_run))


def test_the_best_on_held_out_images_is_kept(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(training._Trainer, "_held_out_loss", lambda _: next(losses))
    fit(*OPTIONS)
    kept, facts = read_tensors(tmp_path / "run" / training.BEST_NAME)
    assert facts["loss"] == 1.0
    assert _equal(kept, _tensors(tmp_path / "run"))
    monkeypatch.undo()
    # as after two epochs, whose draws a third does not change
    fit(*OPTIONS, "tfa.epochs=2", "tfa.selection=last", run="two")
    assert _equal(kept, _tensors(tmp_path / "two"))


def test_other_images_or_options_are_not_resumed(
    fit: Fit, normals: list[Sample], interrupted: Interrupted
) -> None:
    with interrupted(RunState, "log", 1):
        fit()
    with pytest.raises(CheckpointError, match="images and backbone weights"):
        fit(resume=True, images=normals[1:])
    with pytest.raises(CheckpointError, match="configuration it was started with"):
        fit("tfa.epochs=9", resume=True)
    with pytest.raises(UsageError, match="it holds a run"):
        fit()


# --- errors


def test_too_few_normals(fit: Fit, normals: list[Sample], tmp_path: Path) -> None:
    for images in ([], normals[:3]):
        with pytest.raises(DatasetError, match="at least 4 good training images"):
            fit(images=images)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(CffError, match=r"smaller `train\.learning_rate`"):
        fit("train.learning_rate=1e30", "tfa.epochs=5")
    assert not (tmp_path / "run" / MODEL_NAME).exists()


def test_a_damaged_run(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a finished run of TFA-Net"):
        load_tfa_run(tmp_path)
    fit("tfa.epochs=1")
    run = tmp_path / "run"
    config = (run / CONFIG_NAME).read_text()
    (run / CONFIG_NAME).write_text(config.replace("width = 24", "width = 48", 1))
    with pytest.raises(CheckpointError, match="must fit its configuration"):
        load_tfa_run(run)
    (run / CONFIG_NAME).write_text(config.replace('weights = "imagenet"', 'weights = "random"'))
    with pytest.raises(CheckpointError, match="backbone `weights_sha256`"):
        load_tfa_run(run)
    (run / MODEL_NAME).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"must be a checkpoint of cff-train"):
        load_tfa_run(run)


def test_other_readers_say_what_to_do(fit: Fit, tmp_path: Path) -> None:
    fit("tfa.epochs=0")
    with pytest.raises(UsageError, match="a head, got one of tfa-net; export it"):
        load_run(tmp_path / "run")


def test_some_images_are_always_seen(fit: Fit, normals: list[Sample], tmp_path: Path) -> None:
    fit("tfa.held_out=0.9", "tfa.training_template=random", "tfa.epochs=1", images=normals[:4])
    assert run_facts(tmp_path / "run")["n_held_out"] == 2


def test_every_model_can_be_trained() -> None:
    assert tuple(MODELS) == tuple(MODEL_RECIPES)
    for module in MODELS.values():
        assert callable(importlib.import_module(module).train_run)


# --- the command line


def _arguments(*options: str) -> list[str]:
    pairs = [part for override in SMALL for part in ("--set", override)]
    return ["--preset", "tfa-net", *pairs, *options]


def test_command_line_trains_and_resumes(
    dataset: Path,
    tmp_path: Path,
    shared_cache: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ["--data", str(dataset), "--products", "ring", "--cache", str(shared_cache)]
    with caplog.at_level(logging.INFO, "cff_edge"):
        assert main(_arguments(*data, "--out", str(tmp_path / "a"))) == 0
    assert capsys.readouterr().out == ""
    assert "epoch 2/2: loss " in caplog.text and ", held out " in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "log", _interrupt)
        assert main(_arguments(*data, "--out", str(tmp_path / "b"))) == 130
    again = ["--config", str(tmp_path / "b" / CONFIG_NAME), "--cache", str(shared_cache)]
    assert main([*again, "--out", str(tmp_path / "b"), "--resume"]) == 0
    a, b = ((tmp_path / run / MODEL_NAME).read_bytes() for run in "ab")
    assert a == b


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        ([], 2, "must name one product for tfa-net, which has one model per product, got ring, w"),
        (["--exclude", "ring,washer"], 2, "one model per product, got none"),
        (["--products", "screw"], 2, "got 'screw'"),
        (["--products", "washer"], 1, "at least 4 good training images of its product, got 3"),
        (["--products", "ring", "--set", "tfa.patch=3"], 2, "`tfa.patch` must divide the grid"),
    ],
)
def test_wrong_calls_are_one_sentence(
    dataset: Path,
    tmp_path: Path,
    capsys: Captured,
    options: list[str],
    exit_code: int,
    message: str,
) -> None:
    run = tmp_path / "run"
    arguments = _arguments("--data", str(dataset), "--out", str(run), *options)
    assert main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert message in err
    assert not run.exists()


def test_without_a_data_set(tmp_path: Path, capsys: Captured) -> None:
    assert main(_arguments("--out", str(tmp_path / "run"))) == 2
    assert "`--data` must name at least one data set" in capsys.readouterr().err
