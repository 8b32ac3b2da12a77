"""The one thread that inspects, records, puts out and puts away, source by source in turn."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import CffError, ImageError
from cff_runtime.result import Result
from cff_runtime.watch.camera_checks import blankness
from cff_runtime.watch.engine import Judge
from cff_runtime.watch.frames import now_utc
from cff_runtime.watch.housekeeping import Housekeeping
from cff_runtime.watch.keepers import BUNDLE, ENGINE, PROFILE, Keepers
from cff_runtime.watch.lane import InHand, Lane, ObserverFactory
from cff_runtime.watch.metrics import Metrics
from cff_runtime.watch.output import EventQueue
from cff_runtime.watch.pictures import picture_name
from cff_runtime.watch.records import INSPECTION, RECORD_SCHEMA

log = logging.getLogger(__name__)

_IDLE_S = 0.02
_RETRY_S = 0.1
_RECORDS, _MOVE = "records", "move"
_BLOCKING = {BUNDLE, PROFILE, ENGINE}  # nothing is inspected while one of these lasts


class Worker:
    """Takes frames from all lanes in turn.

    Parameters
    ----------
    lanes : sequence of Lane
    keepers : Keepers
    bell : threading.Condition
        Of the queues.
    run : str
        Id of this run of the process, in records.
    events : EventQueue
    metrics : Metrics
    low_bytes : float
        Warn when the records' disk has less left.
    to_stdout : bool
        Write a line per decision.
    observers : sequence of ObserverFactory
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        keepers: Keepers,
        bell: threading.Condition,
        run: str,
        events: EventQueue,
        metrics: Metrics,
        low_bytes: float = 0.0,
        to_stdout: bool = False,
        observers: Sequence[ObserverFactory] = (),
    ) -> None:
        self._lanes, self._keepers, self._bell, self._run_id = lanes, keepers, bell, run
        self._events, self._metrics = events, metrics
        self._house = Housekeeping(lanes, run, events, metrics, low_bytes)
        self._to_stdout, self._factories = to_stdout, observers
        self._stop = threading.Event()
        self.busy_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin, with observers made: that may take longer than an inspection."""
        for lane in self._lanes:
            self._begin_to_observe(lane, self._keepers.judge(lane.name))
        self.thread.start()

    def stop(self) -> None:
        """Finish the frame in hand and end."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            worked = False
            for lane in self._lanes:
                if self._stop.is_set():
                    break
                worked = self._guarded(lane, self._step) or worked
            self._house.keep()
            if not worked:
                with self._bell:
                    self._bell.wait(_IDLE_S)
        for lane in self._lanes:
            if lane.in_hand is not None and lane.in_hand.record is not None:
                self._guarded(lane, self._put_out)
        self._house.keep(last=True)

    def _guarded(self, lane: Lane, work: Callable[[Lane], bool]) -> bool:
        """Do some work; whatever goes wrong is a fault of this source, and tried again."""
        if time.monotonic() < lane.retry_at and not self._stop.is_set():
            return False
        self.busy_since = time.monotonic()
        try:
            worked = work(lane)
            lane.output.clear("worker")
            return worked
        except Exception as error:
            if "worker" not in lane.output.faults:  # not ten times a second
                log.exception("%s", lane.name)
            lane.retry_at = time.monotonic() + _RETRY_S
            lane.output.fault("worker", repr(error))
            self._metrics.count("cff_watch_errors", lane.name, kind="internal")
            return False
        finally:
            self.busy_since = None

    def _step(self, lane: Lane) -> bool:
        if lane.in_hand is None:
            if lane.output.holds or not self._may_inspect(lane):
                return False
            epoch = lane.output.epoch
            frame = lane.queue.take()
            if frame is None:
                return False
            lane.in_hand = InHand(frame, epoch)
        if lane.in_hand.record is None:
            if not self._may_inspect(lane):
                return False
            self._inspect(lane, lane.in_hand)
        return lane.in_hand.record is not None and self._put_out(lane)

    def _may_inspect(self, lane: Lane) -> bool:
        return self._keepers.is_whole and not _BLOCKING & lane.output.faults.keys()

    def _inspect(self, lane: Lane, hand: InHand) -> None:
        """Make the record of the frame in hand, or report that the engine failed."""
        judge, frame = self._keepers.judge(lane.name), hand.frame
        error, kind, result = frame.error, "image", None
        if frame.pixels is not None and frame.path is not None and lane.config.black:
            blank = blankness(frame.pixels)
            if blank and blank not in judge.usual:
                error, kind = f"the image is {blank}; is there light, does the camera work?", blank
        if error is None and frame.pixels is not None:
            try:
                result = judge.engine.inspect(frame.pixels, judge.profile)
            except ImageError as problem:
                error = str(problem)
            except Exception as problem:
                error, kind = _text(problem), "engine"
                hand.n_failures += 1
                if hand.n_failures == 1:  # once more, when the engine has proved itself again
                    self._metrics.count("cff_watch_errors", lane.name, kind="engine")
                    self._keepers.report_failure(f"inspection failed: {error}")
                    return
        hand.record = self._record(lane, hand, judge, result)
        if result is None:
            hand.record |= {"verdict": "error", "error": error, "error_kind": kind}
            self._metrics.count("cff_watch_errors", lane.name, kind=kind)

    def _record(
        self, lane: Lane, hand: InHand, judge: Judge, result: Result | None
    ) -> dict[str, Any]:
        frame, seq = hand.frame, lane.records.last_seq + 1
        condition, warnings = self._look(lane, hand, judge, result)
        n_dropped, n_held = lane.queue.take_counts()
        pictured = lane.pictures is not None and result is not None and result.verdict == "reject"
        return {
            "schema": RECORD_SCHEMA,
            "kind": INSPECTION,
            "seq": seq,
            "run": self._run_id,
            "source": lane.name,
            "name": frame.name,
            "captured_at": frame.captured_at,
            "at": now_utc(),
            "image": frame.image_facts(),
            "bundle": judge.engine.bundle_id,
            "profile": judge.profile_sha256,
            "product": judge.product,
            **({} if result is None else result.to_record()),
            "condition": condition,
            "warnings": warnings,
            "dropped": n_dropped,
            "held": n_held,
            "picture": picture_name(seq) if pictured else None,
            "error": None,
        }

    def _look(
        self, lane: Lane, hand: InHand, judge: Judge, result: Result | None
    ) -> tuple[dict[str, float], list[str]]:
        """Return measurements and warnings: of the condition, the observers and the result."""
        pixels = hand.frame.pixels
        if result is None or pixels is None:
            return {}, []
        if lane.observed is not judge:
            self._begin_to_observe(lane, judge)
        measured: dict[str, float] = {}
        texts = [] if result.warning is None else [result.warning]
        if lane.config.condition:
            try:
                measured = self._watch_condition(lane, judge, pixels, texts)
            except Exception as error:  # what only looks on must not stop the line
                log.exception("%s", lane.name)
                texts.append(f"the condition could not be measured: {error!r}")
        observed: list[str] = []
        for observer in lane.observers:
            try:
                observed += observer(hand.frame, result)
            except Exception as error:
                log.exception("%s", lane.name)
                observed.append(f"an observer failed: {error!r}")
        lane.output.note("observed", "; ".join(observed) or None)
        texts += observed
        return {name: round(value, 4) for name, value in measured.items()}, texts

    def _begin_to_observe(self, lane: Lane, judge: Judge) -> None:
        """Compare with another profile from now on."""
        lane.observed, lane.observers = judge, []
        for factory in self._factories:
            try:
                lane.observers.append(factory(lane.name, judge))
            except Exception:
                log.exception("%s", lane.name)
        for kind in lane.output.notes:
            if kind.startswith("condition "):
                lane.output.note(kind, None)

    def _watch_condition(
        self, lane: Lane, judge: Judge, pixels: NDArray[np.uint8], texts: list[str]
    ) -> dict[str, float]:
        measured, warned = judge.condition(judge.engine.preprocess(pixels))
        for name in judge.condition.bounds:
            lane.output.note(f"condition {name}", warned.get(name))
        texts += warned.values()
        for name, value in measured.items():
            self._metrics.set("cff_watch_condition", lane.name, value, measure=name)
        return measured

    def _put_out(self, lane: Lane) -> bool:
        """Write the record, then put the verdict out, then put the frame away."""
        hand = lane.in_hand
        assert hand is not None and hand.record is not None
        if not hand.is_recorded:
            record = hand.record
            record["output"] = lane.output.would_put_out(record["verdict"], hand.epoch)
            record["settled"] = lane.source.settled
            try:
                lane.records.append(record)
            except OSError as error:
                reason = f"records cannot be written: {error.strerror or error}"
                return self._later(lane, _RECORDS, reason)
            lane.output.clear(_RECORDS)
            hand.is_recorded = True
            self._decide(lane, hand, record)
        try:
            lane.source.finish(hand.frame, hand.record["seq"], hand.record["verdict"] == "error")
        except OSError as error:
            return self._later(lane, _MOVE, f"{hand.frame.name} cannot be moved: {error.strerror}")
        lane.output.clear(_MOVE)
        lane.in_hand = None
        return True

    def _later(self, lane: Lane, kind: str, reason: str) -> bool:
        if kind not in lane.output.faults:
            self._metrics.count("cff_watch_errors", lane.name, kind=kind)
        lane.output.fault(kind, reason)
        lane.retry_at = time.monotonic() + _RETRY_S
        return False

    def _decide(self, lane: Lane, hand: InHand, record: dict[str, Any]) -> None:
        verdict = record["verdict"]
        reason = record["error"] or "; ".join(record["warnings"])
        put_out = lane.output.decide(record["seq"], verdict, reason, hand.epoch)
        if put_out != record["output"]:  # a fault came while the record was written
            self._events.add(
                lane.name, "output", f"record {record['seq']} was put out as {put_out}"
            )
        self._metrics.count("cff_watch_inspections", lane.name, verdict=verdict)
        for stage, value_ms in record.get("stages_ms", {}).items():
            self._metrics.observe("cff_watch_stage_seconds", lane.name, value_ms / 1e3, stage=stage)
        if self._to_stdout:
            self._print(lane, record, put_out)
        if record["picture"] and lane.pictures is not None and hand.frame.pixels is not None:
            try:
                lane.pictures.save(record["seq"], hand.frame.pixels)
            except OSError as error:
                lane.output.note("picture", f"a picture could not be written: {error.strerror}")
            else:
                lane.output.note("picture", None)

    def _print(self, lane: Lane, record: dict[str, Any], put_out: str) -> None:
        shown = {key: record.get(key) for key in ("source", "seq", "name", "score", "at")}
        try:
            sys.stdout.write(json.dumps({**shown, "verdict": put_out}) + "\n")
            sys.stdout.flush()
        except OSError as error:
            log.warning("stdout cannot be written any more: %s", error.strerror)
            self._to_stdout = False


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, CffError) else repr(error)
