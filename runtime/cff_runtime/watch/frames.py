"""Frames on their way from a source to the worker, and the bounded queue between them."""

import datetime
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.references import pixels_sha256


def now_utc() -> str:
    """Return the time in UTC to the millisecond."""
    return utc(datetime.datetime.now(datetime.timezone.utc).timestamp())


def utc(seconds: float) -> str:
    """Return a time since the epoch as text, UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds")


_WAIT_S = 0.1  # how long a waiting thread may miss that it shall stop


@dataclass(frozen=True)
class FileIdentity:
    """What makes a file in a watched folder that file and no other.

    A part photographed again has other bytes, or at least another time, even under an old name.

    Attributes
    ----------
    name : str
    mtime_ns : int
        Time of its last change.
    n_bytes : int
    sha256 : str or None
        Of its bytes; None where they could not be read.
    """

    name: str
    mtime_ns: int
    n_bytes: int
    sha256: str | None


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source.

    Attributes
    ----------
    name : str
        Of the file, or of the camera's frame.
    captured_at : str
        Time of the file or of the camera's answer, UTC.
    pixels : ndarray of shape (h, w, 3), uint8, or None
        RGB; None where there is an error.
    error : str or None
        Why there are no pixels to inspect.
    identity : FileIdentity or None
        None of a camera.
    path : Path or None
        Of the file, to move it away.
    """

    name: str
    captured_at: str
    pixels: NDArray[np.uint8] | None
    error: str | None = None
    identity: FileIdentity | None = None
    path: Path | None = None
    taken_at: str = field(default_factory=now_utc)

    def image_facts(self) -> dict[str, Any]:
        """Return what a record says of the image: hash, what it is a hash of, size in px."""
        size = None if self.pixels is None else [self.pixels.shape[1], self.pixels.shape[0]]
        if self.identity is None:
            digest = None if self.pixels is None else pixels_sha256(self.pixels)
            return {"sha256": digest, "of": "pixels", "size": size}
        return {
            "sha256": self.identity.sha256,
            "of": "file",
            "size": size,
            "n_bytes": self.identity.n_bytes,
            "mtime_ns": self.identity.mtime_ns,
        }


class FrameQueue:
    """A bounded queue of one source; all queues of a worker ring one bell.

    Parameters
    ----------
    size : int
        Frames that may wait.
    bell : threading.Condition
        Notified when a frame has come or gone.
    """

    def __init__(self, size: int, bell: threading.Condition) -> None:
        self._size = size
        self._bell = bell
        self._frames: deque[Frame] = deque()
        self._n_dropped = 0
        self._n_held = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame, stopped: Callable[[], bool]) -> bool:
        """Wait for room and add a frame; False if the source was stopped meanwhile."""
        with self._bell:
            while len(self._frames) >= self._size:
                if stopped():
                    return False
                self._bell.wait(_WAIT_S)
            self._frames.append(frame)
            self._bell.notify_all()
        return True

    def put_dropping(self, frame: Frame) -> int:
        """Add a frame; where there is no room the oldest goes. Return how many went."""
        n_dropped = 0
        with self._bell:
            while len(self._frames) >= self._size:
                self._frames.popleft()
                n_dropped += 1
            self._n_dropped += n_dropped
            self._frames.append(frame)
            self._bell.notify_all()
        return n_dropped

    def take(self) -> Frame | None:
        """Return the oldest frame, or None."""
        with self._bell:
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._bell.notify_all()
            return frame

    def clear(self) -> int:
        """Forget what waits, without calling it dropped; return how many frames that were."""
        with self._bell:
            n_frames = len(self._frames)
            self._frames.clear()
            self._bell.notify_all()
            return n_frames

    def count_held(self, n_frames: int = 1) -> None:
        """Count frames that were passed over while inspection was on hold."""
        with self._bell:
            self._n_held += n_frames

    def take_counts(self) -> tuple[int, int]:
        """Return frames dropped and frames held since the last call; counted from 0 again."""
        with self._bell:
            counts = self._n_dropped, self._n_held
            self._n_dropped = self._n_held = 0
            return counts
