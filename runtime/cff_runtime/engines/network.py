"""From an ONNX file to a TensorRT network that is ready to build.

What TensorRT cannot take is said here, with the names of the nodes, before any build starts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.engines.flavours import Flavour
from cff_runtime.engines.key import Size
from cff_runtime.engines.logs import BuildLog, summarize
from cff_runtime.errors import BackendError

_FREE = -1
_MAX_NODES = 8
# an older parser prints the node that it fails at and does not give its name otherwise
_PRINTED_NODE = re.compile(r'\bname: "([^"]*)"\s+op_type: "([^"]*)"')
_ABOUT_A_NODE = ("While parsing node", "--- Begin node", "--- End node", "ModelImporter.cpp")


@dataclass(frozen=True)
class Network:
    """A parsed graph.

    Attributes
    ----------
    definition : INetworkDefinition
    parser : OnnxParser
        Owns the weights; it must live until the engine is built.
    builder : Builder
    """

    definition: Any
    parser: Any
    builder: Any


def parse_graph(flavour: Flavour, graph: Path, build_log: BuildLog) -> Network:
    """Parse an ONNX file, with the weights beside it.

    Raises
    ------
    BackendError
        If TensorRT cannot start, or naming every node that it cannot take.
    """
    builder = _make_builder(flavour, build_log)
    network = _empty_network(flavour, builder, build_log)
    if not network.parser.parse_from_file(str(graph.resolve())):
        nodes = _failures(network.parser, build_log)
        nodes += _all_failures(flavour, graph, builder, build_log)
        raise BackendError(_unsupported(flavour, graph, list(dict.fromkeys(nodes)), build_log))
    definition = network.definition
    if not definition.num_inputs or not definition.num_outputs:  # it "parses" any file of bytes
        raise BackendError(f"`{graph}` must be an ONNX graph, {flavour.title} finds none in it")
    return network


def fix_sizes(network: Network, config: Any, sizes: Mapping[str, Size]) -> dict[str, Size]:
    """Give the free first dimension of every input its size; return the sizes that were used.

    A size of three equal numbers becomes static, others an optimisation profile.

    Raises
    ------
    BackendError
        If an input has a free dimension that no size is known for.
    """
    used: dict[str, Size] = {}
    profile = None
    for tensor in inputs_of(network.definition):
        shape = tuple(tensor.shape)
        if _FREE not in shape:
            continue
        if tensor.name not in sizes or _FREE in shape[1:]:
            raise BackendError(
                f"input `{tensor.name}` must be free in its first dimension only and have a given "
                f"size, its shape is {shape} and sizes are given for {', '.join(sizes)}"
            )
        size = used[tensor.name] = sizes[tensor.name]
        if size[0] == size[2]:
            tensor.shape = (size[0], *shape[1:])
        else:
            profile = profile or network.builder.create_optimization_profile()
            profile.set_shape(tensor.name, *((rows, *shape[1:]) for rows in size))
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses the sizes {used}; choose others")
    return used


def inputs_of(definition: Any) -> list[Any]:
    """Return the input tensors of a network."""
    return [definition.get_input(index) for index in range(definition.num_inputs)]


def layers_of(definition: Any) -> list[Any]:
    """Return the layers of a network."""
    return [definition.get_layer(index) for index in range(definition.num_layers)]


def _make_builder(flavour: Flavour, build_log: BuildLog) -> Any:
    try:
        return flavour.trt.Builder(build_log.logger)
    except (TypeError, RuntimeError) as error:  # how pybind11 reports a null pointer
        reason = summarize(build_log.errors) or str(error)
        raise BackendError(
            f"{flavour.title} cannot start: {reason}; check the driver of the GPU"
        ) from error


def _empty_network(flavour: Flavour, builder: Any, build_log: BuildLog) -> Network:
    definition = builder.create_network(flavour.network_flags)
    if definition is None:
        raise BackendError(f"{flavour.title} cannot start: {summarize(build_log.errors)}")
    return Network(definition, flavour.trt.OnnxParser(definition, build_log.logger), builder)


def _failures(parser: Any, build_log: BuildLog) -> list[str]:
    """Return one line per parser error, with the node's name where there is one."""
    printed = [found for text in build_log.errors for found in _PRINTED_NODE.findall(text)]
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = "", ""
        if hasattr(error, "node_name"):
            name, operator = error.node_name(), error.node_operator()
        elif index < len(printed):
            name, operator = printed[index]
        lines.append(_line(error, name, operator))
    return lines


def _line(error: Any, name: str, operator: str) -> str:
    code = str(getattr(error.code(), "name", error.code())).lower().replace("_", " ")
    description = " ".join(str(error.desc()).split())
    told = description if description not in ("", "false") else ""
    where = f"node `{name}` ({operator})" if name else ""
    if not where and error.node() >= 0:
        where = f"node number {error.node()}"
    return ": ".join(part for part in (where, code, told) if part)


def _all_failures(flavour: Flavour, graph: Path, builder: Any, build_log: BuildLog) -> list[str]:
    """Ask for every unsupported node; some parsers stop at the first."""
    network = _empty_network(flavour, builder, build_log)
    if not hasattr(network.parser, "supports_model_v2") or not graph.is_file():
        return []
    path = str(graph.resolve())
    if network.parser.supports_model_v2(graph.read_bytes(), path):
        return []
    return _failures(network.parser, build_log)


def _unsupported(flavour: Flavour, graph: Path, nodes: Sequence[str], build_log: BuildLog) -> str:
    shown = "; ".join(nodes[:_MAX_NODES])
    more = f"; and {len(nodes) - _MAX_NODES} more" if len(nodes) > _MAX_NODES else ""
    other = summarize([e for e in build_log.errors if not any(w in e for w in _ABOUT_A_NODE)])
    return f"{flavour.title} cannot take `{graph}`: {shown}{more}{f' ({other})' if other else ''}"
