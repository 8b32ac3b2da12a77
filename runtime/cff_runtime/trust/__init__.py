"""Who vouches for a bundle or a profile: Ed25519 signatures, and the keys that a box trusts.

A signature is made where the private key is (``cff-export --sign``, ``cff-run sign-profile``) and
checked wherever a file is loaded, once a key is trusted. Without a trusted key nothing is checked,
and the package `cryptography` is not needed.
"""

from cff_runtime.trust.policy import TRUSTED_KEY_VARIABLE, keys_for, require_trusted, trust_nobody
from cff_runtime.trust.signature import BUNDLE_SIGNATURE_NAME, require_signature

__all__ = [
    "BUNDLE_SIGNATURE_NAME",
    "TRUSTED_KEY_VARIABLE",
    "keys_for",
    "require_signature",
    "require_trusted",
    "trust_nobody",
]
