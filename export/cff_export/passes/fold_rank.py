"""A narrow stage's features are kept in the subspace that they span.

z = W f + b lies in the span of the E columns of W and of b, at most E + 1 dimensions of C. With
[W b] = Q R (Q orthonormal columns, R square) follows z = Q y for y = R [f; 1], and

    z1 . z2 = y1 . y2,    |z| = |y|,    z . t = y . (Q^T t)

exactly, so graph, memory bank and text vectors are kept in E + 1 dimensions.
"""

import numpy as np

from cff_export.passes.chain import Linear, PassResult, StageChain


def fold_rank(chain: StageChain) -> PassResult:
    """Replace one linear layer E -> C by one of E -> E + 1 and a basis, where E + 1 < C."""
    match chain.layers:
        case (Linear() as layer,) if chain.basis is None:
            joint_dim, width = layer.weight.shape
            if width + 1 >= joint_dim:
                reason = f"width {width} + 1 is not below the joint dimension {joint_dim}"
                return PassResult(chain, False, reason)
            basis, triangle = np.linalg.qr(np.column_stack([layer.weight, layer.bias]))
            folded = Linear(triangle[:, :width], triangle[:, width])
            reason = f"{joint_dim} dimensions kept as {width + 1}"
            return PassResult(StageChain((folded,), basis), True, reason)
    return PassResult(chain, False, "more than one linear layer: the features have full rank")
