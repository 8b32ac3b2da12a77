"""Table 6 of the CFF paper on this machine: heads alone, batch 1, fp32, taking turns in one run.

Four stages of [1369,768] features in, as many out. Backbone and memory bank are outside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from cff_bench.compare.intervals import MedianScatter, paired_ratio_scatter, ratio_interval
from cff_bench.roofline.bandwidth import BEYOND, build_transfers, cache_bytes
from cff_bench.roofline.gemm import build_gemms
from cff_bench.table6.candidates import (
    PAPER_SHAPE,
    Candidate,
    Table6Settings,
    build_candidates,
    check_parity,
)
from cff_bench.table6.heads import HeadShape, count_cost
from cff_bench.table6.paper import PAPER, RATIOS
from cff_bench.timing import Samples, sample_interleaved

_GRID_ROUNDS = 2  # of a grid's shape: one for so many of the table's
_GRID_WARMUP = 2
_MIN_ROUNDS = 5  # for an interval
_CEILING_ROUNDS = 15


@dataclass(frozen=True)
class ShapeRows:
    """The rows of one shape.

    Attributes
    ----------
    shape : HeadShape
    rows : list of dict
        Timings (None for what does not run here), counted columns, the paper's beside them.
    ratios : list of dict
    samples : dict of str to Samples
        By the row's name.
    """

    shape: HeadShape
    rows: list[dict[str, Any]]
    ratios: list[dict[str, Any]]
    samples: dict[str, Samples]


@dataclass(frozen=True)
class HeadCeilings:
    """What this machine attains at `threads`: 10^9 operations and bytes a second."""

    gflops: float
    gbps: float

    def bound_ms(self, macs_g: float, moved_bytes: float) -> float:
        """Return the least time of a head: operations at one ceiling or bytes at the other."""
        return max(2 * macs_g / self.gflops * 1e3, moved_bytes / self.gbps / 1e6)


@dataclass(frozen=True)
class Table6:
    """All shapes, the paper's or the asked one first, then the projector's, then the grid's."""

    shapes: list[ShapeRows]
    ceilings: HeadCeilings


def run_table6(settings: Table6Settings) -> Table6:
    """Build the heads, compare their results and time them, shape by shape.

    Raises
    ------
    ParityError
        If a result leaves eager PyTorch's by more than 1e-4.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        shapes = [measure_shape(settings, settings.shape, settings.n, settings.compiled)]
        if settings.projector_width is not None:
            shape = replace(settings.shape, width=settings.projector_width)
            shapes.append(measure_shape(settings, shape, settings.n, settings.compiled))
        for shape in settings.grid:
            rounds = max(1, settings.n // _GRID_ROUNDS)
            quick = replace(settings, warmup=min(settings.warmup, _GRID_WARMUP))
            shapes.append(measure_shape(quick, shape, rounds, compiled=False))
        ceilings = measure_ceilings(settings)
    finally:
        torch.set_num_threads(threads_before)
    return Table6(shapes, ceilings)


def measure_shape(settings: Table6Settings, shape: HeadShape, n: int, compiled: bool) -> ShapeRows:
    """Measure every candidate of one shape."""
    candidates = build_candidates(settings, shape, compiled)
    differences = check_parity(candidates)
    functions = {c.name: c.run for c in candidates if c.run is not None}
    samples = sample_interleaved(functions, n, settings.warmup, settings.pause_ms)
    rows = [
        _row(candidate, shape, samples.get(candidate.name), differences.get(candidate.name))
        for candidate in candidates
    ]
    ratios = [
        {**ratio, **_interval(ratio["name"], samples)}
        for ratio in find_ratios(rows, shape == PAPER_SHAPE)
    ]
    return ShapeRows(shape, rows, ratios, samples)


def _interval(name: str, samples: Mapping[str, Samples]) -> dict[str, float | None]:
    """Return the ends of a ratio's interval, both sides of a round resampled together."""
    of, base = (samples[part].values_ms for part in name.split(" / "))
    if len(of) < _MIN_ROUNDS:
        return {"low": None, "high": None}
    found = ratio_interval(MedianScatter(0.0, 0.0, 1.0), paired_ratio_scatter(base, of))
    return {"low": found.low, "high": found.high}


def measure_ceilings(settings: Table6Settings) -> HeadCeilings:
    """Measure the fastest fp32 product, the paper's shape among them, and memory's bandwidth."""
    shape = settings.shape
    sizes = ((shape.n_tokens, shape.widths[0], shape.dim), (1024, 1024, 1024))
    gemms = [gemm for gemm in build_gemms(settings.threads, sizes) if gemm.precision == "fp32"]
    transfers = [t for t in build_transfers(settings.threads, cache_bytes()) if t.level == BEYOND]
    calls: dict[str, Callable[[], object]] = {gemm.name: gemm.run for gemm in gemms}
    calls |= {transfer.name: transfer.run for transfer in transfers}
    rounds = min(settings.n, _CEILING_ROUNDS)
    samples = sample_interleaved(calls, rounds, settings.warmup, settings.pause_ms)
    return HeadCeilings(
        max(gemm.flops / samples[gemm.name].summary.p50_ms for gemm in gemms) / 1e6,
        max(t.moved_bytes / samples[t.name].summary.p50_ms for t in transfers) / 1e6,
    )


def find_ratios(rows: Sequence[Mapping[str, Any]], is_held: bool = True) -> list[dict[str, Any]]:
    """Return the ratios of `RATIOS` whose rows both ran, ours beside the paper's.

    Without `is_held` there are no limits: where a projector is wider than C, folding the MLP saves
    fewer operations (0.87 of them are left with 1024 to 768) than at the paper's sizes (0.80).
    """
    by_name = {row["name"]: row for row in rows}
    ratios = []
    for name, other, limit in RATIOS:
        row, base = by_name.get(name), by_name.get(other)
        if row is None or base is None or row["p50_ms"] is None or base["p50_ms"] is None:
            continue
        # the paper does not fold: of one head it has one time, and no ratio
        paper = PAPER[row["head"]]["inference_ms"] / PAPER[base["head"]]["inference_ms"]
        ratios.append(
            {
                "name": f"{name} / {other}",
                "p50": row["p50_ms"] / base["p50_ms"],
                "min": row["min_ms"] / base["min_ms"],  # what a busy machine disturbs least
                "macs": row["macs_g"] / base["macs_g"],
                "paper": None if row["head"] == base["head"] else paper,
                "limit": limit if is_held else None,
            }
        )
    return ratios


_TIMES = ("n", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms", "jitter_ms")


def _row(
    candidate: Candidate, shape: HeadShape, samples: Samples | None, difference: float | None
) -> dict[str, Any]:
    summary = None if samples is None else samples.summary
    cost = count_cost(candidate.module, shape)
    values = shape.n_tokens * (sum(shape.widths) + shape.n_stages * shape.dim)
    return {
        "name": candidate.name,
        "shape": shape.name,
        "head": candidate.head,
        "folded": candidate.folded,
        "runtime": candidate.runtime,
        **{name: None if summary is None else getattr(summary, name) for name in _TIMES},
        "throughput": None if summary is None else summary.throughput,
        **asdict(cost),
        "moved_bytes": 4 * (values + cost.params_mi * 2**20),
        "max_abs_diff": difference,
        "failure": candidate.failure,
        **{f"paper_{name}": value for name, value in PAPER[candidate.head].items()},
    }
