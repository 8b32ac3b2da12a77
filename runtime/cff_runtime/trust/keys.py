"""Ed25519 keys in PEM files, as ``openssl genpkey -algorithm ed25519`` writes them."""

import getpass
import hashlib
import importlib
import logging
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.storage import read_limited

PASSPHRASE_VARIABLE = "CFF_SIGN_PASSPHRASE"
MAX_KEY_BYTES = 1 << 14
_ID_DIGITS = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes
    ----------
    path : Path
        Of its file.
    id : str
        The first 16 hex digits of the SHA-256 of its 32 bytes.
    """

    path: Path
    id: str
    _key: Any

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Say whether the owner of the private key signed `message`."""
        invalid: type[Exception] = _module("cryptography.exceptions").InvalidSignature
        try:
            self._key.verify(signature, message)
        except invalid:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs.

    Attributes
    ----------
    id : str
        Of the public key that belongs to it.
    """

    id: str
    _key: Any

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`, 64 bytes."""
        signature: bytes = self._key.sign(message)
        return signature


def read_public_key(path: Path | str) -> PublicKey:
    """Read a public key.

    Raises
    ------
    UsageError
        If the file cannot be read or holds no Ed25519 public key.
    MissingDependencyError
        If `cryptography` is not installed.
    """
    path = Path(path)
    data = _read_key(path, "trusted key")
    if b"PRIVATE KEY" in data:
        raise UsageError(
            f"trusted key `{path}` must be a public key, it is a private one, which no box needs; "
            "take its public half with `openssl pkey -in KEY.pem -pubout -out PUB.pem`"
        )
    serialization = _module("cryptography.hazmat.primitives.serialization")
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # cryptography raises several kinds
        raise UsageError(
            f"trusted key `{path}` must be a public key as PEM text: {error!s:.80}; "
            "make one with `openssl pkey -in KEY.pem -pubout -out PUB.pem`"
        ) from error
    _require_ed25519(key, "Ed25519PublicKey", path)
    return PublicKey(path, _key_id(key), key)


def read_private_key(path: Path | str, passphrase: Callable[[], str] | None = None) -> PrivateKey:
    """Read a private key, PKCS8, encrypted or not.

    Parameters
    ----------
    path : path
    passphrase : callable, optional
        Asked for the passphrase of an encrypted key; ``CFF_SIGN_PASSPHRASE`` or a prompt if None.

    Raises
    ------
    UsageError
        If the file cannot be read, holds no Ed25519 private key, or the passphrase is wrong.
    MissingDependencyError
        If `cryptography` is not installed.
    """
    path = Path(path)
    data = _read_key(path, "key")
    _warn_of_readers(path)
    password = None
    if b"ENCRYPTED" in data:
        password = (passphrase or _ask_passphrase)().encode()
    serialization = _module("cryptography.hazmat.primitives.serialization")
    try:
        key = serialization.load_pem_private_key(data, password)
    except Exception as error:  # cryptography raises several kinds
        what = "its passphrase be the right one" if password is not None else "be PEM text"
        raise UsageError(
            f"key `{path}` must be an Ed25519 private key and {what}: {error!s:.80}; "
            "make one with `openssl genpkey -algorithm ed25519 -out KEY.pem`"
        ) from error
    _require_ed25519(key, "Ed25519PrivateKey", path)
    return PrivateKey(_key_id(key.public_key()), key)


def _key_id(public_key: Any) -> str:
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:_ID_DIGITS]


def _require_ed25519(key: Any, kind: str, path: Path) -> None:
    ed25519 = _module("cryptography.hazmat.primitives.asymmetric.ed25519")
    if not isinstance(key, getattr(ed25519, kind)):
        raise UsageError(
            f"key `{path}` must be one of Ed25519, got {type(key).__name__.lstrip('_')}; "
            "make one with `openssl genpkey -algorithm ed25519 -out KEY.pem`"
        )


def _read_key(path: Path, what: str) -> bytes:
    try:
        return read_limited(path, MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} `{path}` must be a readable file: {reason}") from error


def _warn_of_readers(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning(
            "warning: others may read the private key `%s`; `chmod 600` keeps it yours", path
        )


def _ask_passphrase() -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError(
            f"an encrypted key must come with its passphrase in `{PASSPHRASE_VARIABLE}` where "
            "nobody can be asked; set it, or run the command on a terminal"
        )
    return getpass.getpass("passphrase of the key: ")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"signatures need a package that is not installed ({error}); "
            "install cff-edge[sign] with pip"
        ) from error
