"""One reduced precision of a finished encoder, as a file beside it.

``fp16`` and ``int8-qdq`` are for GPUs; on the CPU their emulation runs (`cff_export.precision.
emulate`). ``int8`` is for the CPU and runs there as it is.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cff_export.blocks import block_of
from cff_export.graph_files import WEIGHTS_HASH, read_graph, write_graph
from cff_export.precision.calibration import images_sha256
from cff_export.precision.costs import block_costs, share_kept
from cff_export.precision.emulate import emulated_half
from cff_export.precision.half import half_nodes, to_half
from cff_export.precision.int8_dynamic import LARGEST_WEIGHT, dynamic_layers, to_int8_dynamic
from cff_export.precision.int8_qdq import activation_clips, qdq_layers, to_int8_qdq
from cff_runtime.errors import UsageError

PRECISIONS = ("fp32", "fp16", "int8", "int8-qdq")


@dataclass(frozen=True)
class Candidate:
    """A graph of some precision.

    Attributes
    ----------
    graph : Path
        The graph itself; its weights stand beside it if ``facts["external_data"]``.
    runnable : Path
        What the CPU may run to judge it; an emulation, or `graph` itself.
    kept : tuple of str
        Blocks left in float32, in graph order.
    facts : mapping
        How it was built, for the manifest.
    """

    graph: Path
    runnable: Path
    kept: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def forced(self) -> Mapping[str, str]:
        """Blocks that were kept without being asked for, each with the reason."""
        forced: Mapping[str, str] = self.facts["forced"]
        return forced


def graph_blocks(source: Path, precision: str) -> list[str]:
    """Return the blocks that a precision would touch, in graph order.

    Raises
    ------
    UsageError
        If there is no such precision.
    BundleError
        If `source` is no encoder whose nodes carry module names.
    """
    _require_precision(precision)
    model = read_graph(source)
    nodes: list[ir.Node] = []
    if precision in ("fp16", "int8-qdq"):
        nodes += half_nodes(model)
    if precision == "int8-qdq":
        nodes += [layer.node for layer in qdq_layers(model)]
    if precision == "int8":
        nodes += [layer.node for layer in dynamic_layers(model)]
    touched = {block_of(node.name or "") for node in nodes}
    blocks = dict.fromkeys(block_of(node.name or "") for node in model.graph)
    return [block for block in blocks if block in touched]


def build_candidate(
    precision: str,
    source: Path,
    folder: Path,
    kept: Collection[str],
    calibration: Sequence[NDArray[np.uint8]] | None,
    condition: NDArray[np.float32],
) -> Candidate:
    """Write an encoder in a precision; another candidate of it in `folder` is overwritten.

    Parameters
    ----------
    precision : str
        Of `PRECISIONS`.
    source : Path
        The float32 encoder.
    folder : Path
        Where to write; besides the graph its emulation, and the scales found by calibration.
    kept : collection of str
        Blocks to leave in float32.
    calibration : sequence of ndarrays of shape (H, W, 3), uint8, or None
        Only ``int8-qdq`` needs them.
    condition : ndarray, float32
        The encoder's second input, of any product.

    Raises
    ------
    UsageError
        If there is no such precision or block, or calibration images are missing.
    BundleError
        If `source` is no encoder whose nodes carry module names.
    BackendError
        If ONNX Runtime cannot run the encoder.
    StorageError
        If a file cannot be written.
    """
    _require_precision(precision)
    model = read_graph(source)
    costs = block_costs(model)
    unknown = sorted(set(kept) - set(costs))
    if unknown:
        raise UsageError(
            f"`kept` must name blocks of the graph, got {', '.join(unknown):.200}; "
            f"blocks are {', '.join(costs):.400}"
        )
    if precision == "fp32":
        facts = {"forced": {}, **_size_facts(source, model)}
        return Candidate(source, source, (), facts)
    facts, forced = _reduce(precision, model, source, folder, kept, calibration, condition)
    left = tuple(block for block in costs if block in kept or block in forced)
    stem = f"encoder.{precision}-mixed" if left else f"encoder.{precision}"
    graph = write_graph(model, folder / f"{stem}.onnx")
    runnable = graph
    if precision != "int8":
        runnable = write_graph(emulated_half(model), folder / f"{stem}.emulated.onnx")
    facts |= {"forced": forced, "share_fp32": share_kept(costs, left), **_size_facts(graph, model)}
    return Candidate(graph, runnable, left, facts)


def _reduce(
    precision: str,
    model: ir.Model,
    source: Path,
    folder: Path,
    kept: Collection[str],
    calibration: Sequence[NDArray[np.uint8]] | None,
    condition: NDArray[np.float32],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Rewrite the graph; return the facts, and the blocks kept unasked with the reasons."""
    facts: dict[str, Any] = {}
    if precision == "int8":
        facts["n_int8_layers"] = to_int8_dynamic(model, kept)
        return {**facts, "largest_weight": LARGEST_WEIGHT, "batch": 1}, {}
    if precision == "int8-qdq":
        images = list(calibration or ())
        clips = _clips(source, folder, images, condition)
        facts["n_int8_layers"] = to_int8_qdq(model, clips, kept)
        facts["calibration"] = {"n_images": len(images), "sha256": images_sha256(images)}
        facts["opset"] = model.graph.opset_imports[""]
    report = to_half(model, kept)
    facts |= {"n_fp16_nodes": report.n_half, "n_casts": report.n_casts}
    return facts, dict(report.forced)


def _clips(
    source: Path,
    folder: Path,
    images: Sequence[NDArray[np.uint8]],
    condition: NDArray[np.float32],
) -> dict[str, float]:
    """Calibrate once for all candidates of a folder; the clips do not depend on what is kept."""
    state = source.stat()
    key = f"{source.resolve()} {state.st_size} {state.st_mtime_ns} {images_sha256(images)}"
    cache = folder / f"clips-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if cache.is_file():
        stored: dict[str, float] = json.loads(cache.read_text(encoding="utf-8"))
        return stored
    clips = activation_clips(source, images, condition)
    folder.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(clips, indent=2) + "\n", encoding="utf-8")
    return clips


def _size_facts(graph: Path, model: ir.Model) -> dict[str, Any]:
    data = graph.with_name(f"{graph.name}.data")
    external = WEIGHTS_HASH in model.metadata_props
    n_bytes = graph.stat().st_size + (data.stat().st_size if external else 0)
    return {"external_data": external, "n_bytes": n_bytes}


def _require_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
