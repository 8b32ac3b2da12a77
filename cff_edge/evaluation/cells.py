"""Cells: one method on one product with K references of one draw, as JSON files.

`<out>/cells/<method>/<dataset>/<product>/k<K>_seed<S>.json` holds a cell's metrics, scores and
provenance; the `.npz` beside it holds the counts that a bootstrap over images needs. The JSON is
written last: where it stands, the cell is complete.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_edge.metrics import METRIC_NAMES, Evidence
from cff_runtime.errors import CffError
from cff_runtime.jsonfields import parse_object, take, take_floats
from cff_runtime.storage import atomic_write

SCHEMA_VERSION = 1
CELLS_FOLDER = "cells"
PICTURES_FOLDER = "pictures"
_COUNTS = ("positive", "negative")


@dataclass(frozen=True, order=True)
class Cell:
    """One combination to evaluate.

    Attributes
    ----------
    method, dataset, product : str
        Names, each one folder name.
    k : int
        Number of references; 0 is zero-shot.
    seed : int
        Which draw of references.
    """

    method: str
    dataset: str
    product: str
    k: int
    seed: int

    @property
    def path(self) -> Path:
        """The cell's JSON, relative to the folder of results."""
        folder = Path(CELLS_FOLDER) / self.method / self.dataset / self.product
        return folder / f"k{self.k}_seed{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.method} {self.dataset}/{self.product} K={self.k} seed={self.seed}"


@dataclass(frozen=True, eq=False)
class CellResult:
    """What a cell gave.

    Attributes
    ----------
    method, dataset, product, k, seed
        As in `Cell`.
    image_score : str
        How image scores were made: ``peak``, ``deployable``, ``april_gan_transductive``, ``text``
        (zero-shot), or what a peer's predictions call theirs.
    metrics : mapping of str to float
        Fractions, 0 to 1, one per name of `cff_edge.metrics.METRIC_NAMES`.
    references : tuple of K str
        Paths relative to the data set, with ``/``.
    images : tuple of n str
        Test images, likewise.
    defects : tuple of n str
        ``good`` or the defect's name.
    labels : tuple of n bool
        True where defective.
    scores : tuple of n float
        Image scores; larger is more anomalous.
    seconds : float
        Time of the cell, metrics included.
    provenance : mapping
        ``command``, ``versions``, ``method`` (facts), ``warnings``, and ``inputs``: a hash over
        the method, the references and the test images, by which a finished cell is recognised.
    positive, negative : ndarray of shape (n, n_bins), uint32
        Per image, counts of defective and good pixels in bins of the pooled score.
    pictures : mapping of str to bytes
        PNG data by file name, only right after the computation and for the cells that a page
        shows; not in the JSON.
    """

    method: str
    dataset: str
    product: str
    k: int
    seed: int
    image_score: str
    metrics: Mapping[str, float]
    references: tuple[str, ...]
    images: tuple[str, ...]
    defects: tuple[str, ...]
    labels: tuple[bool, ...]
    scores: tuple[float, ...]
    seconds: float
    provenance: Mapping[str, Any]
    positive: NDArray[np.uint32]
    negative: NDArray[np.uint32]
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The combination that this is the result of."""
        return Cell(self.method, self.dataset, self.product, self.k, self.seed)

    @property
    def evidence(self) -> Evidence:
        """What a bootstrap over images needs; the product is named with its data set."""
        return Evidence(
            product=f"{self.dataset}/{self.product}",
            seed=self.seed,
            images=self.images,
            labels=np.array(self.labels, bool),
            scores=np.array(self.scores, np.float64),
            positive=self.positive,
            negative=self.negative,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the JSON."""
        return {
            "schema": SCHEMA_VERSION,
            "method": self.method,
            "dataset": self.dataset,
            "product": self.product,
            "k": self.k,
            "seed": self.seed,
            "image_score": self.image_score,
            "metrics": dict(self.metrics),
            "references": list(self.references),
            "images": list(self.images),
            "defects": list(self.defects),
            "labels": list(self.labels),
            "scores": list(self.scores),
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }

    def save(self, out: Path) -> None:
        """Write counts and pictures, then the JSON, each atomically, below `out`.

        Raises
        ------
        StorageError
            If a file cannot be written.
        """
        path = out / self.cell.path
        counts = io.BytesIO()
        np.savez_compressed(counts, positive=self.positive, negative=self.negative)
        atomic_write(path.with_suffix(".npz"), counts.getvalue())
        self._save_pictures(out / PICTURES_FOLDER / self.dataset / self.product)
        atomic_write(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    def _save_pictures(self, folder: Path) -> None:
        """Write the pictures; those of images that are shown no more go."""
        shown = {name.partition("_")[0] for name in self.pictures}
        if shown and folder.is_dir():
            for path in folder.glob("[0-9]*_*.png"):
                if path.name.partition("_")[0] not in shown:
                    path.unlink(missing_ok=True)
        for name, data in self.pictures.items():
            atomic_write(folder / name, data)

    @classmethod
    def load(cls, path: Path) -> "CellResult":
        """Read a cell's JSON and the counts beside it.

        Raises
        ------
        CffError
            If a file is missing, damaged or of another schema.
        """
        try:
            fields = parse_object(path.read_text(encoding="utf-8"), "the file", CffError)
            return _parse(fields, _read_counts(path.with_suffix(".npz")))
        except (CffError, OSError, UnicodeDecodeError) as error:
            raise CffError(
                f"`{path}` must be a result of cff-eval: {error}; delete it and run again"
            ) from error


def load_results(out: Path) -> list[CellResult]:
    """Read all results below `out`, sorted by method, data set, product, K and seed.

    Raises
    ------
    CffError
        If a result is damaged.
    """
    paths = (out / CELLS_FOLDER).glob("*/*/*/k*_seed*.json")
    return sorted((CellResult.load(path) for path in paths), key=lambda result: result.cell)


def _read_counts(path: Path) -> dict[str, NDArray[np.uint32]]:
    try:
        data = io.BytesIO(path.read_bytes())  # given a damaged path, NumPy leaves it open
        with np.load(data, allow_pickle=False) as file:
            counts = {name: file[name] for name in _COUNTS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CffError(f"`{path.name}` must hold its counts: {error}") from error
    for name, array in counts.items():
        if array.dtype != np.uint32 or array.ndim != 2:
            raise CffError(f"`{name}` must be a uint32 matrix, got {array.dtype} {array.shape}")
    return counts


def _parse(fields: Mapping[str, Any], counts: Mapping[str, NDArray[np.uint32]]) -> CellResult:
    version = take(fields, "schema", int, CffError)
    if version != SCHEMA_VERSION:
        raise CffError(f"`schema` must be {SCHEMA_VERSION}, got {version}")
    metrics = take(fields, "metrics", dict, CffError)
    labels = take(fields, "labels", list, CffError)
    if not all(isinstance(label, bool) for label in labels):
        raise CffError("`labels` must be a list of booleans")
    result = CellResult(
        method=take(fields, "method", str, CffError),
        dataset=take(fields, "dataset", str, CffError),
        product=take(fields, "product", str, CffError),
        k=take(fields, "k", int, CffError),
        seed=take(fields, "seed", int, CffError),
        image_score=take(fields, "image_score", str, CffError),
        metrics={name: take(metrics, name, float, CffError) for name in METRIC_NAMES},
        references=_strings(fields, "references"),
        images=_strings(fields, "images"),
        defects=_strings(fields, "defects"),
        labels=tuple(labels),
        scores=take_floats(fields, "scores", CffError),
        seconds=take(fields, "seconds", float, CffError),
        provenance=take(fields, "provenance", dict, CffError),
        positive=counts["positive"],
        negative=counts["negative"],
    )
    n_images = len(result.images)
    columns = (result.defects, result.labels, result.scores, result.positive, result.negative)
    if any(len(column) != n_images for column in columns):
        raise CffError(f"every list must have one entry per image ({n_images})")
    return result


def _strings(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = take(fields, name, list, CffError)
    if not all(isinstance(value, str) for value in values):
        raise CffError(f"`{name}` must be a list of strings")
    return tuple(values)
