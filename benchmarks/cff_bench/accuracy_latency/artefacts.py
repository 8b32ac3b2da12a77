"""The precisions of exported bundles, each judged as `cff-eval` judges a bundle."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cff_bench.precision.runnable import AS_IT_IS, runnable
from cff_bench.precision.speed import NOT_TIMED
from cff_bench.sweep.axes import bundle_labels
from cff_edge.evaluation.bundle_method import BundleMethod
from cff_edge.evaluation.cells import Cell, CellResult
from cff_edge.evaluation.context import Context
from cff_edge.evaluation.identity import FileHashes, inputs_hash
from cff_edge.evaluation.methods import MethodSpec
from cff_edge.evaluation.runner import make_task, run_cell
from cff_runtime import Inspector
from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.errors import CffError, UsageError
from cff_runtime.storage import sha256_bytes

BACKEND = "onnxruntime"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, eq=False)
class Artefact:
    """A bundle as one of its precisions sees it.

    Attributes
    ----------
    name : str
        Such as ``efficientnet-lite0-256-int8``; a folder of that name holds its cells.
    label : str
        Of the bundle.
    bundle : Bundle
    """

    name: str
    label: str
    bundle: Bundle

    @property
    def precision(self) -> str:
        """Of the encoder."""
        return self.bundle.manifest.precision

    @property
    def not_timed(self) -> str | None:
        """Why this CPU's time would say nothing of the precision, or None."""
        return NOT_TIMED.get(self.precision)

    @property
    def method(self) -> MethodSpec:
        """Return what `cff_edge.evaluation` calls it."""
        return MethodSpec(self.name, "bundle", str(self.bundle.path), (), self.sha256)

    @property
    def sha256(self) -> str:
        """Hash of all that decides its answers; the id alone says nothing of the text vectors."""
        manifest = self.bundle.manifest
        names = (manifest.encoder, f"{manifest.encoder}.data", manifest.condition.file or "")
        digests = [manifest.files[name].sha256 for name in names if name in manifest.files]
        return sha256_bytes("".join((manifest.id, self.precision, *digests)).encode())


class PrecisionMethod(BundleMethod):
    """A bundle's precision as a method: `BundleMethod` knows fp32 alone."""

    def __init__(self, artefact: Artefact, inspector: Inspector, computed: str) -> None:
        self._path = artefact.bundle.path
        self._inspector = inspector
        self._artefact = artefact
        self._computed = computed

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """Return the bundle's facts, the precision's hash and how it was computed."""
        facts = super().facts(cell)
        return {**facts, "sha256": self._artefact.sha256, "computed": self._computed}


def list_artefacts(paths: Sequence[Path], precisions: Sequence[str]) -> list[Artefact]:
    """Open the bundles and return their precisions.

    Parameters
    ----------
    paths : sequence of Path
    precisions : sequence of str
        Only these; all if empty.

    Raises
    ------
    UsageError
        If no bundle, or none with one of the precisions, is given.
    CffError
        If a bundle cannot be opened.
    """
    if not paths or len(set(paths)) < len(paths):
        raise UsageError("`BUNDLE` must be one or more different folders; name each once")
    bundles = [Bundle.open(path) for path in paths]
    found = []
    for label, bundle in zip(bundle_labels(bundles), bundles, strict=True):
        for precision in bundle.manifest.precisions:
            if not precisions or precision in precisions:
                name = _UNSAFE.sub("-", f"{label}-{precision}")
                found.append(Artefact(name, label, bundle.view(precision)))
    unknown = [name for name in precisions if all(a.precision != name for a in found)]
    if unknown or not found:
        known = sorted({name for bundle in bundles for name in bundle.manifest.precisions})
        raise UsageError(
            f"`--precisions` must be of those in the bundles, {', '.join(known)}, got "
            f"{', '.join(unknown)!r}; add one with `cff-export BUNDLE --precision`"
        )
    return found


def open_inspector(bundle: Bundle, threads: int) -> Inspector:
    """Return an inspector on ONNX Runtime's CPU provider."""
    return Inspector(bundle, open_backend(BACKEND, bundle, {"threads": threads}))


@contextlib.contextmanager
def opened(artefact: Artefact, threads: int) -> Iterator[PrecisionMethod]:
    """Give the method, whose encoder computes what the precision says, emulated where it must be.

    Raises
    ------
    CffError
        If the bundle cannot be loaded or emulated.
    """
    with runnable(artefact.bundle) as (bundle, computed):
        yield PrecisionMethod(artefact, open_inspector(bundle, threads), computed)


def judge(context: Context, artefact: Artefact, threads: int) -> list[CellResult]:
    """Compute all cells of an artefact, those that a former run left excepted.

    Raises
    ------
    CffError
        If an image cannot be used or a cell not be saved.
    """
    hashes = FileHashes()
    results = []
    with opened(artefact, threads) as method:
        for cell in context.cells():
            if cell.method != artefact.name:
                continue
            result = _finished(context, cell, method, hashes)
            if result is None:
                computed = run_cell(context, cell, method)
                result = replace(computed, pictures={})  # nobody looks at them here
                result.save(context.out)
            results.append(result)
    return results


def computed_as(results: Sequence[CellResult]) -> str:
    """Return how an artefact was computed."""
    said: str = results[0].provenance["method"].get("computed", AS_IT_IS)
    return said


def _finished(
    context: Context, cell: Cell, method: PrecisionMethod, hashes: FileHashes
) -> CellResult | None:
    """Return the cell that stands in the folder, if it was made of the same files."""
    path = context.out / cell.path
    if not path.is_file():
        return None
    try:
        result = CellResult.load(path)
    except CffError:  # damaged: computed again
        return None
    task, samples = make_task(context, cell)
    inputs = inputs_hash(task, samples, method.facts(cell), hashes)
    return result if result.provenance.get("inputs") == inputs else None
