"""From a trained head to folded chains, one per stage."""

from typing import cast

import numpy as np
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


def _array(tensor: Tensor) -> Matrix:
    array: Matrix = tensor.detach().cpu().numpy().astype(np.float64)
    return array


def _linear(layer: nn.Linear) -> Linear:
    return Linear(_array(layer.weight), _array(layer.bias))


def _scale_shift(norm: nn.BatchNorm1d) -> ScaleShift:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = _array(norm.weight) / np.sqrt(_array(variance) + norm.eps)
    return ScaleShift(scale, _array(norm.bias) - scale * _array(mean))
