"""A run's files: what goes in comes out, and nothing else is taken."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import (
    CONFIG_NAME,
    HEAD_NAME,
    load_run,
    read_tensors,
    restore_head,
    save_head,
    write_tensors,
)
from cff_edge.config import Config
from cff_edge.heads import CALIBRATORS, AffineCalibrator, Head
from cff_runtime.errors import CheckpointError, StorageError, UsageError

MakeConfig = Callable[..., Config]
MakeHead = Callable[..., Head]


@pytest.fixture
def run(
    small_backbone: Backbone, small_config: MakeConfig, make_head: MakeHead, tmp_path: Path
) -> Path:
    """Write a finished run with an affine calibrator."""
    save_head(tmp_path, make_head(small_backbone, "affine"), small_backbone.info, ["ring"])
    (tmp_path / CONFIG_NAME).write_text(small_config().to_toml())
    return tmp_path


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_a_head_comes_back_the_same(
    small_backbone: Backbone,
    small_config: MakeConfig,
    make_head: MakeHead,
    tmp_path: Path,
    calibrator: str,
) -> None:
    head = make_head(small_backbone, calibrator)
    config = small_config(f"head.calibrator={calibrator}")
    save_head(tmp_path, head, small_backbone.info, ["ring", "washer"])
    (tmp_path / CONFIG_NAME).write_text(config.to_toml())
    loaded_config, tensors, facts = load_run(tmp_path)
    assert loaded_config == config
    assert facts["products"] == ["ring", "washer"]
    assert facts["backbone"]["weights_sha256"] == small_backbone.info.weights_sha256
    restored = restore_head(small_backbone, loaded_config, tensors, facts)
    assert not restored.training
    assert restored.state_dict().keys() == head.state_dict().keys()
    for name, tensor in head.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor), name


def test_facts_are_json_and_nothing_is_pickled(run: Path) -> None:
    with safe_open(run / HEAD_NAME, framework="np") as file:
        metadata = file.metadata()
        assert set(file.keys()) == {
            f"{part}.{stage}.{kind}"
            for part in ("projectors", "calibrators")
            for stage in range(4)
            for kind in ("weight", "bias")
        }
    facts = json.loads(metadata["cff_run"])
    assert facts["backbone"]["name"] == "efficientnet-lite0"
    assert facts["backbone"]["activation"] == "relu6"


@pytest.mark.parametrize("missing", [HEAD_NAME, CONFIG_NAME, None])
def test_an_unfinished_run_is_refused(run: Path, missing: str | None) -> None:
    if missing:
        (run / missing).unlink()
    folder = run if missing else run / "absent"
    with pytest.raises(UsageError, match=r"must be a finished training run .*`cff-train`"):
        load_run(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff" * 64, (10**9).to_bytes(8, "little") + b"{}"],
    ids=["empty", "short", "huge header", "header beyond the file"],
)
def test_damaged_heads_are_refused(run: Path, content: bytes) -> None:
    (run / HEAD_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"head\.safetensors` must be a checkpoint of"):
        load_run(run)


def test_truncated_head_is_refused(run: Path) -> None:
    (run / HEAD_NAME).write_bytes((run / HEAD_NAME).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="must be a checkpoint of cff-train"):
        load_run(run)


@pytest.mark.parametrize("metadata", [None, {"other": "1"}, {"cff_run": "{"}, {"cff_run": "[1]"}])
def test_files_of_others_are_refused(run: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(2)}, run / HEAD_NAME, metadata)
    with pytest.raises(CheckpointError, match="must be a checkpoint of cff-train"):
        load_run(run)


def test_another_backbone_is_refused(
    small_backbone: Backbone, small_config: MakeConfig, run: Path
) -> None:
    config, tensors, facts = load_run(run)
    other = load_backbone("efficientnet-lite0", "random", 64, 32)
    with pytest.raises(CheckpointError, match=r"backbone `weights_sha256` must be '[0-9a-f]{64}'"):
        restore_head(other, config, tensors, facts)
    larger = load_backbone("efficientnet-lite0", "imagenet", 96, 32)
    with pytest.raises(CheckpointError, match="backbone `image_size` must be 64, as in training"):
        restore_head(larger, config, tensors, facts)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation", "gelu"), ("mean", [0.0, 0.0, 0.0]), ("joint_dim", 64), ("stages", [])],
)
def test_every_fact_of_the_backbone_counts(
    small_backbone: Backbone, run: Path, key: str, value: object
) -> None:
    config, tensors, facts = load_run(run)
    facts["backbone"][key] = value
    with pytest.raises(CheckpointError, match=f"backbone `{key}` must be"):
        restore_head(small_backbone, config, tensors, facts)
    with pytest.raises(CheckpointError, match="field `backbone` must be present"):
        restore_head(small_backbone, config, tensors, {})


def test_the_same_weights_may_be_called_otherwise(
    small_backbone: Backbone, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tensors, facts = load_run(run)
    moved = dataclasses.replace(small_backbone.info, weights="file:moved.pt", licence="unknown")
    monkeypatch.setattr(small_backbone, "info", moved)
    head = restore_head(small_backbone, config, tensors, facts)
    assert all(isinstance(module, AffineCalibrator) for module in head.calibrators)


def test_tensors_that_do_not_fit_are_refused(
    small_backbone: Backbone, small_config: MakeConfig, run: Path
) -> None:
    _, tensors, facts = load_run(run)
    with pytest.raises(CheckpointError, match=r"`head\.safetensors` must fit its configuration"):
        restore_head(small_backbone, small_config("head.calibrator=mlp"), tensors, facts)
    tensors["projectors.1.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match=r"size mismatch for projectors\.1\.weight"):
        restore_head(small_backbone, small_config(), tensors, facts)


def test_any_tensor_can_be_written(tmp_path: Path) -> None:
    tensors = {"transposed": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(3)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"done": {"projectors": 2}})
    read, facts = read_tensors(tmp_path / "x.safetensors")
    assert facts == {"done": {"projectors": 2}}
    assert torch.equal(read["transposed"], tensors["transposed"])
    assert read["scalar"].item() == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_folder_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(StorageError, match=r"x\.safetensors` could not be written"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
