"""Taking over the linear layers that APRIL-GAN published (arXiv 2305.17382).

Its files are pickled dicts ``{"trainable_linearlayer": state dict}`` with ``fc.<n>.weight`` [C,E]
and ``fc.<n>.bias`` [C] for n = 0 .. S-1, one per tapped block. They become the projectors of a
finished run without calibrators and with a raw memory bank.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cff_edge.backbones import Backbone
from cff_edge.backbones.weights import refuse_torchscript, why_unreadable
from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME, STATE_NAME, save_head
from cff_edge.config import Config
from cff_edge.heads import Head
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write, sha256_file

_KEY = "trainable_linearlayer"


def import_projectors(file: Path, config: Config, backbone: Backbone, run: Path) -> Head:
    """Write a finished run whose projectors are those of a published file.

    Parameters
    ----------
    file : Path
    config : Config
        Without calibrator and with a raw bank, as the presets have it.
    backbone : Backbone
        With plain GELU: what the published layers were trained on.
    run : Path
        Folder to write; must hold no run.

    Returns
    -------
    Head
        In eval mode.

    Raises
    ------
    UsageError
        If the file is not a published one, does not fit the backbone, or the backbone, the
        configuration or the folder is none of the above.
    """
    _check_fit(config, backbone)
    if any((run / name).exists() for name in (HEAD_NAME, STATE_NAME)):
        raise UsageError(f"`{run}` must be a new folder, it holds a run; choose another")
    info = backbone.info
    widths = [stage.width for stage in info.stages]
    tensors = read_projectors(file)
    head = Head(widths, info.joint_dim, "none", config.head.projector_init)
    expected = head.projectors.state_dict()  # "<n>.weight", "<n>.bias"
    _check_tensors(file, tensors, {f"fc.{name}": tensor for name, tensor in expected.items()})
    head.projectors.load_state_dict({name: tensors[f"fc.{name}"].float() for name in expected})
    atomic_write(run / CONFIG_NAME, config.to_toml().encode())
    origin = {"file": file.name, "sha256": sha256_file(file)}
    save_head(run, head, info, [], origin)
    return head.eval()


def read_projectors(file: Path) -> dict[str, Tensor]:
    """Read the state dict of a published file, to the CPU, without running code of it.

    Raises
    ------
    UsageError
        If it is no file, cannot be read or holds anything else.
    """
    if not file.is_file():
        raise UsageError(f"`{file}` must be an existing file; check the path")
    refuse_torchscript(file)
    content: Any
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise UsageError(
            f"`{file}` must be a file of APRIL-GAN's linear layers, but {why_unreadable(error)}; "
            "choose another file"
        ) from error
    tensors = content.get(_KEY) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UsageError(
            f"`{file}` must hold a dict with a state dict under {_KEY!r}, as APRIL-GAN saves it; "
            "choose another file"
        )
    return tensors


def _check_fit(config: Config, backbone: Backbone) -> None:
    if (config.head.calibrator, config.head.bank) != ("none", "raw"):
        raise UsageError(
            "`head.calibrator` must be none and `head.bank` raw for published layers, got "
            f"{config.head.calibrator} and {config.head.bank}; leave both out"
        )
    if backbone.info.activation != "gelu":
        raise UsageError(
            "the backbone must have plain GELU, because APRIL-GAN's published layers were trained "
            f"on its features, got {backbone.info.activation}; they mean nothing on others, so "
            "choose the model without `-quickgelu`, such as open_clip:ViT-L-14-336"
        )


def _check_tensors(file: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse other names, shapes and values than the backbone's projectors can have."""
    if tensors.keys() != expected.keys():
        raise UsageError(
            f"`{file}` must hold {', '.join(sorted(expected))}, got "
            f"{', '.join(sorted(map(str, tensors))) or 'nothing'}; the backbone must tap as many "
            "blocks as were trained"
        )
    for name, tensor in tensors.items():
        shape = tuple(expected[name].shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise UsageError(
                f"`{name}` of `{file}` must be of shape {shape}, floating point, to fit the "
                f"backbone, got {tuple(tensor.shape)}, {tensor.dtype}; choose the model that it "
                "was trained with"
            )
        if not torch.isfinite(tensor).all():
            raise UsageError(
                f"`{name}` of `{file}` must be finite, it holds NaN or infinity; it is damaged"
            )
