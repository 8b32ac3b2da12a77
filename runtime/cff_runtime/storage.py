"""Writing files so that a reader never sees half of one, and hashing them."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

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
