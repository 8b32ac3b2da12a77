"""A folder in which something is made before it appears, complete, at its place."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cff_runtime.errors import StorageError, UsageError
from cff_runtime.storage import atomic_path


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder on the file system of `out`; it is removed at the end.

    Raises
    ------
    StorageError
        If something cannot be written, such as on a full disk; nothing is left behind.
    """
    work: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name:.40}.", suffix=".tmp", dir=out.parent))
        work.chmod(0o755)  # a server may run as another user
        yield work
    except OSError as error:
        raise StorageError(
            f"`{out}` could not be written: {error.strerror or error}; "
            "free some space or choose another place"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def publish(staged: Path, final: Path) -> Path:
    """Move a finished file to its place, whole or not at all; return that place."""
    with atomic_path(final) as temporary:
        staged.replace(temporary)
    return final


def require_outside(out: Path, bundle: Path) -> None:
    """Refuse a place inside the bundle, whose files the manifest lists.

    Raises
    ------
    UsageError
        If `out` lies in the folder `bundle`.
    """
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(
            f"`{out}` must lie outside the bundle `{bundle}`, which is never changed; "
            "choose another place"
        )
