"""An alarm, and its sentence for whoever looks after the line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cff_runtime.drift.signals import (
    ACROSS,
    BRIGHTNESS,
    DOWN,
    SCORE,
    SHARPNESS,
    is_stage,
    shown,
)
from cff_runtime.errors import StorageError
from cff_runtime.jsonfields import take

Direction = Literal["up", "down"]
ALSO = 2.0  # spreads by which a signal counts as moved beside the one that alarms


@dataclass(frozen=True)
class Alarm:
    """A signal that moved for good.

    Attributes
    ----------
    signal : str
        See `cff_runtime.drift.signals`.
    direction : {'up', 'down'}
    spreads : float
        How far its mean lies from the usual one since then, in usual spreads; negative for down.
    mean, usual, spread : float
        Of the signal: since then, of the baseline, and the baseline's standard deviation.
    since : str
        When the first picture of the change was taken, as estimated.
    at : str
        When the picture was taken that gave the alarm.
    n_pictures : int
        From the one to the other.
    moved : mapping of str to float
        Other signals that lie 2 spreads or more off lately, in spreads.
    text : str
        All of it in a sentence.
    """

    signal: str
    direction: Direction
    spreads: float
    mean: float
    usual: float
    spread: float
    since: str
    at: str
    n_pictures: int
    moved: Mapping[str, float] = field(default_factory=dict)
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return {**asdict(self), "moved": dict(self.moved)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Alarm":
        """Read what `to_dict` gave.

        Raises
        ------
        StorageError
            If it is not that.
        """
        direction = take(fields, "direction", str, StorageError)
        if direction not in ("up", "down"):
            raise StorageError(f"`direction` must be up or down, got {direction!r:.40}")
        moved = take(fields, "moved", dict, StorageError)
        return cls(
            signal=take(fields, "signal", str, StorageError),
            direction="up" if direction == "up" else "down",
            spreads=take(fields, "spreads", float, StorageError),
            mean=take(fields, "mean", float, StorageError),
            usual=take(fields, "usual", float, StorageError),
            spread=take(fields, "spread", float, StorageError),
            since=take(fields, "since", str, StorageError),
            at=take(fields, "at", str, StorageError),
            n_pictures=take(fields, "n_pictures", int, StorageError),
            moved={name: take(moved, name, float, StorageError) for name in moved},
            text=take(fields, "text", str, StorageError),
        )

    def __str__(self) -> str:
        return self.text


def sentence(alarm: Alarm) -> str:
    """Return the sentence of an alarm."""
    what = _what(alarm.signal, alarm.direction)
    was = shown(alarm.signal, alarm.usual)
    return (
        f"{what} since {_clock(alarm.since, alarm.at)} ({alarm.n_pictures} pictures): "
        f"{shown(alarm.signal, alarm.mean)}, usual is {was}, off by {abs(alarm.spreads):.1f} usual "
        f"spreads; {_cause(alarm)}"
    )


def _what(signal: str, direction: Direction) -> str:
    if is_stage(signal):
        where = "away from" if direction == "up" else "nearer to"
        return f"{signal} features moved {where} the references"
    if signal in (ACROSS, DOWN):
        right_left = ("right", "left") if signal == ACROSS else ("down", "up")
        return f"the part's position moved {right_left[direction == 'down']}"
    verb = "rose" if direction == "up" else "fell"
    return {
        SCORE: f"scores {verb}",
        SHARPNESS: f"sharpness {verb}",
        BRIGHTNESS: f"brightness {verb}",
    }[signal]


def _cause(alarm: Alarm) -> str:
    """Say what such a change looks like; the plainest of the signals that moved decides."""
    off = {alarm.signal: alarm.spreads, **alarm.moved}
    if abs(off.get(BRIGHTNESS, 0.0)) > 0.0:
        return "light or exposure looks like this; is the light as it was?"
    if off.get(SHARPNESS, 0.0) < 0.0:
        return "blur looks like this; is the lens clean and in focus?"
    if alarm.signal in (ACROSS, DOWN):  # beside others it may be chance: it varies on textures
        return "a moved camera or fixture looks like this"
    if off.get(SHARPNESS, 0.0) > 0.0:
        return "another material or surface, or another focus, looks like this"
    if all(value < 0.0 for value in off.values()):
        return "do the same parts come again, or does the camera repeat pictures?"
    return "another material, supplier or variant looks like this"


def _clock(since: str, at: str) -> str:
    """Return the time of day, with the date where that is not the alarm's."""
    day, _, time = since.partition("T")
    if not time:
        return since
    minute = time[:5]
    return minute if at.startswith(day) else f"{day} {minute}"
