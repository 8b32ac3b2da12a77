"""What a PLC's gateway reads: `state.json` of a source, replaced as a whole.

The verdict is ``fault`` whenever the answer is not known. The file is written anew at every beat,
so a reader takes a `beat` that stands still for a second, or a missing file, for a fault too.
"""

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cff_runtime.watch.frames import now_utc

STATE_SCHEMA = 1
STATE_NAME = "state.json"
FAULT = "fault"
_N_EVENTS = 1000  # that may wait for a disk; older ones are forgotten first

OnEvent = Callable[[str, str, str], None]  # source, what began or ended, reason


class SourceOutput:
    """State, verdict and faults of one source. May be used from several threads.

    Parameters
    ----------
    source : str
    folder : Path or None
        Where `state.json` goes; None for nowhere.
    on_event : callable, optional
        Called with the source, ``fault`` or ``fault ended`` or another event, and the reason.
    """

    def __init__(self, source: str, folder: Path | None, on_event: OnEvent | None = None) -> None:
        self.source = source
        self._path = None if folder is None else folder / STATE_NAME
        self._on_event = on_event
        self._lock = threading.RLock()
        self._phase = "starting"
        self._hold: str | None = None
        self._faults: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._verdict, self._reason = FAULT, "starting"
        self._seq, self._at = 0, now_utc()
        self._epoch = self._beat = 0
        self._fault_since: float | None = None
        self._fault_s = 0.0

    @property
    def epoch(self) -> int:
        """Grows whenever ``fault`` is put out; a verdict of an earlier epoch comes too late."""
        with self._lock:
            return self._epoch

    @property
    def faults(self) -> dict[str, str]:
        """Reason by kind of the faults that last."""
        with self._lock:
            return dict(self._faults)

    @property
    def notes(self) -> dict[str, str]:
        """Text by kind of what is remarkable and changes no verdict."""
        with self._lock:
            return dict(self._notes)

    @property
    def holds(self) -> bool:
        """Whether nothing shall be inspected."""
        with self._lock:
            return self._hold is not None

    @property
    def fault_seconds(self) -> float:
        """Seconds spent in a fault so far."""
        with self._lock:
            running = 0.0 if self._fault_since is None else time.monotonic() - self._fault_since
            return self._fault_s + running

    def fault(self, kind: str, reason: str) -> None:
        """Put out ``fault`` now, and until `clear` of the same kind."""
        with self._lock:
            known = self._faults.get(kind)
            if known == reason:
                return
            if not self._faults:
                self._fault_since = time.monotonic()
            self._faults[kind] = reason
            self._withdraw(reason)
            self._publish()
        if known is None:
            self._tell(FAULT, f"{kind}: {reason}")

    def clear(self, kind: str) -> None:
        """End a fault; the verdict stays ``fault`` until the next part."""
        with self._lock:
            if self._faults.pop(kind, None) is None:
                return
            if not self._faults and self._fault_since is not None:
                self._fault_s += time.monotonic() - self._fault_since
                self._fault_since = None
            self._withdraw("waiting for the next part")
            self._publish()
        self._tell("fault ended", kind)

    def note(self, kind: str, text: str | None) -> None:
        """Say, or with None no longer say, what is remarkable and changes no verdict."""
        with self._lock:
            if self._notes.get(kind) == text:
                return
            if text is None:
                self._notes.pop(kind)
            else:
                self._notes[kind] = text
            self._publish()
        self._tell("note" if text else "note ended", f"{kind}: {text}" if text else kind)

    def hold(self, reason: str | None) -> bool:
        """Stop (with a reason) or go on (None); return whether that is a change."""
        with self._lock:
            if self._hold == reason:
                return False
            was_held, self._hold = self._hold is not None, reason
            self._withdraw(reason or "waiting for the next part")
            self._publish()
        self._tell("hold" if reason else "run", reason or "")
        return was_held != (reason is not None)

    def set_phase(self, phase: str, reason: str) -> None:
        """Enter ``starting``, ``run`` or ``stopped``."""
        with self._lock:
            self._phase = phase
            self._withdraw(reason)
            self._publish()

    def decide(self, seq: int, verdict: str, reason: str | None, epoch: int) -> str:
        """Put out a verdict whose record is on disk.

        Parameters
        ----------
        seq : int
        verdict : str
            ``pass``, ``review``, ``reject`` or ``error``; the last is put out as ``fault``.
        reason : str or None
        epoch : int
            As it was when the frame was taken.

        Returns
        -------
        str
            What was put out.
        """
        with self._lock:
            self._seq, self._at = seq, now_utc()
            if self.would_put_out(verdict, epoch) == FAULT:
                if verdict == "error":
                    self._reason = reason or "error"
                elif not self._faults and self._hold is None and self._phase == "run":
                    self._reason = f"the decision of record {seq} came after a fault was put out"
                self._verdict = FAULT
            else:
                self._verdict, self._reason = verdict, reason or ""
            self._publish()
            return self._verdict

    def would_put_out(self, verdict: str, epoch: int) -> str:
        """Return what `decide` would put out now."""
        with self._lock:
            unknown = self._faults or self._hold is not None or self._phase != "run"
            late = epoch != self._epoch
            return FAULT if unknown or late or verdict == "error" else verdict

    def beat(self) -> None:
        """Write the state anew, with the next number."""
        with self._lock:
            self._beat += 1
            self._publish()

    def snapshot(self) -> dict[str, Any]:
        """Return what `state.json` says."""
        with self._lock:
            state = self._phase
            if state == "run":
                state = FAULT if self._faults else "hold" if self._hold is not None else "run"
            reason = self._reason
            if self._phase == "run":
                reason = "; ".join(self._faults.values()) or self._hold or reason
            return {
                "schema": STATE_SCHEMA,
                "source": self.source,
                "state": state,
                "verdict": self._verdict,
                "seq": self._seq,
                "at": self._at,
                "reason": reason,
                "faults": sorted(self._faults),
                "warnings": [f"{kind}: {text}" for kind, text in sorted(self._notes.items())],
                "beat": self._beat,
                "beat_at": now_utc(),
                "pid": os.getpid(),
            }

    def _withdraw(self, reason: str) -> None:
        self._verdict, self._reason = FAULT, reason
        self._epoch += 1
        self._at = now_utc()

    def _publish(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{STATE_NAME}.tmp")
        try:
            temporary.write_text(json.dumps(self.snapshot()) + "\n")
            temporary.replace(self._path)
        except OSError:  # a state that cannot be renewed must not be believed
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _tell(self, event: str, reason: str) -> None:
        if self._on_event is not None:
            self._on_event(self.source, event, reason)


class EventQueue:
    """Events of all threads on their way to the records, which only the worker writes."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=_N_EVENTS)

    def add(self, source: str, event: str, reason: str) -> None:
        """Take an event; never waits."""
        self._events.append({"source": source, "event": event, "reason": reason, "at": now_utc()})

    def take(self) -> dict[str, Any] | None:
        """Return the oldest event, or None."""
        with contextlib.suppress(IndexError):
            return self._events.popleft()
        return None

    def put_back(self, event: dict[str, Any]) -> None:
        """Return an event that could not be written."""
        if len(self._events) < _N_EVENTS:
            self._events.appendleft(event)
