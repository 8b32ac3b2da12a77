"""What a precision saves on this CPU: one network in PyTorch and in ONNX Runtime, in one run.

The unfolded detector in PyTorch eager fp32 and the bundle's encoders in ONNX Runtime take turns,
each from an image of the network's size in memory to features, map and score. Resizing,
the memory bank and the decision are outside; `cff-bench latency` has them. What each needs in
memory is found out before, in a process of its own.
"""

import dataclasses
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cff_bench.environment import collect_environment
from cff_bench.precision.encoders import EAGER, NOISE_SEED, load_encoder, onnxruntime_name
from cff_bench.precision.facts import bundle_facts, bundle_lines, variant_facts
from cff_bench.precision.memory import peak_memory_mb
from cff_bench.timing import Summary, format_table, measure_interleaved
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.manifest import DEFAULT_PRECISION, Manifest

MIN_REPEATS = 5
PAUSE_MS = 20.0
CPU_PRECISIONS = (DEFAULT_PRECISION, "int8")
_HALF_ON_CPU = (
    "ONNX Runtime computes float16 in float32 on a CPU, so its time there says nothing of {}"
)
NOT_TIMED = {
    "fp16": _HALF_ON_CPU.format("fp16"),
    "int8-qdq": _HALF_ON_CPU.format("int8-qdq, which is made for TensorRT and is float16 beside"),
}
# what the project holds the ratios to eager PyTorch to, and for which backbone and image size
_HELD = ("open_clip:ViT-L-14-336", 518)
_LIMITS = {onnxruntime_name("fp32"): 0.75, onnxruntime_name("int8"): 0.35}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeedSettings:
    """What to measure: a bundle, or a backbone that is exported first.

    Attributes
    ----------
    bundle : Path or None
        Made by `cff-export`.
    backbone, weights : str or None
        As in `load_backbone`; None for `weights` takes those it is trained with by default.
    image_size : int or None
        Of `backbone`, in pixels.
    precisions : tuple of str
        To time besides fp32; empty takes all of the bundle's, or int8.
    repeats, warmup : int
        Timed rounds, at least 5, and those before them.
    threads : int
        Of PyTorch and of ONNX Runtime.
    keep : Path or None
        Where to leave the bundle that was exported; a temporary folder if None.
    command : tuple of str
        The command line, for the report.
    """

    bundle: Path | None
    backbone: str | None
    weights: str | None
    image_size: int | None
    precisions: tuple[str, ...]
    repeats: int
    warmup: int
    threads: int
    keep: Path | None = None
    command: tuple[str, ...] = ()


def run_speed(settings: SpeedSettings) -> dict[str, Any]:
    """Time the encoders.

    Returns
    -------
    dict
        ``rows``, ``ratios``, ``not_timed`` (precision to reason), ``bundle``, ``environment``,
        ``settings`` and ``command``, ready for JSON.

    Raises
    ------
    UsageError
        If the settings do not go together, or the bundle lacks a precision.
    CffError
        Whatever exporting and opening raise.
    """
    _check(settings)
    if settings.bundle is not None:
        bundle = Bundle.open(settings.bundle)
        return _measure(settings, bundle, settings.precisions or bundle.manifest.precisions, {})
    from cff_bench.precision.untrained import export_untrained

    wanted = settings.precisions or CPU_PRECISIONS
    further = [name for name in wanted if name in CPU_PRECISIONS and name != DEFAULT_PRECISION]
    with tempfile.TemporaryDirectory(prefix="cff-precision-") as folder:
        out = settings.keep or Path(folder) / "bundle"
        chosen = (str(settings.backbone), settings.weights, settings.image_size)
        bundle, refused = export_untrained(*chosen, further, out)
        return _measure(settings, bundle, wanted, refused)


def format_speed(report: dict[str, Any]) -> str:
    """Return the report as text."""
    settings, environment = report["settings"], report["environment"]
    rows = [
        (
            row["name"],
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p90_ms", "min_ms")),
            *(_optional(row[key], "{:.0f}") for key in ("graph_mb", "peak_memory_mb")),
        )
        for row in report["rows"]
    ]
    ratios = [
        (ratio["name"], f"{ratio['p50']:.3f}", f"{ratio['min']:.3f}", _optional(ratio["limit"]))
        for ratio in report["ratios"]
    ]
    facts = [
        *bundle_lines(report["bundle"]),
        f"machine  {environment['board'] or environment['cpu_model']}, "
        f"{settings['threads']} threads, {environment['date_utc']}",
        f"run      {settings['inside']}; batch 1, n = {settings['repeats']} "
        f"after {settings['warmup']} of warm-up",
    ]
    facts += [f"{name:8} is not timed: {reason}" for name, reason in report["not_timed"].items()]
    facts += [
        f"{row['precision']:8} keeps in fp32: {', '.join(row['kept_fp32'])}"
        for row in report["rows"]
        if row["kept_fp32"]
    ]
    header = ("encoder", "p50 ms", "p90", "min", "graph MB", "memory MB")
    return "\n".join(
        (
            *facts,
            "",
            format_table(header, rows),
            "",
            format_table(("ratio", "p50", "min", "at most"), ratios),
        )
    )


def _check(settings: SpeedSettings) -> None:
    if (settings.bundle is None) == (settings.backbone is None):
        raise UsageError("either `BUNDLE` or `--backbone` must be given, and not both")
    if settings.bundle is not None:
        for name in ("weights", "image_size", "keep"):
            if getattr(settings, name) is not None:
                raise UsageError(
                    f"`--{name.replace('_', '-')}` must be given with `--backbone`, "
                    f"`{settings.bundle}` is finished"
                )
    if settings.repeats < MIN_REPEATS or settings.warmup < 0:
        raise UsageError(
            f"`--repeats` must be at least {MIN_REPEATS} and `--warmup` at least 0, got "
            f"{settings.repeats} and {settings.warmup}"
        )
    known = (*CPU_PRECISIONS, *NOT_TIMED)
    for name in settings.precisions:
        if name not in known:
            raise UsageError(f"`--precisions` must be of {', '.join(known)}, got {name!r}")
    if settings.keep is not None and settings.keep.exists():
        raise UsageError(f"`--keep` must be a new folder, `{settings.keep}` exists")


def _measure(
    settings: SpeedSettings, bundle: Bundle, wanted: Sequence[str], refused: dict[str, str]
) -> dict[str, Any]:
    """Weigh and time the encoders of `bundle` that this CPU can run."""
    not_timed = {name: NOT_TIMED[name] for name in wanted if name in NOT_TIMED}
    not_timed |= {name: f"refused at export: {reason}" for name, reason in refused.items()}
    further = [n for n in wanted if n not in (*not_timed, DEFAULT_PRECISION)]
    views = {onnxruntime_name(name): bundle.view(name) for name in (DEFAULT_PRECISION, *further)}
    names = (EAGER, *views)
    environment = collect_environment()  # before the run: its own load is not the machine's
    log.info("weighing %d encoders, each in a process of its own", len(names))
    memory = {name: peak_memory_mb(name, bundle.path, settings.threads) for name in names}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        calls = {name: load_encoder(name, bundle, settings.threads) for name in names}
        rounds = (settings.warmup, settings.repeats)
        log.info("timing %d encoders in turns: %d + %d rounds", len(names), *rounds)
        summaries = measure_interleaved(calls, settings.repeats, settings.warmup, PAUSE_MS)
    finally:
        torch.set_num_threads(threads_before)
    manifests = {EAGER: None, **{name: view.manifest for name, view in views.items()}}
    rows = [
        _row(name, manifest, summaries[name], memory[name]) for name, manifest in manifests.items()
    ]
    return {
        "rows": rows,
        "ratios": _ratios(rows, bundle.manifest),
        "not_timed": not_timed,
        "bundle": bundle_facts(settings.bundle, bundle.manifest),
        "environment": environment.to_dict(),
        "settings": _settings_facts(settings),
        "command": list(settings.command),
    }


def _row(
    name: str, manifest: Manifest | None, summary: Summary, memory_mb: float | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "precision": DEFAULT_PRECISION if manifest is None else manifest.precision,
        **dataclasses.asdict(summary),
        "throughput": summary.throughput,
        "peak_memory_mb": memory_mb,
    }
    if manifest is None:
        return {**row, "graph": None, "graph_mb": None, "kept_fp32": [], "facts": {}}
    files = [manifest.files.get(f"{manifest.encoder}{suffix}") for suffix in ("", ".data")]
    n_bytes = sum(entry.n_bytes for entry in files if entry is not None)
    return {**row, **variant_facts(manifest, manifest.precision), "graph_mb": n_bytes / 1e6}


def _ratios(rows: Sequence[dict[str, Any]], manifest: Manifest) -> list[dict[str, Any]]:
    by_name = {row["name"]: row for row in rows}
    is_held = (manifest.backbone["name"], manifest.preprocessing.height) == _HELD
    fp32 = onnxruntime_name(DEFAULT_PRECISION)
    pairs = [(name, EAGER) for name in by_name if name != EAGER]
    pairs += [(name, fp32) for name in by_name if name not in (EAGER, fp32)]
    return [
        {
            "name": f"{name} / {base}",
            "p50": by_name[name]["p50_ms"] / by_name[base]["p50_ms"],
            "min": by_name[name]["min_ms"] / by_name[base]["min_ms"],
            "limit": _LIMITS.get(name) if is_held and base == EAGER else None,
        }
        for name, base in pairs
    ]


def _settings_facts(settings: SpeedSettings) -> dict[str, Any]:
    return {
        "repeats": settings.repeats,
        "warmup": settings.warmup,
        "threads": settings.threads,
        "pause_ms": PAUSE_MS,
        "batch": 1,
        "inside": "one image of the network's size to features, map and score",
        "image": f"seeded noise (seed {NOISE_SEED})",
        "pytorch": "the unfolded detector, eager; backbone weights are random where they are "
        "neither ImageNet's of EfficientNet-Lite0 nor random, the head is untrained",
        "onnxruntime": "CPUExecutionProvider, session.force_spinning_stop=1, a core each",
        "memory": "peak resident memory of a process of its own while it encodes",
    }


def _optional(value: float | None, spec: str = "{:.2f}") -> str:
    return "" if value is None or math.isnan(value) else spec.format(value)
