"""A bundle's precision as a CPU can really compute it.

ONNX Runtime computes float16 graphs in float32 on the CPU and drops the roundings. A graph with
float16 in it is therefore run through its emulation (`cff_export.precision.emulate`), every other
graph as it is.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from cff_export.folders import copy_bundle
from cff_export.graph_files import read_graph, write_graph
from cff_export.precision.emulate import emulated_half
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError
from cff_runtime.manifest import DEFAULT_PRECISION, FileEntry
from cff_runtime.storage import sha256_file

AS_IT_IS = "as it is, in ONNX Runtime on the CPU"
EMULATED = (
    "emulated, in ONNX Runtime on the CPU: float32 arithmetic, every float16 tensor rounded, "
    "because ONNX Runtime drops these roundings"
)
_EMULATION = "encoder.emulated.onnx"


@contextlib.contextmanager
def runnable(bundle: Bundle) -> Iterator[tuple[Bundle, str]]:
    """Give a bundle whose encoder ONNX Runtime computes as its precision says, and how.

    Parameters
    ----------
    bundle : Bundle
        Seen by one of its precisions.

    Yields
    ------
    Bundle
        `bundle` itself, or a copy with the same id and an emulation for an encoder, which is
        removed afterwards.
    str
        `AS_IT_IS` or `EMULATED`.

    Raises
    ------
    BundleError
        If the encoder is no graph that `cff-export` wrote.
    StorageError
        If the emulation cannot be written.
    """
    manifest = bundle.manifest
    if manifest.precision == DEFAULT_PRECISION:
        yield bundle, AS_IT_IS
        return
    model = read_graph(bundle.file(manifest.encoder))
    if not _has_half(model):
        yield bundle, AS_IT_IS
        return
    with tempfile.TemporaryDirectory(prefix="cff-precision-") as name:
        folder = Path(name)
        copy_bundle(bundle.path, folder)
        path = write_graph(emulated_half(model), folder / _EMULATION)
        del model  # of a ViT-L another gigabyte while images are inspected
        files = {**manifest.files, _EMULATION: FileEntry(sha256_file(path), path.stat().st_size)}
        view = dataclasses.replace(manifest, encoder=_EMULATION, files=files)
        yield Bundle(folder, view), EMULATED


def _has_half(model: ir.Model) -> bool:
    """Whether anything is float16; a type that the file does not tell would hide a rounding."""
    values = [value for node in model.graph for value in node.outputs]
    untyped = [value.name for value in values if value.dtype is None]
    if untyped:
        raise BundleError(
            f"every value of the encoder must have its type in the file, `{untyped[0]}` has none; "
            "add the precision to the bundle again"
        )
    values += model.graph.initializers.values()
    return any(value.dtype == ir.DataType.FLOAT16 for value in values)
