"""APRIL-GAN's index of a data set: ``meta.json`` in its root.

    {"train": {product: [entry, ...]}, "test": {product: [entry, ...]}}
    entry = {"img_path", "mask_path", "cls_name", "specie_name", "anomaly"}

Paths are relative to the root with "/"; `mask_path` is "" for good parts; `anomaly` is 0 or 1;
`specie_name` is the defect's folder (MVTec AD) or "" (VisA).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.jsonfields import parse_object, take
from cff_runtime.storage import atomic_write

if TYPE_CHECKING:
    from cff_edge.datasets import Dataset, Sample

META_NAME = "meta.json"
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class MetaEntry:
    """One image as the file lists it; names are not checked yet.

    Attributes
    ----------
    split, product : str
    image, mask : str
        Relative to the root; `mask` may be empty.
    specie : str
        Name of the defect, may be empty.
    is_anomalous : bool
    where : str
        What to call the entry in errors.
    """

    split: str
    product: str
    image: str
    mask: str
    specie: str
    is_anomalous: bool
    where: str


def read_meta(path: Path) -> Iterator[MetaEntry]:
    """Yield the entries of a ``meta.json``.

    Raises
    ------
    DatasetError
        If it cannot be read, is no JSON, or is built in another way.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"`{path}` must be a readable file in UTF-8: {error}") from error
    splits = parse_object(text, f"`{path}`", DatasetError)
    if set(splits) != set(_SPLITS):
        raise DatasetError(
            f"`{path}` must hold train and test, got {', '.join(sorted(splits)) or 'neither':.80}; "
            "write it again with `cff-train --write-meta`"
        )
    for split in _SPLITS:
        products = splits[split]
        if not isinstance(products, dict):
            raise DatasetError(f"{split} of `{path}` must be an object, got {products!r:.80}")
        for product, entries in products.items():
            where = f"{split}, {product!r:.80} of `{path}`"
            if not isinstance(entries, list):
                raise DatasetError(f"{where} must be a list, got {entries!r:.80}")
            for index, entry in enumerate(entries):
                yield _entry(split, product, entry, f"entry {index} of {where}")


def write_meta(dataset: "Dataset", path: Path) -> None:
    """Write the index of a data set.

    Parameters
    ----------
    dataset : Dataset
    path : Path
        Usually `META_NAME` in the data set's root; paths are relative to its folder.

    Raises
    ------
    UsageError
        If `path` exists.
    DatasetError
        If an image or mask lies outside the file's folder.
    StorageError
        If the file cannot be written.
    """
    if path.exists():
        raise UsageError(f"`{path}` must not exist yet; move it away, or use it as it is")
    splits: dict[str, dict[str, list[dict[str, object]]]] = {split: {} for split in _SPLITS}
    for sample in dataset.samples:
        entries = splits[sample.split].setdefault(sample.product, [])
        entries.append(
            {
                "img_path": _relative(sample.path, path.parent),
                "mask_path": _relative(sample.mask, path.parent) if sample.mask else "",
                "cls_name": sample.product,
                "specie_name": _specie(dataset, sample),
                "anomaly": int(sample.is_defective),
            }
        )
    atomic_write(path, (json.dumps(splits, indent=2, ensure_ascii=False) + "\n").encode())


def _entry(split: str, product: str, entry: Any, where: str) -> MetaEntry:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object, got {entry!r:.80}")
    try:
        image, mask, name, specie = (
            take(entry, key, str, DatasetError)
            for key in ("img_path", "mask_path", "cls_name", "specie_name")
        )
        anomaly = take(entry, "anomaly", int, DatasetError)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error
    if anomaly not in (0, 1):
        raise DatasetError(f"{where}: field `anomaly` must be 0 or 1, got {anomaly!r:.80}")
    if name != product:
        raise DatasetError(
            f"{where}: field `cls_name` must be the product it is listed under, got {name!r:.80}"
        )
    return MetaEntry(split, product, image, mask, specie, anomaly == 1, where)


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise DatasetError(
            f"`{path}` must lie inside `{root}` to be listed there; write the index into the data "
            "set's root"
        ) from error


def _specie(dataset: "Dataset", sample: "Sample") -> str:
    return "" if dataset.layout == "visa" else sample.defect
