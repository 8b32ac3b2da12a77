"""Where the milliseconds of one inspection go, stage by stage, as the line sees them.

The stages are the runtime's own: preprocess, encode, search, finish. Reading the file is measured
as `decode` (0 for an image in memory), and what `inspect` takes beyond its stages is `other`. The
total is wall clock around one inspection of one image. A result consists of host arrays, so a
device has finished its work when `inspect` returns. Cold start (verify and load the bundle, first
inspection) stands apart.

PyTorch is never imported.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cff_bench.environment import collect_environment
from cff_bench.timing import Summary, format_table, summarize
from cff_runtime import Inspector, Profile
from cff_runtime.errors import UsageError
from cff_runtime.imaging import load_image

NOISE_SIDE_PX = 1024
NOISE_SEED = 0

_T = TypeVar("_T")


@dataclass(frozen=True)
class LatencySettings:
    """What to measure.

    Attributes
    ----------
    bundle, profile : Path
        What `cff-export` and `cff-run enroll` made.
    image : Path or None
        Read anew for every inspection; None takes one seeded noise image from memory.
    n, warmup : int
        Timed inspections and those before them.
    backend : str
        As in `Inspector.open`.
    options : dict
        Of the backend, as in `Inspector.open`.
    """

    bundle: Path
    profile: Path
    image: Path | None
    n: int
    warmup: int
    backend: str
    options: dict[str, Any]


def run_latency(settings: LatencySettings) -> dict[str, Any]:
    """Open a bundle, inspect one image n times, and report the percentiles of every stage.

    Returns
    -------
    dict
        ``stages`` (in order, each with its percentiles and its ``share`` of the mean total),
        ``total``, ``throughput``, ``cold_start``, ``bundle``, ``profile``, ``image``,
        ``environment`` and ``settings``, ready for JSON.

    Raises
    ------
    UsageError
        If a count is out of range or a file does not exist.
    CffError
        Whatever opening, loading and inspecting raise.
    """
    if settings.n < 1 or settings.warmup < 0:
        raise UsageError(
            f"`n` must be at least 1 and `warmup` at least 0, got {settings.n}, {settings.warmup}"
        )
    source, read = _image_source(settings.image)
    inspector, open_ms = _timed(
        lambda: Inspector.open(settings.bundle, settings.backend, settings.options)
    )
    profile, profile_ms = _timed(lambda: Profile.load(settings.profile))

    def inspect_once() -> dict[str, float]:
        return _inspect(inspector, profile, read)

    _, first_ms = _timed(inspect_once)
    environment = collect_environment()  # before the loop: its own load is not the machine's
    for _ in range(settings.warmup):
        inspect_once()
    timings = [inspect_once() for _ in range(settings.n)]
    total = summarize([timing["total"] for timing in timings])
    height, width = read().shape[:2]
    return {
        "stages": _stages(timings, total),
        "total": asdict(total),
        "throughput": total.throughput,
        "cold_start": {"open_ms": open_ms, "profile_ms": profile_ms, "first_ms": first_ms},
        "image": {"source": source, "width_px": width, "height_px": height},
        **_subject(settings, inspector, profile),
        "environment": environment.to_dict(),
    }


def noise_image() -> NDArray[np.uint8]:
    """Return a seeded noise image [1024,1024,3], uint8."""
    shape = (NOISE_SIDE_PX, NOISE_SIDE_PX, 3)
    return np.random.default_rng(NOISE_SEED).integers(0, 256, shape, dtype=np.uint8)


def format_latency(report: dict[str, Any]) -> str:
    """Return the report as text."""
    bundle, profile, settings = report["bundle"], report["profile"], report["settings"]
    environment, cold = report["environment"], report["cold_start"]
    rows = [_text_row(stage["name"], stage, stage["share"]) for stage in report["stages"]]
    rows.append(_text_row("total", report["total"], 1.0))
    options = ", ".join(f"{key}={value}" for key, value in settings["options"].items())
    facts = [
        f"bundle   {bundle['id'][:12]}, {bundle['precision']}, {settings['backend']}"
        + (f" ({options})" if options else ""),
        f"profile  {profile['product']}, K = {profile['n_references']}, bank rows "
        + " + ".join(str(rows) for rows in profile["bank_rows"]),
        f"image    {report['image']['source']}, "
        f"{report['image']['width_px']} x {report['image']['height_px']} px",
        f"machine  {environment['board'] or environment['cpu_model']}, "
        f"{environment['cores_available']} cores, GPU {environment['gpu']}, "
        f"{environment['date_utc']}",
        f"run      batch 1, n = {settings['n']} after {settings['warmup']} of warm-up",
    ]
    facts += [f"note     {note}" for note in bundle["notes"]]
    return "\n".join(
        (
            *facts,
            "",
            format_table(("stage", "p50 ms", "p90 ms", "p99 ms", "share"), rows),
            "",
            f"throughput  {report['throughput']:.2f} images/s (1000 / p50)",
            f"cold start  open {cold['open_ms']:.0f} ms, profile {cold['profile_ms']:.0f} ms, "
            f"first inspection {cold['first_ms']:.0f} ms",
        )
    )


def _subject(settings: LatencySettings, inspector: Inspector, profile: Profile) -> dict[str, Any]:
    """Return what was measured and how."""
    manifest = inspector.bundle.manifest
    return {
        "bundle": {
            "path": str(settings.bundle),
            "id": manifest.id,
            "precision": manifest.precision,
            "input_px": [manifest.preprocessing.height, manifest.preprocessing.width],
            "notes": list(manifest.notes),
        },
        "profile": {
            "path": str(settings.profile),
            "product": profile.product,
            "n_references": profile.n_references,
            "bank_rows": [len(bank) for bank in profile.banks],
        },
        "settings": {
            "n": settings.n,
            "warmup": settings.warmup,
            "batch": 1,
            "backend": settings.backend,
            "options": settings.options,
            "inside": "one image to score, map and regions; wall clock",
        },
    }


def _image_source(path: Path | None) -> tuple[str, Callable[[], NDArray[np.uint8]]]:
    """Return where the image comes from, in words, and a function that reads it."""
    if path is not None:
        return str(path), lambda: load_image(path)
    noise = noise_image()
    return f"seeded noise (seed {NOISE_SEED}) in memory, nothing to decode", lambda: noise


def _inspect(
    inspector: Inspector, profile: Profile, read: Callable[[], NDArray[np.uint8]]
) -> dict[str, float]:
    """Inspect once; return milliseconds of every stage in order, then of `total`."""
    image, decode_ms = _timed(read)
    result, inspect_ms = _timed(lambda: inspector.inspect(image, profile))
    return {
        "decode": decode_ms,
        **result.stages_ms,
        "other": inspect_ms - sum(result.stages_ms.values()),
        "total": decode_ms + inspect_ms,
    }


def _stages(timings: list[dict[str, float]], total: Summary) -> list[dict[str, Any]]:
    stages = []
    for name in timings[0]:
        if name == "total":
            continue
        summary = summarize([timing[name] for timing in timings])
        share = summary.mean_ms / total.mean_ms  # of means: shares then add up to one
        stages.append({"name": name, **asdict(summary), "share": share})
    return stages


def _text_row(name: str, summary: dict[str, Any], share: float) -> list[str]:
    percentiles = (f"{summary[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms"))
    return [name, *percentiles, f"{100 * share:.1f} %"]


def _timed(function: Callable[[], _T]) -> tuple[_T, float]:
    start_ns = perf_counter_ns()
    result = function()
    return result, (perf_counter_ns() - start_ns) / 1e6
