"""Everything of one source that the worker carries, and the frame that it has in hand."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from cff_runtime.result import Result
from cff_runtime.watch.config import SourceConfig
from cff_runtime.watch.engine import Judge
from cff_runtime.watch.frames import Frame, FrameQueue
from cff_runtime.watch.output import SourceOutput
from cff_runtime.watch.pictures import RejectPictures
from cff_runtime.watch.records import RecordLog

# Sees every inspected frame and its result; returns sentences for the record, state and log.
Observer = Callable[[Frame, Result], Iterable[str]]
# Called with a source's name and its judge whenever a profile comes into use.
ObserverFactory = Callable[[str, Judge], Observer]


class Source(Protocol):
    """Where frames come from."""

    settled: int

    def start(self) -> None:
        """Begin to put frames into the queue."""
        ...

    def stop(self) -> None:
        """Take no further frame."""
        ...

    def check(self) -> None:
        """Look whether it still lives; called often, by the guard."""
        ...

    def finish(self, frame: Frame, seq: int, bad: bool) -> None:
        """Put away what is left of a frame whose record is on disk; may raise OSError."""
        ...

    def flush(self) -> None:
        """Make that outlive a power cut; may raise OSError."""
        ...


@dataclass
class InHand:
    """A frame between the queue and the end of its way.

    Attributes
    ----------
    epoch : int
        Of the output when the frame was taken; see `SourceOutput.decide`.
    record : dict or None
        Once it was inspected.
    is_recorded : bool
        Once the record is on disk and the verdict put out.
    """

    frame: Frame
    epoch: int
    n_failures: int = 0
    record: dict[str, Any] | None = None
    is_recorded: bool = False


@dataclass
class Lane:
    """One source's way through the worker."""

    config: SourceConfig
    queue: FrameQueue
    output: SourceOutput
    records: RecordLog
    source: Source
    pictures: RejectPictures | None = None
    in_hand: InHand | None = None
    retry_at: float = 0.0
    observed: Judge | None = None
    observers: list[Observer] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the source."""
        return self.config.name
