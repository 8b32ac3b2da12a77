"""The side-car of an engine: one JSON file beside it that says what it is.

Nothing is ever written into the engine's own file, so that every TensorRT tool can read it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.engines.key import EngineKey
from cff_runtime.errors import BackendError
from cff_runtime.jsonfields import parse_object, take
from cff_runtime.storage import atomic_write

SCHEMA_VERSION = 1
ENGINE_SUFFIX = ".engine"
SIDECAR_SUFFIX = f"{ENGINE_SUFFIX}.json"
_MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True)
class BuiltEngine:
    """An engine on disk and what its side-car says.

    Attributes
    ----------
    path : Path
    key : EngineKey
    graph_name : str
        File name of the graph; scorers of equal shape share the engine of the first.
    graph_bytes : int
    sha256, n_bytes
        Of the engine's file.
    build_seconds : float
    typing : {'strong', 'weak'}
    n_by_type : mapping of str to int
        Number of layers by type, as in `LayerReport`; the report itself is at `layers_path`.
    n_kept_fp32 : int
    warnings, notes : tuple of str
        TensorRT's, and ours.
    built : str
        When, in UTC.
    accepted : mapping or None
        When the parity gate on the device passed, and its numbers.
    reused : bool
        Whether it was found rather than built; not in the side-car.
    """

    path: Path
    key: EngineKey
    graph_name: str
    graph_bytes: int
    sha256: str
    n_bytes: int
    build_seconds: float
    typing: str
    n_by_type: Mapping[str, int]
    n_kept_fp32: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    built: str
    accepted: Mapping[str, Any] | None = None
    reused: bool = False

    @property
    def sidecar_path(self) -> Path:
        """Of the JSON beside the engine."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def layers_path(self) -> Path:
        """Of the report of precision per layer."""
        return self.path.with_name(f"{self.path.name}.layers.json")

    def to_dict(self) -> dict[str, Any]:
        """Return the side-car."""
        return {
            "schema_version": SCHEMA_VERSION,
            "key": self.key.to_dict(),
            "graph": {"name": self.graph_name, "n_bytes": self.graph_bytes},
            "engine": {"sha256": self.sha256, "n_bytes": self.n_bytes},
            "build_seconds": self.build_seconds,
            "layers": {
                "report": self.layers_path.name,
                "typing": self.typing,
                "n_by_type": dict(self.n_by_type),
                "n_kept_fp32": self.n_kept_fp32,
            },
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "built": self.built,
            "accepted": self.accepted,
        }

    def write_sidecar(self) -> None:
        """Write the side-car.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        atomic_write(self.sidecar_path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())


def read_sidecar(path: Path) -> BuiltEngine:
    """Read a side-car; the engine itself is not looked at.

    Raises
    ------
    BackendError
        If it is not one of ours.
    """
    try:
        if path.stat().st_size > _MAX_SIDECAR_BYTES:
            raise BackendError(f"it must be at most {_MAX_SIDECAR_BYTES} bytes")
        fields = parse_object(path.read_text(encoding="utf-8"), "it", BackendError)
        return _parse(path.with_name(path.name.removesuffix(".json")), fields)
    except (BackendError, OSError, UnicodeDecodeError) as error:
        raise BackendError(f"side-car `{path}` is malformed: {error}") from error


def _parse(path: Path, fields: Mapping[str, Any]) -> BuiltEngine:
    version = take(fields, "schema_version", int, BackendError)
    if version != SCHEMA_VERSION:
        raise BackendError(f"`schema_version` must be {SCHEMA_VERSION}, got {version}")
    graph, engine, layers = (
        take(fields, name, dict, BackendError) for name in ("graph", "engine", "layers")
    )
    accepted = fields.get("accepted")
    if not isinstance(accepted, dict | None):
        raise BackendError(f"`accepted` must be an object or null, got {accepted!r:.80}")
    if accepted is not None:
        take(accepted, "when", str, BackendError)
    return BuiltEngine(
        path=path,
        key=EngineKey.from_dict(take(fields, "key", dict, BackendError)),
        graph_name=take(graph, "name", str, BackendError),
        graph_bytes=take(graph, "n_bytes", int, BackendError),
        sha256=take(engine, "sha256", str, BackendError),
        n_bytes=take(engine, "n_bytes", int, BackendError),
        build_seconds=take(fields, "build_seconds", float, BackendError),
        typing=take(layers, "typing", str, BackendError),
        n_by_type=take(layers, "n_by_type", dict, BackendError),
        n_kept_fp32=take(layers, "n_kept_fp32", int, BackendError),
        warnings=tuple(map(str, take(fields, "warnings", list, BackendError))),
        notes=tuple(map(str, take(fields, "notes", list, BackendError))),
        built=take(fields, "built", str, BackendError),
        accepted=accepted,
        reused=True,
    )
