"""What can be evaluated: a training run, an exported bundle, a peer's predictions, raw features.

`parse_method` says from ``NAME=PATH`` what a method is; `open_method` loads it. A method answers
for one cell at a time and touches nothing but its own files and the images it is given.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME, refuse_other_models
from cff_edge.evaluation.cells import Cell
from cff_runtime.errors import UsageError
from cff_runtime.manifest import MANIFEST_NAME
from cff_runtime.storage import sha256_bytes, sha256_file

KINDS = ("run", "bundle", "predictions", "raw")
IMAGE_SCORES = ("deployable", "april_gan_transductive")
NOT_RUN_NAME = "not_run.json"
_PREDICTIONS = "*/*/k*_seed*/predictions.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PICTURE_NAMES = ("input", "mask")  # what pictures that belong to no method are called


@dataclass(frozen=True)
class MethodSpec:
    """A method as it was named, before it is loaded.

    Attributes
    ----------
    name : str
        Of its column in the tables.
    kind : {'run', 'bundle', 'predictions', 'raw'}
    path : str
        Empty for ``raw``.
    overrides : tuple of str
        Of the configuration, ``section.key=value``; for runs and raw features.
    sha256 : str
        Hash of the files that say what the method is, so that a changed one is loaded again.
    """

    name: str
    kind: str
    path: str
    overrides: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Task:
    """What a method gets to know of a cell.

    Attributes
    ----------
    cell : Cell
    root : Path
        The data set's folder.
    references, images : tuple of str
        Paths of the K references and n test images, relative to `root`, with ``/``.
    image_score : {'deployable', 'april_gan_transductive'}
        How to score images where the method has a text tower.
    """

    cell: Cell
    root: Path
    references: tuple[str, ...]
    images: tuple[str, ...]
    image_score: str

    @property
    def reference_paths(self) -> list[Path]:
        """The references' files."""
        return [self.root / name for name in self.references]

    @property
    def image_paths(self) -> list[Path]:
        """The test images' files."""
        return [self.root / name for name in self.images]


@dataclass(frozen=True, eq=False)
class Judgement:
    """A method's answer.

    Attributes
    ----------
    maps : ndarray of shape (n, H, W), float32
        Anomaly maps, at the method's own size.
    scores : ndarray of shape (n,), float64
        Image scores.
    image_score : str
        How they were made, see `cff_edge.evaluation.cells.CellResult`.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float64]
    image_score: str


class Method(Protocol):
    """Something that can be evaluated."""

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """Return what stands in the provenance; ``sha256`` in it identifies the method.

        ``has_text_tower`` says whether image scores depend on `Task.image_score`, ``zero_shot``
        whether K may be 0, ``trained_on`` names the products that training saw, and
        ``trained_split`` the split of their images: ``test``, or ``train``, good parts alone.
        """
        ...

    def judge(self, task: Task) -> Judgement:
        """Answer for one cell."""
        ...


def parse_method(text: str, overrides: Sequence[str] = ()) -> MethodSpec:
    """Read ``NAME=PATH`` and find out what `PATH` is.

    Raises
    ------
    UsageError
        If the name may not be one, or `PATH` is no kind of method or a run of another detector.
    """
    name, separator, place = text.partition("=")
    if not separator or not place:
        raise UsageError(
            f"`--method` must be NAME=PATH or NAME=raw, got {text!r}; "
            "name the method, such as `cff=build/demo/run`"
        )
    if not _NAME.fullmatch(name) or name in _PICTURE_NAMES:
        raise UsageError(
            "the name of a method must be of letters, digits, `_`, `.` and `-`, not begin with "
            f"`.` or `-`, and be neither `input` nor `mask`, got {name!r}"
        )
    if place == "raw":
        return MethodSpec(name, "raw", "", tuple(overrides), "")
    path = Path(place)
    try:
        if (path / MANIFEST_NAME).is_file():
            return MethodSpec(name, "bundle", place, (), sha256_file(path / MANIFEST_NAME))
        if (path / HEAD_NAME).is_file() and (path / CONFIG_NAME).is_file():
            digest = sha256_file(path / HEAD_NAME) + sha256_file(path / CONFIG_NAME)
            return MethodSpec(name, "run", place, tuple(overrides), sha256_bytes(digest.encode()))
        refuse_other_models(path)
        if (path / NOT_RUN_NAME).is_file() or any(path.glob(_PREDICTIONS)):
            return MethodSpec(name, "predictions", place, (), "")
    except OSError as error:
        raise UsageError(f"method `{name}` must be readable: {error}") from error
    raise UsageError(
        f"method `{name}` must be a run of cff-train, a bundle of cff-export, a folder of "
        f"predictions, or the word raw, got `{place}`; "
        + ("it is none of these" if path.exists() else "there is no such folder")
    )


@functools.lru_cache(maxsize=8)
def open_method(spec: MethodSpec, cache: Path) -> Method:
    """Load a method; the same one again comes from memory.

    Parameters
    ----------
    spec : MethodSpec
    cache : Path
        Folder of the feature cache.

    Raises
    ------
    UsageError, CheckpointError, BundleError, MissingDependencyError
        If it cannot be loaded.
    """
    if spec.kind == "predictions":
        from cff_edge.evaluation.predictions_method import PredictionsMethod

        return PredictionsMethod(Path(spec.path))
    if spec.kind == "bundle":
        from cff_edge.evaluation.bundle_method import BundleMethod

        return BundleMethod(Path(spec.path))
    from cff_edge.evaluation.model_method import open_raw, open_run

    if spec.kind == "raw":
        return open_raw(spec.overrides, cache)
    return open_run(Path(spec.path), spec.overrides, cache)
