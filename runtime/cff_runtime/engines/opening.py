"""The engine of one graph on this box: the one that is there, or a new one when that is wanted."""

import logging
from pathlib import Path

from cff_runtime.engines.builder import build_engine, engine_key
from cff_runtime.engines.key import EngineSettings
from cff_runtime.engines.progress import Progress
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import EngineStore, build_hint
from cff_runtime.errors import BackendError

log = logging.getLogger(__name__)


def open_or_build(
    graph: Path,
    folder: Path,
    settings: EngineSettings,
    precision: str = "fp32",
    rebuild: bool = False,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Return a checked engine for this box; build it only when asked to.

    Parameters
    ----------
    graph : Path
        ONNX file.
    folder : Path
        Of the engines.
    settings : EngineSettings
    precision : str
        What the graph is called.
    rebuild : bool
        Whether to build where there is none that fits and is intact. A build can take minutes, so
        nothing starts one by itself.
    progress : callable, optional
        See `build_engine`.

    Raises
    ------
    BackendError
        If there is no such engine and `rebuild` is false: one sentence on why the engine that is
        there does not fit.
    UsageError, MissingDependencyError, StorageError
        As `build_engine`.
    """
    wanted = engine_key(graph, settings, precision)
    lookup = EngineStore(folder).look(wanted, graph.name)
    if lookup.engine is not None:
        return lookup.engine
    if not rebuild:
        raise BackendError(f"{lookup.reason}; {build_hint(wanted)}")
    log.info("building an engine of `%s`: %s", graph.name, lookup.reason)
    return build_engine(graph, folder, settings, precision, progress)
