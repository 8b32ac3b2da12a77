"""Which engines a bundle runs with on this GPU, and the gate that they must have passed.

Two builds of one graph can differ, and some versions of TensorRT compute some graphs wrongly
without a word. So an engine counts when the golden answers came out right with it on this GPU
(`cff_runtime.verification`). That is asked once: the side-car of the engine keeps the answer.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cff_runtime.backends.protocol import Backend
from cff_runtime.bundle import Bundle
from cff_runtime.engines import (
    BuiltEngine,
    EngineSettings,
    EngineStore,
    Gpu,
    wanted_engines,
)
from cff_runtime.engines.key import EngineKey, graph_sha256
from cff_runtime.errors import BackendError, StorageError
from cff_runtime.verification import verify_bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenEngines:
    """The engines of a bundle on this box.

    Attributes
    ----------
    encoder : BuiltEngine
    scorers : tuple of S BuiltEngine
        Scorers of equal shape share one.
    pending : tuple of BuiltEngine
        Those that have not passed the gate on this GPU yet.
    """

    encoder: BuiltEngine
    scorers: tuple[BuiltEngine, ...]
    pending: tuple[BuiltEngine, ...]


def choose_engines(
    bundle: Bundle, settings: EngineSettings, store: EngineStore, gpu: Gpu
) -> ChosenEngines:
    """Find the engines of a bundle: those accepted on this GPU, else the newest that fit.

    Raises
    ------
    BackendError
        If one is missing, damaged or of another box, with the reason and the next step.
    UsageError, MissingDependencyError
        As `wanted_engines`.
    """
    by_graph: dict[str, BuiltEngine] = {}
    pending: list[BuiltEngine] = []
    for wanted in wanted_engines(bundle, settings):
        engine = _accepted_here(store, wanted.key, gpu)
        if engine is None:
            engine = store.find(wanted.key, wanted.graph.name)
            pending.append(engine)
        by_graph[wanted.key.graph] = engine
    manifest = bundle.manifest
    encoder, *scorers = (
        by_graph[graph_sha256(bundle.file(name))] for name in (manifest.encoder, *manifest.scorers)
    )
    return ChosenEngines(encoder, tuple(scorers), tuple(pending))


def pass_gate(
    bundle: Bundle, backend: Backend, store: EngineStore, pending: Sequence[BuiltEngine], gpu: Gpu
) -> None:
    """Run the golden answers and accept the engines, or refuse them.

    Raises
    ------
    BackendError
        If an answer leaves the parity limits, with all that do.
    BundleError, ProfileError
        If the golden files are damaged.
    """
    log.info("checking new engines against the golden answers, once on this GPU")
    report = verify_bundle(bundle, backend)
    if not report.passed:
        names = ", ".join(f"`{engine.path.name}`" for engine in pending)
        raise BackendError(
            f"engines must give the golden answers on this GPU ({gpu.name}), {names} do not: "
            f"{'; '.join(report.failures)}; build them again with `--rebuild`, or see "
            "`cff-run doctor BUNDLE` for versions known to compute wrongly"
        )
    for engine in pending:
        try:
            store.accept(engine.key, {"gpu": gpu.name, **report.to_dict()})
        except StorageError as error:  # a read-only root is no reason not to inspect
            log.warning("note: engines passed, which cannot be kept in mind: %s", error)


def _accepted_here(store: EngineStore, key: EngineKey, gpu: Gpu) -> BuiltEngine | None:
    """Return an engine accepted on this model of GPU; a folder may have come from another box."""
    engine = store.accepted(key)
    if engine is None or engine.accepted is None:
        return None
    parity = engine.accepted.get("parity")
    return engine if isinstance(parity, dict) and parity.get("gpu") == gpu.name else None
