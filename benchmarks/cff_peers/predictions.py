"""Folders of predictions, written in the form that `cff-eval` reads as a method.

`<out>/<peer>/<data set>/<product>/k<K>_seed<S>/` holds `maps.npy` and then `predictions.json`, see
`cff_edge.evaluation.predictions_method`: where the JSON stands, the cell is complete.
`<out>/<peer>/not_run.json` says which shots a peer did not run at, and why.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.methods import NOT_RUN_NAME
from cff_edge.evaluation.predictions_method import MAPS_NAME, PREDICTIONS_NAME
from cff_runtime.errors import BackendError, CffError
from cff_runtime.jsonfields import parse_object
from cff_runtime.storage import atomic_write

_SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a peer says about the test images of a cell.

    Attributes
    ----------
    cell : Cell
        Its method is the peer.
    references, images : tuple of str
        Paths relative to the data set, with ``/``.
    scores : ndarray of shape (n,), float32
        Image scores; larger is more anomalous.
    maps : ndarray of shape (n, H, W), float32
        Anomaly maps.
    facts : mapping
        Names, versions and settings of the peer, with its ``image_score``.
    seconds : float
        Time of fitting and scoring.
    """

    cell: Cell
    references: tuple[str, ...]
    images: tuple[str, ...]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    facts: Mapping[str, Any]
    seconds: float

    def save(self, out: Path) -> None:
        """Write the maps, then the JSON, each whole or not at all.

        Raises
        ------
        BackendError
            If a score or map is not finite: such a figure would say nothing.
        StorageError
            If a file cannot be written.
        """
        if not (np.isfinite(self.scores).all() and np.isfinite(self.maps).all()):
            raise BackendError(
                f"scores and maps must be finite, those of {self.cell} are not; "
                "leave the peer or the product out"
            )
        maps = io.BytesIO()
        np.save(maps, self.maps.astype(np.float32))
        folder = cell_folder(out, self.cell)
        atomic_write(folder / MAPS_NAME, maps.getvalue())
        fields = {
            "schema": _SCHEMA_VERSION,
            **asdict(self.cell),
            "image_score": self.facts["image_score"],
            "references": list(self.references),
            "images": list(self.images),
            "scores": [float(score) for score in self.scores],
            "seconds": self.seconds,
            "facts": dict(self.facts),
        }
        atomic_write(folder / PREDICTIONS_NAME, _json(fields))


@dataclass(frozen=True)
class NotRun:
    """Shots that a peer did not run at."""

    peer: str
    shots: tuple[int, ...]
    reason: str


def cell_folder(out: Path, cell: Cell) -> Path:
    """Return the folder of a cell's predictions."""
    return out / cell.method / cell.dataset / cell.product / cell.path.stem


def is_complete(
    out: Path,
    cell: Cell,
    references: Sequence[str],
    images: Sequence[str],
    facts: Mapping[str, Any],
) -> bool:
    """Whether a cell stands, made from the same references and images by the same peer."""
    folder = cell_folder(out, cell)
    try:
        text = (folder / PREDICTIONS_NAME).read_text(encoding="utf-8")
        fields = parse_object(text, PREDICTIONS_NAME, CffError)
    except (OSError, UnicodeDecodeError, CffError):
        return False  # not there or damaged: it is made anew
    wanted = {"references": list(references), "images": list(images), "facts": dict(facts)}
    same = all(fields.get(name) == value for name, value in wanted.items())
    return same and (folder / MAPS_NAME).is_file()


def write_not_run(out: Path, peer: str, not_run: Sequence[NotRun]) -> None:
    """Write why a peer did not run, or take away the note of an earlier time.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    path = out / peer / NOT_RUN_NAME
    if not_run:
        entries = [{"shots": list(entry.shots), "reason": entry.reason} for entry in not_run]
        fields = {"schema": _SCHEMA_VERSION, "method": peer, "not_run": entries}
        atomic_write(path, _json(fields))
    else:
        path.unlink(missing_ok=True)


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1) + "\n").encode()
