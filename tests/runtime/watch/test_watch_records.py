import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cff_runtime.errors import StorageError
from cff_runtime.watch.records import RecordLog, read_records


def _record(seq: int, settled: int = 0, text: str = "") -> dict[str, Any]:
    return {"kind": "inspection", "seq": seq, "settled": settled, "text": text}


def _seqs(folder: Path) -> list[int]:
    return [record["seq"] for record in read_records(folder)]


def test_lines_are_whole_and_numbers_go_on(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r", 1 << 20)
    for seq in (1, 2, 3):
        log.append(_record(seq, text='a\n"b\u2028 \udcff'))
    log.append({"kind": "event", "event": "stop"})
    log.close()

    (path,) = (tmp_path / "r").iterdir()
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b"" and len(lines) == 5
    assert json.loads(lines[0])["text"] == 'a\n"b\u2028 \udcff'
    assert RecordLog(tmp_path / "r", 1 << 20).last_seq == 3


@pytest.mark.parametrize(
    "torn", [b'{"kind":"insp', b"\0" * 300, b'{"seq": 9}', b'{"a"\n\0\0\n', b"7\n"]
)
def test_a_torn_end_is_cut_off_and_kept(torn: bytes, tmp_path: Path) -> None:
    log = RecordLog(tmp_path, 1 << 20)
    log.append(_record(1))
    log.append(_record(2))
    log.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)

    again = RecordLog(tmp_path, 1 << 20)

    assert again.torn_bytes == len(torn) and again.last_seq == 2
    assert path.read_bytes() == whole
    (aside,) = tmp_path.glob("torn-*.bin")
    assert aside.read_bytes() == torn
    again.append(_record(3))
    again.close()
    assert _seqs(tmp_path) == [1, 2, 3]
    assert RecordLog(tmp_path, 1 << 20).torn_bytes == 0


def test_files_are_closed_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, 500, limit_bytes=2000)
    for seq in range(1, 101):
        log.append(_record(seq, settled=seq - 1))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    log.close()

    assert all(path.stat().st_size <= 500 for path in tmp_path.iterdir())
    kept = _seqs(tmp_path)
    assert kept == list(range(kept[0], 101)) and kept[0] > 50
    assert RecordLog(tmp_path, 500).last_seq == 100


def test_no_limit_takes_what_a_restart_must_know(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, 500, limit_bytes=1000)
    for seq in range(1, 61):
        log.append(_record(seq, settled=20 if seq > 20 else 0))
    log.close()
    assert [r for r in _seqs(tmp_path) if r > 20] == list(range(21, 61))
    again = RecordLog(tmp_path, 500, limit_bytes=1000)
    assert [r["seq"] for r in again.since_settled()] == list(range(60, 20, -1))


def test_the_number_goes_on_from_a_files_name(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, 100)
    for seq in range(1, 6):
        log.append(_record(seq, seq))
    log.close()
    *older, last = sorted(tmp_path.iterdir())
    for path in older:
        path.unlink()
    last.write_bytes(b"")
    assert RecordLog(tmp_path, 100).last_seq == 4


def test_a_full_disk_leaves_no_half_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordLog(tmp_path, 1 << 20)
    log.append(_record(1))
    write = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[:7])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_some)
        for _ in range(3):
            with pytest.raises(OSError) as caught:
                log.append(_record(2))
            assert caught.value.errno == errno.ENOSPC
    assert _seqs(tmp_path) == [1]
    log.append(_record(2))
    assert _seqs(tmp_path) == [1, 2]


def test_a_record_whose_flush_failed_is_not_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordLog(tmp_path, 1 << 20)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(os, "ftruncate", fail)  # the line stays, unknown to us
        with pytest.raises(OSError, match="Input/output"):
            log.append(_record(1))
    log.append(_record(1))
    log.append(_record(2))
    assert _seqs(tmp_path) == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_is_full_indeed(small_disk: Path) -> None:
    log = RecordLog(small_disk / "r", 8000)
    seq = 0
    with pytest.raises(OSError, match="No space"):
        for seq in range(1, 2000):
            log.append(_record(seq, text="x" * 300))
    assert 50 < seq < 300
    assert _seqs(small_disk / "r") == list(range(1, seq))
    min((small_disk / "r").iterdir()).unlink()
    log.append(_record(seq))
    assert _seqs(small_disk / "r")[-1] == seq
    log.close()


def test_flushing_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    log = RecordLog(tmp_path, 1 << 20, sync_ms=60_000)
    n_before = len(flushed)
    for seq in range(1, 50):
        log.append(_record(seq))
    log.sync()
    assert len(flushed) == n_before
    log.sync(force=True)
    assert len(flushed) == n_before + 1


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="records must be readable and writable"):
        RecordLog(tmp_path / "file" / "r", 1000)


def test_records_that_somebody_removed_are_not_written_into_nothing(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r", 1 << 20)
    log.append(_record(1))
    shutil.rmtree(tmp_path / "r")
    log.append(_record(2))
    assert _seqs(tmp_path / "r") == [2]
