"""Who could have written a file: asked of what runs as code, such as TensorRT's engines."""

import os
import stat
from pathlib import Path


def foreign_writer(path: Path | str) -> str | None:
    """Say why a file may be somebody else's work; None if it is this user's or root's alone.

    File and folder must belong to the user of this process or to root, and nobody else may write
    them; a folder with the sticky bit, such as ``/tmp``, is one that others write. A link is
    followed, and its own folder is asked as well. On Windows nothing is known and nothing refused.

    Parameters
    ----------
    path : path
        Of an existing file.

    Raises
    ------
    OSError
        If it cannot be looked at.
    """
    if os.name != "posix":
        return None
    path = Path(path)
    real = path.resolve()
    for place in dict.fromkeys((real, real.parent, path.parent.resolve())):
        facts = place.stat()
        if facts.st_uid not in (0, os.geteuid()):
            return f"`{place}` belongs to user {facts.st_uid}, neither to this user nor to root"
        if facts.st_mode & stat.S_IWOTH:
            return f"`{place}` may be written by everybody (mode {stat.S_IMODE(facts.st_mode):o})"
    return None
