"""The record of every inspection: JSON lines that outlive a crash, a power cut and a full disk.

A line is on disk, whole, before `RecordLog.append` returns; else the file is cut back to what it
was. `settled` in a record is the last record whose file has left the watched folder for good, so
what came after it is all that a restart has to know.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.errors import StorageError

RECORD_SCHEMA = 1
INSPECTION, EVENT = "inspection", "event"
_NAME = re.compile(r"records-(\d{6,})-(\d{12,})\.jsonl")


@dataclass(frozen=True)
class RecordFile:
    """One file of records: its number, and the sequence number that its first record has."""

    path: Path
    number: int
    first_seq: int


class RecordLog:
    """The records of one source, in a folder of its own. May be used from several threads.

    Parameters
    ----------
    folder : Path
    max_file_bytes : int
        A file that would grow above it is closed and the next one begun.
    limit_bytes : int
        Of all files together; the oldest closed ones are removed. 0 keeps them all.
    sync_ms : float
        0 flushes every record to disk before its verdict is put out; else the disk is up to so
        many milliseconds behind: a power cut may take these records, a killed process none.

    Attributes
    ----------
    last_seq : int
        Of the last record, 0 before the first.
    torn_bytes : int
        Length of a torn end that was cut off when the log was opened, and kept beside.
    settled : int
        As the last record says it.

    Raises
    ------
    StorageError
        If the folder cannot be read or written.
    """

    def __init__(
        self, folder: Path, max_file_bytes: int, limit_bytes: int = 0, sync_ms: float = 0.0
    ) -> None:
        self.folder = folder
        self._max_file_bytes = max_file_bytes
        self._limit_bytes = limit_bytes
        self._sync_s = sync_ms / 1000
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._synced_at = time.monotonic()
        self._unsynced = False
        self.torn_bytes = 0
        self.last_seq = self.settled = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._reopen()
        except OSError as error:
            raise StorageError(
                f"records must be readable and writable in `{folder}`: {error.strerror or error}"
            ) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, or nothing. One whose ``seq`` stands there already is not repeated.

        Raises
        ------
        OSError
            If it could not be written, such as on a full disk; it can be tried again.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        seq = record.get("seq") or 0
        with self._lock:
            if self._descriptor is None or not self._is_there():
                self._forget_file()
                self.folder.mkdir(parents=True, exist_ok=True)
                self._reopen()
            if seq and seq <= self.last_seq:  # a try that failed after the line was written
                return
            if self._size and self._size + len(line) > self._max_file_bytes:
                self._begin_file()
            self._write(line)
            self.last_seq = max(self.last_seq, seq)
            self.settled = max(self.settled, record.get("settled") or 0)

    def sync(self, force: bool = False) -> None:
        """Flush to disk what is due; for `sync_ms` above 0."""
        with self._lock:
            due = force or time.monotonic() - self._synced_at >= self._sync_s
            if self._unsynced and due and self._descriptor is not None:
                os.fsync(self._descriptor)
                self._unsynced, self._synced_at = False, time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        with contextlib.suppress(OSError):
            self.sync(force=True)
        with self._lock:
            self._forget_file()

    def files(self) -> list[RecordFile]:
        """Return the files, oldest first."""
        found = []
        for path in self.folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                found.append(RecordFile(path, int(match[1]), int(match[2])))
        return sorted(found, key=lambda file: file.number)

    def since_settled(self) -> Iterator[dict[str, Any]]:
        """Yield the inspections whose files may still lie in the folder, newest first."""
        for file in reversed(self.files()):
            for line in reversed(file.path.read_bytes().splitlines()):
                record = _parse(line)
                if record is None or record.get("kind") != INSPECTION:
                    continue
                if record["seq"] <= self.settled:
                    return
                yield record

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        except OSError:
            self._cut_back()
            raise
        self._unsynced = True
        try:
            if not self._sync_s or time.monotonic() - self._synced_at >= self._sync_s:
                os.fsync(self._descriptor)
                self._unsynced, self._synced_at = False, time.monotonic()
        except OSError:
            self._cut_back()
            self._forget_file()  # after a failed fsync the kernel's idea of the file is no proof
            raise
        self._size += len(line)

    def _cut_back(self) -> None:
        """Make the file what it was; where the disk does not let us, the next try looks itself."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._forget_file()

    def _is_there(self) -> bool:
        """Tell whether the open file is still the one in the folder, which others may remove."""
        assert self._descriptor is not None and self._path is not None
        try:
            found, own = self._path.stat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)

    def _forget_file(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None

    def _reopen(self) -> None:
        """Open the newest file behind its last whole record."""
        files = self.files()
        if files:
            self._cut_torn_end(files[-1].path)
        self._read_last(files)
        if not files or files[-1].path.stat().st_size >= self._max_file_bytes:
            self._begin_file()
        else:
            self._open(files[-1].path)

    def _read_last(self, files: list[RecordFile]) -> None:
        for file in reversed(files):
            for line in reversed(file.path.read_bytes().splitlines()):
                record = _parse(line)
                if record is not None and record.get("kind") == INSPECTION:
                    self.last_seq = max(self.last_seq, record["seq"])
                    self.settled = max(self.settled, record["settled"])
                    return
        if files:  # of records that were removed, the name still tells the number
            self.last_seq = max(self.last_seq, files[-1].first_seq - 1)

    def _cut_torn_end(self, path: Path) -> None:
        data = path.read_bytes()
        whole = len(data)
        while whole:
            start = data.rfind(b"\n", 0, whole - 1) + 1
            if data[whole - 1 : whole] == b"\n" and _parse(data[start:whole]) is not None:
                break
            whole = start
        if whole == len(data):
            return
        aside = self.folder / f"torn-{path.stem}-{time.time_ns()}.bin"
        aside.write_bytes(data[whole:])
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        self.torn_bytes += len(data) - whole

    def _begin_file(self) -> None:
        files = self.files()
        number = files[-1].number + 1 if files else 1
        name = f"records-{number:06d}-{self.last_seq + 1:012d}.jsonl"
        old, self._descriptor = self._descriptor, None
        if old is not None:
            try:
                os.fsync(old)
            finally:
                os.close(old)
        self._remove_oldest(files)
        self._open(self.folder / name)
        flush_folder(self.folder)

    def _remove_oldest(self, files: list[RecordFile]) -> None:
        """Keep the limit; room for the file that begins is part of it."""
        if not self._limit_bytes:
            return
        total = sum(file.path.stat().st_size for file in files) + self._max_file_bytes
        for file, following in itertools.pairwise(files):
            if total <= self._limit_bytes or following.first_seq - 1 > self.settled:
                return
            total -= file.path.stat().st_size
            file.path.unlink()

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._path = path
        self._size = os.fstat(self._descriptor).st_size


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records and events of a source's folder, oldest first."""
    for path in sorted(folder.glob("records-*.jsonl")):
        for line in path.read_bytes().splitlines():
            record = _parse(line)
            if record is not None:
                yield record


def flush_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
