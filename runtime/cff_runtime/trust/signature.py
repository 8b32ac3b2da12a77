"""A signature as JSON: what signs, what is signed, and the check.

    {"schema_version": 1, "algorithm": "ed25519", "key_id": "<16 hex>", "signature": "<128 hex>"}

Signed is a prefix that names the purpose, then the content: a bundle's signature is none of a
profile, whatever bytes somebody manages to put there.
"""

import json
from collections.abc import Sequence

from cff_runtime.errors import CffError
from cff_runtime.jsonfields import parse_object, take
from cff_runtime.trust.keys import PrivateKey, PublicKey

SCHEMA_VERSION = 1
ALGORITHM = "ed25519"
BUNDLE_SIGNATURE_NAME = "manifest.sig"
BUNDLE_PURPOSE = b"cff-edge bundle manifest signature v1\0"
PROFILE_PURPOSE = b"cff-edge profile signature v1\0"
MAX_SIGNATURE_BYTES = 1 << 12
_N_BYTES = 64


def make_signature(key: PrivateKey, purpose: bytes, content: bytes) -> str:
    """Sign `content` for a purpose; return the JSON."""
    fields = {
        "schema_version": SCHEMA_VERSION,
        "algorithm": ALGORITHM,
        "key_id": key.id,
        "signature": key.sign(purpose + content).hex(),
    }
    return json.dumps(fields) + "\n"


def require_signature(
    text: str | None,
    purpose: bytes,
    content: bytes,
    keys: Sequence[PublicKey],
    what: str,
    error: type[CffError],
) -> PublicKey:
    """Return the trusted key that signed `content`.

    Parameters
    ----------
    text : str or None
        The signature's JSON; None where there is none.
    purpose, content : bytes
        As of `make_signature`.
    keys : sequence of PublicKey
        The trusted ones.
    what : str
        What is signed, for errors.
    error : type of CffError

    Raises
    ------
    CffError
        Of the class `error`, if there is no signature, it is malformed, of a key that is not
        trusted, or of other content.
    """
    trusted = ", ".join(key.id for key in keys)
    if text is None:
        raise error(
            f"{what} must be signed by a trusted key ({trusted}), it has no signature; "
            "sign it where the private key is, or run without a trusted key"
        )
    key_id, signature = _parse(text, what, error)
    # the name only chooses among trusted keys, none of which accepts what it did not sign
    named = [key for key in keys if key.id == key_id]
    if not named:
        raise error(
            f"{what} must be signed by a trusted key ({trusted}), it is signed by {key_id}; "
            "sign it with the right key, or trust that one with `--trusted-key`"
        )
    if not named[0].accepts(signature, purpose + content):
        raise error(
            f"the signature of {what} must be one of its content and is not: it was changed since "
            f"key {key_id} signed it, or the signature is that of another file; "
            "copy it again with its signature, or sign it again"
        )
    return named[0]


def _parse(text: str, what: str, error: type[CffError]) -> tuple[str, bytes]:
    name = f"the signature of {what}"
    if len(text) > MAX_SIGNATURE_BYTES:
        raise error(f"{name} must be at most {MAX_SIGNATURE_BYTES} bytes; sign it again")
    fields = parse_object(text, name, error)
    version = take(fields, "schema_version", int, error)
    algorithm = take(fields, "algorithm", str, error)
    if (version, algorithm) != (SCHEMA_VERSION, ALGORITHM):
        raise error(
            f"{name} must be of version {SCHEMA_VERSION} and {ALGORITHM}, got version {version} "
            f"and {algorithm!r:.40}; sign it again"
        )
    try:
        value = bytes.fromhex(take(fields, "signature", str, error))
    except ValueError:
        value = b""
    if len(value) != _N_BYTES:
        raise error(f"{name} must have {_N_BYTES} bytes as hex digits; sign it again")
    return f"{take(fields, 'key_id', str, error)!s:.40}", value
