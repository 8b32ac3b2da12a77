"""A training run's folder: `head.safetensors`, `config.toml`, `log.jsonl`, `state.safetensors`.

`head.safetensors` holds the trained head and, as JSON metadata, the facts about the backbone that
it was trained on; those are checked when the run is loaded. `state.safetensors` is written after
every epoch, so that an interrupted run can resume.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cff_edge.backbones import Backbone, BackboneInfo
from cff_edge.config import Config, ModelConfig, load_config
from cff_edge.heads import Head
from cff_runtime.errors import CheckpointError, UsageError
from cff_runtime.jsonfields import take
from cff_runtime.storage import atomic_write

HEAD_NAME = "head.safetensors"
STATE_NAME = "state.safetensors"
CONFIG_NAME = "config.toml"
LOG_NAME = "log.jsonl"
_METADATA_KEY = "cff_run"
# what weights are called depends on where they were read; `weights_sha256` says what they are
_LABELS = ("weights", "licence")


def save_head(
    run: Path,
    head: Head,
    info: BackboneInfo,
    products: list[str],
    imported: Mapping[str, str] | None = None,
) -> None:
    """Write the trained head with the backbone's facts and the products it was trained on.

    `imported` names the file and hash of a head that was not trained here.
    """
    facts: dict[str, Any] = {"backbone": dataclasses.asdict(info), "products": products}
    if imported is not None:
        facts["imported"] = dict(imported)
    tensors = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    write_tensors(run / HEAD_NAME, tensors, facts)


def load_run(run: Path) -> tuple[Config, dict[str, Tensor], Mapping[str, Any]]:
    """Read a finished run: its configuration, the head's tensors and the facts.

    Raises
    ------
    UsageError
        If `run` is no finished run.
    CheckpointError
        If a file is damaged.
    """
    refuse_other_models(run)
    if not (run / HEAD_NAME).is_file() or not (run / CONFIG_NAME).is_file():
        raise UsageError(
            f"`{run}` must be a finished training run (with `{HEAD_NAME}` and `{CONFIG_NAME}`); "
            "make one with `cff-train`"
        )
    tensors, facts = read_tensors(run / HEAD_NAME)
    return load_config(run / CONFIG_NAME), tensors, facts


def refuse_other_models(run: Path) -> None:
    """Refuse a run of another detector, which has no head.

    Raises
    ------
    UsageError
    """
    if not (run / CONFIG_NAME).is_file():
        return
    model = load_config(run / CONFIG_NAME).model.name
    if model != ModelConfig.name:
        raise UsageError(
            f"`{run}` must be a run with a head, got one of {model}; "
            "export it with `cff-export` and give the bundle"
        )


def restore_head(
    backbone: Backbone, config: Config, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> Head:
    """Build the head of a run for a backbone, after checking that they belong together.

    Raises
    ------
    CheckpointError
        If the backbone differs in weights, activation, size or stages, or a tensor does not fit.
    """
    check_backbone(backbone.info, facts)
    head = Head(
        [stage.width for stage in backbone.info.stages],
        backbone.info.joint_dim,
        config.head.calibrator,
        config.head.projector_init,
    )
    try:
        head.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"`{HEAD_NAME}` must fit its configuration: {error}") from error
    return head.eval()


def check_backbone(info: BackboneInfo, facts: Mapping[str, Any]) -> None:
    """Refuse a backbone that differs from the one in a run's facts.

    Raises
    ------
    CheckpointError
        If it differs in anything but what its weights are called.
    """
    trained_on = take(facts, "backbone", dict, CheckpointError)
    present = json.loads(json.dumps(dataclasses.asdict(info)))
    checked = [key for key in present if key not in _LABELS]
    differing = [key for key in checked if present[key] != trained_on.get(key)]
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"backbone `{key}` must be {trained_on.get(key)!r}, as in training, "
            f"got {present[key]!r}; give the weights that the run was trained with"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one safetensors file, atomically."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    atomic_write(path, save(contiguous, metadata={_METADATA_KEY: json.dumps(facts)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    CheckpointError
        If the file is damaged or was not written by cff-train.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"`{path}` must be a checkpoint of cff-train: {error}") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"`{path}` must be a checkpoint of cff-train, its facts are none")
    return tensors, facts
