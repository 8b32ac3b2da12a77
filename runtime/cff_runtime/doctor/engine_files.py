"""The engines beside a bundle: whether each fits this box, and why not."""

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cff_runtime.doctor.facts import Facts
from cff_runtime.doctor.tensorrt_routes import tensorrt_release
from cff_runtime.engines.gpu import Gpu
from cff_runtime.engines.key import graph_sha256
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import EngineStore
from cff_runtime.errors import CffError


@dataclass(frozen=True)
class EngineFile:
    """One engine and what stands against it; an empty `reason` is nothing."""

    file: str
    graph: str
    flavour: str
    version: str
    precision: str
    compute_capabilities: tuple[str, ...]
    accepted: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the engine, ready for JSON."""
        return asdict(self)


def read_engine_files(bundle: Path, folder: Path, facts: Facts) -> list[EngineFile]:
    """Check every engine of a folder against the bundle's graphs, this box and its own hash."""
    store = EngineStore(folder)
    return [
        EngineFile(
            file=engine.path.name,
            graph=engine.graph_name,
            flavour=engine.key.flavour,
            version=engine.key.version,
            precision=engine.key.precision,
            compute_capabilities=engine.key.compute_capabilities,
            accepted=engine.accepted is not None,
            reason=_reason(store, engine, bundle, facts),
        )
        for engine in store.engines()
    ]


def _reason(store: EngineStore, engine: BuiltEngine, bundle: Path, facts: Facts) -> str:
    try:
        graph = graph_sha256(bundle / Path(engine.graph_name).name)
    except CffError:
        return f"was built from `{engine.graph_name}`, which the bundle has not"
    release = tensorrt_release(facts, engine.key.flavour)
    gpu = facts.gpu
    if gpu is None or gpu.compute_capability is None:
        capabilities, name = engine.key.compute_capabilities, engine.key.gpu
    else:
        capabilities = (gpu.compute_capability,)
        name = gpu.name if engine.key.gpu else ""
    wanted = dataclasses.replace(
        engine.key,
        graph=graph,
        version=release or engine.key.version,
        compute_capabilities=capabilities,
        gpu=name,
    )
    own = None if gpu is None else Gpu(gpu.name, gpu.compute_capability or "")
    difference = engine.key.difference(wanted, own)
    if difference is not None:
        return difference
    try:
        return store.damage(engine) or ""
    except CffError as error:
        return str(error)
