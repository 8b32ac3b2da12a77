"""From raw timings to percentiles and shares, for tables and for scripts."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cff_bench.compare.comparison import FEWEST
from cff_bench.compare.intervals import MedianScatter, median_scatter, ratio_interval
from cff_bench.latency.configurations import STAGES, Configuration
from cff_bench.latency.timed_backend import TO_DEVICE, TO_HOST, copy_reasons
from cff_bench.timing import Summary, summarize


def stage_timings(configuration: Configuration, reasons: dict[str, str]) -> dict[str, list[float]]:
    """Return milliseconds of every stage that is told apart, then of `total`, in order measured.

    A copy that is told apart is taken out of the stage that it happens in, so that stages add up
    to the total: the image's way to the device and that of the text map back out of `encode`,
    downloads of features out of `finish`.
    """
    rows = []
    for timing, told in zip(configuration.timings, configuration.device, strict=True):
        row = dict(timing)
        if TO_DEVICE not in reasons:
            row[TO_DEVICE] = told.get(f"on_{TO_DEVICE}", 0.0)
            row["encode"] -= row[TO_DEVICE]
        if TO_HOST not in reasons:
            download, of_encode = told.get("download", 0.0), told.get(f"on_{TO_HOST}", 0.0)
            row[TO_HOST] = download + of_encode
            row["finish"] -= download
            row["encode"] -= of_encode
        rows.append(row)
    named = [name for name in STAGES if name in rows[0]]
    named += [name for name in rows[0] if name not in (*STAGES, "total")]
    return {name: [row[name] for row in rows] for name in (*named, "total")}


def device_timings(configuration: Configuration) -> dict[str, list[float]]:
    """Return milliseconds between events on the device, where the backend tells them all along."""
    rows = configuration.device
    names = [name for name in (rows[0] if rows else {}) if name.startswith("on_")]
    return {
        name.removeprefix("on_"): [row[name] for row in rows]
        for name in names
        if all(name in row for row in rows)
    }


def summarize_rounds(values_ms: Sequence[float], n_images: int) -> Summary:
    """Summarise timings of images that take turns.

    Jitter is the mean absolute difference of consecutive latencies (RFC 3550, section 6.4.1, with a
    plain mean in place of its running one), here of the same image: what images differ by is not
    jitter.
    """
    summary = summarize(values_ms)
    differences = np.abs(np.asarray(values_ms[n_images:]) - np.asarray(values_ms[:-n_images]))
    return replace(summary, jitter_ms=float(differences.mean()) if differences.size else 0.0)


def median_ends(values_ms: Sequence[float], starts: Sequence[int]) -> dict[str, float | None]:
    """Return the ends of the 95 % interval of a median, as `cff-bench compare` takes it.

    None where there are too few samples, or some of 0 or less.
    """
    if len(values_ms) < FEWEST or min(values_ms) <= 0:
        return {"low_ms": None, "high_ms": None}
    one = MedianScatter(0.0, 0.0, 1.0)
    interval = ratio_interval(one, median_scatter(values_ms, starts))
    return {"low_ms": interval.low, "high_ms": interval.high}


def configuration_facts(
    configuration: Configuration,
    n_images: int,
    reasons: dict[str, str],
    starts: Sequence[int] = (),
) -> dict[str, Any]:
    """Return stages with percentiles and their share of the mean total, the total, and throughput.

    Parameters
    ----------
    configuration : Configuration
    n_images : int
    reasons : dict
        Why a copy is not told apart, as `copy_reasons`.
    starts : sequence of int
        Rounds of every start of the process; empty for one.
    """
    timings = stage_timings(configuration, reasons)
    totals = timings.pop("total")
    total = summarize_rounds(totals, n_images)
    stages = []
    for name, values in timings.items():
        summary = summarize_rounds(values, n_images)
        # a share of means: shares then add up to one
        share = summary.mean_ms / total.mean_ms
        ends = median_ends(values, starts)
        stages.append({"name": name, **asdict(summary), **ends, "share": share})
    return {
        "name": configuration.name,
        "stages": stages,
        "not_told_apart": reasons,
        "total": {**asdict(total), **median_ends(totals, starts)},
        "throughput": total.throughput,
        **configuration.to_dict(),
    }


def reasons_of(configuration: Configuration, backend: str, options: Any) -> dict[str, str]:
    """Return why copies are not told apart in this configuration."""
    told: dict[str, float] = {}
    for one in configuration.device:
        told |= one
    return copy_reasons(backend, options, told)
