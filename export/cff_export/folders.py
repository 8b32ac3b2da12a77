"""Writing a bundle's folder: it appears complete, or not at all."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cff_runtime.engines.bundle_engines import ENGINES_FOLDER
from cff_runtime.errors import StorageError, UsageError
from cff_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest
from cff_runtime.storage import atomic_write, sha256_file
from cff_runtime.trust import BUNDLE_SIGNATURE_NAME

PARITY = "parity.json"


def check_target(out: Path, replace: bool) -> None:
    """Check that a bundle may be written to `out`.

    Raises
    ------
    UsageError
        If it exists and may not be replaced, or is something else than a bundle.
    """
    if out.exists() and not replace:
        raise UsageError(f"`{out}` must not exist yet; give another folder or `--replace`")
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise UsageError(f"`{out}` must be a bundle to be replaced, it is something else")


@contextlib.contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`; on success it takes the place of `out`, else it is removed.

    Raises
    ------
    StorageError
        If something cannot be written; `out` is as it was.
    """
    work: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        yield work
        work.chmod(0o755)
        _replace_folder(work, out)
    except OSError as error:
        raise StorageError(
            f"`{out}` could not be written: {error.strerror or error}; nothing was left behind"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def copy_bundle(source: Path, work: Path) -> None:
    """Give `work` the files of a bundle, by hard links where the file system has them.

    A file of the copy must be replaced, never written into.
    """
    unsigned = shutil.ignore_patterns(BUNDLE_SIGNATURE_NAME)  # what was signed is about to change
    shutil.copytree(source, work, copy_function=_link, dirs_exist_ok=True, ignore=unsigned)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Return hash and size of every file below `folder` but the manifest and the engines."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        name.as_posix(): FileEntry(sha256_file(path), path.stat().st_size)
        for name, path in sorted(paths.items())
        if name.as_posix() not in (MANIFEST_NAME, BUNDLE_SIGNATURE_NAME)
        and name.parts[0] != ENGINES_FOLDER
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with hash and size of every other file of the folder."""
    text = dataclasses.replace(manifest, files=list_files(folder)).to_json()
    atomic_write(folder / MANIFEST_NAME, text.encode())


def note_parity(folder: Path, precision: str, report: Mapping[str, Any]) -> None:
    """Write what the gate said of a precision into ``parity.json``, beside the others."""
    path = folder / PARITY
    reports = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = json.dumps({**reports, precision: report}, indent=2) + "\n"
    atomic_write(path, text.encode())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _replace_folder(work: Path, out: Path) -> None:
    """Put the finished folder in place; an old bundle goes only after the new one stands."""
    old = work.with_suffix(".old")
    if out.exists():
        out.rename(old)
    try:
        work.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
