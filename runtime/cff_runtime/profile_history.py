"""Earlier versions of a profile, kept beside it, so that any change can be taken back.

``ring.safetensors`` has its earlier versions in ``ring.safetensors.history/``, as
``<number>-<first 12 digits of the SHA-256>.safetensors``. The last entry of a profile's `history`
holds the hash of the file that it replaced; that names the version which `undo` puts back.

A change goes in three steps, and a process may die between any two of them:

1. the file as it stands gets a second name in the history (a link, or a copy where the disk has no
   links), and the folder is flushed;
2. the new profile is written to a temporary file, flushed, and renamed over the old one;
3. the folder is flushed, so that the rename survives a power cut.

A death after 1 leaves a version that equals the profile, which the next change uses again. Whether
a version is the one wanted is decided by its hash, never by its number.
"""

import contextlib
import datetime
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cff_runtime.errors import ProfileError, StorageError, UsageError
from cff_runtime.profile import Profile
from cff_runtime.storage import atomic_path, sha256_file

HISTORY_SUFFIX = ".history"
HASH_KEY = "sha256_before"
_HASH_DIGITS = 12
_VERSION = re.compile(rf"(\d{{4,9}})-([0-9a-f]{{{_HASH_DIGITS}}})\.safetensors")


def now_utc() -> str:
    """Return the time in UTC to the second, as profiles write it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def history_folder(path: Path) -> Path:
    """Return the folder of a profile's earlier versions."""
    return path.with_name(path.name + HISTORY_SUFFIX)


def versions(path: Path) -> list[Path]:
    """Return a profile's earlier versions, oldest first."""
    folder = history_folder(path)
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if _VERSION.fullmatch(entry.name)]
    return sorted(found, key=lambda entry: int(entry.name.partition("-")[0]))


def load_version(path: Path) -> tuple[Profile, str]:
    """Read a profile that is to be changed, and the hash of its file.

    Raises
    ------
    UsageError, ProfileError
        As `Profile.load`.
    """
    # first: where the file is replaced meanwhile this is the old one's, and nothing is overwritten
    before = sha256_file(path) if path.is_file() else ""
    return Profile.load(path), before


def record(profile: Profile, action: str, details: Mapping[str, Any] | None = None) -> Profile:
    """Return a profile with an entry of what was done to it; `store_profile` completes it.

    Parameters
    ----------
    profile : Profile
    action : str
        What was done, such as ``add-normals``.
    details : mapping, optional
        Further fields of the entry, ready for JSON.
    """
    entry = {"action": action, "at": now_utc(), HASH_KEY: None, **(details or {})}
    return replace(profile, history=(*profile.history, entry))


def store_profile(path: Path | str, profile: Profile, replaces: str | None = None) -> Profile:
    """Write a profile and keep the file that it replaces, whose hash its last entry gets.

    Parameters
    ----------
    path : path
    profile : Profile
        Its last entry, see `record`, says what was done.
    replaces : str, optional
        SHA-256 of the file that `profile` was made from; another one is not overwritten.

    Returns
    -------
    Profile
        As written.

    Raises
    ------
    StorageError
        If it cannot be written, or the file is not the one it should be; it stays as it was.
    """
    path = Path(path)
    with _storage_errors(path):
        before = sha256_file(path) if path.is_file() else None
        if replaces is not None and before != replaces:
            raise StorageError(
                f"`{path}` must not change while it is worked on, and it did; run the command again"
            )
        if before is not None:
            _keep(path, before)
        last = {**profile.history[-1], HASH_KEY: before}
        written = replace(profile, history=(*profile.history[:-1], last))
        written.save(path)
        sync_folder(path.parent)
    return written


def undo(path: Path | str) -> Path:
    """Put back the file that a profile replaced, byte for byte; the later one is dropped.

    A profile that is damaged cannot say what it replaced: its last version is put back.

    Returns
    -------
    Path
        The version that was put back; it stands in the history no longer.

    Raises
    ------
    UsageError
        If there is no such profile, or nothing to put back.
    ProfileError
        If the version is missing or damaged.
    StorageError
        If the file cannot be written; it stays as it was.
    """
    path = Path(path)
    version = previous_version(path)
    with _storage_errors(path):
        temporary = _second_name(version, path.parent)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        version.unlink()
        sync_folder(version.parent)
        with contextlib.suppress(OSError):  # it holds more versions
            version.parent.rmdir()
    return version


def previous_version(path: Path | str) -> Path:
    """Return the file of the version that a profile replaced.

    Raises
    ------
    UsageError
        If there is no such profile, or it replaced none.
    ProfileError
        If the version is missing or damaged.
    """
    path = Path(path)
    kept = versions(path)
    try:
        history = Profile.load(path).history
    except ProfileError:
        if not kept:
            raise
        return _require_sound(path, kept[-1], None)
    except UsageError:
        if not kept:
            raise
        raise UsageError(
            f"profile `{path}` must be an existing file; its last version is `{kept[-1]}`, "
            "copy it there"
        ) from None
    before = history[-1].get(HASH_KEY) if history else None
    if before is None:
        raise UsageError(f"profile `{path}` must have an earlier version, this is its first")
    for version in reversed(kept):
        if version.name.endswith(f"-{str(before)[:_HASH_DIGITS]}.safetensors"):
            return _require_sound(path, version, str(before))
    raise ProfileError(
        f"`{history_folder(path)}` must hold version {str(before)[:_HASH_DIGITS]}, which `{path}` "
        "replaced; copy the folder along with the profile"
    )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    if os.name == "nt":  # a folder cannot be opened there, and a rename is flushed by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep(path: Path, sha256: str) -> None:
    """Give the profile as it stands a second name in its history, unless it has one."""
    folder = history_folder(path)
    name = f"{sha256[:_HASH_DIGITS]}.safetensors"
    kept = versions(path)
    if kept and kept[-1].name.endswith(f"-{name}") and sha256_file(kept[-1]) == sha256:
        return
    number = int(kept[-1].name.partition("-")[0]) + 1 if kept else 1
    folder.mkdir(exist_ok=True)
    temporary = _second_name(path, folder)
    try:
        temporary.replace(folder / f"{number:04d}-{name}")
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    sync_folder(folder.parent)


def _second_name(path: Path, folder: Path) -> Path:
    """Give a file a second name, or a flushed copy where that is not possible; return it."""
    temporary = folder / f".{path.name:.40}.{uuid.uuid4().hex}.tmp"
    try:
        os.link(path, temporary)
    except OSError:  # another file system, or one without links, such as FAT
        with atomic_path(temporary) as copy:
            shutil.copyfile(path, copy)
    return temporary


def _require_sound(path: Path, version: Path, sha256: str | None) -> Path:
    digits = version.name.partition("-")[2].partition(".")[0]
    actual = sha256_file(version)
    if actual != sha256 and (sha256 is not None or not actual.startswith(digits)):
        raise ProfileError(
            f"`{version}` must be the file that `{path}` replaced and has another hash; "
            "it was changed or damaged, copy it again from a backup"
        )
    return version


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{path}` could not be written: {error.strerror or error}; "
            "free some space or choose another place, nothing was changed"
        ) from error
