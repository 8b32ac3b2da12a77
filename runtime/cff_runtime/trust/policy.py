"""Which keys this process trusts, and so whether it asks for signatures at all.

The environment variable ``CFF_TRUSTED_KEY`` is the one place where that stands: every bundle and
profile is opened through it, also by the worker processes of a batch, and no command can forget it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cff_runtime.errors import UsageError
from cff_runtime.trust.keys import PublicKey, read_public_key

TRUSTED_KEY_VARIABLE = "CFF_TRUSTED_KEY"


def keys_for(trusted: Sequence[Path | str] | None) -> tuple[PublicKey, ...]:
    """Return the keys of which one must have signed what is about to be loaded.

    Parameters
    ----------
    trusted : sequence of paths or None
        Files of public keys; none asks for no signature. None: those of ``CFF_TRUSTED_KEY``.

    Raises
    ------
    UsageError
        If a key cannot be read, or the variable is set and empty.
    MissingDependencyError
        If there are keys and `cryptography` is not installed.
    """
    if trusted is None:
        value = os.environ.get(TRUSTED_KEY_VARIABLE)
        trusted = [] if value is None else [path for path in value.split(os.pathsep) if path]
        if value is not None and not trusted:  # such as from an unset variable in a unit file
            raise UsageError(
                f"`{TRUSTED_KEY_VARIABLE}` must name files of public keys, it is empty; "
                "unset it to load without signatures"
            )
    return tuple(read_public_key(path) for path in trusted)


@contextlib.contextmanager
def require_trusted(trusted: Sequence[Path | str] | None) -> Iterator[None]:
    """Load nothing, while the context lasts, that none of these keys has signed.

    It holds for the whole process and the processes that it starts. Without keys the environment
    decides, as it does anywhere else.

    Parameters
    ----------
    trusted : sequence of paths or None
        Files of public keys, such as ``--trusted-key`` gives; they take the place of the variable.

    Raises
    ------
    UsageError, MissingDependencyError
        As `keys_for`, at once.
    """
    if not trusted:
        keys_for(None)
        yield
        return
    paths = [str(Path(path).absolute()) for path in trusted]
    if any(os.pathsep in path for path in paths):
        raise UsageError(f"the path of a trusted key must hold no {os.pathsep!r}; move the file")
    keys_for(paths)
    with _variable(os.pathsep.join(paths)):
        yield


@contextlib.contextmanager
def trust_nobody() -> Iterator[None]:
    """Ask for no signatures while the context lasts, as the exporter makes what is signed later."""
    with _variable(None):
        yield


@contextlib.contextmanager
def _variable(value: str | None) -> Iterator[None]:
    before = os.environ.pop(TRUSTED_KEY_VARIABLE, None)
    if value is not None:
        os.environ[TRUSTED_KEY_VARIABLE] = value
    try:
        yield
    finally:
        os.environ.pop(TRUSTED_KEY_VARIABLE, None)
        if before is not None:
            os.environ[TRUSTED_KEY_VARIABLE] = before
