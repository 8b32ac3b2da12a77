"""What an engine depends on: its key. An engine whose key does not fit is never loaded."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cff_runtime.engines.flavours import FLAVOURS, require_flavour
from cff_runtime.engines.gpu import Gpu
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.jsonfields import take
from cff_runtime.storage import sha256_bytes, sha256_file

BANK_ROWS = 1024  # rows of one chunk of the memory bank, as in the ONNX Runtime backend
MAX_ROWS = 1 << 16
MAX_WORKSPACE_MIB = 1 << 20
KEY_CHARACTERS = 12

# smallest, usual and largest number of rows of an input; all equal for a static engine
Size = tuple[int, int, int]


def static(rows: int) -> Size:
    """Return the size of an input that always has so many rows."""
    return (rows, rows, rows)


def _default_sizes() -> dict[str, Size]:
    return {"bank": static(BANK_ROWS), "image": static(1)}


@dataclass(frozen=True)
class EngineSettings:
    """How engines are built.

    Attributes
    ----------
    flavour : {'tensorrt', 'tensorrt-rtx'}
    compute_capabilities : tuple of str
        Such as ``("8.6", "8.9")``; empty for the GPU of this box, or on a machine without one for
        all that the flavour offers from 8.0 on. Only ``tensorrt-rtx`` can choose.
    sizes : mapping of str to Size
        Input -> rows of its first dimension, where the graph leaves that free: the batch of
        `image`, the rows of `bank`. An engine is static unless the three numbers differ.
    workspace_mib : int or None
        Most scratch memory on the GPU; None leaves it to TensorRT.
    tf32 : bool
        Whether fp32 products may be rounded to TF32, which keeps as few digits as fp16. TensorRT
        does so by default; here fp32 means fp32 unless asked otherwise.
    inspect : bool
        Whether the built engine is opened, which needs a GPU, to report what each of its layers
        became.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    flavour: str
    compute_capabilities: tuple[str, ...] = ()
    sizes: Mapping[str, Size] = field(default_factory=_default_sizes)
    workspace_mib: int | None = None
    tf32: bool = False
    inspect: bool = False

    def __post_init__(self) -> None:
        require_flavour(self.flavour)
        for name, size in self.sizes.items():
            if len(size) != 3 or not 1 <= size[0] <= size[1] <= size[2] <= MAX_ROWS:
                got = dict.fromkeys(size) if len(size) == 3 and len(set(size)) == 1 else size
                raise UsageError(
                    f"size of `{name}` must be one number, or smallest, usual and largest, within "
                    f"1 to {MAX_ROWS}, got {', '.join(map(str, got))}"
                )
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MAX_WORKSPACE_MIB:
            raise UsageError(
                f"workspace must be 1 to {MAX_WORKSPACE_MIB} MiB, got {self.workspace_mib}"
            )


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether an engine is the right one.

    Attributes
    ----------
    graph : str
        SHA-256 of the ONNX file and of the weights beside it, see `graph_sha256`.
    precision, flavour, version : str
    compute_capabilities : tuple of str
    gpu : str
        Name of the GPU for ``tensorrt``, whose engines are made for one model; else empty.
    sizes : tuple of (str, Size)
        Sorted by input. A key that is searched for may name inputs that the graph has not.
    tf32 : bool
    """

    graph: str
    precision: str
    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    sizes: tuple[tuple[str, Size], ...]
    tf32: bool

    @property
    def short(self) -> str:
        """First characters of the key's SHA-256, for file names."""
        return sha256_bytes(json.dumps(asdict(self), sort_keys=True).encode())[:KEY_CHARACTERS]

    def to_dict(self) -> dict[str, Any]:
        """Return the key for JSON."""
        return {
            **asdict(self),
            "compute_capabilities": list(self.compute_capabilities),
            "sizes": {name: list(size) for name, size in self.sizes},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "EngineKey":
        """Read a key from JSON.

        Raises
        ------
        BackendError
            If a field is missing or of a wrong type.
        """

        def text(name: str) -> str:
            return take(fields, name, str, BackendError)

        capabilities = take(fields, "compute_capabilities", list, BackendError)
        sizes = take(fields, "sizes", dict, BackendError)
        if not all(isinstance(entry, str) for entry in capabilities):
            raise BackendError(f"`compute_capabilities` must be strings, got {capabilities!r:.80}")
        return cls(
            graph=text("graph"),
            precision=text("precision"),
            flavour=text("flavour"),
            version=text("version"),
            compute_capabilities=tuple(capabilities),
            gpu=text("gpu"),
            sizes=tuple((name, _parse_size(size)) for name, size in sorted(sizes.items())),
            tf32=take(fields, "tf32", bool, BackendError),
        )

    def difference(self, wanted: "EngineKey", gpu: Gpu | None = None) -> str | None:
        """Say in half a sentence why an engine of this key is not the wanted one; None if it is.

        An engine for more compute capabilities than are wanted is right.
        """
        if self.graph != wanted.graph:
            return "was built from another graph"
        if self.precision != wanted.precision:
            return f"was built as {self.precision}, not {wanted.precision}"
        if self.flavour != wanted.flavour:
            return f"was built by `{self.flavour}`, not `{wanted.flavour}`"
        if self.version != wanted.version:
            maker = FLAVOURS[wanted.flavour][2]
            return f"was built by {maker} {self.version}, this box has {wanted.version}"
        missing = [c for c in wanted.compute_capabilities if c not in self.compute_capabilities]
        if missing:
            built = ", ".join(self.compute_capabilities)
            own = gpu is not None and missing == [gpu.compute_capability]
            needs = f"this GPU has {missing[0]}" if own else f"not for {', '.join(missing)}"
            return f"was built for compute capability {built}, {needs}"
        if self.gpu != wanted.gpu:
            return f"was built on the GPU {self.gpu!r}, this box has {wanted.gpu!r}"
        return self._size_difference(wanted) or self._tf32_difference(wanted)

    def _size_difference(self, wanted: "EngineKey") -> str | None:
        asked = dict(wanted.sizes)
        for name, size in self.sizes:
            if asked.get(name) != size:
                other = _describe(asked[name]) if name in asked else "a free number"
                return f"was built for {_describe(size)} rows of `{name}`, not for {other}"
        return None

    def _tf32_difference(self, wanted: "EngineKey") -> str | None:
        if self.tf32 == wanted.tf32:
            return None
        return f"was built with TF32 {'on' if self.tf32 else 'off'}"


def graph_sha256(graph: Path) -> str:
    """Return the hash of an ONNX file together with the weights beside it.

    The weights of a graph above protobuf's limit stand in ``<graph>.data``.

    Raises
    ------
    UsageError
        If there is no such file.
    """
    if not graph.is_file():
        raise UsageError(f"graph must be an ONNX file, `{graph}` is none")
    weights = graph.with_name(f"{graph.name}.data")
    own = sha256_file(graph)
    return sha256_bytes(f"{own} {sha256_file(weights)}".encode()) if weights.is_file() else own


def _parse_size(value: Any) -> Size:
    if not isinstance(value, list) or len(value) != 3 or any(type(n) is not int for n in value):
        raise BackendError(f"`sizes` must hold three whole numbers each, got {value!r:.80}")
    return (value[0], value[1], value[2])


def _describe(size: Size) -> str:
    return str(size[0]) if size[0] == size[2] else f"{size[0]} to {size[2]} (usually {size[1]})"
