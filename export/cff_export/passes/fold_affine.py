"""Projector and affine calibrator become one linear layer.

    W (k f + b) + c = (W k) f + (W b + c)

so linear calibration costs nothing after export (CFF section 3.2; Table 6 pays 1.67 times).
"""

from cff_export.passes.chain import Linear, PassResult, StageChain


def fold_affine(chain: StageChain) -> PassResult:
    """Fold a chain of exactly two linear layers into one."""
    match chain.layers:
        case (Linear() as projector, Linear() as calibrator):
            folded = StageChain((calibrator.after(projector),), chain.basis)
            return PassResult(folded, True, "calibrator folded into the projector")
    return PassResult(chain, False, "no affine calibrator")
