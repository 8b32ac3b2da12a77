"""The engines of a bundle: its encoder and its scorers."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cff_runtime.bundle import Bundle
from cff_runtime.engines.builder import build_engine, engine_key
from cff_runtime.engines.key import EngineKey, EngineSettings
from cff_runtime.engines.progress import Progress
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import EngineStore, Lookup
from cff_runtime.errors import BackendError, UsageError

ENGINES_FOLDER = "engines"
_CPU_PRECISION = "int8"  # quantised as it runs, with operators that TensorRT has not

# name of the graph, and then as `Progress`
GraphProgress = Callable[[str, str, float, float | None], None]


@dataclass(frozen=True)
class WantedEngine:
    """A graph of a bundle and the engine it needs on this box.

    Attributes
    ----------
    graph : Path
    precision : str
        Of the graph: scorers are fp32 whatever the encoder is.
    settings : EngineSettings
        With the sizes of this graph's inputs only.
    key : EngineKey
    """

    graph: Path
    precision: str
    settings: EngineSettings
    key: EngineKey


def wanted_engines(bundle: Bundle, settings: EngineSettings) -> list[WantedEngine]:
    """List the engines that a bundle needs: the encoder's, then one per different scorer.

    Raises
    ------
    UsageError
        If the encoder's precision is one for the CPU.
    UsageError, BackendError, MissingDependencyError
        As `engine_key`.
    """
    manifest = bundle.manifest
    if manifest.precision == _CPU_PRECISION:
        raise UsageError(
            f"`precision` of an engine must be one for TensorRT, {_CPU_PRECISION} is quantised for "
            f"the CPU; add its like with `cff-export BUNDLE --precision {_CPU_PRECISION}-qdq "
            "--calibration IMAGES`"
        )
    graphs = [(manifest.encoder, manifest.precision, "image")]
    graphs += [(name, "fp32", "bank") for name in manifest.scorers]
    wanted: dict[EngineKey, WantedEngine] = {}
    for name, precision, free in graphs:
        sizes = {key: size for key, size in settings.sizes.items() if key == free}
        own = dataclasses.replace(settings, sizes=sizes)
        key = engine_key(bundle.file(name), own, precision)
        wanted.setdefault(key, WantedEngine(bundle.file(name), precision, own, key))
    return list(wanted.values())


def check_bundle_engines(
    bundle: Bundle, settings: EngineSettings, folder: Path | None = None
) -> list[tuple[WantedEngine, Lookup]]:
    """Say for every engine that a bundle needs what is there; build nothing.

    Raises
    ------
    UsageError, BackendError, MissingDependencyError
        As `engine_key`.
    """
    store = EngineStore(folder or bundle.path / ENGINES_FOLDER)
    return [
        (wanted, store.look(wanted.key, wanted.graph.name))
        for wanted in wanted_engines(bundle, settings)
    ]


def build_bundle_engines(
    bundle: Bundle,
    settings: EngineSettings,
    progress: GraphProgress | None = None,
    folder: Path | None = None,
    rebuild: bool = False,
) -> list[BuiltEngine]:
    """Build the engines that a bundle lacks on this box; those that fit and are intact are kept.

    Parameters
    ----------
    bundle : Bundle
        Opened with the precision of its encoder.
    settings : EngineSettings
    progress : callable, optional
        Called with the graph's name, the phase, the fraction done and the seconds left or None.
    folder : Path, optional
        ``engines`` in the bundle if not given.
    rebuild : bool
        Whether to build them all again, and over damaged ones.

    Returns
    -------
    list of BuiltEngine
        The encoder's first; `reused` says which were there.

    Raises
    ------
    BackendError
        If TensorRT cannot build a graph, or an engine is damaged and `rebuild` is false.
    UsageError, MissingDependencyError, StorageError
        As `build_engine`.
    """
    folder = folder or bundle.path / ENGINES_FOLDER
    engines = []
    for wanted, lookup in check_bundle_engines(bundle, settings, folder):
        if lookup.engine is not None and not rebuild:
            engines.append(lookup.engine)
            continue
        if lookup.damaged and not rebuild:
            raise BackendError(f"{lookup.damaged[0]}; build it again with `--rebuild`")
        report = _named(progress, wanted.graph.name)
        engine = build_engine(wanted.graph, folder, wanted.settings, wanted.precision, report)
        engines.append(engine)
    return engines


def _named(progress: GraphProgress | None, graph: str) -> Progress | None:
    if progress is None:
        return None
    return lambda phase, done, left_s: progress(graph, phase, done, left_s)
