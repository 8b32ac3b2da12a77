"""Where a training run stands: written after every epoch, so that an interrupted run continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cff_edge.checkpoint import (
    CONFIG_NAME,
    LOG_NAME,
    STATE_NAME,
    read_tensors,
    write_tensors,
)
from cff_edge.config import Config, load_config
from cff_edge.datasets import Sample
from cff_runtime.errors import CheckpointError, StorageError, UsageError
from cff_runtime.storage import atomic_write

Parameters = Mapping[str, torch.nn.Parameter]


class RunState:
    """What is trained, its optimiser's moments and the epochs done, in a run's folder.

    Parameters
    ----------
    run : Path
        Folder of the run.
    config : Config
    key : str
        Hash over what must not change between the parts of one run.
    module : Module
        What is trained; restored in place.
    phases : sequence of str
        Names of the training's stages.
    result : str
        Name of the file that a finished run holds.

    Attributes
    ----------
    done : dict of str to int
        Epochs done, by phase.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        key: str,
        module: nn.Module,
        phases: Sequence[str],
        result: str,
    ) -> None:
        self.done = dict.fromkeys(phases, 0)
        self._run = run
        self._config = config
        self._key = key
        self._module = module
        self._result = result
        self._moments: dict[str, Tensor] = {}

    def start(self, resume: bool) -> None:
        """Write the configuration, or read the state of an interrupted run.

        Raises
        ------
        UsageError
            If the folder holds another run, or nothing to resume.
        CheckpointError
            If the run is damaged, or was started with another configuration or key.
        """
        state, config = self._run / STATE_NAME, self._run / CONFIG_NAME
        if not resume:
            if state.exists() or (self._run / self._result).exists():
                raise UsageError(
                    f"`{self._run}` must be a new folder, it holds a run; "
                    "continue it with `--resume` or choose another"
                )
            atomic_write(config, self._config.to_toml().encode())
            return
        if not config.exists():
            raise UsageError(f"`{self._run}` must hold an interrupted run to resume")
        if load_config(config) != self._config:
            raise CheckpointError(
                f"`{self._run}` must be resumed with the configuration it was started with, got "
                f"another; give `--config {config}` and no overrides, or start a new run"
            )
        if state.exists():  # or else interrupted before the end of its first epoch
            self._read(state)

    def _read(self, state: Path) -> None:
        tensors, facts = read_tensors(state)
        if facts.get("run_key") != self._key:
            raise CheckpointError(
                f"`{self._run}` must be resumed with the images and backbone weights it was "
                "started with; they differ, start a new run"
            )
        try:
            self.done = {phase: int(facts["done"][phase]) for phase in self.done}
            self._module.load_state_dict(_under("module.", tensors))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"`{state}` must fit its run: {error}") from error
        self._moments = _under("adam.", tensors)

    def restore(self, optimiser: torch.optim.Optimizer, parameters: Parameters) -> None:
        """Put the moments read back; `step` stays on the CPU, as Adam keeps it."""
        for name, parameter in parameters.items():
            optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device)
                for key, value in _under(f"{name}.", self._moments).items()
            }

    def save(
        self, phase: str, n_epochs: int, optimiser: torch.optim.Optimizer, parameters: Parameters
    ) -> None:
        """Write the state after `n_epochs` epochs of a phase.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        self.done[phase] = n_epochs
        tensors = {f"module.{name}": t.cpu() for name, t in self._module.state_dict().items()}
        for name, parameter in parameters.items():
            for key, value in optimiser.state[parameter].items():
                tensors[f"adam.{name}.{key}"] = value.cpu()
        facts = {"run_key": self._key, "done": self.done}
        write_tensors(self._run / STATE_NAME, tensors, facts)

    def log(self, record: Mapping[str, object]) -> None:
        """Append a line to the run's log.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        path = self._run / LOG_NAME
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise StorageError(
                f"`{path}` could not be written: {error.strerror or error}; "
                "free some space and continue with `--resume`"
            ) from error


def run_key(config: Config, weights_sha256: str, shown: Sequence[Sample]) -> str:
    """Hash over what must not change between the parts of one run."""
    names = "\n".join(f"{s.product}/{s.split}/{s.defect}/{s.path.name}" for s in shown)
    return hashlib.sha256((config.to_toml() + weights_sha256 + names).encode()).hexdigest()


def epoch_seed(seed: int, phase: str, epoch: int) -> int:
    """Return the seed of one epoch, so that a resumed run draws as one never interrupted."""
    digest = hashlib.sha256(f"{seed} {phase} {epoch}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
