"""From samples to a row per sensor: before, while and after, or a dash with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from cff_bench.report.document import Column, Table
from cff_bench.sensors.quantity import GAUGE, RATE, Quantity
from cff_bench.sensors.sampler import Sample, Sampler
from cff_runtime.doctor.box import Reading

BEFORE, WHILE, AFTER = "before", "while", "after"


@dataclass(frozen=True)
class SensorRow:
    """One sensor over a measurement; None is what it did not tell.

    Attributes
    ----------
    name, title, unit, source
        As in `Quantity`.
    before, after : float, str or None
        Median of a gauge; of a counter its increase, per second where it is a rate.
    during : float, str or None
        The same while it was measured; of a share, the mean.
    lowest, highest : float or None
        Of a gauge while it was measured.
    reason : str
        Why there is no value.
    """

    name: str
    title: str
    unit: str
    source: str
    before: float | str | None
    during: float | str | None
    after: float | str | None
    lowest: float | None = None
    highest: float | None = None
    reason: str = ""


def sensor_rows(
    sampler: Sampler,
    modes_before: Mapping[str, Reading[str]] | None = None,
    modes_after: Mapping[str, Reading[str]] | None = None,
) -> list[SensorRow]:
    """Return a row per quantity of all sources, then a row per mode."""
    rows = [
        _row(quantity, sampler.samples, source.reasons.get(quantity.name, ""))
        for source in sampler.sources
        for quantity in source.quantities
    ]
    after = modes_after or {}
    for name, reading in (modes_before or {}).items():
        later = after.get(name, Reading[str].missing())
        rows.append(
            SensorRow(name, name, "", "", reading.value, None, later.value, reason=reading.reason)
        )
    return rows


def sensor_table(rows: Sequence[SensorRow]) -> Table:
    """Return the rows as a table; what one sensor did not tell is a dash with the reason."""
    return Table(
        name="sensors",
        title="The machine before, while and after",
        columns=[
            Column("title", "sensor", "left"),
            Column("unit", "unit", "left"),
            Column("before", "before", spec=".4g"),
            Column("during", "while measuring", spec=".4g"),
            Column("lowest", "lowest", spec=".4g"),
            Column("highest", "highest", spec=".4g"),
            Column("after", "after", spec=".4g"),
            Column("told_by", "told by, or why not", "left"),
        ],
        rows=[_cells(row) for row in rows],
    )


def _cells(row: SensorRow) -> dict[str, Any]:
    return {**asdict(row), "told_by": row.reason or row.source}


def _row(quantity: Quantity, samples: Sequence[Sample], reason: str) -> SensorRow:
    values = {phase: _summarize(quantity, samples, phase) for phase in (BEFORE, WHILE, AFTER)}
    told = [value for _, value in _told(quantity, samples, WHILE)]
    is_gauge = quantity.kind == GAUGE and bool(told)
    if not reason and all(value is None for value in values.values()):
        reason = "it told nothing while this ran"
    return SensorRow(
        name=quantity.name,
        title=quantity.title,
        unit=quantity.unit,
        source=quantity.source,
        before=values[BEFORE],
        during=values[WHILE],
        after=values[AFTER],
        lowest=min(told) if is_gauge else None,
        highest=max(told) if is_gauge else None,
        reason=reason,
    )


def _told(quantity: Quantity, samples: Sequence[Sample], phase: str) -> list[tuple[float, float]]:
    """Return (seconds, value) of a phase; a gauge's at the edges only if there are no others."""
    found = [s for s in samples if s.phase == phase and quantity.name in s.values]
    if quantity.kind == GAUGE:
        found = [sample for sample in found if not sample.is_edge] or found
    return [(sample.at_s, sample.values[quantity.name]) for sample in found]


def _summarize(quantity: Quantity, samples: Sequence[Sample], phase: str) -> float | None:
    told = _told(quantity, samples, phase)
    if not told:
        return None
    values = [value for _, value in told]
    if quantity.kind == GAUGE:
        return fmean(values) if quantity.unit == "share" else median(values)
    (start_s, first), (end_s, last) = told[0], told[-1]
    if end_s <= start_s:
        return None
    increase = max(last - first, 0.0)  # ticks of 10 ms: ours may be counted before the kernel's
    return increase / (end_s - start_s) if quantity.kind == RATE else increase
