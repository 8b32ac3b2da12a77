"""Training and exporting the networks of every product, with the project's own commands."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cff_bench.demo.commands import run
from cff_bench.tfa_net.costs import COSTS_NAME, Costs
from cff_bench.tfa_net.settings import NETWORKS, PRESET, TRAINED, Network, TfaNetSettings
from cff_edge.checkpoint import CONFIG_NAME, LOG_NAME, read_tensors
from cff_edge.config import Config, load_config
from cff_edge.datasets import read_dataset, require_product
from cff_edge.tfa_net.run_files import MODEL_NAME, run_facts
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.manifest import MANIFEST_NAME

_STATISTICS = ("channel_mean", "channel_std")  # of the normals, not trained
log = logging.getLogger(__name__)


def train_networks(settings: TfaNetSettings) -> dict[str, Any]:
    """Train and export what is not there yet; return what it took.

    Raises
    ------
    UsageError
        If a product is unknown, or a run was made with other settings.
    CffError
        If a command fails; it has said why.
    """
    for network in NETWORKS:
        settings.config_of(network)  # a wrong override is told before minutes of training
    known = read_dataset(settings.data, require_masks=False).products
    for product in settings.products:
        require_product(product, known)
    for product in settings.products:
        for network in NETWORKS:
            trained_now = _train(settings, product, network)
            bundle = settings.bundle(product, network.name)
            if trained_now or not (bundle / MANIFEST_NAME).is_file():
                source = settings.run_folder(product, network.name)
                run(["cff-export", source, "--out", bundle, "--replace"])
    return {
        "preset": PRESET,
        "overrides": list(settings.overrides_of(NETWORKS[0])),
        "config": _config_facts(settings.config_of(NETWORKS[0])),
        "products": [_facts(settings, product) for product in settings.products],
    }


def _train(settings: TfaNetSettings, product: str, network: Network) -> bool:
    """Train a network, or go on; return whether there was anything to do."""
    folder = settings.run_folder(product, network.name)
    has_config = (folder / CONFIG_NAME).is_file()
    if has_config:
        _require_same(folder, settings.config_of(network))
    if has_config and (folder / MODEL_NAME).is_file():
        log.info("%s of %s is trained", network.name, product)
        return False
    words = [word for text in settings.overrides_of(network) for word in ("--set", text)]
    data = ["--data", settings.data, "--products", product, "--cache", settings.out / "cache"]
    resume = ["--resume"] if has_config else []
    costs = Costs(settings.out / product / COSTS_NAME)
    with costs.of(f"train/{network.name}", lambda: len(_epochs(folder))):
        run(
            ["cff-train", "--preset", PRESET, *data, "--out", folder, *words, *resume],
            one_thread=settings.threads == 1,
        )
    return True


def _require_same(folder: Path, wanted: Config) -> None:
    """Refuse a run that was made with other settings, whose figures would be told as these."""
    made = load_config(folder / CONFIG_NAME)
    for section in ("model", "backbone", "train", "tfa"):
        if getattr(made, section) != getattr(wanted, section):
            raise UsageError(
                f"`{folder}` must be a run with the settings asked for, its section `{section}` "
                "differs; give another `--out`, or remove it"
            )


def _facts(settings: TfaNetSettings, product: str) -> dict[str, Any]:
    folder = settings.run_folder(product, TRAINED)
    epochs = _epochs(folder)
    facts = run_facts(folder)
    cost = Costs(settings.out / product / COSTS_NAME).total(f"train/{TRAINED}")
    tensors, _ = read_tensors(folder / MODEL_NAME)
    manifest = Bundle.open(settings.bundle(product, TRAINED)).manifest
    return {
        "product": product,
        "n_normals": facts["n_normals"],
        "n_held_out": facts["n_held_out"],
        "template": facts["template"]["name"],
        "n_parameters": sum(t.numel() for name, t in tensors.items() if name not in _STATISTICS),
        "n_epochs": len(epochs),
        "n_epochs_measured": None if cost is None else cost.n_epochs,
        "cpu_minutes": None if cost is None else cost.cpu_s / 60,
        "wall_minutes": None if cost is None else cost.wall_s / 60,
        "losses": [epoch["loss"] for epoch in epochs],
        "held_out_losses": [epoch["held_out_loss"] for epoch in epochs],
        "bundle_id": manifest.id,
        "backbone": manifest.backbone["name"],
        "weights": manifest.backbone["weights"],
        "notes": list(manifest.notes),
    }


def _epochs(folder: Path) -> list[Mapping[str, Any]]:
    """Return a run's log; an epoch that was done again after an interruption counts once."""
    path = folder / LOG_NAME
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # cut off by an interruption
            lines.append(json.loads(text))
    return list({line["epoch"]: line for line in lines}.values())


def _config_facts(config: Config) -> dict[str, Any]:
    """Return what decides a run, without where its data lie on this machine."""
    sections = ("model", "backbone", "train", "tfa")
    return {name: dataclasses.asdict(getattr(config, name)) for name in sections}
