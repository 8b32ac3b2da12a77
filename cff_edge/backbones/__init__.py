"""Frozen backbones, found by name.

A name is ``efficientnet-lite0``, ``wide_resnet50_2`` or ``open_clip:<model>`` such as
``open_clip:ViT-L-14-336``. The module behind a name is imported on first use, so that an embedded
backbone needs no open_clip.
"""

import difflib
import importlib
from collections.abc import Callable

from cff_edge.backbones.protocol import Backbone, BackboneInfo, StageInfo
from cff_runtime.errors import MissingDependencyError, UsageError

# Family, the part of a name before the colon, to the module whose `load` builds it.
_MODULES = {
    "efficientnet-lite0": "cff_edge.backbones.efficientnet_lite",
    "open_clip": "cff_edge.backbones.open_clip",
    "wide_resnet50_2": "cff_edge.backbones.wide_resnet",
}


def load_backbone(
    name: str,
    weights: str,
    image_size: int | None = None,
    joint_dim: int | None = None,
    taps: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a backbone on the CPU: frozen, in eval mode, without touching torch's global RNG.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0``, ``wide_resnet50_2`` or ``open_clip:<model>``.
    weights : str
        ``imagenet`` (efficientnet-lite0), an open_clip tag such as ``openai``, the path of a local
        checkpoint, or ``random``.
    image_size : int, optional
        Side of the square network input in pixels; the backbone's own default if None.
    joint_dim : int, optional
        C. Free for a backbone without text tower; fixed by the model for one with.
    taps : tuple of int, optional
        Stages to tap, ascending: block indices from 0 for efficientnet-lite0, counts of executed
        blocks (from 1) for open_clip.
    seed : int, default=0
        Seed of ``random`` weights; without effect on any others.

    Returns
    -------
    Backbone

    Raises
    ------
    UsageError
        For an unknown name or weights, or a size, dimension or tap that the backbone cannot have.
    MissingDependencyError
        If a package that the backbone needs is not installed.
    """
    family, _, model = name.partition(":")
    if family not in _MODULES:
        near = difflib.get_close_matches(family, _MODULES, n=1, cutoff=0.4)
        guess = name.replace(family, near[0], 1) if near else ""
        hint = f"; did you mean {guess!r}?" if near else ""
        raise UsageError(
            "`name` must be a backbone, efficientnet-lite0, wide_resnet50_2 or open_clip:<model>, "
            f"got {name!r}{hint}"
        )
    load = _import_loader(_MODULES[family])
    options = {"image_size": image_size, "joint_dim": joint_dim, "taps": taps, "seed": seed}
    given = {key: value for key, value in options.items() if value is not None}
    return load(model, weights, **given)


def _import_loader(module_name: str) -> Callable[..., Backbone]:
    try:
        load: Callable[..., Backbone] = importlib.import_module(module_name).load
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cff_"):
            raise  # a fault of this project, not a missing package
        raise MissingDependencyError(
            f"`{error.name}` must be installed for this backbone, but it is not; "
            'run `pip install "cff-edge[train]"`'
        ) from error
    return load


__all__ = ["Backbone", "BackboneInfo", "StageInfo", "load_backbone"]
