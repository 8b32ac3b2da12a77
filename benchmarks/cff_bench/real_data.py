"""Where the real images lie."""

import os
from collections.abc import Iterable
from pathlib import Path

from cff_runtime.errors import UsageError


def data_folder(names: Iterable[str]) -> Path:
    """Return the folder of real images that the environment variable CFF_DATA names.

    Parameters
    ----------
    names : iterable of str
        Data sets that it must hold.

    Raises
    ------
    UsageError
        If it is not set or lacks a data set.
    """
    folder = os.environ.get("CFF_DATA")
    if not folder:
        raise UsageError("`CFF_DATA` must name the folder of the real images, it is not set")
    for name in names:
        if not (Path(folder) / name).is_dir():
            raise UsageError(f"`CFF_DATA` must hold the data set `{name}`, `{folder}` does not")
    return Path(folder)
