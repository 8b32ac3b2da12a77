"""A TFA-Net run: `model.safetensors`, `config.toml`, `log.jsonl`, `state.safetensors`.

`model.safetensors` holds the trained network and, as JSON metadata, the facts about its trunk, its
product and the normal image that was its template.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cff_edge.backbones import Backbone, BackboneInfo
from cff_edge.checkpoint import CONFIG_NAME, check_backbone, read_tensors, write_tensors
from cff_edge.config import Config, load_config
from cff_edge.models import configured_backbone
from cff_edge.tfa_net.model import TfaNet
from cff_runtime.errors import CheckpointError, UsageError

MODEL_NAME = "model.safetensors"


def save_tfa_run(run: Path, net: TfaNet, info: BackboneInfo, facts: Mapping[str, Any]) -> None:
    """Write the network with its trunk's facts and those given.

    Parameters
    ----------
    run : Path
    net : TfaNet
    info : BackboneInfo
    facts : mapping
        ``products``, a list of one name; ``template``, the name and SHA-256 of its image;
        ``trained_images``, the SHA-256 of the pixels of every image trained on.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    write_tensors(run / MODEL_NAME, tensors, {"backbone": dataclasses.asdict(info), **facts})


def load_tfa_run(run: Path, weights: str | None = None) -> tuple[Config, Backbone, TfaNet]:
    """Read a finished run.

    Parameters
    ----------
    run : Path
    weights : str, optional
        Of the trunk, if they lie elsewhere than in training.

    Returns
    -------
    Config
    Backbone
    TfaNet
        In eval mode, on the CPU.

    Raises
    ------
    UsageError
        If `run` is no finished run.
    CheckpointError
        If a file is damaged, or the trunk is another than in training.
    """
    facts = run_facts(run)
    config = load_config(run / CONFIG_NAME)
    backbone = configured_backbone(config, weights)
    check_backbone(backbone.info, facts)
    net = new_net(config, backbone.info)
    try:
        net.load_state_dict(read_tensors(run / MODEL_NAME)[0])
    except RuntimeError as error:
        raise CheckpointError(f"`{MODEL_NAME}` must fit its configuration: {error}") from error
    return config, backbone, net.eval()


def run_facts(run: Path) -> Mapping[str, Any]:
    """Return the facts beside the network: ``backbone``, ``products``, ``template``.

    Raises
    ------
    UsageError
        If `run` is no finished run.
    CheckpointError
        If the file is damaged.
    """
    if not (run / MODEL_NAME).is_file() or not (run / CONFIG_NAME).is_file():
        raise UsageError(
            f"`{run}` must be a finished run of TFA-Net (with `{MODEL_NAME}` and `{CONFIG_NAME}`); "
            "make one with `cff-train --preset tfa-net`"
        )
    return read_tensors(run / MODEL_NAME)[1]


def new_net(config: Config, info: BackboneInfo) -> TfaNet:
    """Build the untrained network of a configuration, drawn from ``train.seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return TfaNet(info.stages, config.tfa)
