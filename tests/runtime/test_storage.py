import errno
import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cff_runtime import storage
from cff_runtime.errors import StorageError
from cff_runtime.storage import atomic_path, atomic_write, sha256_bytes, sha256_file


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_hashes_are_sha256(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) * 2 + 17)  # more than two blocks
    (tmp_path / "data").write_bytes(data)

    assert sha256_file(tmp_path / "data") == hashlib.sha256(data).hexdigest()
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"

    atomic_write(path, b"first")
    assert path.read_bytes() == b"first"
    atomic_write(path, b"second, longer")

    assert path.read_bytes() == b"second, longer"
    assert _names(path.parent) == ["file.bin"]


def test_the_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)

    atomic_write(path, b"data")

    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_the_user(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        atomic_write(tmp_path / "file", b"data")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with atomic_path(path) as temporary:
        temporary.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # a rename must not cross file systems

    assert path.read_bytes() == b"ne"


def test_data_reach_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "file", []
    replace = Path.replace

    def synced(handle: int) -> None:
        events.append(("fsync", os.fstat(handle).st_size))

    def replaced(source: Path, target: Path) -> Path:
        events.append(("rename", source.stat().st_size))
        return replace(source, target)

    monkeypatch.setattr(storage.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)

    atomic_write(path, b"12345")

    assert events == [("fsync", 5), ("rename", 5)]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_an_error_inside_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error

    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fsync":
        monkeypatch.setattr(storage.os, "fsync", full)
    else:
        monkeypatch.setattr(Path, {"write": "write_bytes", "rename": "replace"}[step], full)

    with pytest.raises(StorageError, match=r"could not be written: No space left.*nothing was"):
        atomic_write(path, b"new")

    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_a_file_size_limit_leaves_the_old_file(
    tmp_path: Path, run_python: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    code = """
import resource, sys
from pathlib import Path
from cff_runtime.errors import StorageError
from cff_runtime.storage import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(Path(sys.argv[1]), bytes(100_000))
except StorageError as error:
    print(error)
"""

    done = run_python(code, tmp_path / "file")

    assert "could not be written: File too large" in done.stdout, done.stderr
    assert (tmp_path / "file").read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["folder is a file", "target is a folder", "no such device"])
def test_an_impossible_place_is_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    if kind == "folder is a file":
        path.write_bytes(b"file")
        path = path / "inside"
    elif kind == "target is a folder":
        (path / "full").mkdir(parents=True)
    else:
        path = Path("/proc/no/such/place")

    with pytest.raises(StorageError, match="could not be written") as caught:
        atomic_write(path, b"data")

    assert str(path) in str(caught.value)
    assert not [name for name in _names(tmp_path) if name.endswith(".tmp")]


def test_an_unwritable_folder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object, **__: object) -> None:  # root may write anywhere: pretend
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", deny)

    with pytest.raises(StorageError, match="Permission denied"):
        atomic_write(tmp_path / "file", b"data")

    assert _names(tmp_path) == []


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 200_000 for letter in b"abcd"]

    def write(data: bytes) -> None:
        for _ in range(10):
            atomic_write(path, data)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in contents
    for thread in threads:
        thread.join()

    assert path.read_bytes() in contents
    assert _names(tmp_path) == ["file"]
