"""From a trained head to folded chains, one per stage."""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from cff_edge.heads import Head, MlpCalibrator
from cff_export.passes import (
    Layer,
    Linear,
    Relu,
    ScaleShift,
    StageChain,
    fold_affine,
    fold_mlp,
    fold_rank,
)
from cff_export.passes.chain import Matrix
from cff_runtime.errors import UsageError

PASSES = {"fold_affine": fold_affine, "fold_mlp": fold_mlp, "fold_rank": fold_rank}


def stage_chain(head: Head, stage: int) -> StageChain:
    """Return one stage's projector and calibrator, unfolded, in float64."""
    layers: list[Layer] = [_linear(cast(nn.Linear, head.projectors[stage]))]
    calibrator = head.calibrators[stage]
    if isinstance(calibrator, MlpCalibrator):
        layers += [
            _linear(calibrator.expand),
            _scale_shift(calibrator.norm),
            Relu(),
            _linear(calibrator.reduce),
        ]
    elif isinstance(calibrator, nn.Linear):
        layers.append(_linear(calibrator))
    elif not isinstance(calibrator, nn.Identity):
        raise UsageError(
            f"calibrator must be none, affine or mlp, got {type(calibrator).__name__}; "
            "teach `stage_chain` to fold it"
        )
    return StageChain(tuple(layers))


def fold_head(head: Head) -> tuple[list[StageChain], list[dict[str, object]]]:
    """Fold every stage; return the chains and one record per stage and pass."""
    chains, records = [], []
    for stage in range(len(head.widths)):
        chain = stage_chain(head, stage)
        for name, fold in PASSES.items():
            result = fold(chain)
            chain = result.chain
            records.append(
                {"pass": name, "stage": stage, "applied": result.applied, "reason": result.reason}
            )
        chains.append(chain)
    return chains, records


def chain_module(chain: StageChain) -> nn.Sequential:
    """Return a folded chain as a float32 module, [B,N_s,E_s] to [B,N_s,C_s]."""
    modules: list[nn.Module] = []
    for layer in chain.layers:
        if isinstance(layer, Linear):
            n_outputs, n_inputs = layer.weight.shape
            module = nn.Linear(n_inputs, n_outputs)
            module.weight = frozen_parameter(layer.weight)
            module.bias = frozen_parameter(layer.bias)
            modules.append(module)
        elif isinstance(layer, Relu):
            modules.append(nn.ReLU())
        else:
            raise AssertionError("fold_mlp leaves no BatchNorm")
    return nn.Sequential(*modules)


def frozen_parameter(array: Matrix) -> nn.Parameter:
    """Return a float64 array as a float32 parameter without gradient: the one cast of a fold."""
    return nn.Parameter(torch.from_numpy(array.astype(np.float32)), requires_grad=False)


def _array(tensor: Tensor) -> Matrix:
    array: Matrix = tensor.detach().cpu().numpy().astype(np.float64)
    return array


def _linear(layer: nn.Linear) -> Linear:
    return Linear(_array(layer.weight), _array(layer.bias))


def _scale_shift(norm: nn.BatchNorm1d) -> ScaleShift:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = _array(norm.weight) / np.sqrt(_array(variance) + norm.eps)
    return ScaleShift(scale, _array(norm.bias) - scale * _array(mean))
