"""What the worker does between frames: events, flushing, a look at the disk."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from cff_runtime.watch.lane import Lane
from cff_runtime.watch.metrics import Metrics
from cff_runtime.watch.output import EventQueue
from cff_runtime.watch.records import EVENT, RECORD_SCHEMA

_EVENTS_S, _FLUSH_S, _LOOK_AT_DISK_S = 0.1, 1.0, 0.25
_LEAST_FREE_BYTES = 1 << 18  # with less, the next record is likely to fail
_DISK = "disk"


class Housekeeping:
    """Work that is due every so often, in the worker's thread.

    Parameters
    ----------
    lanes : sequence of Lane
    run : str
        Id of this run of the process.
    events : EventQueue
    metrics : Metrics
    low_bytes : float
        Warn when the records' disk has less left.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        run: str,
        events: EventQueue,
        metrics: Metrics,
        low_bytes: float,
    ) -> None:
        self._lanes, self._run_id, self._events = lanes, run, events
        self._metrics, self._low_bytes = metrics, low_bytes
        self._flushed_at = self._looked_at_disk_at = self._wrote_events_at = 0.0

    def keep(self, last: bool = False) -> None:
        """Write events, flush what is due, look how full the disk is."""
        now = time.monotonic()
        if last or now - self._wrote_events_at >= _EVENTS_S:
            self._wrote_events_at = now
            self._write_events()
        if last or now - self._looked_at_disk_at >= _LOOK_AT_DISK_S:
            self._looked_at_disk_at = now
            for lane in self._lanes:
                self._look_at_disk(lane)
        if last or now - self._flushed_at >= _FLUSH_S:
            self._flushed_at = now
            for lane in self._lanes:
                with contextlib.suppress(OSError):  # the next record will say so
                    lane.records.sync(force=last)
                    lane.source.flush()

    def _look_at_disk(self, lane: Lane) -> None:
        try:
            status = os.statvfs(lane.records.folder)
        except OSError as error:
            lane.output.fault(_DISK, f"the records' folder cannot be read: {error.strerror}")
            return
        free = status.f_bavail * status.f_frsize
        self._metrics.set("cff_watch_disk_free_bytes", lane.name, free)
        if free < _LEAST_FREE_BYTES:
            lane.output.fault(_DISK, "the disk of the records is full")
        else:
            lane.output.clear(_DISK)
        is_said = _DISK in lane.output.notes
        if (free < self._low_bytes) != is_said:  # not again with every megabyte
            text = f"{free / 1e6:.0f} MB are left for records"
            lane.output.note(_DISK, None if is_said else text)

    def _write_events(self) -> None:
        while (event := self._events.take()) is not None:
            if not self._write_event(event):
                self._events.put_back(event)
                return

    def _write_event(self, event: dict[str, Any]) -> bool:
        lane = next(lane for lane in self._lanes if lane.name == event["source"])
        line = {"schema": RECORD_SCHEMA, "kind": EVENT, "run": self._run_id, **event}
        try:
            lane.records.append(line)
        except OSError:
            return False
        return True
