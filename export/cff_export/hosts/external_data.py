"""Weights of a standalone graph: inside the file, or beside it with a hash in the file.

Protobuf stops at 2 GiB. Beyond 1.9 GB, or where the encoder's own weights stand beside it, all
weights go to ``<file>.data``, whose SHA-256 is in the graph's metadata. ONNX Runtime reads such a
file without looking at any hash: `check_external_data` does, and is worth calling first.
"""

from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir

from cff_export.graph_files import MAX_SINGLE_FILE_BYTES
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.storage import sha256_file

SHA256_KEY = "cff_external_data_sha256"


def save_model(model: ir.Model, path: Path) -> Path | None:
    """Write a model, with its weights beside it where they are too large; check it.

    Returns
    -------
    Path or None
        ``<path>.data``, if the weights stand there.
    """
    weights = [value.const_value for value in model.graph.initializers.values()]
    n_bytes = sum(tensor.nbytes for tensor in weights if tensor is not None)
    outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in weights)
    data: Path | None = None
    if outside or n_bytes > MAX_SINGLE_FILE_BYTES:
        data = path.with_name(f"{path.name}.data")
        ir.save(model, path, external_data=data.name)
        proto = onnx.load(path, load_external_data=False)
        proto.metadata_props.add(key=SHA256_KEY, value=sha256_file(data))
        path.write_bytes(proto.SerializeToString(deterministic=True))
    else:
        ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return data


def check_external_data(path: Path | str) -> Path | None:
    """Check the weights beside a standalone graph against the hash inside it.

    Parameters
    ----------
    path : path
        ONNX file written by `write_standalone`.

    Returns
    -------
    Path or None
        The file of weights; None if the graph holds them itself.

    Raises
    ------
    UsageError
        If there is no such file.
    BundleError
        If it is no ONNX file, or the weights are missing, changed, elsewhere or without a hash.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"`{path}` must be an existing ONNX file; make one with `cff-export`")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises a kind of its own
        raise BundleError(f"`{path}` must be an ONNX file: {error}; write it again") from error
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not locations:
        return None
    name = f"{path.name}.data"
    if locations != {name}:
        found = ", ".join(sorted(PurePosixPath(location).name for location in locations))
        raise BundleError(
            f"weights of `{path}` must stand in `{name}` beside it, got {found:.80}; "
            "a renamed graph does not find its weights, write it again under the new name"
        )
    expected = next((p.value for p in model.metadata_props if p.key == SHA256_KEY), None)
    if expected is None:
        raise BundleError(f"`{path}` must name the SHA-256 of `{name}`; write it again")
    data = path.with_name(name)
    if not data.is_file():
        raise BundleError(f"`{data}` must exist, `{path.name}` has its weights there; copy both")
    got = sha256_file(data)
    if got != expected:
        raise BundleError(
            f"`{data}` must have SHA-256 {expected}, got {got}; "
            "it is not the file that was written with this graph, copy both again"
        )
    return data
