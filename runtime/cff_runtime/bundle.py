"""Opening a bundle: the folder that `cff-export` writes and every box reads."""

import hashlib
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from cff_runtime.errors import BundleError, UsageError
from cff_runtime.manifest import (
    DEFAULT_PRECISION,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    parse_manifest,
)
from cff_runtime.storage import open_regular, read_limited, sha256_bytes
from cff_runtime.trust.graph_claims import read_claims
from cff_runtime.trust.policy import keys_for
from cff_runtime.trust.signature import (
    BUNDLE_PURPOSE,
    BUNDLE_SIGNATURE_NAME,
    MAX_SIGNATURE_BYTES,
    require_signature,
)

MAX_MANIFEST_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle folder, seen by one precision of its encoder.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    verified : bool
        Whether `open` made it: its files had the manifest's sizes and hashes, and `read` and
        `tensors` ask for them again.
    """

    path: Path
    manifest: Manifest
    verified: bool = field(default=False, compare=False)

    @classmethod
    def open(
        cls,
        path: Path | str,
        precision: str = DEFAULT_PRECISION,
        trusted: Sequence[Path | str] | None = None,
    ) -> "Bundle":
        """Read the manifest and check its signature, and size and hash of every file it names.

        Parameters
        ----------
        path : path
        precision : str
            One of the manifest's `precisions`.
        trusted : sequence of paths, optional
            Files of public keys, of which one must have signed the manifest; those of
            ``CFF_TRUSTED_KEY`` if None, and no signature is asked for where there are none.

        Raises
        ------
        UsageError
            If `path` is no folder with a manifest, or has no such precision, or a trusted key
            cannot be read.
        BundleError
            If the manifest is malformed, not signed as it must be, or a file is missing, outside
            the folder or changed.
        """
        keys = keys_for(trusted)
        path = Path(path)
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise UsageError(
                f"`{path}` must be a bundle (a folder with `{MANIFEST_NAME}`); "
                "make one with `cff-export`"
            )
        if manifest_path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"`{manifest_path}` must be at most {MAX_MANIFEST_BYTES} bytes")
        try:
            text = manifest_path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise BundleError(f"`{manifest_path}` must be readable UTF-8 text: {error}") from error
        if keys:  # before anything is parsed; it covers every file through its hash
            what = f"bundle `{path}`"
            signature = _read_signature(path / BUNDLE_SIGNATURE_NAME)
            require_signature(signature, BUNDLE_PURPOSE, text.encode(), keys, what, BundleError)
        bundle = cls(path, parse_manifest(text).view(precision), verified=True)
        bundle._verify_files()
        return bundle

    def view(self, precision: str) -> "Bundle":
        """Return the bundle as another of its precisions sees it; see `Manifest.view`."""
        return Bundle(self.path, self.manifest.view(precision), self.verified)

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest names."""
        if name not in self.manifest.files:
            raise BundleError(f"`{name}` must be a file of the manifest of `{self.path}`")
        return self.path / name

    def read(self, name: str) -> bytes:
        """Return the content of a file that the manifest names.

        Of a verified bundle these bytes themselves, not the file some time before, have the size
        and hash of the manifest.

        Raises
        ------
        BundleError
            If it cannot be read or was changed since the bundle was opened.
        """
        path, entry = self.file(name), self.manifest.files[name]
        try:
            with open_regular(path) as file:
                data = file.read(entry.n_bytes + 1) if self.verified else file.read()
        except OSError as error:
            raise BundleError(f"`{path}` must be readable: {error.strerror or error}") from error
        if self.verified and sha256_bytes(data) != entry.sha256:
            raise BundleError(
                f"`{path}` must not change while the bundle is in use, and it did; "
                "copy the bundle again"
            )
        return data

    def condition_of_word(self, name: str) -> NDArray[np.float32]:
        """Return the condition of a class word: its text vectors [C,2].

        Raises
        ------
        UsageError
            If the bundle takes no class words, or was exported without this one.
        BundleError
            If the file is damaged.
        """
        condition = self.manifest.condition
        if condition.file is None:
            raise UsageError(
                f"text name must be left out for this bundle, got {name!r}: its encoder takes no "
                "class word but the features of a reference"
            )
        if name not in condition.names:
            raise UsageError(
                f"text name must be one of {', '.join(condition.names)}, got {name!r}; "
                "export with `cff-export --text-names` to add one"
            )
        tensors = self.tensors(condition.file)
        if name not in tensors:
            raise BundleError(
                f"`{condition.file}` must hold a tensor {name!r}, export the bundle again"
            )
        vectors = tensors[name]
        if vectors.shape != condition.shape or vectors.dtype != np.float32:
            raise BundleError(
                f"text vectors {name!r} must be float32 of shape {condition.shape}, "
                f"got {vectors.dtype} {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise BundleError(f"text vectors {name!r} must be finite, export the bundle again")
        return vectors

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Read a safetensors file that the manifest names.

        Raises
        ------
        BundleError
            If it is none, holds a type that NumPy has not, or was changed, see `read`.
        """
        data = self.read(name)
        try:
            return load(data)
        except Exception as error:  # safetensors raises its own kind and several of NumPy's
            raise BundleError(f"`{name}` must be a safetensors file: {error}") from error

    def _verify_files(self) -> None:
        root = self.path.resolve()
        known = set(self.manifest.files)
        for name, entry in self.manifest.files.items():
            try:
                _verify_file(self.path / name, entry, root)
                if name.endswith(".onnx"):
                    _verify_graph(self.path / name, name, known)
            except (OSError, ValueError, RuntimeError) as error:  # NUL, too long, link in a circle
                raise BundleError(
                    f"`{self.path}` must hold a readable file {name!r:.80}: {error!s:.80}"
                ) from error


def _verify_file(path: Path, entry: FileEntry, root: Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise BundleError(f"`{path}` must lie inside the bundle `{root}`, not behind a link")
    if not path.is_file():
        raise BundleError(f"`{path}` must exist, the manifest names it; copy the bundle again")
    # what is asked of the open file cannot be another file's
    with open_regular(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes != entry.n_bytes:
            raise BundleError(
                f"`{path}` must have {entry.n_bytes} bytes, got {n_bytes}; "
                "the file was changed or not copied completely, copy the bundle again"
            )
        digest = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != entry.sha256:
        raise BundleError(
            f"`{path}` must have the SHA-256 of the manifest and has another; "
            "the file was changed or damaged, copy the bundle again"
        )


def _verify_graph(path: Path, name: str, known: set[str]) -> None:
    """Refuse a graph that would have something loaded which the manifest does not name."""
    try:
        with open_regular(path) as file:
            # closed with its last view, which an error on its way may still hold
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        refusal = read_claims(memoryview(data)).refusal(name, known)
    except ValueError:  # no graph at all: the backend has the better words
        return
    if refusal:
        raise BundleError(f"`{path}` must {refusal}; export the bundle again")


def _read_signature(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return read_limited(path, MAX_SIGNATURE_BYTES).decode()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"`{path}` must be a readable signature: {error}; sign the bundle again"
        ) from error
