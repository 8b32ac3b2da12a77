"""What a monitor would have said of records that are there already."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cff_runtime.drift.alarm import Alarm
from cff_runtime.drift.baseline import N_LEARN
from cff_runtime.drift.monitor import DriftMonitor


def replay(
    records: Iterable[Mapping[str, Any]],
    limits: Mapping[str, float] | None = None,
    profile_id: str | None = None,
    n_learn: int = N_LEARN,
) -> Iterator[tuple[Mapping[str, Any], Alarm]]:
    """Yield the alarms of the records of ``cff-run watch``, each with its record.

    Every source has a monitor of its own, a new one from where a record names another profile;
    records without a score are passed over.

    Parameters
    ----------
    records : iterable of mapping
        Oldest first.
    limits : mapping, optional
        Of a profile's references, see `cff_runtime.drift.baseline.start_limits`.
    profile_id : str, optional
        Hash of the profile that `limits` belong to; others are not compared with its references.
    n_learn : int
    """
    monitors: dict[str, DriftMonitor] = {}
    for record in records:
        if not isinstance(record.get("score"), int | float):
            continue
        source, profile = str(record.get("source")), str(record.get("profile"))
        monitor = monitors.get(source)
        if monitor is None or monitor.profile_id != profile:
            known = limits if profile == profile_id else None
            monitor = monitors[source] = DriftMonitor(profile, known, n_learn)
        at = record.get("captured_at") or record.get("at") or ""
        alarm = monitor.observe_record(record, str(at))
        if alarm is not None:
            yield record, alarm
