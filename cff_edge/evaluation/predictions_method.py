"""A peer's predictions as a method: files that another program wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.methods import Judgement, Task
from cff_runtime.errors import DatasetError
from cff_runtime.storage import sha256_bytes, sha256_file

PREDICTIONS_NAME = "predictions.json"
MAPS_NAME = "maps.npy"


class PredictionsMethod:
    """What a peer's own program said about the same references and images.

    One folder per cell, ``<folder>/<dataset>/<product>/k<K>_seed<S>/``, holds

    predictions.json
        ``references``: paths of the K references, relative to the data set, in any order;
        ``images``: paths of the test images, likewise; ``scores``: one image score per image;
        ``image_score``: what that score is, in a word; ``facts``: an object that goes into the
        provenance, such as names, versions and settings of the peer.
    maps.npy
        Anomaly maps of the images in their order, float16 or float32 [n,H,W], of any H and W:
        masks are brought to that size.

    The references must be those of the cell, and every test image of the cell must be among the
    images: a figure is compared with others on equal terms or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """Return the peer's facts and the hash of its two files.

        Raises
        ------
        DatasetError
            If the cell's files are missing or damaged.
        """
        folder = self._folder_of(cell)
        fields = self._read(folder)
        digests = [sha256_file(folder / name) for name in (PREDICTIONS_NAME, MAPS_NAME)]
        return {
            **fields.get("facts", {}),
            "kind": "predictions",
            "folder": str(self._folder),
            "sha256": sha256_bytes("".join(digests).encode()),
            "zero_shot": cell.k == 0,
        }

    def judge(self, task: Task) -> Judgement:
        """Return the stored answers in the order of the cell's images.

        Raises
        ------
        DatasetError
            If files are missing or damaged, or the references or images are others.
        """
        folder = self._folder_of(task.cell)
        fields = self._read(folder)
        references, images = fields["references"], fields["images"]
        if sorted(references) != sorted(task.references):
            raise DatasetError(
                f"`{folder / PREDICTIONS_NAME}` must be made with the references "
                f"{', '.join(task.references)}, got {', '.join(map(str, references))}; "
                "give the peer the run's references.json"
            )
        position = {name: index for index, name in enumerate(images)}
        missing = [name for name in task.images if name not in position]
        if missing:
            raise DatasetError(
                f"`{folder / PREDICTIONS_NAME}` must hold every test image, {len(missing)} are "
                f"missing, such as `{missing[0]}`; run the peer on all of them"
            )
        order = [position[name] for name in task.images]
        maps = _read_maps(folder / MAPS_NAME, len(images))
        return Judgement(
            maps=np.stack([maps[index] for index in order]).astype(np.float32),
            scores=np.array([fields["scores"][index] for index in order], np.float64),
            image_score=str(fields.get("image_score", "peer")),
        )

    def _folder_of(self, cell: Cell) -> Path:
        return self._folder / cell.dataset / cell.product / f"k{cell.k}_seed{cell.seed}"

    def _read(self, folder: Path) -> dict[str, Any]:
        path = folder / PREDICTIONS_NAME
        if not path.is_file() or not (folder / MAPS_NAME).is_file():
            raise DatasetError(
                f"`{folder}` must hold {PREDICTIONS_NAME} and {MAPS_NAME} of the peer; "
                "run it for this cell, or leave the cell out"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            lists = [fields[name] for name in ("references", "images", "scores")]
            sound = all(isinstance(values, list) for values in lists)
            sound &= len(lists[1]) == len(lists[2]) and isinstance(fields.get("facts", {}), dict)
            sound &= all(type(score) in (int, float) for score in lists[2])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(f"`{path}` must be predictions of a peer: {error!r:.80}") from error
        if not sound:
            raise DatasetError(
                f"`{path}` must hold the lists references, images and scores, one score per image"
            )
        return dict(fields)


def _read_maps(path: Path, n_images: int) -> NDArray[np.floating]:
    try:
        maps = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"`{path}` must be a NumPy array: {error}") from error
    if maps.ndim != 3 or len(maps) != n_images or maps.dtype not in (np.float16, np.float32):
        raise DatasetError(
            f"`{path}` must be float16 or float32 of shape ({n_images}, H, W), "
            f"got {maps.dtype} {maps.shape}"
        )
    return maps
