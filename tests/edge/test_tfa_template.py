"""Why the template matters: figure 5 of TFA-Net in numbers.

Two networks of one size see the same drawn normals: features of a fixed pattern with noise. One
reconstructs them on the template, the other on their own tokens, which is plain reconstruction.
Then something else is pasted into inputs that neither has seen, and the share of it that comes back
is measured: the regression of the reconstruction's change on the input's change where it lies.
"""

import numpy as np
import torch
from torch import Tensor

from cff_edge.backbones import StageInfo
from cff_edge.tfa_net.masking import draw_masks
from cff_edge.tfa_net.model import TfaNet
from cff_edge.tfa_net.options import TfaConfig
from cff_edge.tfa_net.training import reconstruction_loss

N_CHANNELS, GRID, N_STEPS = 8, 8, 200
NOISE, PASTED = 0.3, 2.0  # deviations; the pattern's is 1
HERE = np.s_[:, :, 2:4, 4:6]
OPTIONS = TfaConfig(
    patch=2,
    width=48,
    heads=4,
    aggregation_blocks=2,
    refinement_width=48,
    refinement_heads=4,
    refinement_blocks=1,
)


def _drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _normals(n: int, seed: int) -> Tensor:
    pattern = _drawn(N_CHANNELS, GRID, GRID, seed=0)
    return pattern + NOISE * _drawn(n, N_CHANNELS, GRID, GRID, seed=seed)


def _template_tokens(net: TfaNet, tokens: Tensor, on_itself: bool) -> Tensor:
    return tokens if on_itself else net.tokens(_normals(1, seed=1))


def _fit(on_itself: bool) -> TfaNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = TfaNet((StageInfo("drawn", N_CHANNELS, (GRID, GRID)),), OPTIONS)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, (0.9, 0.95))
    rng, normals = np.random.default_rng(0), _normals(64, seed=1)
    for _ in range(N_STEPS):
        fused = normals[torch.from_numpy(rng.permutation(64)[:16])]
        tokens = net.tokens(fused)
        masks = None if on_itself else draw_masks(rng, 16, net.n_tokens, OPTIONS)
        mask = None if masks is None else torch.from_numpy(masks)
        template = _template_tokens(net, tokens, on_itself)
        predicted = net.refine(net.aggregate(tokens, template, mask))
        loss = reconstruction_loss(predicted, net.patchify(fused), 5.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


@torch.no_grad()
def _share_reproduced(net: TfaNet, on_itself: bool) -> tuple[float, float, float]:
    """Return the share, and the mean squared errors at the pasted cells and of normal inputs."""

    def rebuilt(fused: Tensor) -> Tensor:
        tokens = net.tokens(fused)
        return net.reconstruct(tokens, _template_tokens(net, tokens, on_itself))

    normal = _normals(20, seed=2)
    pasted = normal.clone()
    pasted[HERE] = PASTED * _drawn(20, N_CHANNELS, 2, 2, seed=9)
    change, answer = (pasted - normal)[HERE], (rebuilt(pasted) - rebuilt(normal))[HERE]
    share = (answer * change).sum() / change.square().sum()
    at_pasted = (rebuilt(pasted) - pasted)[HERE].square().mean()
    of_normal = (rebuilt(normal) - normal).square().mean()
    return share.item(), at_pasted.item(), of_normal.item()


def test_an_anomaly_comes_back_from_itself_and_not_from_the_template() -> None:
    share, at_pasted, of_normal = _share_reproduced(_fit(False), False)
    share_itself, at_pasted_itself, _ = _share_reproduced(_fit(True), True)
    assert abs(share) < 0.05
    assert share_itself > 0.4
    # of what is pasted all is left over, 2^2 and the pattern's own 1, and of a normal its noise
    assert at_pasted > 0.8 * (PASTED**2 + 1)
    assert of_normal < 1.2 * NOISE**2
    assert at_pasted > 2 * at_pasted_itself
