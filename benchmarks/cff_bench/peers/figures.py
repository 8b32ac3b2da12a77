"""Tables, plots and checks of a contest between peers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.peers.contest import Contest
from cff_bench.peers.contestants import (
    APRIL_GAN,
    EAGER,
    OURS,
    REFERENCE,
    answers_alike,
)
from cff_bench.peers.subject import admitted_precisions
from cff_bench.peers.turns import Contestant
from cff_bench.report.document import Check, Column, Plot, PlotSeries, Series, Table
from cff_bench.timing import summarize

SHOTS_HELD = 4
EMBEDDED = ("efficientnet-lite0", 256)
FULL = ("open_clip:ViT-L-14-336", 518)
MIN_EAGER_OVER_OURS = 4.0
MAX_FP32_OVER_APRIL_GAN = 0.36
MAX_BEST_OVER_APRIL_GAN = 0.17
MIN_ROUNDS = 5  # for an interval
_N_RESAMPLES = 2000
_SEED = 0
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and where 95 % of its resamples lie; None of too few rounds."""

    value: float
    low: float | None
    high: float | None


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Return the ratio of two medians of samples that were taken in the same rounds.

    Rounds are resampled with replacement, both samples of a round together, because what slows a
    round slows both.

    Parameters
    ----------
    above, below : sequence of n floats
    """
    pairs = np.array([above, below], dtype=np.float64)  # [2,n]
    value = float(np.median(pairs[0]) / np.median(pairs[1]))
    if pairs.shape[1] < MIN_ROUNDS:
        return Ratio(value, None, None)
    picks = np.random.default_rng(_SEED).integers(0, pairs.shape[1], (_N_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, picks], axis=2)  # [2,R]
    low, high = np.percentile(medians[0] / medians[1], _INTERVAL)
    return Ratio(value, float(low), float(high))


def series_of(contest: Contest) -> list[Series]:
    """Return the raw milliseconds of everyone who ran."""
    return [
        Series(
            f"peers/{contest.key}/{one.name}",
            "ms",
            list(one.total_ms),
            group=f"peers/{contest.key}",
            role="reference" if one.name == REFERENCE else "",
        )
        for one in contest.contestants
        if one.total_ms
    ]


def tables_of(contest: Contest) -> list[Table]:
    """Return who took how long, and where each one's time went."""
    return [_totals(contest), _parts(contest)]


def plots_of(contest: Contest) -> list[Plot]:
    """Return the parts of everyone's inspection, stacked."""
    ran = [one for one in contest.contestants if one.total_ms]
    names = [one.name for one in ran]
    medians = [_part_medians(one) for one in ran]
    parts = list(dict.fromkeys(part for one in medians for part in one))
    return [
        Plot(
            name=f"peers/{contest.key}",
            title=f"One inspection, {contest.key}, K = {len(contest.subject.references)}",
            kind="stacked",
            y_label="ms, medians of the parts",
            series=[
                PlotSeries(part, list(names), [one.get(part, 0.0) for one in medians])
                for part in parts
            ],
        )
    ]


def checks_of(contest: Contest) -> list[Check]:
    """Return what the project holds itself to for this backbone, size and K; often nothing."""
    if len(contest.subject.references) != SHOTS_HELD:
        return []
    manifest = contest.manifest
    network = (manifest.backbone["name"], manifest.preprocessing.height)
    samples = {one.name: one.total_ms for one in contest.contestants if one.total_ms}
    if network == EMBEDDED:
        value = _ratio_or_none(samples, EAGER, REFERENCE)
        name = f"{EAGER} / {REFERENCE}, {contest.key}, K = {SHOTS_HELD}"
        return [Check.of(name, value, MIN_EAGER_OVER_OURS, "", "higher")]
    if network != FULL:
        return []
    ours = [f"{OURS} {precision}" for precision in admitted_precisions(manifest)]
    best = min((name for name in ours if name in samples), key=lambda name: _p50(samples[name]))
    limits = ((REFERENCE, MAX_FP32_OVER_APRIL_GAN), (best, MAX_BEST_OVER_APRIL_GAN))
    return [
        Check.of(
            f"{label} / {APRIL_GAN}, {contest.key}, K = {SHOTS_HELD}",
            _ratio_or_none(samples, name, APRIL_GAN),
            limit,
        )
        for (name, limit), label in zip(limits, (REFERENCE, f"best ({best})"), strict=True)
    ]


def _totals(contest: Contest) -> Table:
    ours = next(one for one in contest.contestants if one.name == REFERENCE)
    reference_map = _load_map(ours.map_file)
    columns = [
        Column("name", "contestant", "left"),
        Column("n", "n"),
        Column("p50_ms", "p50 ms", spec=".1f"),
        Column("p90_ms", "p90", spec=".1f"),
        Column("min_ms", "min", spec=".1f"),
        Column("ratio", f"of {REFERENCE}", spec=".2f"),
        Column("ratio_low", "from", spec=".2f"),
        Column("ratio_high", "to", spec=".2f"),
        Column("first_ms", "first ms", spec=".0f"),
        Column("load_s", "load s", spec=".1f"),
        Column("peak_memory_mb", "memory MB", spec=".0f"),
        Column("map_difference", "map differs by", spec=".1e"),
    ]
    rows = [
        _row(one, ours, reference_map, answers_alike(one.name, contest.has_head))
        for one in contest.contestants
    ]
    title = f"One inspection, {contest.key}, K = {len(contest.subject.references)}"
    note = (
        "Ratios of medians, resampled by rounds: interval of 95 %; first: the first one after "
        "loading; memory: peak of a process of its own while it inspects, libraries included; "
        "map differs by: largest difference to this project's fp32, where the same is computed."
    )
    return Table(f"peers/{contest.key}", title, columns, rows, note)


def _row(
    one: Contestant, ours: Contestant, reference_map: NDArray[np.float32], is_alike: bool
) -> dict[str, Any]:
    if not one.total_ms:
        return {"name": one.name, "absent": one.absent}
    summary = summarize(one.total_ms)
    ratio = ratio_of_medians(one.total_ms, ours.total_ms)
    own_map = _load_map(one.map_file)
    return {
        "name": one.name,
        "n": summary.n,
        "p50_ms": summary.p50_ms,
        "p90_ms": summary.p90_ms,
        "min_ms": summary.min_ms,
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        **{key: one.facts.get(key) for key in ("first_ms", "load_s", "peak_memory_mb")},
        "map_difference": float(np.abs(own_map - reference_map).max()) if is_alike else None,
        "absent": "",
    }


def _parts(contest: Contest) -> Table:
    rows = []
    for one in contest.contestants:
        if one.total_ms:
            total = _p50(one.total_ms)
            rows += [
                {"name": one.name, "part": part, "p50_ms": median, "share": median / total}
                for part, median in _part_medians(one).items()
            ]
    columns = [
        Column("name", "contestant", "left"),
        Column("part", "part", "left"),
        Column("p50_ms", "p50 ms", spec=".2f"),
        Column("share", "share", spec=".0%"),
    ]
    title = f"Where the time goes, {contest.key}"
    return Table(f"peers/{contest.key}/parts", title, columns, rows)


def _part_medians(one: Contestant) -> dict[str, float]:
    return {part: _p50([turn[part] for turn in one.stages_ms]) for part in one.stages_ms[0]}


def _ratio_or_none(samples: dict[str, list[float]], above: str, below: str) -> float | None:
    if above not in samples or below not in samples:
        return None
    return _p50(samples[above]) / _p50(samples[below])


def _p50(values: Sequence[float]) -> float:
    return float(np.median(values))


def _load_map(file: Path) -> NDArray[np.float32]:
    loaded: NDArray[np.float32] = np.load(file)
    return loaded
