"""The folder that a batch writes: parts as they come, one table at the end.

batch.json        the bundle's id and the profile's hash; another pair is refused
parts/*.parquet   one file per finished block of images, written whole or not at all
open/*.json       which image a worker has before it, while a block is open
results.parquet   one row per image of the source, in its order, when the batch is complete

Every row has `image`, `size`, `mtime_ns` (see `batch_source`), then either `verdict`, `score`,
`threshold`, `text_score` (the encoder's, or null), `regions` and `total_ms`, or `error`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cff_runtime.batch_source import ImageKey
from cff_runtime.errors import StorageError, UsageError
from cff_runtime.storage import atomic_path, atomic_write

SCHEMA_VERSION = 1
_REGION = pa.struct(
    [
        *((name, pa.int64()) for name in ("x", "y", "width", "height")),
        *((name, pa.float64()) for name in ("area_px", "peak")),
    ]
)
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("text_score", pa.float64()),
        ("regions", pa.list_(_REGION)),
        ("total_ms", pa.float64()),
        ("error", pa.string()),
    ]
)
_KEY_COLUMNS = ["image", "size", "mtime_ns"]
_MARK = "batch.json"
_PARTS = "parts"
OPEN_FOLDER = "open"
RESULTS_NAME = "results.parquet"


def claim_folder(out: Path, bundle_id: str, profile_sha256: str) -> None:
    """Say whose results `out` holds, or check that they are of the same bundle and profile.

    Raises
    ------
    UsageError
        If `out` holds results of another bundle or profile, or something else.
    StorageError
        If it cannot be written.
    """
    mark = {"schema": SCHEMA_VERSION, "bundle_id": bundle_id, "profile_sha256": profile_sha256}
    path = out / _MARK
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"`--out` must be a new folder or one of an earlier batch, got `{out}`; "
                "choose another"
            )
        atomic_write(path, (json.dumps(mark, indent=1) + "\n").encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` must be readable: {error}; choose another `--out`") from error
    if found != mark:
        raise UsageError(
            f"`--out` must hold results of this bundle and profile, `{path}` names others; "
            "choose another folder"
        )


def finished_images(out: Path) -> set[ImageKey]:
    """Return the images that have a row in a part.

    Raises
    ------
    StorageError
        If a part is damaged.
    """
    table = _read_parts(out, _KEY_COLUMNS)
    return set(map(ImageKey, *(column.to_pylist() for column in table.columns)))


def write_part(out: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a block and close it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    _write(out / _PARTS / f"{name}.parquet", pa.Table.from_pylist(list(rows), schema=SCHEMA))
    open_path(out, name).unlink(missing_ok=True)


def has_part(out: Path, name: str) -> bool:
    """Return whether the block is finished."""
    return (out / _PARTS / f"{name}.parquet").exists()


def open_path(out: Path, name: str) -> Path:
    """Return where an open block notes which image comes next."""
    return out / OPEN_FOLDER / f"{name}.json"


def block_name(keys: Iterable[ImageKey]) -> str:
    """Return a name that only these images in this order have."""
    text = json.dumps([list(key) for key in keys])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_results(out: Path, keys: Collection[ImageKey]) -> dict[str, int]:
    """Write one row per image, in order; return how many have each verdict and how many failed.

    Raises
    ------
    StorageError
        If a part is damaged, an image has no row or the table cannot be written.
    """
    table = _read_parts(out, SCHEMA.names)
    columns = (table[name].to_pylist() for name in _KEY_COLUMNS)
    rows = {key: row for row, key in enumerate(map(ImageKey, *columns))}
    missing = [key.image for key in keys if key not in rows]
    if missing:
        raise StorageError(
            f"`{out / _PARTS}` must have a row for every image, {len(missing)} have none, such as "
            f"`{missing[0]}`; run the same command again"
        )
    results = table.take([rows[key] for key in keys])
    _write(out / RESULTS_NAME, results)
    verdicts = results["verdict"].to_pylist()
    return {
        "pass": verdicts.count("pass"),
        "review": verdicts.count("review"),
        "reject": verdicts.count("reject"),
        "errors": len(results) - results["error"].null_count,
    }


def _read_parts(out: Path, columns: list[str]) -> pa.Table:
    tables = []
    for path in sorted((out / _PARTS).glob("*.parquet")):
        try:
            table = pq.ParquetFile(path).read(columns)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"`{path}` must be a part of this batch: {error}; delete it and run again"
            ) from error
        if table.schema.names != columns:
            raise StorageError(f"`{path}` must be a part of a batch; move it elsewhere")
        tables.append(table)
    empty = pa.Table.from_pylist([], schema=SCHEMA).select(columns)
    return pa.concat_tables([empty, *tables])


def _write(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
