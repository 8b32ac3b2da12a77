"""Projectors and calibrators: what CFF trains on top of a frozen backbone.

Per stage n (CFF, Sensors 2026, section 3):

    projector    F_n  = k_n f_n + b_n            [N,E] -> [N,C]
    calibrator   F'_n = W_n F_n + c_n            affine, starts as the identity
                 Linear(C,2C) - BatchNorm - ReLU - Dropout(0.1) - Linear(2C,C)     mlp
                 F'_n = F_n                      none
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cff_runtime.errors import UsageError

CalibratorKind = Literal["none", "affine", "mlp"]
ProjectorInit = Literal["default", "orthonormal"]
BankKind = Literal["calibrated", "raw"]
TextMapKind = Literal["maps", "features"]

CALIBRATORS: tuple[str, ...] = get_args(CalibratorKind)
PROJECTOR_INITS: tuple[str, ...] = get_args(ProjectorInit)
BANKS: tuple[str, ...] = get_args(BankKind)
TEXT_MAPS: tuple[str, ...] = get_args(TextMapKind)


class AffineCalibrator(nn.Linear):
    """W F + c with W = I and c = 0 at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)


class MlpCalibrator(nn.Module):
    """Linear(C,2C) - BatchNorm1d - ReLU - Dropout(0.1) - Linear(2C,C).

    It starts from relu(x) - relu(-x) = x, so that before training and with the initial running
    statistics it is the identity (to BatchNorm's epsilon), as the affine calibrator is.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim)
        self.norm = nn.BatchNorm1d(2 * dim)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(0.1)
        self.reduce = nn.Linear(2 * dim, dim)
        eye = torch.eye(dim)
        with torch.no_grad():
            self.expand.weight.copy_(torch.cat([eye, -eye]))
            self.reduce.weight.copy_(torch.cat([eye, -eye], dim=1))
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B,N,C] to calibrated features [B,N,C]."""
        hidden = self.expand(features)
        hidden = self.norm(hidden.flatten(0, 1)).view_as(hidden)  # statistics over B * N tokens
        calibrated: Tensor = self.reduce(self.dropout(self.activation(hidden)))
        return calibrated


class Head(nn.Module):
    """One projector and one calibrator per stage.

    Parameters
    ----------
    widths : sequence of int
        E of every stage.
    joint_dim : int
        C.
    calibrator : {'none', 'affine', 'mlp'}
        Kind of calibrator.
    projector_init : {'default', 'orthonormal'}
        ``orthonormal`` starts from an isometry (E <= C), which keeps every cosine: an untrained
        head then equals raw features. ``default`` is PyTorch's linear layer.

    Raises
    ------
    UsageError
        For an unknown calibrator or start.
    """

    def __init__(
        self,
        widths: Sequence[int],
        joint_dim: int,
        calibrator: str = "affine",
        projector_init: str = "orthonormal",
    ) -> None:
        super().__init__()
        _require_one_of("calibrator", calibrator, CALIBRATORS)
        _require_one_of("projector_init", projector_init, PROJECTOR_INITS)
        self.widths = tuple(widths)
        self.joint_dim = joint_dim
        projectors = [nn.Linear(width, joint_dim) for width in widths]
        if projector_init == "orthonormal":
            for projector in projectors:
                nn.init.orthogonal_(projector.weight)
                nn.init.zeros_(projector.bias)
        self.projectors = nn.ModuleList(projectors)
        # after the projectors: they draw too, and one seed must give all kinds the same projectors
        self.calibrators = nn.ModuleList(_build_calibrator(calibrator, joint_dim) for _ in widths)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Map S stages [B,N_s,E_s] to S calibrated features [B,N_s,C], not normalised."""
        return [
            calibrator(projector(stage))
            for projector, calibrator, stage in zip(
                self.projectors, self.calibrators, stages, strict=True
            )
        ]

    def composed(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return what `forward` does, to rounding, in fewer operations; training uses it.

        W(kf + b) + c = (Wk)f + (Wb + c): the product Wk is far smaller than a batch of tokens.
        """
        return [
            calibrator(projector(stage))
            if isinstance(calibrator, MlpCalibrator)
            else F.linear(stage, *_compose(projector, calibrator))
            for projector, calibrator, stage in zip(
                self.projectors, self.calibrators, stages, strict=True
            )
        ]

    @torch.no_grad()
    def spans(self) -> list[Tensor | None]:
        """Return a basis [C,E_s + 1], orthonormal, of the space of each stage's features.

        A cosine to a feature of that space is the same in its coordinates. None where the space is
        not much smaller than C.
        """
        spans: list[Tensor | None] = []
        for projector, calibrator, width in zip(
            self.projectors, self.calibrators, self.widths, strict=True
        ):
            if isinstance(calibrator, MlpCalibrator) or 2 * (width + 1) > self.joint_dim:
                spans.append(None)
                continue
            weight, bias = _compose(projector, calibrator)
            spans.append(torch.linalg.qr(torch.cat([weight, bias[:, None]], dim=1)).Q)
        return spans


def _compose(projector: nn.Module, calibrator: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight [C,E] and bias [C] of a projector and its affine calibrator, or none."""
    assert isinstance(projector, nn.Linear)
    if isinstance(calibrator, AffineCalibrator):
        composed: Tensor = calibrator(projector.bias)
        return calibrator.weight @ projector.weight, composed
    return projector.weight, projector.bias


def _build_calibrator(kind: str, dim: int) -> nn.Module:
    if kind == "affine":
        return AffineCalibrator(dim)
    if kind == "mlp":
        return MlpCalibrator(dim)
    return nn.Identity()


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")
