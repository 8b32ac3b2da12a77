"""A camera through OpenCV: read by a thread of its own, opened again when lost.

A read that hangs cannot be ended from outside, so its thread is left behind and another one
begins; no more than a few may hang at a time.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import ImageError
from cff_runtime.imaging import require_image
from cff_runtime.watch.camera_checks import FrozenCheck, blankness
from cff_runtime.watch.config import SourceConfig
from cff_runtime.watch.frames import Frame, FrameQueue, now_utc
from cff_runtime.watch.output import SourceOutput

log = logging.getLogger(__name__)

_MOST_PAUSE_S = 5.0
_LOST, _FROZEN, _BLANK = "camera", "frozen", "blank"


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def isOpened(self) -> bool:  # noqa: N802
        """Tell whether there is a camera."""
        ...

    def read(self) -> tuple[bool, Any]:
        """Return whether there is a frame, and the frame [h,w,3] uint8, BGR."""
        ...

    def release(self) -> None:
        """Close."""
        ...


OpenCapture = Callable[[str], Capture]


def open_capture(camera: str) -> Capture:
    """Open a device number, a device file or an address with OpenCV."""
    if camera.isascii() and camera.isdigit():
        return cv2.VideoCapture(int(camera))
    return cv2.VideoCapture(camera)


class CameraSource:
    """Puts a camera's frames into a queue and puts out a fault while it gives none.

    Parameters
    ----------
    config : SourceConfig
    queue : FrameQueue
    output : SourceOutput
    usual : callable
        Returns what the references look like by themselves, see `blank_references`.
    opener : callable
        As `open_capture`.
    on_drop : callable, optional
        Called with the number of frames that went because the queue was full.
    """

    settled = 0

    def __init__(
        self,
        config: SourceConfig,
        queue: FrameQueue,
        output: SourceOutput,
        usual: Callable[[], frozenset[str]],
        opener: OpenCapture = open_capture,
        on_drop: Callable[[int], None] = lambda n_frames: None,
    ) -> None:
        assert config.camera is not None
        self._camera = config.camera
        self._config, self._queue, self._output = config, queue, output
        self._usual, self._opener, self._on_drop = usual, opener, on_drop
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None
        self._hung: list[threading.Thread] = []
        self._progress_at = self._frame_at = time.monotonic()
        self._queued_at = 0.0
        self._frozen = FrozenCheck(config)
        self._n_frames = 0

    def start(self) -> None:
        """Begin to read."""
        with self._lock:
            self._output.fault(_LOST, f"camera {self._shown} gives no frame yet")
            self._begin_reader()

    def stop(self) -> None:
        """Take no further frame."""
        self._stop.set()

    def finish(self, frame: Frame, seq: int, bad: bool) -> None:
        """Nothing is left of a frame."""

    def flush(self) -> None:
        """Nothing to flush."""

    def release(self, frame: Frame) -> None:
        """A frame that was not inspected is gone."""

    @property
    def frame_age_s(self) -> float:
        """Seconds since the last frame."""
        return time.monotonic() - self._frame_at

    @property
    def _shown(self) -> str:
        """The address without the password that it may hold."""
        scheme, separator, rest = self._camera.rpartition("@")
        return f"{scheme.partition('://')[0]}://...@{rest}" if separator else self._camera

    def check(self) -> None:
        """Put out a fault when no frame comes, replace a reader that hangs; called often."""
        now = time.monotonic()
        if now - self._frame_at > self._config.read_timeout_ms / 1000:
            self._output.fault(_LOST, f"camera {self._shown} gives no frames")
        if now - self._progress_at <= self._config.hang_ms / 1000 or self._stop.is_set():
            return
        with self._lock:
            self._hung = [thread for thread in self._hung if thread.is_alive()]
            reader = self._reader
            if len(self._hung) >= self._config.max_hung:
                self._output.note(_LOST, f"{len(self._hung)} reads hang; is the driver alive?")
                return
            if reader is not None and reader.is_alive():
                log.warning("camera %s: a read hangs and is given up", self._shown)
                self._hung.append(reader)
            self._begin_reader()

    def _begin_reader(self) -> None:
        self._progress_at = time.monotonic()
        self._reader = threading.Thread(
            target=self._read_on, name=f"camera {self._config.name}", daemon=True
        )
        self._reader.start()

    def _is_current(self) -> bool:
        return self._reader is threading.current_thread() and not self._stop.is_set()

    def _read_on(self) -> None:
        pause_s = self._config.reopen_ms / 1000
        while self._wait_and_see(0):
            n_before = self._n_frames
            try:
                self._read_one_opening()
            except Exception as error:  # a driver may raise anything, and the line goes on
                self._lose(f"camera {self._shown}: {error}")
            if self._n_frames > n_before:
                pause_s = self._config.reopen_ms / 1000
            if not self._wait_and_see(pause_s):
                return
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    def _wait_and_see(self, pause_s: float) -> bool:
        """Pause; return whether this thread is still the reader."""
        ends = time.monotonic() + pause_s
        while self._is_current():
            self._progress_at = time.monotonic()
            left = ends - self._progress_at
            if left <= 0:
                return True
            self._stop.wait(min(left, 0.1))
        return False

    def _read_one_opening(self) -> None:
        capture = self._opener(self._camera)
        try:
            if not capture.isOpened():
                self._lose(f"camera {self._shown} cannot be opened")
                return
            self._frozen.reset()
            while self._is_current():
                there, image = capture.read()
                if not self._is_current():
                    return
                self._progress_at = time.monotonic()
                if not there or image is None:
                    self._lose(f"camera {self._shown} gave no frame")
                    return
                self._take(image)
        finally:
            with contextlib.suppress(Exception):
                capture.release()

    def _lose(self, reason: str) -> None:
        if self._is_current():
            self._output.fault(_LOST, reason)

    def _take(self, image: NDArray[np.uint8]) -> None:
        self._frame_at = time.monotonic()
        self._n_frames += 1
        pixels = require_image(_to_rgb(image), f"camera {self._shown}")
        self._output.clear(_LOST)
        self._output.note(_LOST, None)
        frozen = self._frozen(pixels)
        self._say(_FROZEN, frozen)
        blank = blankness(pixels) if self._config.black else None
        if blank in self._usual():
            blank = None
        self._say(_BLANK, blank and f"the camera's image is {blank}")
        if frozen or blank:
            return
        if self._frame_at - self._queued_at < self._config.interval_ms / 1000:
            return
        if self._output.holds:
            self._queue.count_held()
            return
        self._queued_at = self._frame_at
        frame = Frame(f"frame-{self._n_frames:09d}", now_utc(), pixels)
        if self._config.policy == "block":
            self._queue.put(frame, self._ends_waiting)
        elif n_dropped := self._queue.put_dropping(frame):
            self._on_drop(n_dropped)

    def _ends_waiting(self) -> bool:
        """Tell whether to wait no longer for room; the camera is not to blame for the wait."""
        if self._is_current():
            self._progress_at = self._frame_at = time.monotonic()
        return not self._is_current() or self._output.holds

    def _say(self, kind: str, reason: str | None) -> None:
        if reason:
            self._output.fault(kind, reason)
        else:
            self._output.clear(kind)


def _to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ImageError(f"a frame must be uint8, got {getattr(image, 'dtype', type(image))}")
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
