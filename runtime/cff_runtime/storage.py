"""Writing files so that a reader never sees half of one, reading them with care, hashing them."""

import contextlib
import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cff_runtime.errors import StorageError

_BLOCK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; what is asked of the returned file is asked of what was opened.

    Raises
    ------
    OSError
        If it cannot be opened or is a folder, a pipe or a device; nothing is waited for.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file that must not be larger than `max_bytes`.

    Raises
    ------
    OSError
        As `open_regular`.
    ValueError
        If it is larger; no more than the limit is read, however the file grows meanwhile.
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it must have at most {max_bytes} bytes")
    return data


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it.

    On any error the temporary file is removed and what stood at ``path`` stays as it was.

    Raises
    ------
    StorageError
        If the file cannot be written, such as on a full disk or without permission.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.parent / f".{path.name:.40}.{uuid.uuid4().hex}.tmp"
        new.touch(exist_ok=False)  # with the permissions that any new file of the user gets
        temporary = new
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise StorageError(
            f"`{path}` could not be written: {error.strerror or error}; "
            "free some space or choose another place, nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file, see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
