"""Table 6 of the CFF paper (Sensors 2026) on this machine, and what folding makes of it.

The table measures the heads alone: four stages of [1369,768] features in, as many out, batch 1.
Backbone and memory bank are outside it. Three kinds of head (none, linear, mlp) run unfolded in
PyTorch (eager, fp32), unfolded in ONNX Runtime and folded in ONNX Runtime, round-robin in one run.

What makes the comparison fair:

- One ONNX graph per head with the four stages in it: a Gemm per linear layer (MatMul and Add
  become the same node inside ONNX Runtime and measured the same), BatchNormalization and Relu as
  nodes of their own where the head is not folded (a Mul and an Add measured the same as the
  BatchNormalization). Tokens are rows, without the batch axis that PyTorch's heads carry.
- The same number of threads. ONNX Runtime's threads spin after a run and PyTorch's after an
  operator; on cores that the next candidate needs, this doubled its time. So the sessions stop
  spinning when a run ends, and a pause outside the timing lets the others fall asleep.
- Every ONNX result is compared with PyTorch's before anything is timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_bench.environment import available_cores, collect_environment
from cff_bench.folded_heads import OPSET, FoldedHead, HeadShape, count_cost, head_to_onnx
from cff_bench.timing import Summary, format_table, measure_interleaved
from cff_edge.heads import Head
from cff_runtime.errors import ParityError

MAX_ABS_DIFF = 1e-4
CALIBRATORS = {"none": "none", "linear": "affine", "mlp": "mlp"}

PAPER = {
    head: dict(
        zip(("inference_ms", "throughput", "memory_gb", "params_m", "flops_g"), row, strict=True)
    )
    for head, row in {
        "none": (41.6, 24.05, 0.0187, 2.25, 3.230),
        "linear": (69.6, 14.36, 0.0187, 4.51, 6.460),
        "mlp": (133.8, 7.48, 0.0187, 11.27, 16.183),
    }.items()
}

# row, row it is divided by, what the project holds the ratio of medians to
RATIOS: tuple[tuple[str, str, float | None], ...] = (
    ("linear unfolded pytorch", "none unfolded pytorch", None),
    ("mlp unfolded pytorch", "none unfolded pytorch", None),
    ("linear unfolded onnxruntime", "none folded onnxruntime", None),
    ("mlp unfolded onnxruntime", "none folded onnxruntime", None),
    ("linear folded onnxruntime", "none folded onnxruntime", 1.05),
    ("mlp folded onnxruntime", "none folded onnxruntime", None),
    ("mlp folded onnxruntime", "mlp unfolded onnxruntime", 0.85),
    ("mlp folded onnxruntime", "mlp unfolded pytorch", 0.85),
)


PAPER_SHAPE = HeadShape()


@dataclass(frozen=True)
class Table6Settings:
    """What to measure; `pause_ms` stands before every timed call, outside its timing."""

    n: int = 50
    warmup: int = 5
    threads: int = field(default_factory=available_cores)
    pause_ms: float = 20.0
    seed: int = 0
    shape: HeadShape = field(default_factory=lambda: PAPER_SHAPE)


@dataclass(frozen=True)
class Candidate:
    """One head in one runtime: `run` returns S arrays or tensors of [N,C] or [1,N,C]."""

    head: str
    folded: bool
    runtime: str
    module: nn.Module
    run: Callable[[], Sequence[Any]]

    @property
    def name(self) -> str:
        """Such as ``mlp folded onnxruntime``."""
        return row_name(self.head, self.folded, self.runtime)


def row_name(head: str, folded: bool, runtime: str) -> str:
    """Return the name of a row of the table."""
    return f"{head} {'folded' if folded else 'unfolded'} {runtime}"


def run_table6(settings: Table6Settings) -> dict[str, Any]:
    """Build the heads, compare their results and time them.

    Returns
    -------
    dict
        ``rows``, ``ratios``, ``environment`` and ``settings``, ready for JSON.

    Raises
    ------
    ParityError
        If a graph's result leaves PyTorch's by more than 1e-4.
    """
    environment = collect_environment()  # before the run: its own load is not the machine's
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        candidates = build_candidates(settings)
        differences = check_parity(candidates)
        functions = {candidate.name: candidate.run for candidate in candidates}
        summaries = measure_interleaved(
            functions, settings.n, settings.warmup, pause_ms=settings.pause_ms
        )
    finally:
        torch.set_num_threads(threads_before)
    rows = [
        _row(candidate, settings.shape, summaries[candidate.name], differences[candidate.name])
        for candidate in candidates
    ]
    return {
        "rows": rows,
        "ratios": _ratios(rows),
        "environment": environment.to_dict(),
        "settings": {
            **asdict(settings),
            "precision": "fp32",
            "batch": 1,
            "inside": "heads of all stages on features in memory; no backbone, no memory bank",
            "max_abs_diff_allowed": MAX_ABS_DIFF,
            "weights": "random, seeded, BatchNorm statistics included; latency work only",
            "onnx": f"opset {OPSET}, one Gemm per linear layer, one graph per head",
            "onnxruntime": "CPUExecutionProvider, session.force_spinning_stop=1",
        },
    }


def build_candidates(settings: Table6Settings) -> list[Candidate]:
    """Build every row's head: unfolded in PyTorch, unfolded and folded in ONNX Runtime."""
    shape = settings.shape
    generator = torch.Generator().manual_seed(settings.seed)
    features = [
        torch.randn(1, shape.n_tokens, shape.dim, generator=generator)
        for _ in range(shape.n_stages)
    ]
    candidates = []
    for name in CALIBRATORS:
        head = build_head(name, shape, generator)
        candidates.append(Candidate(name, False, "pytorch", head, _torch_call(head, features)))
        variants: list[tuple[bool, Head | FoldedHead]] = [(True, FoldedHead(head).eval())]
        if name != "none":  # nothing to fold: its unfolded graph is its folded one
            variants.insert(0, (False, head))
        for folded, module in variants:
            model = head_to_onnx(module, shape.n_tokens).SerializeToString()
            call = _onnxruntime_call(model, features, settings.threads)
            candidates.append(Candidate(name, folded, "onnxruntime", module, call))
    return candidates


def build_head(name: str, shape: HeadShape, generator: torch.Generator) -> Head:
    """Build a head whose weights, biases and BatchNorm statistics are all non-trivial."""
    with torch.random.fork_rng(devices=[]):  # `Head` draws from PyTorch's global generator
        torch.manual_seed(generator.initial_seed())
        head = Head((shape.dim,) * shape.n_stages, shape.dim, CALIBRATORS[name])
    for parameter in head.parameters():
        scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.1
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * scale)
    for key, buffer in head.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0.0, 0.5, generator=generator)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return head.eval()


def check_parity(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return every candidate's largest absolute difference from its head in PyTorch.

    Raises
    ------
    ParityError
        If one is above 1e-4.
    """
    reference: dict[str, NDArray[np.float32]] = {}
    differences = {}
    for candidate in candidates:
        # PyTorch's stages carry a batch axis of 1, the graph's do not
        outputs = np.concatenate([np.asarray(output).ravel() for output in candidate.run()])
        expected = reference.setdefault(candidate.head, outputs)  # PyTorch comes first
        difference = float(np.abs(outputs - expected).max())
        if not difference <= MAX_ABS_DIFF:
            raise ParityError(
                f"`{candidate.name}` must equal PyTorch within {MAX_ABS_DIFF}, it differs by "
                f"{difference:.3g}; its latency would mean nothing"
            )
        differences[candidate.name] = difference
    return differences


def format_table6(report: dict[str, Any]) -> str:
    """Return the report as text: our rows beside the paper's, then the ratios."""
    settings, environment = report["settings"], report["environment"]
    header = ["head", "", "runtime", "p50 ms", "p90", "p99", "paper", "1/s", "paper"]
    header += ["GiB", "paper", "Mi params", "paper", "G MACs", "paper", "max diff"]
    rows = [
        (
            row["head"],
            "folded" if row["folded"] else "",
            row["runtime"],
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{row['paper']['inference_ms']:.1f}",
            f"{row['throughput']:.2f}",
            f"{row['paper']['throughput']:.2f}",
            f"{row['memory_gib']:.4f}",
            f"{row['paper']['memory_gb']:.4f}",
            f"{row['params_mi']:.2f}",
            f"{row['paper']['params_m']:.2f}",
            f"{row['macs_g']:.3f}",
            f"{row['paper']['flops_g']:.3f}",
            f"{row['max_abs_diff']:.1e}",
        )
        for row in report["rows"]
    ]
    ratio_rows = [
        (
            ratio["name"],
            *(_optional(ratio[key]) for key in ("p50", "min", "macs", "paper", "limit")),
        )
        for ratio in report["ratios"]
    ]
    return "\n".join(
        (
            f"Heads alone, batch 1, fp32, n = {settings['n']}, {settings['threads']} threads, "
            f"{environment['cpu_model']}, {environment['date_utc']}",
            "Paper: unfolded heads on its own machine; compare ratios, not milliseconds. Ratios",
            "across runtimes mix folding with how fast each runtime is on this processor.",
            "",
            format_table(header, rows),
            "",
            format_table(("ratio", "p50", "min", "MACs", "paper", "at most"), ratio_rows),
        )
    )


def _row(
    candidate: Candidate, shape: HeadShape, summary: Summary, max_abs_diff: float
) -> dict[str, Any]:
    return {
        "head": candidate.head,
        "folded": candidate.folded,
        "runtime": candidate.runtime,
        **asdict(summary),
        "throughput": summary.throughput,
        **asdict(count_cost(candidate.module, shape)),
        "max_abs_diff": max_abs_diff,
        "paper": PAPER[candidate.head],
    }


def _ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {row_name(row["head"], row["folded"], row["runtime"]): row for row in rows}
    ratios = []
    for name, other, limit in RATIOS:
        row, base = by_name[name], by_name[other]
        # the paper does not fold: of one head it has one time, and no ratio
        paper = row["paper"]["inference_ms"] / base["paper"]["inference_ms"]
        ratios.append(
            {
                "name": f"{name} / {other}",
                "p50": row["p50_ms"] / base["p50_ms"],
                "min": row["min_ms"] / base["min_ms"],  # what a busy machine disturbs least
                "macs": row["macs_g"] / base["macs_g"],
                "paper": None if row["head"] == base["head"] else paper,
                "limit": limit,
            }
        )
    return ratios


def _torch_call(head: nn.Module, features: list[Tensor]) -> Callable[[], Sequence[Any]]:
    def call() -> Sequence[Any]:
        with torch.inference_mode():
            outputs: Sequence[Any] = head(features)
            return outputs

    return call


def _onnxruntime_call(
    model: bytes, features: list[Tensor], threads: int
) -> Callable[[], Sequence[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {f"stage_{stage}": values[0].numpy() for stage, values in enumerate(features)}

    def call() -> Sequence[Any]:
        outputs: Sequence[Any] = session.run(None, feeds)
        return outputs

    return call


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
