"""A watched folder: files come, are recorded once, and are moved away.

A file counts once its size and time were unchanged for a moment. It is read once: what is hashed
is what is inspected. Hidden files, links, folders and other suffixes are left alone; so a writer
that renames a finished file into place, as `.part` or hidden before, is never read too early.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.errors import ImageError, UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES, MAX_FILE_BYTES, decode_image
from cff_runtime.storage import open_regular, sha256_bytes
from cff_runtime.watch.config import SourceConfig
from cff_runtime.watch.frames import FileIdentity, Frame, FrameQueue, utc
from cff_runtime.watch.output import SourceOutput
from cff_runtime.watch.records import flush_folder

log = logging.getLogger(__name__)

DONE, BAD = "done", "bad"
_FLUSH_EVERY = 32  # moves between two flushes of the folder: what a restart may have to recognise
_FOLDER_FAULT = "folder"


@dataclass
class _Waiting:
    """A file that was seen, and since when it has been the same."""

    mtime_ns: int
    n_bytes: int
    since: float
    taken: bool = False


@dataclass(frozen=True)
class _Known:
    """A file that has a record."""

    identity: FileIdentity
    bad: bool


class FolderSource:
    """Puts the files of a folder into a queue, oldest first, and moves them when recorded.

    Parameters
    ----------
    config : SourceConfig
    queue : FrameQueue
    output : SourceOutput
    recorded : iterable of mapping
        Records whose files may still lie in the folder.
    settled : int
        Number of the last record before these.
    """

    def __init__(
        self,
        config: SourceConfig,
        queue: FrameQueue,
        output: SourceOutput,
        recorded: Iterable[Mapping[str, Any]],
        settled: int = 0,
    ) -> None:
        assert config.folder is not None
        self._config, self._queue, self._output = config, queue, output
        self._folder = config.folder
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()  # of the two tables
        self._recorded = {_key(known.identity): known for known in map(_known, recorded)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"folder {config.name}", daemon=True)
        self._moved_seq = self._n_unflushed = 0
        self.settled = 0 if config.after == "keep" else settled

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further file."""
        self._stop.set()

    def check(self) -> None:
        """Nothing to watch over: a folder that is silent has no files."""

    def finish(self, frame: Frame, seq: int, bad: bool) -> None:
        """Move or delete the file of a record that is on disk.

        Raises
        ------
        OSError
            If that fails; it can be tried again.
        """
        assert frame.path is not None and frame.identity is not None
        if self._config.after == "keep":
            with self._lock:
                self._recorded[_key(frame.identity)] = _Known(frame.identity, bad)
            return
        try:
            self._take_away(frame.path, frame.identity, BAD if bad else DONE, seq)
        except FileNotFoundError:  # somebody else took it
            log.warning("%s: %s was gone before it could be moved", self._config.name, frame.name)
        self._moved_seq = seq
        self._n_unflushed += 1
        if self._n_unflushed >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Make the moves outlive a power cut; only then do records say so."""
        if self._config.after != "keep" and self._n_unflushed:
            flush_folder(self._folder)
            self.settled, self._n_unflushed = self._moved_seq, 0

    def release(self, frame: Frame) -> None:
        """Look at a file again that was taken and not recorded."""
        with self._lock:
            if (seen := self._waiting.get(frame.name)) is not None:
                seen.taken = False

    def _run(self) -> None:
        while not self._stop.wait(self._config.poll_ms / 1000):
            try:
                if not self._output.holds:
                    self._scan()
                self._output.clear(_FOLDER_FAULT)
            except OSError as error:
                self._fail(error.strerror or str(error))
            except (
                Exception
            ) as error:  # a source that ended without a word would look like no parts
                log.exception("%s", self._config.name)
                self._fail(repr(error))

    def _fail(self, reason: str) -> None:
        self._output.fault(_FOLDER_FAULT, f"folder `{self._folder}` cannot be used: {reason}")

    def _scan(self) -> None:
        seen: dict[str, os.stat_result] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                wanted = name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith((".", "~"))
                with contextlib.suppress(FileNotFoundError):
                    if wanted and entry.is_file(follow_symlinks=False):
                        seen[name] = entry.stat(follow_symlinks=False)
        self._forget(seen)
        now = time.monotonic()
        for name in sorted(seen, key=lambda one: (seen[one].st_mtime_ns, one)):
            if self._stop.is_set() or self._output.holds:
                return
            if self._is_ready(name, seen[name], now):
                self._deliver(name, now)

    def _forget(self, seen: Mapping[str, os.stat_result]) -> None:
        """Keep no memory of files that are gone: months are long."""
        with self._lock:
            for name in [name for name in self._waiting if name not in seen]:
                del self._waiting[name]
            for key in [key for key in self._recorded if key[0] not in seen]:
                del self._recorded[key]

    def _is_ready(self, name: str, status: os.stat_result, now: float) -> bool:
        waiting = self._waiting.get(name)
        if waiting is None or (waiting.mtime_ns, waiting.n_bytes) != (
            status.st_mtime_ns,
            status.st_size,
        ):
            with self._lock:
                self._waiting[name] = _Waiting(status.st_mtime_ns, status.st_size, now)
            return self._config.settle_ms == 0
        return not waiting.taken and now - waiting.since >= self._config.settle_ms / 1000

    def _deliver(self, name: str, now: float) -> None:
        waiting = self._waiting[name]
        key = (name, waiting.mtime_ns, waiting.n_bytes)
        frame = self._read(name, waiting, now)
        if frame is None:
            return
        waiting.taken = True
        with self._lock:
            known = self._recorded.get(key)
        digest = frame.identity and frame.identity.sha256
        if known is not None and known.identity.sha256 == digest:  # before the process ended
            if self._config.after != "keep":
                where = BAD if known.bad else DONE
                self._take_away(self._folder / name, known.identity, where, 0)
            return
        if not self._queue.put(frame, lambda: self._stop.is_set() or self._output.holds):
            waiting.taken = False

    def _read(self, name: str, waiting: _Waiting, now: float) -> Frame | None:
        """Return the file as a frame; None where it must be looked at again."""
        path = self._folder / name
        old = now - waiting.since >= self._config.patience_ms / 1000
        digest, pixels, error = None, None, None
        try:
            with open_regular(path) as file:
                data = file.read(MAX_FILE_BYTES + 1)
                after = os.fstat(file.fileno())
            if (after.st_mtime_ns, len(data)) != (waiting.mtime_ns, waiting.n_bytes):
                if len(data) <= MAX_FILE_BYTES:
                    return None  # somebody is still writing
                raise ImageError(f"`{name}` must have at most {MAX_FILE_BYTES} bytes")
            digest = sha256_bytes(data)
            pixels = decode_image(data, name)
        except FileNotFoundError:
            return None
        except (OSError, ImageError, UsageError) as problem:
            if not old:  # its writer may pause
                return None
            error = str(problem)
        identity = FileIdentity(name, waiting.mtime_ns, waiting.n_bytes, digest)
        return Frame(name, utc(waiting.mtime_ns / 1e9), pixels, error, identity, path)

    def _take_away(self, path: Path, identity: FileIdentity, where: str, seq: int) -> None:
        """Move or delete the very file that was recorded, and no other that took its name."""
        if not _is_same(path, identity):
            return  # another file of that name has come meanwhile: it is the next one
        if self._config.after == "delete":
            target = path.with_name(f".deleted.{path.name}")
        else:
            target = self._folder / where / utc(time.time())[:10] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
        n_tries = 0
        while os.path.lexists(target):  # nothing that was kept is written over
            n_tries += 1
            target = target.with_name(f"{target.stem}.{seq or 'again'}.{n_tries}{path.suffix}")
        path.rename(target)
        if not _is_same(target, identity):  # it came between the look and the move
            _put_back(target, path)
        elif self._config.after == "delete":
            target.unlink()


def _is_same(path: Path, identity: FileIdentity) -> bool:
    status = path.lstat()
    return (status.st_mtime_ns, status.st_size) == (identity.mtime_ns, identity.n_bytes)


def _put_back(moved: Path, path: Path) -> None:
    """Return a file to the folder, beside whatever has its name there by now."""
    target, n_tries = path, 0
    while True:
        try:
            os.link(moved, target)  # unlike a rename, it writes nothing over
        except FileExistsError:
            n_tries += 1
            target = path.with_name(f"{path.stem}.back.{n_tries}{path.suffix}")
        else:
            moved.unlink()
            return


def check_folder(config: SourceConfig, where: str) -> None:
    """Refuse a folder that cannot be watched as it is wished.

    Raises
    ------
    UsageError
        Naming the field.
    """
    folder = config.folder
    assert folder is not None
    if not folder.is_dir():
        raise UsageError(f"`{where}.folder` must be an existing folder, got `{folder}`")
    needed = os.R_OK | os.X_OK | (0 if config.after == "keep" else os.W_OK)
    if not os.access(folder, needed):
        raise UsageError(
            f"`{where}.folder` must be readable{'' if config.after == 'keep' else ' and writable'} "
            f"for this user, `{folder}` is not; change its owner or use --after keep"
        )
    if config.after == "move":
        for name in (DONE, BAD):
            target = folder / name
            if target.exists() and target.stat().st_dev != folder.stat().st_dev:
                raise UsageError(
                    f"`{where}.folder` must hold `{name}` on its own disk: files are renamed there"
                )


def _key(identity: FileIdentity) -> tuple[str, int, int]:
    return (identity.name, identity.mtime_ns, identity.n_bytes)


def _known(record: Mapping[str, Any]) -> _Known:
    image = record["image"]
    identity = FileIdentity(
        record["name"], image.get("mtime_ns", 0), image.get("n_bytes", 0), image["sha256"]
    )
    return _Known(identity, record["verdict"] == "error")
