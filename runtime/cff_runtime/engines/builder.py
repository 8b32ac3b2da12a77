"""Building an engine from an ONNX graph: parse, set, build, report, write."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.engines.flavours import Flavour, choose_capabilities, load_flavour
from cff_runtime.engines.gpu import find_gpu
from cff_runtime.engines.key import EngineKey, EngineSettings, Size, graph_sha256
from cff_runtime.engines.layers import LayerReport, ask_for_precisions, describe_layers
from cff_runtime.engines.logs import BuildLog, collected_log, summarize
from cff_runtime.engines.network import Network, fix_sizes, parse_graph
from cff_runtime.engines.progress import BuildProgress, Progress, interruptible, make_monitor
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import EngineStore, now_utc
from cff_runtime.errors import BackendError
from cff_runtime.storage import atomic_path, atomic_write, sha256_file


@dataclass(frozen=True)
class _Plan:
    """A built engine in memory, and what is to be said of it."""

    engine: Any  # IHostMemory, gives its bytes through the buffer protocol
    sizes: Mapping[str, Size]
    report: Mapping[str, Any]
    layers: LayerReport
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def engine_key(graph: Path, settings: EngineSettings, precision: str = "fp32") -> EngineKey:
    """Return the key of the engine that this box needs, or would build, for a graph.

    Parameters
    ----------
    graph : Path
        ONNX file.
    settings : EngineSettings
    precision : str
        What the graph is called, such as ``fp16``.

    Raises
    ------
    UsageError
        If there is no such file, or a compute capability cannot be had.
    BackendError
        If the flavour needs a GPU and there is none, or does not support this one.
    MissingDependencyError
        If the flavour is not installed.
    """
    flavour, gpu = load_flavour(settings.flavour), find_gpu()
    capabilities = choose_capabilities(flavour, settings.compute_capabilities, gpu)
    return EngineKey(
        graph=graph_sha256(graph),
        precision=precision,
        flavour=flavour.name,
        version=flavour.version,
        compute_capabilities=capabilities,
        gpu=gpu.name if gpu is not None and flavour.name == "tensorrt" else "",
        sizes=tuple(sorted(settings.sizes.items())),
        tf32=settings.tf32,
    )


def build_engine(
    graph: Path,
    folder: Path,
    settings: EngineSettings,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine and write it, its side-car and its report to `folder`.

    Nothing is written unless all is built. An accepted engine at the same place is set aside, see
    `EngineStore`.

    Parameters
    ----------
    graph : Path
        ONNX file, with its weights beside it if they are external.
    folder : Path
    settings : EngineSettings
    precision : str
        What the graph is called; a graph called fp16 or int8 must have such layers.
    progress : callable, optional
        Called with the phase, the fraction done and the seconds left or None. What it raises stops
        the build and is raised again here.

    Raises
    ------
    UsageError, MissingDependencyError, StorageError
    BackendError
        If TensorRT cannot take the graph, naming its nodes, or cannot build it.
    KeyboardInterrupt
        After Ctrl-C, once TensorRT has stopped.
    """
    if settings.inspect and find_gpu() is None:
        raise BackendError(
            "an engine can be inspected on a box with an NVIDIA GPU only, none was found; "
            "build without inspection"
        )
    store = EngineStore(folder)
    wanted = engine_key(graph, settings, precision)
    expected_s = _expected_seconds(store, wanted, graph)
    build = BuildProgress(progress, expected_s)
    started = time.perf_counter()
    plan = _make_plan(graph, wanted, settings, store, build)
    seconds = time.perf_counter() - started
    key = dataclasses.replace(wanted, sizes=tuple(sorted(plan.sizes.items())))
    build.start("writing")
    engine = _write(store, graph, key, plan, seconds)
    build.complete()
    if build.failure is not None:
        raise build.failure
    return engine


def _make_plan(
    graph: Path, key: EngineKey, settings: EngineSettings, store: EngineStore, build: BuildProgress
) -> _Plan:
    flavour = load_flavour(key.flavour)
    with collected_log(flavour) as build_log, interruptible(build):
        build.start("parsing")
        network = parse_graph(flavour, graph, build_log)
        build.finish("parsing")
        config = network.builder.create_builder_config()
        sizes = fix_sizes(network, config, dict(key.sizes))
        layers = describe_layers(flavour, network.definition, key.precision)
        notes = ask_for_precisions(flavour, network.definition, config)
        notes += _configure(flavour, config, key, settings)
        notes += _load_timing_cache(config, key, store)
        monitor = make_monitor(flavour.trt, build)
        if monitor is None:
            notes.append(f"{flavour.title} tells no progress and cannot be cancelled")
            build.start("building")
        else:
            config.progress_monitor = monitor
        plan = _build(flavour, graph, network, config, build_log, build)
        _save_timing_cache(config, key, store)
        report = layers.to_dict()
        if settings.inspect:
            report["engine"] = _inspect(flavour, plan, build_log)
        warnings = tuple(dict.fromkeys(build_log.warnings))
    return _Plan(plan, sizes, report, layers, tuple(notes), warnings)


def _build(
    flavour: Flavour,
    graph: Path,
    network: Network,
    config: Any,
    build_log: BuildLog,
    build: BuildProgress,
) -> Any:
    plan = None
    if not build.cancelled:
        plan = network.builder.build_serialized_network(network.definition, config)
    if build.failure is not None:
        raise build.failure
    if build.cancelled:
        raise BackendError(f"the build of `{graph}` was interrupted; nothing was written")
    if plan is None:
        reason = summarize(build_log.errors) or "TensorRT gives no reason"
        raise BackendError(f"{flavour.title} could not build `{graph}`: {reason}")
    return plan


def _configure(
    flavour: Flavour, config: Any, key: EngineKey, settings: EngineSettings
) -> list[str]:
    """Set targets, memory and arithmetic; return notes for the report."""
    trt, notes = flavour.trt, []
    if flavour.capabilities:
        config.num_compute_capabilities = len(key.compute_capabilities)
        for index, name in enumerate(key.compute_capabilities):
            config.set_compute_capability(flavour.capabilities[name], index)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if hasattr(trt.BuilderFlag, "TF32"):
        (config.set_flag if key.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    else:
        notes.append(f"{flavour.title} has no switch for TF32")
    if settings.inspect:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return notes


def _load_timing_cache(config: Any, key: EngineKey, store: EngineStore) -> list[str]:
    """Give the builder the timings of earlier builds.

    TensorRT-RTX times nothing when it builds, and a timing cache would make it ask for a GPU.
    """
    if key.flavour != "tensorrt":
        return []
    path = store.timing_cache_path(key)
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return [f"timing cache `{path.name}` could not be used and was begun anew"]


def _save_timing_cache(config: Any, key: EngineKey, store: EngineStore) -> None:
    cache = config.get_timing_cache() if key.flavour == "tensorrt" else None
    if cache is not None:
        atomic_write(store.timing_cache_path(key), bytes(memoryview(cache.serialize())))


def _inspect(flavour: Flavour, plan: Any, build_log: BuildLog) -> Any:
    """Open the engine and return what TensorRT says of its layers."""
    trt = flavour.trt
    engine = trt.Runtime(build_log.logger).deserialize_cuda_engine(plan)
    if engine is None:
        reason = summarize(build_log.errors)
        raise BackendError(f"{flavour.title} cannot open what it built, to inspect it: {reason}")
    inspector = engine.create_engine_inspector()
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _expected_seconds(store: EngineStore, wanted: EngineKey, graph: Path) -> float | None:
    """Return how long the last build of the same kind of graph took, in proportion to its size."""
    kind = graph.name.partition(".")[0]
    for engine in store.engines():
        if engine.key.flavour == wanted.flavour and engine.graph_name.partition(".")[0] == kind:
            return engine.build_seconds * _n_bytes(graph) / max(engine.graph_bytes, 1)
    return None


def _n_bytes(graph: Path) -> int:
    weights = graph.with_name(f"{graph.name}.data")
    return graph.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)


def _write(
    store: EngineStore, graph: Path, key: EngineKey, plan: _Plan, seconds: float
) -> BuiltEngine:
    path = store.path_for(key, graph.name)
    store.keep_accepted(path)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            file.write(plan.engine)
        sha256, n_bytes = sha256_file(temporary), temporary.stat().st_size
    engine = BuiltEngine(
        path=path,
        key=key,
        graph_name=graph.name,
        graph_bytes=_n_bytes(graph),
        sha256=sha256,
        n_bytes=n_bytes,
        build_seconds=round(seconds, 3),
        typing=plan.layers.typing,
        n_by_type=plan.layers.n_by_type,
        n_kept_fp32=len(plan.layers.kept_fp32),
        warnings=plan.warnings,
        notes=plan.notes,
        built=now_utc(),
    )
    atomic_write(engine.layers_path, (json.dumps(plan.report, indent=1) + "\n").encode())
    engine.write_sidecar()  # last: an engine without one is never loaded
    return engine
