"""Projector, first linear layer and BatchNorm of an MLP calibrator become one linear layer.

    s (V (k f + b) + v) + t = (s V k) f + (s (V b + v) + t)

with BatchNorm's running statistics as scale s = gamma / sqrt(var + eps) and shift
t = beta - s mean. ReLU and the second linear layer stay; Dropout is the identity after training.
"""

from cff_export.passes.chain import Linear, PassResult, Relu, ScaleShift, StageChain


def fold_mlp(chain: StageChain) -> PassResult:
    """Fold projector - linear - BatchNorm - ReLU - linear to linear - ReLU - linear."""
    match chain.layers:
        case (Linear() as projector, Linear() as expand, ScaleShift() as norm, Relu(), Linear()):
            first = expand.after(projector)
            scaled = Linear(norm.scale[:, None] * first.weight, norm(first.bias))
            folded = StageChain((scaled, *chain.layers[3:]), chain.basis)
            return PassResult(folded, True, "projector and BatchNorm folded into the MLP")
    return PassResult(chain, False, "no MLP calibrator")
