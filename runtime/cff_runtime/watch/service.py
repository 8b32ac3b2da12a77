"""The watch as a whole: checked, opened, started, minded, stopped."""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from cff_runtime.drift import drift_observers
from cff_runtime.errors import CffError, UsageError
from cff_runtime.storage import atomic_write
from cff_runtime.watch.camera import CameraSource, OpenCapture, open_capture
from cff_runtime.watch.config import SourceConfig, WatchConfig
from cff_runtime.watch.engine import BundleEngine, OpenEngine
from cff_runtime.watch.folder import FolderSource, check_folder
from cff_runtime.watch.frames import FrameQueue
from cff_runtime.watch.guard import MODE_NAME, Guard
from cff_runtime.watch.keepers import Keepers
from cff_runtime.watch.lane import Lane, ObserverFactory, Source
from cff_runtime.watch.metrics import Metrics, NoMetrics, PrometheusMetrics
from cff_runtime.watch.output import EventQueue, SourceOutput
from cff_runtime.watch.pictures import RejectPictures
from cff_runtime.watch.records import RecordLog
from cff_runtime.watch.systemd import notify
from cff_runtime.watch.worker import Worker

log = logging.getLogger(__name__)

_POLL_S = 0.05
_END_S = 1.0


class Watch:
    """Sources, worker, keepers and guard of one configuration.

    Parameters
    ----------
    config : WatchConfig
    opener : callable
        Opens the engine; that of a bundle by default.
    capturer : callable
        Opens a camera; OpenCV's by default.
    observers : sequence of ObserverFactory
        See `cff_runtime.watch.lane`.

    Raises
    ------
    CffError
        If anything is not as it must be; then nothing has started, and the state says ``fault``.
    """

    def __init__(
        self,
        config: WatchConfig,
        opener: OpenEngine = BundleEngine,
        capturer: OpenCapture = open_capture,
        observers: Sequence[ObserverFactory] = (),
    ) -> None:
        self._config = config
        self._resources = contextlib.ExitStack()
        self._stop_wanted = False
        self._hold_wanted: bool | None = None
        self._events = EventQueue()
        self._foreign = set(threading.enumerate())
        self.run_id = uuid.uuid4().hex
        self.outputs: dict[str, SourceOutput] = {}
        try:
            self._prepare_folders()
            self._metrics = self._open_metrics()
            self._keepers = Keepers(config, opener, self.outputs, self._count_swap)
            self._bell = threading.Condition()
            self._lanes = [self._lane(source, capturer) for source in config.sources]
        except CffError as error:
            self._say_why_not(str(error))
            self._resources.close()
            raise
        low_bytes = config.low_mb * 1e6
        self._worker = Worker(
            self._lanes, self._keepers, self._bell, self.run_id, self._events, self._metrics,
            low_bytes, config.stdout, observers,
        )  # fmt: skip
        self._guard = Guard(config, self._lanes, self._worker, self._keepers, self._metrics)

    def start(self) -> None:
        """Start all threads."""
        self._worker.start()
        self._keepers.start()
        for lane in self._lanes:
            self._events.add(lane.name, "start", f"bundle {self._config.bundle}")
            lane.source.start()
            lane.output.set_phase("run", "no part was inspected yet")
        self._guard.look()
        self._guard.start()
        names = ", ".join(self.outputs)
        notify(f"READY=1\nSTATUS=watching {names}")
        log.info("watching %s, run %s", names, self.run_id)

    def stop(self) -> bool:
        """Take no further frame, finish the one in work, say so.

        Returns
        -------
        bool
            False if the worker did not end in time.
        """
        notify("STOPPING=1")
        for lane in self._lanes:
            lane.source.stop()
            lane.output.set_phase("stopped", "stopping")
            self._events.add(lane.name, "stop", f"{len(lane.queue)} frames were left")
        self._keepers.stop()
        self._worker.stop()
        self._worker.thread.join(self._config.stop_ms / 1000)
        in_time = not self._worker.thread.is_alive()
        self._guard.stop()
        for lane in self._lanes:
            if in_time:
                lane.records.close()
            reason = "stopped" if in_time else "stopped, the inspection in work did not end"
            lane.output.set_phase("stopped", reason)
        self._resources.close()
        log.info("stopped%s", "" if in_time else ", but the inspection in work did not end")
        return in_time

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; return the exit code."""
        with self._signals():
            self.start()
            while not self._stop_wanted:
                time.sleep(_POLL_S)
                if (wanted := self._hold_wanted) is not None:
                    self._hold_wanted = None
                    self.hold(wanted)
            exit_code = 0 if self.stop() else 1
            if self._threads_that_hang():
                # Python would end them inside a driver's C++, which aborts the process
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError):
                        stream.flush()
                os._exit(exit_code)
        return exit_code

    def hold(self, on: bool) -> None:
        """Stop or go on inspecting, as the file ``mode`` in the state folder does."""
        if self._config.state is not None:
            try:
                atomic_write(self._config.state / MODE_NAME, b"hold\n" if on else b"run\n")
            except CffError as error:
                log.error("error: %s", error)
        else:
            for output in self.outputs.values():
                output.hold("hold" if on else None)

    def _threads_that_hang(self) -> list[threading.Thread]:
        """Return the threads of this watch that do not end, such as in a camera's driver."""
        ends = time.monotonic() + _END_S
        while True:
            left = [thread for thread in threading.enumerate() if thread not in self._foreign]
            if not left or time.monotonic() > ends:
                return left
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        # a handler may come while this thread holds any lock, so it only leaves a mark
        def on_stop(number: int, frame: FrameType | None) -> None:
            if self._stop_wanted:
                os._exit(128 + number)
            self._stop_wanted = True

        def on_mode(number: int, frame: FrameType | None) -> None:
            self._hold_wanted = number == signal.SIGUSR1

        handlers = {
            signal.SIGTERM: on_stop,
            signal.SIGINT: on_stop,
            signal.SIGUSR1: on_mode,
            signal.SIGUSR2: on_mode,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _prepare_folders(self) -> None:
        config = self._config
        for number, source in enumerate(config.sources, start=1):
            folder = None if config.state is None else config.state / source.name
            _make_folder(folder, "watch.state")
            self.outputs[source.name] = SourceOutput(source.name, folder, self._on_event)
            self.outputs[source.name].beat()
            if source.folder is not None:
                check_folder(source, f"source[{number}]")
                self._lock(source.folder, f"source[{number}].folder")
            records = config.records / source.name
            _make_folder(records, "watch.records")
            self._lock(records, "watch.records")

    def _lock(self, folder: Path, field: str) -> None:
        """Keep a second watch away; the lock goes with the process."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        self._resources.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"`{field}` must be used by one watch only, `{folder}` is used by another"
            ) from error

    def _open_metrics(self) -> Metrics:
        config = self._config
        if not config.metrics_port:
            return NoMetrics()
        metrics = PrometheusMetrics(config.metrics_address, config.metrics_port)
        self._resources.callback(metrics.close)
        return metrics

    def _lane(self, config: SourceConfig, capturer: OpenCapture) -> Lane:
        watch, output = self._config, self.outputs[config.name]
        folder = watch.records / config.name
        records = RecordLog(
            folder, int(watch.file_mb * 1e6), int(watch.limit_mb * 1e6), watch.sync_ms
        )
        if records.torn_bytes:
            self._on_event(
                config.name, "torn", f"{records.torn_bytes} bytes of a torn record were put aside"
            )
        queue = FrameQueue(config.queue, self._bell)
        source: Source
        if config.folder is not None:
            source = FolderSource(config, queue, output, records.since_settled(), records.settled)
        else:
            source = CameraSource(
                config, queue, output,
                lambda: self._keepers.judge(config.name).usual,
                capturer,
                lambda n: self._metrics.count("cff_watch_dropped_frames", config.name, n),
            )  # fmt: skip
        limit = int(watch.rejects_mb * 1e6)
        pictures = RejectPictures(folder, limit) if limit else None
        return Lane(config, queue, output, records, source, pictures)

    def _on_event(self, source: str, event: str, reason: str) -> None:
        log.info("%s: %s%s", source, event, f": {reason}" if reason else "")
        self._events.add(source, event, reason)

    def _count_swap(self, source: str, taken: bool) -> None:
        result = "taken" if taken else "refused"
        self._metrics.count("cff_watch_profile_swaps", source, result=result)
        if taken:
            digest = self._keepers.judge(source).profile_sha256
            self._events.add(source, "profile", f"{digest} is in use")

    def _say_why_not(self, reason: str) -> None:
        for output in self.outputs.values():
            output.set_phase("stopped", f"did not start: {reason}")


def watch(config: WatchConfig) -> int:
    """Run a watch until it is stopped; return the exit code.

    Raises
    ------
    CffError
        If it cannot start.
    """
    started = time.monotonic()
    observers: list[ObserverFactory] = []
    if config.drift:
        observers.append(drift_observers(config.records))
    service = Watch(config, observers=observers)
    log.info("ready after %.1f s", time.monotonic() - started)
    return service.run()


def _make_folder(folder: Path | None, field: str) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"`{field}` must be a folder that can be written, `{folder}` is none: {error.strerror}"
        ) from error
