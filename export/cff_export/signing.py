"""Signing a bundle: ``manifest.sig`` beside the manifest.

The manifest names the SHA-256 of every file, so that a signature of the manifest covers them all.
It is detached because the manifest must stay as it is: its bytes are what is signed.
"""

from pathlib import Path

from cff_export.folders import write_manifest
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError
from cff_runtime.manifest import MANIFEST_NAME, parse_manifest
from cff_runtime.storage import atomic_write
from cff_runtime.trust.keys import PrivateKey
from cff_runtime.trust.signature import BUNDLE_PURPOSE, BUNDLE_SIGNATURE_NAME, make_signature


def sign_bundle(path: Path, key: PrivateKey) -> Bundle:
    """Check a bundle's files and sign its manifest; a signature that it has is replaced.

    Returns
    -------
    Bundle
        As signed.

    Raises
    ------
    UsageError, BundleError
        As `Bundle.open`.
    StorageError
        If the signature cannot be written; an old one stays as it was.
    """
    bundle = Bundle.open(path, trusted=())
    signature_path = path / BUNDLE_SIGNATURE_NAME
    if BUNDLE_SIGNATURE_NAME in bundle.manifest.files:
        # a signed bundle was copied and extended: the manifest took the old one for a file of it
        signature_path.unlink()
        write_manifest(path, bundle.manifest)
        bundle = Bundle.open(path, trusted=())
    text = (path / MANIFEST_NAME).read_text(encoding="utf-8")
    if parse_manifest(text).to_json() != bundle.manifest.to_json():
        raise BundleError(f"`{path}` must not change while it is signed, and it did; sign it again")
    content = text.encode()
    atomic_write(signature_path, make_signature(key, BUNDLE_PURPOSE, content).encode())
    return bundle
