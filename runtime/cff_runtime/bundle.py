"""Opening a bundle: the folder that `cff-export` writes and every box reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cff_runtime.errors import BundleError, UsageError
from cff_runtime.manifest import (
    DEFAULT_PRECISION,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    parse_manifest,
)
from cff_runtime.storage import sha256_file

MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder, seen by one precision of its encoder."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, precision: str = DEFAULT_PRECISION) -> "Bundle":
        """Read the manifest and check size and hash of every file it names.

        Parameters
        ----------
        path : path
        precision : str
            One of the manifest's `precisions`.

        Raises
        ------
        UsageError
            If `path` is no folder with a manifest, or has no such precision.
        BundleError
            If the manifest is malformed or a file is missing, outside the folder or changed.
        """
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
        bundle = cls(path, parse_manifest(text).view(precision))
        bundle._verify_files()
        return bundle

    def view(self, precision: str) -> "Bundle":
        """Return the bundle as another of its precisions sees it; see `Manifest.view`."""
        return Bundle(self.path, self.manifest.view(precision))

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest names."""
        if name not in self.manifest.files:
            raise BundleError(f"`{name}` must be a file of the manifest of `{self.path}`")
        return self.path / name

    def text_vectors(self, name: str) -> NDArray[np.float32]:
        """Return the text vectors [C,2] of a class word.

        Raises
        ------
        UsageError
            If the bundle was exported without this class word.
        BundleError
            If the file is damaged.
        """
        text = self.manifest.text
        if name not in text.names:
            raise UsageError(
                f"text name must be one of {', '.join(text.names)}, got {name!r}; "
                "export with `cff-export --text-names` to add one"
            )
        tensors = self.tensors(text.file)
        if name not in tensors:
            raise BundleError(f"`{text.file}` must hold a tensor {name!r}, export the bundle again")
        vectors = tensors[name]
        expected = (self.manifest.joint_dim, 2)
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise BundleError(
                f"text vectors {name!r} must be float32 of shape {expected}, "
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
            If it is none, or holds a type that NumPy has not.
        """
        try:
            return load_file(self.file(name))
        except Exception as error:  # safetensors raises its own kind and several of NumPy's
            raise BundleError(f"`{name}` must be a safetensors file: {error}") from error

    def _verify_files(self) -> None:
        root = self.path.resolve()
        for name, entry in self.manifest.files.items():
            try:
                _verify_file(self.path / name, entry, root)
            except (OSError, ValueError, RuntimeError) as error:  # NUL, too long, link in a circle
                raise BundleError(
                    f"`{self.path}` must hold a readable file {name!r:.80}: {error!s:.80}"
                ) from error


def _verify_file(path: Path, entry: FileEntry, root: Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise BundleError(f"`{path}` must lie inside the bundle `{root}`, not behind a link")
    if not path.is_file():
        raise BundleError(f"`{path}` must exist, the manifest names it; copy the bundle again")
    n_bytes = path.stat().st_size
    if n_bytes != entry.n_bytes:
        raise BundleError(
            f"`{path}` must have {entry.n_bytes} bytes, got {n_bytes}; "
            "the file was changed or not copied completely, copy the bundle again"
        )
    if sha256_file(path) != entry.sha256:
        raise BundleError(
            f"`{path}` must have the SHA-256 of the manifest and has another; "
            "the file was changed or damaged, copy the bundle again"
        )
