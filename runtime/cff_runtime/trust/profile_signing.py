"""Signing a profile: the signature is part of its file.

It stands in the safetensors metadata under ``cff_signature``, so that a profile stays one file:
renamed, copied, kept in the history and put back by `undo`, it keeps its signature. A change writes
a new profile, which has none until it is signed.

Signed is what `cff_runtime.trust.profile_content` says of the facts and tensors in memory, so that
nothing can change between the check and the use.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cff_runtime.profile import (
    METADATA_KEY,
    SIGNATURE_KEY,
    Profile,
    parse_profile,
    read_profile_file,
)
from cff_runtime.storage import atomic_write
from cff_runtime.trust.keys import PrivateKey
from cff_runtime.trust.profile_content import profile_content
from cff_runtime.trust.signature import PROFILE_PURPOSE, make_signature


def sign_profile(path: Path | str, key: PrivateKey) -> Profile:
    """Sign a profile as it stands; what it holds is checked first, a signature it has is replaced.

    Returns
    -------
    Profile
        What was signed.

    Raises
    ------
    UsageError, ProfileError
        As `Profile.load`.
    StorageError
        If it cannot be written; it stays as it was.
    """
    path = Path(path)
    facts, tensors, _ = read_profile_file(path)
    profile = parse_profile(path, facts, tensors)
    signature = make_signature(key, PROFILE_PURPOSE, profile_content(facts, tensors))
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    atomic_write(path, save(contiguous, metadata={METADATA_KEY: facts, SIGNATURE_KEY: signature}))
    return profile
