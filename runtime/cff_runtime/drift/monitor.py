"""The monitor: learns what is usual, then says when a signal has moved. One per source and profile.

Constant memory and time: a mean and four cumulative sums per signal, and while it learns the
values of some pictures.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from cff_runtime.drift.alarm import ALSO, Alarm, Direction, sentence
from cff_runtime.drift.baseline import MOST_KEPT, N_LEARN, Usual, start_limits
from cff_runtime.drift.counter import Counter
from cff_runtime.drift.signals import plainness, shown, signals_of
from cff_runtime.errors import StorageError, UsageError
from cff_runtime.jsonfields import parse_object, take, take_floats
from cff_runtime.profile import Profile
from cff_runtime.result import Result
from cff_runtime.storage import atomic_write, read_limited

STATE_SCHEMA = 1
MAX_STATE_BYTES = 1 << 20
_LATELY = 0.1  # weight of a picture in the running mean that tells which signals moved as well
T = TypeVar("T", Counter, Alarm)
_SIGNS: tuple[tuple[Direction, float], ...] = (("up", 1.0), ("down", -1.0))


class DriftMonitor:
    """Watches the inspections of one source with one profile.

    Parameters
    ----------
    profile_id : str
        Of the profile, such as the hash of its file; a saved state of another is not taken up.
    limits : mapping of str to float, optional
        See `cff_runtime.drift.baseline.start_limits`; without them the first pictures are not
        compared with the references.
    n_learn : int
        Learnt from is until so many pictures have passed, 20 or more.

    Attributes
    ----------
    n_pictures : int
        Seen since the beginning.
    active : dict of (str, str) to Alarm
        By signal and direction, as long as they last.
    """

    def __init__(
        self,
        profile_id: str,
        limits: Mapping[str, float] | None = None,
        n_learn: int = N_LEARN,
    ) -> None:
        if n_learn < 20:
            raise UsageError(f"`n_learn` must be 20 or more, got {n_learn}")
        self.profile_id = profile_id
        self.n_pictures = 0
        self.n_learnt = 0
        self.active: dict[tuple[str, str], Alarm] = {}
        self._limits, self._n_learn = dict(limits or {}), n_learn
        self._learning_since: str | None = None
        self._first: dict[str, list[float]] = {}
        self._usual: dict[str, Usual] = {}
        self._lately: dict[str, float] = {}
        self._counters: dict[tuple[str, str], Counter] = {}

    @classmethod
    def of(cls, profile: Profile, profile_id: str, n_learn: int = N_LEARN) -> "DriftMonitor":
        """Return a monitor that compares the first pictures with a profile's references."""
        return cls(profile_id, start_limits(profile.means), n_learn)

    @property
    def is_learning(self) -> bool:
        """Whether it still learns what is usual, and says nothing."""
        return self.n_learnt < self._n_learn

    def observe(self, result: Result, at: str) -> Alarm | None:
        """Take in an inspection.

        Parameters
        ----------
        result : Result
        at : str
            When the picture was taken, ISO 8601.

        Returns
        -------
        Alarm or None
            On the picture that brings a signal over its limit, once; see `active`.
        """
        return self.observe_record(result.to_record(), at)

    def observe_record(self, inspection: Mapping[str, Any], at: str) -> Alarm | None:
        """Take in what `Result.to_dict` returned, or a record of ``cff-run watch``."""
        signals = signals_of(inspection)
        self.n_pictures += 1
        if self.is_learning:
            return self._learn(signals, inspection.get("verdict") == "pass", at)
        over: list[tuple[str, Direction]] = []
        for name, z in self._standardized(signals):
            self._lately[name] = (1 - _LATELY) * self._lately.get(name, 0.0) + _LATELY * z
            for direction, sign in _SIGNS:
                counter = self._counters.setdefault((name, direction), Counter())
                if counter.add(sign * z, at):
                    over.append((name, direction))
                elif not counter.alarmed:
                    self.active.pop((name, direction), None)
        return self._alarm(over, at)

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        atomic_write(path, (json.dumps(self.to_dict()) + "\n").encode())

    def resume(self, path: Path) -> bool:
        """Take up a saved state; False where there is none, or of another profile or setting.

        Raises
        ------
        StorageError
            If the file cannot be read or holds no state; the monitor is then as it was.
        """
        try:
            text = read_limited(path, MAX_STATE_BYTES).decode()
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise StorageError(f"drift state `{path}` must be readable: {error}") from error
        state = parse_object(text, f"drift state `{path}`", StorageError)
        settings = (STATE_SCHEMA, self.profile_id, self._n_learn)
        if settings != tuple(state.get(key) for key in ("schema", "profile", "n_learn")):
            return False
        self._take_state(state)
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the state, ready for JSON."""
        return {
            "schema": STATE_SCHEMA,
            "profile": self.profile_id,
            "n_learn": self._n_learn,
            "n_pictures": self.n_pictures,
            "n_learnt": self.n_learnt,
            "learning_since": self._learning_since,
            "first": {name: list(values) for name, values in self._first.items()},
            "usual": {name: asdict(usual) for name, usual in self._usual.items()},
            "lately": dict(self._lately),
            "counters": _nested(self._counters),
            "active": _nested(self.active),
        }

    def _take_state(self, state: Mapping[str, Any]) -> None:
        """Read every field before the first is taken over."""
        n_pictures, n_learnt = (
            take(state, name, int, StorageError) for name in ("n_pictures", "n_learnt")
        )
        parts = {
            name: take(state, name, dict, StorageError)
            for name in ("first", "usual", "lately", "counters", "active")
        }
        first = {
            name: list(take_floats(parts["first"], name, StorageError)) for name in parts["first"]
        }
        usual = {
            name: Usual.from_dict(take(parts["usual"], name, dict, StorageError))
            for name in parts["usual"]
        }
        lately = {
            name: take(parts["lately"], name, float, StorageError) for name in parts["lately"]
        }
        counters = _flat(parts["counters"], Counter.from_dict)
        active = _flat(parts["active"], Alarm.from_dict)
        since = state.get("learning_since")
        self._learning_since = since if isinstance(since, str) else None
        self.n_pictures, self.n_learnt = n_pictures, n_learnt
        self._first, self._usual, self._lately = first, usual, lately
        self._counters, self.active = counters, active

    def _learn(self, signals: Mapping[str, float], passed: bool, at: str) -> Alarm | None:
        self._learning_since = self._learning_since or at
        for name, value in signals.items():
            values = self._first.setdefault(name, [])
            values.append(value)
            del values[: -MOST_KEPT * self._n_learn]
        self.n_learnt += passed
        if self.is_learning:
            return None
        self._usual = {
            name: Usual.of(name, values)
            for name, values in self._first.items()
            if len(values) >= self._n_learn // 2
        }
        self._first = {}
        return self._compare_with_references(at)

    def _compare_with_references(self, at: str) -> Alarm | None:
        """Say, once, whether what was learnt is far from the references."""
        beyond = {
            name: (self._usual[name].mean - limit) / self._usual[name].spread
            for name, limit in self._limits.items()
            if name in self._usual and self._usual[name].mean > limit
        }
        if not beyond:
            return None
        name = max(beyond, key=lambda one: beyond[one])
        usual, since = self._usual[name], self._learning_since or at
        spread = usual.spread
        text = (
            f"{name} features of the first {usual.n} pictures since {since} lie farther from the "
            f"references, {shown(name, usual.mean)}, than these among themselves; at most "
            f"{shown(name, self._limits[name])} is usual; were the references taken on this line, "
            "as it is now? Enrol again if not; what comes is compared with these pictures"
        )
        limit, n = self._limits[name], usual.n
        return Alarm(name, "up", beyond[name], usual.mean, limit, spread, since, at, n, text=text)

    def _standardized(self, signals: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        for name, value in signals.items():
            usual = self._usual.get(name)
            if usual is not None:
                yield name, (value - usual.mean) / usual.spread

    def _alarm(self, over: list[tuple[str, Direction]], at: str) -> Alarm | None:
        """Make an alarm of each signal that went over its limit; return that which moved most."""
        new = []
        for name, direction in over:
            counter, usual = self._counters[name, direction], self._usual[name]
            sign = 1.0 if direction == "up" else -1.0
            spreads, spread = sign * counter.mean_z, usual.spread
            alarm = Alarm(
                signal=name,
                direction=direction,
                spreads=spreads,
                mean=usual.mean + spreads * spread,
                usual=usual.mean,
                spread=spread,
                since=counter.since or at,
                at=at,
                n_pictures=counter.n,
                moved=self._moved(name),
            )
            self.active[name, direction] = replace(alarm, text=sentence(alarm))
            new.append(self.active[name, direction])
        # of several at once, a plain measure says more than a stage, and a stage than the score
        return max(new, key=lambda one: (plainness(one.signal), abs(one.spreads)), default=None)

    def _moved(self, name: str) -> dict[str, float]:
        """Return the other signals whose own sum, or recent mean, lies off."""
        moved = {}
        for other, lately in self._lately.items():
            own = ((self._counters.get((other, way)), sign) for way, sign in _SIGNS)
            sums = [counter.mean_z * sign for counter, sign in own if counter is not None]
            value = max([*sums, lately], key=abs)
            if other != name and abs(value) >= ALSO:
                moved[other] = round(value, 2)
        return moved


def _nested(table: Mapping[tuple[str, str], Counter | Alarm]) -> dict[str, dict[str, Any]]:
    """Return JSON objects by signal and, inside, by direction."""
    nested: dict[str, dict[str, Any]] = {}
    for (name, direction), entry in table.items():
        nested.setdefault(name, {})[direction] = entry.to_dict()
    return nested


def _flat(
    nested: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]
) -> dict[tuple[str, str], T]:
    flat: dict[tuple[str, str], T] = {}
    for name in nested:
        by_direction = take(nested, name, dict, StorageError)
        for direction, _ in _SIGNS:
            if direction in by_direction:
                flat[name, direction] = read(take(by_direction, direction, dict, StorageError))
    return flat
