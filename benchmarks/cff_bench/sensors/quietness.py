"""Was the machine quiet? With numbers, or a word on why it cannot be told."""

from collections.abc import Sequence

from cff_bench.sensors.load import LOAD, OTHERS, STEAL
from cff_bench.sensors.processor import CLOCK, THROTTLED
from cff_bench.sensors.summary import SensorRow

# beyond these a figure may be wrong by more than the intervals say
MAX_OTHERS_SHARE = 0.02  # of all cores
MAX_STEAL_SHARE = 0.005
MAX_LOAD_PER_CORE = 0.3  # before it began
MAX_CLOCK_CHANGE = 0.05


def judge_quietness(rows: Sequence[SensorRow], n_cores: int) -> tuple[bool | None, list[str]]:
    """Say whether the machine was quiet while it measured, and what disturbed it.

    Parameters
    ----------
    rows : sequence of SensorRow
    n_cores : int
        Processors that `/proc/stat` counts.

    Returns
    -------
    quiet : bool or None
        None where neither other processes nor stolen time can be told.
    notes : list of str
        A sentence each, with numbers.
    """
    by_name = {row.name: row for row in rows}
    notes = [
        *_others(by_name.get(OTHERS), n_cores),
        *_steal(by_name.get(STEAL), n_cores),
        *_load(by_name.get(LOAD), n_cores),
        *_clocks(rows),
        *_throttling(rows),
    ]
    if notes:
        return False, [f"The machine was not quiet: {note}." for note in notes]
    others, steal = _number(by_name.get(OTHERS)), _number(by_name.get(STEAL))
    if others is None and steal is None:
        return None, ["Whether the machine was quiet cannot be told: no `/proc/stat` here."]
    told = f"other processes took {others or 0:.2f} of {n_cores} cores, steal {steal or 0:.2f}"
    clock = by_name.get(CLOCK)
    unread = "" if clock and _number(clock) is not None else "; clocks cannot be read here"
    return True, [f"The machine was quiet: {told}{unread}."]


def _others(row: SensorRow | None, n_cores: int) -> list[str]:
    value = _number(row)
    if row is None or value is None or value <= MAX_OTHERS_SHARE * n_cores:
        return []
    before = f" ({row.before:.2f} before)" if isinstance(row.before, float) else ""
    return [f"other processes took {value:.2f} of {n_cores} cores{before}"]


def _steal(row: SensorRow | None, n_cores: int) -> list[str]:
    value = _number(row)
    if value is None or value <= MAX_STEAL_SHARE * n_cores:
        return []
    return [f"the hypervisor took {value / n_cores:.1%} of its processor time (steal)"]


def _load(row: SensorRow | None, n_cores: int) -> list[str]:
    if row is None or not isinstance(row.before, float):
        return []
    if row.before <= MAX_LOAD_PER_CORE * n_cores:
        return []
    return [f"the load of the minute before was {row.before:.2f} on {n_cores} cores"]


def _clocks(rows: Sequence[SensorRow]) -> list[str]:
    notes = []
    for row in rows:
        if row.unit != "MHz" or row.lowest is None or not row.highest:
            continue
        if row.lowest < (1 - MAX_CLOCK_CHANGE) * row.highest:
            notes.append(f"{row.title} moved between {row.lowest:.0f} and {row.highest:.0f} MHz")
    return notes


def _throttling(rows: Sequence[SensorRow]) -> list[str]:
    notes = []
    for row in rows:
        value = _number(row)
        if not value:
            continue
        if row.name == THROTTLED:
            notes.append(f"the processor was slowed down by heat {value:.0f} times")
        elif row.name.endswith("_capped"):
            notes.append(f"{row.title} in {value:.0%} of the samples")
    return notes


def _number(row: SensorRow | None) -> float | None:
    value = None if row is None else row.during
    return value if isinstance(value, float) else None
