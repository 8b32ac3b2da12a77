"""What each node of a graph takes inside ONNX Runtime, with its operations and bytes.

ONNX Runtime runs another graph than the one in the file: nodes are fused, renamed and laid out
anew. Its profile names them after the node they came from
(``.../MatMul_149/MatmulTransposeFusion``) or after the tensor they write (``relu6_2_nchwc``), so
that every product of the file is found again and keeps its exact count; what is found nowhere is
told.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cff_bench.roofline.counting import NodeCount
from cff_runtime.backends.core_places import CorePlaces
from cff_runtime.backends.cpu_session import session_options
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError
from cff_runtime.verification import golden_condition

_SUFFIX = "_kernel_time"
_LAYOUT_SUFFIX = "_nchwc"
_INT8 = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger"})
# another shape for the same memory: nothing moves
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size"})
_WIDTHS = {"float": 4, "int32": 4, "int64": 8, "double": 8, "float16": 2, "int8": 1, "uint8": 1}


@dataclass(frozen=True)
class NodeTime:
    """A node that ONNX Runtime ran.

    Attributes
    ----------
    name, operator : str
        As in the profile.
    n : int
        Timed runs.
    median_us : float
    flops : int
        Of the products that it computes.
    moved_bytes : int
        Inputs, constants and outputs, each once; none for a view.
    precision : {"fp32", "int8"}
        Of its product.
    shapes : str
        Of inputs and outputs.
    """

    name: str
    operator: str
    n: int
    median_us: float
    flops: int
    moved_bytes: int
    precision: str
    shapes: str


def profile_graph(
    path: Path,
    feeds: Mapping[str, NDArray[Any]],
    threads: int,
    n: int,
    warmup: int = 1,
) -> list[dict[str, Any]]:
    """Run a graph with ONNX Runtime's profiler and return the events of its nodes.

    Raises
    ------
    BackendError
        If ONNX Runtime cannot load or run it.
    """
    with tempfile.TemporaryDirectory(prefix="cff-roofline-") as folder:
        places = CorePlaces(threads)
        options = session_options(threads, places)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            providers = ["CPUExecutionProvider"]
            session = ort.InferenceSession(str(path), options, providers=providers)
            for _ in range(warmup + n):
                with places.caller():
                    session.run(None, dict(feeds))
            file = Path(session.end_profiling())
        except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
            raise BackendError(f"ONNX Runtime cannot profile `{path}`: {error}") from error
        events = json.loads(file.read_text(encoding="utf-8"))
    return node_events(events, warmup)


def node_events(events: Sequence[Mapping[str, Any]], warmup: int) -> list[dict[str, Any]]:
    """Return the timed events of nodes, the first `warmup` of each node left out."""
    seen: dict[str, int] = defaultdict(int)
    timed = []
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX):
            continue
        seen[name] += 1
        if seen[name] > warmup:
            timed.append({**event, "name": name.removesuffix(_SUFFIX)})
    return timed


def aggregate(
    events: Sequence[Mapping[str, Any]], counts: Sequence[NodeCount]
) -> tuple[list[NodeTime], int]:
    """Return the nodes, slowest first, and the operations of products that no node was found for.

    Parameters
    ----------
    events : sequence
        From `profile_graph`.
    counts : sequence of NodeCount
        Of the graph as it lies in the file.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        by_name[event["name"]].append(event)
    origins = _Origins(counts)
    nodes = []
    found: set[str] = set()
    for name, group in by_name.items():
        facts = group[0]["args"]
        origin = origins.of(name)
        flops = 0
        moved = 0
        if facts["op_name"] not in _VIEWS:
            moved = _bytes(facts.get("input_type_shape"))
            moved += _bytes(facts.get("output_type_shape"))
        if origin is not None and origin.flops and origin.name not in found:
            found.add(origin.name)
            flops = origin.flops
            moved += origin.weight_bytes if _is_packed(origin, facts) else 0
        nodes.append(
            NodeTime(
                name,
                str(facts["op_name"]),
                len(group),
                median(float(event["dur"]) for event in group),
                flops,
                moved,
                "int8" if facts["op_name"] in _INT8 else "fp32",
                f"{_shapes(facts.get('input_type_shape'))} -> "
                f"{_shapes(facts.get('output_type_shape'))}",
            )
        )
    unmatched = sum(count.flops for count in counts if count.name not in found)
    return sorted(nodes, key=lambda node: -node.median_us), unmatched


class _Origins:
    """Finds the node of the file that a node of the profile came from."""

    def __init__(self, counts: Sequence[NodeCount]) -> None:
        self._by_name = {count.name: count for count in counts}
        self._by_output = {output: count for count in counts for output in count.outputs}

    def of(self, name: str) -> NodeCount | None:
        """Return it, or None for a node that ONNX Runtime added."""
        if name.endswith(_LAYOUT_SUFFIX):
            return self._upstream(self._by_output.get(name.removesuffix(_LAYOUT_SUFFIX)))
        parts = name.split("/")
        for end in range(len(parts), 0, -1):
            count = self._by_name.get("/".join(parts[:end]))
            if count is not None:
                return self._upstream(count)
        for end in range(len(name), 0, -1):  # such as `..._quant` beside its node
            if name[end - 1] == "_" and name[: end - 1] in self._by_name:
                return self._upstream(self._by_name[name[: end - 1]])
        return None

    def _upstream(self, count: NodeCount | None) -> NodeCount | None:
        """Walk from a fused activation or scale to the product before it."""
        start = count
        while count is not None and not count.flops:
            if count.operator not in ("Clip", "Relu", "Mul", "Add", "Cast", "Sigmoid"):
                return start
            producers = [self._by_output.get(name) for name in count.inputs]
            before = [producer for producer in producers if producer is not None]
            count = before[0] if len(before) == 1 else None
        return start if count is None else count


def _is_packed(origin: NodeCount, facts: Mapping[str, Any]) -> bool:
    """Whether the weights were packed when the session opened, and are no inputs any more."""
    if not origin.weight_shape or "Conv" in str(facts["op_name"]):
        return False
    shapes = [tuple(shape) for _, shape in _tensors(facts.get("input_type_shape"))]
    return origin.weight_shape not in shapes


def _bytes(entries: Any) -> int:
    return sum(prod(shape) * _WIDTHS.get(kind, 4) for kind, shape in _tensors(entries))


def _shapes(entries: Any) -> str:
    return " ".join("x".join(map(str, shape)) or "1" for _, shape in _tensors(entries))


def _tensors(entries: Any) -> list[tuple[str, list[int]]]:
    return [(kind, shape) for entry in entries or () for kind, shape in entry.items()]


def encoder_feeds(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Return a seeded noise image and the golden images' condition for an encoder."""
    generator, size = np.random.default_rng(0), bundle.manifest.preprocessing
    return {
        "image": generator.integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8),
        bundle.manifest.condition.input: golden_condition(bundle),
    }
