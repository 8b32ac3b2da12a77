"""The weights of a backbone: read from a file without running code, and named by a hash."""

import hashlib
import pickle
import textwrap
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cff_runtime.errors import UsageError

_UNSCRIPT = (
    "import torch; s = torch.jit.load('{path}', map_location='cpu').state_dict(); "
    "[s.pop(k, None) for k in ('input_resolution', 'context_length', 'vocab_size')]; "
    "torch.save(s, 'weights.pt')"
)


def weights_sha256(module: nn.Module) -> str:
    """Return the hex SHA-256 over all parameters and buffers of a module.

    Names, dtypes, shapes and values count; the order of registration, the device and the memory
    layout do not. Two modules of one hash compute the same thing if their code is the same.

    Parameters
    ----------
    module : Module
        Any module, on any device.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, to the CPU, without unpickling objects.

    Parameters
    ----------
    path : Path
        ``.safetensors``; anything else is read by ``torch.load(weights_only=True)``.

    Returns
    -------
    dict of str to Tensor
        The dict itself, or the one under the key ``state_dict`` of a training checkpoint.

    Raises
    ------
    UsageError
        If the file cannot be read, is a TorchScript archive or holds anything else.
    """
    refuse_torchscript(path)
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise UsageError(
            f"`{path}` must be a file of weights, but {why_unreadable(error)}; choose another file"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UsageError(
            f"`{path}` must hold a state dict, tensors by name, got a {type(content).__name__} "
            "with other content; save `model.state_dict()`"
        )
    return content


def why_unreadable(error: Exception) -> str:
    """Say in one clause why weights could not be read or loaded."""
    if isinstance(error, pickle.UnpicklingError):
        # torch's own text proposes to unpickle regardless, which would run the file's code.
        return "it is damaged or holds more than tensors"
    lines = str(error).splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[-1], 240)


def refuse_torchscript(path: Path) -> None:
    """Raise UsageError for a TorchScript archive, such as OpenAI's own CLIP files.

    It holds code beside its weights, so it is not opened here; the message says how to convert it.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        scripted = any(Path(name).name == "constants.pkl" for name in archive.namelist())
    if scripted:
        command = _UNSCRIPT.format(path=path.name)
        raise UsageError(
            f"`{path}` must hold a state dict, got a TorchScript archive, which carries code; "
            f'if you trust it, convert it once with `python -c "{command}"`'
        )


def _bytes_of(tensor: Tensor) -> memoryview:
    # Through uint8, because NumPy has no bfloat16; no copy for a contiguous tensor on the CPU.
    flat = tensor.cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


__all__ = ["read_state_dict", "refuse_torchscript", "weights_sha256", "why_unreadable"]
