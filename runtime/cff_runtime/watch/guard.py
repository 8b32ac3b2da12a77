"""The watchdog: a thread with a clock of its own that looks whether all others still live."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cff_runtime.watch.config import WatchConfig
from cff_runtime.watch.keepers import Keepers
from cff_runtime.watch.lane import Lane
from cff_runtime.watch.metrics import Metrics
from cff_runtime.watch.systemd import notify
from cff_runtime.watch.worker import Worker

log = logging.getLogger(__name__)

TICK_S = 0.1
MODE_NAME = "mode"
_STUCK = "stuck"


class Guard:
    """Beats, and puts out a fault where the worker or the minding of the bundle stands still.

    Parameters
    ----------
    config : WatchConfig
    lanes : sequence of Lane
    worker : Worker
    keepers : Keepers
    metrics : Metrics
    """

    def __init__(
        self,
        config: WatchConfig,
        lanes: Sequence[Lane],
        worker: Worker,
        keepers: Keepers,
        metrics: Metrics,
    ) -> None:
        self._config, self._lanes, self._worker = config, lanes, worker
        self._keepers, self._metrics = keepers, metrics
        self._stop = threading.Event()
        self._fault_seconds = dict.fromkeys((lane.name for lane in lanes), 0.0)
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; the beat stands still from now on."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        stuck = self._stuck()
        for lane in self._lanes:
            if stuck:
                lane.output.fault(_STUCK, stuck)
            else:
                lane.output.clear(_STUCK)
            lane.source.check()
            self._follow_mode(lane)
            lane.output.beat()
            self._measure(lane)
        if not stuck and not self._keepers.needs_new_process:
            notify("WATCHDOG=1")

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self.look()
            except Exception:  # a guard that ended would be a beat that ended: that much is safe
                log.exception("guard")

    def _stuck(self) -> str | None:
        limit_s = self._config.stuck_ms / 1000
        if not self._worker.thread.is_alive():
            return "the worker has ended; restart the service"
        busy_since = self._worker.busy_since
        if busy_since is not None and time.monotonic() - busy_since > limit_s:
            return f"an inspection takes longer than {self._config.stuck_ms} ms"
        age_s = time.monotonic() - self._keepers.checked_at
        if not self._keepers.is_opening and age_s > limit_s + self._config.check_ms / 1000:
            return "the bundle's disk gives no answer"
        return None

    def _follow_mode(self, lane: Lane) -> None:
        state = self._config.state
        if state is None:
            return
        reason = _hold_reason(state / MODE_NAME) or _hold_reason(state / lane.name / MODE_NAME)
        if lane.output.hold(reason) and lane.config.camera is not None:
            lane.queue.count_held(lane.queue.clear())

    def _measure(self, lane: Lane) -> None:
        seconds = lane.output.fault_seconds
        before = self._fault_seconds[lane.name]
        self._fault_seconds[lane.name] = seconds
        self._metrics.count("cff_watch_fault_seconds", lane.name, max(0.0, seconds - before))
        self._metrics.set("cff_watch_fault", lane.name, float(bool(lane.output.faults)))
        self._metrics.set("cff_watch_warnings", lane.name, len(lane.output.notes))
        self._metrics.set("cff_watch_queue_length", lane.name, len(lane.queue))
        self._metrics.set("cff_watch_heartbeat_timestamp_seconds", lane.name, time.time())


def _hold_reason(path: Path) -> str | None:
    """Return why to hold, or None: no file, or one that says ``run``."""
    try:
        mode = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"hold: `{path}` cannot be read: {error}"
    if mode == "run":
        return None
    if mode == "hold":
        return "hold"
    return f"hold: `{path}` must say run or hold, got {mode!r:.40}"
