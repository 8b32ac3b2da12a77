"""Recognising a finished cell: one hash over all that decides its figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cff_edge.datasets import Sample
from cff_edge.evaluation.cells import SCHEMA_VERSION
from cff_edge.evaluation.methods import Task
from cff_runtime.errors import DatasetError
from cff_runtime.storage import sha256_bytes, sha256_file


class FileHashes:
    """SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """Return a file's hash.

        Raises
        ------
        DatasetError
            If it cannot be read.
        """
        if path not in self._known:
            try:
                self._known[path] = sha256_file(path)
            except OSError as error:
                raise DatasetError(
                    f"`{path}` must be a readable file: {error.strerror or error}"
                ) from error
        return self._known[path]


def inputs_hash(
    task: Task, samples: Sequence[Sample], facts: Mapping[str, Any], hashes: FileHashes
) -> str:
    """Hash the method's identity, the references, and the test images with their masks.

    Names count as well as contents: scores are kept by name. The order of the references is left
    in, the kind of image score only where a text tower gives it a meaning.

    Parameters
    ----------
    task : Task
    samples : sequence of Sample
        The test images.
    facts : mapping
        The method's, with ``sha256``.
    hashes : FileHashes
        Shared between cells that have images in common.
    """
    images = zip(task.images, samples, strict=True)
    inputs = {
        "schema": SCHEMA_VERSION,
        "method": facts["sha256"],
        "image_score": task.image_score if facts.get("has_text_tower") else None,
        "product": task.cell.product,
        "references": [(name, hashes.of(task.root / name)) for name in task.references],
        "images": [
            (name, hashes.of(s.path), s.defect, hashes.of(s.mask) if s.mask else None)
            for name, s in images
        ],
    }
    return sha256_bytes(json.dumps(inputs).encode())
