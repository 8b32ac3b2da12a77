"""What the signature of a profile is a signature of: its facts and its tensors, as one short text.

    {"facts": "<SHA-256 of the JSON text>",
     "tensors": {"<name>": ["<F32 or U8>", [<shape>], "<SHA-256 of the values, row by row>"]}}

Keys are sorted and there is no white space, so that one profile has one content. Where the tensors
lie in the file, and in which order, is left out: whoever writes them otherwise changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.storage import sha256_bytes

_NAMES = {"float32": "F32", "uint8": "U8"}  # as safetensors calls them


def profile_content(facts: str, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return what is signed of a profile with these facts (JSON text) and tensors."""
    described = {name: _describe(tensor) for name, tensor in tensors.items()}
    content = {"facts": sha256_bytes(facts.encode()), "tensors": described}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _describe(tensor: NDArray[Any]) -> list[Any]:
    """Return type, shape and hash of a tensor; little-endian, as the file has it."""
    rows = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
    name = _NAMES.get(tensor.dtype.name, tensor.dtype.name)
    return [name, list(tensor.shape), hashlib.sha256(rows.data).hexdigest()]
