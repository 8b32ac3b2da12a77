"""Monitors for ``cff-run watch``: one per source and profile, their states on disk."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from cff_runtime.drift.monitor import DriftMonitor
from cff_runtime.drift.signals import plainness
from cff_runtime.errors import StorageError
from cff_runtime.profile import Profile
from cff_runtime.result import Result

log = logging.getLogger(__name__)
SAVE_EVERY = 50  # pictures; a killed process forgets at most so many


class Taken(Protocol):
    """A frame, of which the time is asked."""

    @property
    def captured_at(self) -> str:
        """ISO 8601."""
        ...


class Judging(Protocol):
    """What inspects, of which the profile is asked."""

    @property
    def profile(self) -> Profile:
        """In use."""
        ...

    @property
    def profile_sha256(self) -> str:
        """Of its file."""
        ...


def drift_observers(
    folder: Path, save_every: int = SAVE_EVERY
) -> Callable[[str, Judging], Callable[[Taken, Result], Iterable[str]]]:
    """Return a factory of observers, as ``cff-run watch`` takes them.

    An observer returns the sentences of all alarms that last, the plainest signal first. It keeps
    its state in ``drift-SOURCE.json`` of a folder and resumes it, after a restart too; another
    profile begins anew. Nothing here stops a line: what cannot be read is learnt again, what cannot
    be written is tried again later, and both are logged.
    """

    def observer_of(source: str, judge: Judging) -> Callable[[Taken, Result], Iterable[str]]:
        path = folder / f"drift-{source}.json"
        monitor = DriftMonitor.of(judge.profile, judge.profile_sha256)
        try:
            monitor.resume(path)
        except StorageError as error:
            log.warning("%s: %s; it is learnt again what is usual", source, error)

        def observe(frame: Taken, result: Result) -> Iterable[str]:
            was_learning = monitor.is_learning
            alarm = monitor.observe(result, frame.captured_at)
            changed = alarm is not None or was_learning != monitor.is_learning
            if changed or monitor.n_pictures % save_every == 0:
                try:
                    monitor.save(path)
                except StorageError as error:
                    log.warning("%s: %s", source, error)
            plainest_first = sorted(monitor.active.values(), key=lambda one: -plainness(one.signal))
            lasting = [one.text for one in plainest_first]
            return lasting if alarm is None or alarm.text in lasting else [alarm.text, *lasting]

        return observe

    return observer_of
