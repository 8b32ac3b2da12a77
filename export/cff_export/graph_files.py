"""Reading and writing graphs whose weights may lie in a file of their own.

protobuf stops at 2 GiB. Above `MAX_SINGLE_FILE_BYTES` the weights go to ``<name>.data`` beside the
graph, and their hash into it, so that graphs of different weights are different files.
"""

import hashlib
from pathlib import Path

import onnx_ir as ir

from cff_export.blocks import ENCODER_SCOPE, block_of
from cff_runtime.errors import BundleError, StorageError

MAX_SINGLE_FILE_BYTES = 1_900_000_000
WEIGHTS_HASH = "weights_sha256"


def read_graph(path: Path) -> ir.Model:
    """Read an exported encoder.

    Raises
    ------
    BundleError
        If the file is no ONNX graph, or its nodes do not carry the names of PyTorch modules.
    """
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf, onnx_ir and the file system raise many kinds
        raise BundleError(f"`{path}` must be an ONNX graph: {error!s:.200}") from error
    if all(block_of(node.name or "") != ENCODER_SCOPE for node in model.graph):
        raise BundleError(
            f"the nodes of `{path}` must be named after PyTorch modules, so that blocks can keep "
            "a precision of their own; export the bundle again with this version"
        )
    return model


def write_graph(model: ir.Model, path: Path) -> Path:
    """Write a graph, its weights beside it if they are too large for one file; return `path`.

    Raises
    ------
    StorageError
        If the files cannot be written.
    """
    tensors = [value.const_value for value in model.graph.initializers.values()]
    weights = [tensor for tensor in tensors if tensor is not None]
    model.metadata_props.pop(WEIGHTS_HASH, None)
    external = None
    if sum(tensor.nbytes for tensor in weights) > MAX_SINGLE_FILE_BYTES:
        digest = hashlib.sha256()
        for tensor in weights:
            digest.update(tensor.tobytes())
        model.metadata_props[WEIGHTS_HASH] = digest.hexdigest()
        external = f"{path.name}.data"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(model, path, external_data=external)
        if external is None:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"`{path}` could not be written: {error.strerror or error}; "
            "free some space or choose another place"
        ) from error
    return path
