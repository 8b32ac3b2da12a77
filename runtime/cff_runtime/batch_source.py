"""What a batch is about: the images of a folder, a list or a Parquet column, and what they were.

An image is known by its absolute path, its size and its time of change. Whoever overwrites a file
gives it another key, and its old result counts no more; hashing the contents would read every
image of a finished batch again.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES

DEFAULT_COLUMN = "image"
_BOM = b"\xef\xbb\xbf"


class ImageKey(NamedTuple):
    r"""An image as it was when the batch began.

    Attributes
    ----------
    image : str
        Absolute path; bytes that are no UTF-8 are written as ``\xff``.
    size : int
        Bytes; -1 where there is no such file.
    mtime_ns : int
        Time of the last change in ns since 1970; -1 likewise.
    """

    image: str
    size: int
    mtime_ns: int


def list_source(source: Path, column: str | None = None) -> dict[ImageKey, bytes]:
    """Return the images of a source in its order, each once, as key and path.

    Parameters
    ----------
    source : Path
        A folder, searched at every depth, hidden entries and links to folders left out; a Parquet
        file (``.parquet``); or a text file of one path per line. Relative paths start at the
        folder of the file that holds them.
    column : str, optional
        Of the Parquet file; ``image`` if None.

    Raises
    ------
    UsageError
        If the source is none of these, holds no image, or a column is named and not there.
    MissingDependencyError
        If the source is Parquet and pyarrow is not installed.
    """
    if column is not None and source.suffix.lower() != ".parquet":
        raise UsageError(f"`--column` must go with a Parquet file, got `{source}`; leave it out")
    if source.is_dir():
        paths = _search(os.fsencode(source))
    elif not source.is_file():
        raise UsageError(f"`{source}` must be a folder, a list or a Parquet file; check the path")
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(
            f"`{source}` must be a folder, a list or a Parquet file, got an image; use "
            "`cff-run inspect` for single images"
        )
    else:
        is_parquet = source.suffix.lower() == ".parquet"
        rows = _read_parquet(source, column or DEFAULT_COLUMN) if is_parquet else _read_list(source)
        folder = os.fsencode(source.parent)
        paths = [os.path.join(folder, row) for row in rows]  # noqa: PTH118 (bytes)
    images = {_key(path): path for path in map(os.path.abspath, paths)}
    if not images:
        raise UsageError(f"`{source}` must name at least one image, got none")
    return images


def _search(folder: bytes) -> list[bytes]:
    suffixes = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        found += [
            os.path.join(parent, name)  # noqa: PTH118 (bytes)
            for name in sorted(files)
            if name.lower().endswith(suffixes) and not name.startswith(b".")
        ]
    return found


def _read_list(path: Path) -> list[bytes]:
    lines = path.read_bytes().removeprefix(_BOM).splitlines()
    if any(b"\0" in line for line in lines):
        raise UsageError(f"`{path}` must be a text file of one path per line, got binary data")
    return [line for line in lines if line.strip()]


def _read_parquet(path: Path, column: str) -> Iterable[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"a Parquet file needs a package that is not installed ({error}); install "
            "cff-edge[ray] with pip"
        ) from error
    try:
        names = pyarrow.parquet.read_schema(path).names
        if column not in names:
            raise UsageError(
                f"`--column` must be a column of `{path}` ({', '.join(names)}), got {column!r}"
            )
        values = pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"`{path}` must be a readable Parquet file: {error}") from error
    for row, value in enumerate(values):
        if not isinstance(value, str | bytes) or not value:
            raise UsageError(
                f"column {column!r} of `{path}` must hold paths, got {value!r} in row {row}"
            )
    return [os.fsencode(value) for value in values]


def _key(path: bytes) -> ImageKey:
    name = path.decode("utf-8", "backslashreplace")
    try:
        status = os.stat(path)  # noqa: PTH116 (bytes)
    except (OSError, ValueError):  # scoring it will say what is wrong
        return ImageKey(name, -1, -1)
    return ImageKey(name, status.st_size, status.st_mtime_ns)
