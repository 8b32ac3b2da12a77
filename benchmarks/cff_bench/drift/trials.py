"""Streams of pictures through a monitor: how long until an alarm, and how often without cause.

The held-out pictures of a product, none of them a reference, are split in two halves at random in
every draw. The monitor learns from the one, drawn with replacement; quiet and drifting pictures
come from the other. So no picture is in both; that a half of some 20 pictures stands for a line
makes every mean off by about 0.3 spreads, which a monitor has to bear and which a line with more
parts would not ask of it.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cff_bench.drift.inspections import Inspected, Record
from cff_runtime.drift.monitor import DriftMonitor

N_BEFORE, N_AFTER, WITHIN = 50, 150, 50
MIXED = "texture 16 grey levels"
MIXED_LABEL = "every other picture: texture 16 grey levels"


@dataclass(frozen=True, eq=False)
class Stream:
    """Pictures of a draw, as numbers in the lists of an `Inspected`.

    Attributes
    ----------
    learn : ndarray of int
        Of the pictures to learn from, the last the `n_learn`-th that passes.
    quiet : ndarray of int
        Of pictures from the other half.
    """

    learn: np.ndarray[Any, np.dtype[np.int64]]
    quiet: np.ndarray[Any, np.dtype[np.int64]]


def streams(inspected: Inspected, n_draws: int, n_learn: int, n_quiet: int) -> Iterator[Stream]:
    """Yield a stream per draw, split anew each time."""
    usual = inspected.records["none"]
    passed = np.array([record["verdict"] == "pass" for record in usual])
    for draw in range(n_draws):
        generator = np.random.default_rng([7, draw])
        order = generator.permutation(len(usual))
        mine, other = order[: len(order) // 2], order[len(order) // 2 :]
        learn = generator.choice(mine, 20 * n_learn)
        n = int(np.searchsorted(np.cumsum(passed[learn]), n_learn)) + 1
        yield Stream(learn[:n], generator.choice(other, n_quiet))


def learnt(inspected: Inspected, stream: Stream, n_learn: int) -> tuple[DriftMonitor, bool]:
    """Return a monitor that has learnt, and whether it found them far from the references."""
    usual = inspected.records["none"]
    monitor = DriftMonitor(inspected.product, inspected.limits, n_learn)
    alarms = [monitor.observe_record(usual[i], str(n)) for n, i in enumerate(stream.learn)]
    return monitor, any(alarms)


def false_alarms(monitor: DriftMonitor, records: Sequence[Record], stream: Stream) -> list[str]:
    """Return the signals of the alarms in the quiet pictures of a stream."""
    quiet = copy.deepcopy(monitor)
    alarms = (quiet.observe_record(records[i], str(n)) for n, i in enumerate(stream.quiet))
    return [alarm.signal for alarm in alarms if alarm is not None]


def delay(
    monitor: DriftMonitor, inspected: Inspected, label: str, stream: Stream
) -> tuple[int, str] | None:
    """Return after how many drifting pictures the first alarm comes, and of which signal.

    `N_BEFORE` quiet pictures come first. None where there is no alarm in `N_AFTER`.
    """
    watched = copy.deepcopy(monitor)
    usual = inspected.records["none"]
    for n, i in enumerate(stream.quiet[:N_BEFORE]):
        watched.observe_record(usual[i], str(n))
    for n, record in enumerate(drifting(inspected, label, stream)):
        alarm = watched.observe_record(record, str(N_BEFORE + n))
        if alarm is not None:
            return n + 1, alarm.signal
    return None


def labels_of(inspected: Inspected) -> list[str]:
    """Return the drifts that are tried on a product."""
    return [label for label in inspected.records if label != "none"] + [MIXED_LABEL]


def drifting(inspected: Inspected, label: str, stream: Stream) -> Iterator[Record]:
    """Yield the `N_AFTER` pictures of a drift that follow `N_BEFORE` quiet ones."""
    usual = inspected.records["none"]
    changed = inspected.records[MIXED if label == MIXED_LABEL else label]
    for n, i in enumerate(stream.quiet[N_BEFORE : N_BEFORE + N_AFTER]):
        if label == MIXED_LABEL:
            yield changed[i] if n % 2 else usual[i]
        else:  # another supplier's pictures are others, and may be fewer
            yield changed[i % len(changed)]


def try_product(
    draws: Sequence[Inspected], n_draws: int, n_learn: int, n_quiet: int
) -> dict[str, Any]:
    """Return a product's row: quiet runs and delays by drift.

    Parameters
    ----------
    draws : sequence of Inspected
        One per draw of the references; `n_draws` are shared out among them.
    n_draws, n_learn, n_quiet : int
    """
    alarmed = far = 0
    signals, refused = Counter[str](), Counter[str]()
    delays: dict[str, list[int | None]] = {}
    labels = labels_of(draws[0])
    for index, inspected in enumerate(draws):
        n_mine = len(range(index, n_draws, len(draws)))
        for stream in streams(inspected, n_mine, n_learn, n_quiet):
            monitor, is_far = learnt(inspected, stream, n_learn)
            far += is_far
            false = false_alarms(monitor, inspected.records["none"], stream)
            alarmed += bool(false)
            signals.update(false)
            for label in labels:
                found = delay(monitor, inspected, label, stream)
                delays.setdefault(label, []).append(found[0] if found else None)
                if label != MIXED_LABEL:
                    refused[label] += starts_far(inspected, label, stream, n_learn)
    first = draws[0]
    return {
        "product": first.product,
        "trained_on": first.trained_on,
        "n_held_out": len(first.records["none"]),
        "n_reference_draws": len(draws),
        "quiet": {"draws": n_draws, "alarmed": alarmed, "alarms": dict(signals), "far": far},
        "drifts": {
            label: {
                **summary(found),
                "far_at_start": refused[label] if label != MIXED_LABEL else None,
            }
            for label, found in delays.items()
        },
    }


def starts_far(inspected: Inspected, label: str, stream: Stream, n_learn: int) -> bool:
    """Tell whether a line that drifted before its first picture is told from its references."""
    changed = inspected.records[label]
    monitor = DriftMonitor(inspected.product, inspected.limits, n_learn)
    learnt_from = ({**changed[i % len(changed)], "verdict": "pass"} for i in stream.learn)
    return any(monitor.observe_record(record, str(n)) for n, record in enumerate(learnt_from))


def summary(delays: Sequence[int | None]) -> dict[str, Any]:
    """Return median and 90th percentile of some delays, None where they are not reached."""
    sizes = np.sort([np.inf if delay is None else delay for delay in delays])
    within = sum(delay is not None and delay <= WITHIN for delay in delays)

    def quantile(share: float) -> int | None:
        value = sizes[min(int(np.ceil(share * len(sizes))), len(sizes)) - 1]
        return int(value) if np.isfinite(value) else None

    return {
        "n": len(delays),
        "within_50": within,
        "median": quantile(0.5),
        "p90": quantile(0.9),
    }


def references_alone(
    draws: Sequence[Inspected], n_draws: int, n_learn: int, n_quiet: int
) -> Mapping[str, int]:
    """Return how many quiet runs would alarm if the references alone were the baseline."""
    alarmed = 0
    for index, inspected in enumerate(draws):
        own = [{**record, "verdict": "pass"} for record in inspected.references]
        for stream in streams(inspected, len(range(index, n_draws, len(draws))), 1, n_quiet):
            monitor = DriftMonitor("references", n_learn=n_learn)
            for n in range(n_learn):  # over and over: mean and spread are theirs
                monitor.observe_record(own[n % len(own)], "")
            alarmed += bool(false_alarms(monitor, inspected.records["none"], stream))
    return {"draws": n_draws, "alarmed": alarmed}
