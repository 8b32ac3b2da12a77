"""Ceilings and the graphs of a bundle, timed in turns in one run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cff_bench.environment import available_cores
from cff_bench.roofline.bandwidth import Transfer, build_transfers, cache_bytes
from cff_bench.roofline.ceilings import Ceilings, find_ceilings
from cff_bench.roofline.counting import count_graph
from cff_bench.roofline.gemm import SHAPES, Gemm, build_gemms
from cff_bench.roofline.profiling import NodeTime, aggregate, encoder_feeds, profile_graph
from cff_bench.timing import Samples, sample_interleaved
from cff_runtime.backends.cpu_session import CpuSession
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Manifest

SCORER_ROWS = 512  # of a bank, as the runtime hands them to one core
_NOT_RUN = {
    "fp16": "ONNX Runtime computes float16 in float32 on the CPU",
    "int8-qdq": "it is made for TensorRT and holds float16",
}
_SETTLE = "settle/"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RooflineSettings:
    """What to measure.

    Attributes
    ----------
    bundle : Path
    threads : int
        At which the encoder runs; ceilings are measured at 1 and at all up to this number.
    n, warmup : int
        Rounds; `profiled` are the runs with the profiler on, after them.
    precisions : tuple of str
        Of the encoder; empty takes those that a CPU computes.
    pause_ms : float
        Before each timed call, so that no thread pool spins into the next one's time.
    shapes : tuple
        Of the products.
    command : sequence of str
    """

    bundle: Path
    threads: int = field(default_factory=available_cores)
    n: int = 15
    warmup: int = 3
    profiled: int = 10
    precisions: tuple[str, ...] = ()
    pause_ms: float = 20.0
    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    command: tuple[str, ...] = ("cff-bench", "roofline")


@dataclass(frozen=True)
class Graph:
    """A graph of the bundle: what it is, and a call that runs it once.

    Attributes
    ----------
    name : str
        Stable key, such as ``encoder/fp32`` or ``scorer/0``.
    precision : str
    threads : int
    flops : int
        Of one run.
    run : callable
    """

    name: str
    precision: str
    threads: int
    flops: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, raw.

    Attributes
    ----------
    manifest : Manifest
    gemms, transfers, graphs : list
        What was timed.
    samples : dict of str to Samples
        Their timings by name.
    ceilings : dict of int to Ceilings
        By threads.
    nodes : dict of str to list of NodeTime
        By graph, slowest first.
    unmatched : dict of str to int
        Operations of a graph that no node of its profile was found for.
    not_run : dict of str to str
        Precision to the reason.
    """

    manifest: Manifest
    gemms: list[Gemm]
    transfers: list[Transfer]
    graphs: list[Graph]
    samples: dict[str, Samples]
    ceilings: dict[int, Ceilings]
    nodes: dict[str, list[NodeTime]]
    unmatched: dict[str, int]
    not_run: dict[str, str]


def measure(settings: RooflineSettings) -> Measured:
    """Time ceilings and graphs, then profile the encoders.

    Raises
    ------
    CffError
        If the bundle cannot be read or run.
    """
    bundle = Bundle.open(settings.bundle)
    precisions, not_run = choose_precisions(bundle.manifest, settings.precisions)
    caches = cache_bytes()
    gemms: list[Gemm] = []
    transfers: list[Transfer] = []
    samples: dict[str, Samples] = {}
    counts = thread_counts(settings.threads)
    for threads in counts:
        _LOG.info("ceilings at %d threads", threads)
        gemms_here = build_gemms(threads, settings.shapes)
        transfers_here = build_transfers(threads, caches)
        samples |= _sample({**_calls(gemms_here), **_calls(transfers_here)}, settings)
        gemms += gemms_here
        transfers += transfers_here
    graphs = [_encoder(bundle, precision, settings.threads) for precision in precisions]
    graphs += _scorers(bundle)
    _LOG.info("graphs in turns with the fastest products")
    found = _ceilings(counts, gemms, transfers, samples, caches)
    samples |= _sample(in_turns(graphs, gemms, found), settings)
    samples = {name: taken for name, taken in samples.items() if not name.startswith(_SETTLE)}
    ceilings = _ceilings(counts, gemms, transfers, samples, caches)
    nodes, unmatched = _profile(bundle, precisions, settings)
    return Measured(
        bundle.manifest, gemms, transfers, graphs, samples, ceilings, nodes, unmatched, not_run
    )


def in_turns(
    graphs: Sequence[Graph], gemms: Sequence[Gemm], ceilings: Mapping[int, Ceilings]
) -> dict[str, Callable[[], object]]:
    """Return graphs and the fastest products at their threads, to be timed in one loop.

    A graph runs once more before its timed run: a large product before it has emptied the caches.
    """
    threads = {graph.threads for graph in graphs}
    names = {name for count in threads for name in ceilings[count].fastest.values()}
    calls: dict[str, Callable[[], object]] = {g.name: g.run for g in gemms if g.name in names}
    for graph in graphs:
        calls[f"{_SETTLE}{graph.name}"] = graph.run
        calls[graph.name] = graph.run
    return calls


def _ceilings(
    counts: Sequence[int],
    gemms: Sequence[Gemm],
    transfers: Sequence[Transfer],
    samples: Mapping[str, Samples],
    caches: Mapping[str, tuple[int, int]],
) -> dict[int, Ceilings]:
    return {
        threads: find_ceilings(
            threads,
            [gemm for gemm in gemms if gemm.threads == threads],
            [transfer for transfer in transfers if transfer.threads == threads],
            samples,
            caches,
        )
        for threads in counts
    }


def choose_precisions(
    manifest: Manifest, wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the precisions to run, and the reason why any other is not run.

    Raises
    ------
    UsageError
        If one is asked for that the bundle lacks or a CPU does not compute.
    """
    not_run = {
        name: next(why for kind, why in _NOT_RUN.items() if name.startswith(kind))
        for name in manifest.precisions
        if name.startswith(tuple(_NOT_RUN))
    }
    runnable = tuple(name for name in manifest.precisions if name not in not_run)
    for name in wanted:
        if name not in runnable:
            why = not_run.get(name, f"the bundle has {', '.join(manifest.precisions)}")
            raise UsageError(
                f"`--precisions` must be of {', '.join(runnable)}, got {name!r}: {why}"
            )
    return wanted or runnable, not_run


def thread_counts(threads: int) -> list[int]:
    """Return 1, its doubles, and `threads` last."""
    counts = [1]
    while counts[-1] * 2 < threads:
        counts.append(counts[-1] * 2)
    return counts if threads == 1 else [*counts, threads]


def _encoder(bundle: Bundle, precision: str, threads: int) -> Graph:
    view = bundle.view(precision)
    path = view.file(view.manifest.encoder)
    flops = sum(count.flops for count in count_graph(path))
    feeds = encoder_feeds(view)
    session = CpuSession(path, threads)
    return Graph(
        f"encoder/{precision}", precision, threads, flops, lambda: session.run(None, feeds)
    )


def _scorers(bundle: Bundle) -> list[Graph]:
    """Return the scorers on one chunk of a bank and one core, as the runtime runs them."""
    generator = np.random.default_rng(0)
    graphs = []
    for stage, name in enumerate(bundle.manifest.scorers):
        path = bundle.file(name)
        session = CpuSession(path, 1)
        _, n_tokens, width = next(i.shape for i in session.get_inputs() if i.name == "features")
        feeds = {
            "features": generator.standard_normal((1, n_tokens, width)).astype(np.float32),
            "bank": generator.standard_normal((SCORER_ROWS, width)).astype(np.float32),
            "best_so_far": np.full(n_tokens, -2.0, np.float32),
        }
        flops = sum(count.flops for count in count_graph(path, SCORER_ROWS))
        run = _bound_run(session, feeds)
        graphs.append(Graph(f"scorer/{stage}", "fp32", 1, flops, run))
    return graphs


def _bound_run(session: CpuSession, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    return lambda: session.run(None, feeds)


def _profile(
    bundle: Bundle, precisions: tuple[str, ...], settings: RooflineSettings
) -> tuple[dict[str, list[NodeTime]], dict[str, int]]:
    nodes, unmatched = {}, {}
    for precision in precisions:
        _LOG.info("profile of the %s encoder", precision)
        view = bundle.view(precision)
        path = view.file(view.manifest.encoder)
        feeds = encoder_feeds(view)
        events = profile_graph(path, feeds, settings.threads, settings.profiled)
        name = f"encoder/{precision}"
        nodes[name], unmatched[name] = aggregate(events, count_graph(path))
    return nodes, unmatched


def _calls(things: "list[Gemm] | list[Transfer] | list[Graph]") -> dict[str, Callable[[], object]]:
    return {thing.name: thing.run for thing in things}


def _sample(
    calls: dict[str, Callable[[], object]], settings: RooflineSettings
) -> dict[str, Samples]:
    return sample_interleaved(calls, settings.n, settings.warmup, settings.pause_ms)
