import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_runtime.errors import UsageError
from cff_runtime.watch import folder as folder_module
from cff_runtime.watch.service import Watch


def test_a_file_becomes_a_record_and_is_moved(station: Any, png: Callable[..., bytes]) -> None:
    station.start()
    good, dark = png(1, mean=100), png(2, mean=180)
    station.put("part 4711.png", good)
    station.wait_lines(1)
    station.put("part4712.png", dark)

    first, second = station.wait_lines(2)

    assert (first["name"], first["seq"], first["verdict"]) == ("part 4711.png", 1, "pass")
    assert (second["name"], second["seq"], second["verdict"]) == ("part4712.png", 2, "reject")
    assert first["image"]["sha256"] == hashlib.sha256(good).hexdigest()
    assert first["image"]["of"] == "file" and first["image"]["size"] == [24, 24]
    assert first["bundle"] == "bundle-1"
    profile = (station.base / "profile").read_bytes()
    assert first["profile"] == hashlib.sha256(profile).hexdigest()
    assert first["output"] == "pass" and first["run"] == station.watch.run_id
    state = station.wait_state(seq=2, state="run")
    assert state["verdict"] == "reject"
    station.stop()
    assert station.inside("done") == {"part 4711.png", "part4712.png"}
    assert station.state()["state"] == "stopped" and station.state()["verdict"] == "fault"
    events = [line["event"] for line in station.lines("event")]
    assert events[0] == "start" and events[-1] == "stop"


def test_bad_files_get_a_record_too(station: Any, png: Callable[..., bytes]) -> None:
    whole = png(1)
    bad = {"text.png": b"no image", "cut.png": whole[:200], "empty.jpg": b""}
    station.start()
    for name, data in bad.items():
        station.put(name, data)
    station.put("good.png", whole)

    station.wait_lines(4)
    station.stop()

    by_name = {record["name"]: record for record in station.lines()}
    for name, data in bad.items():
        record = by_name[name]
        assert (record["verdict"], record["output"]) == ("error", "fault")
        assert record["image"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert name in record["error"]
    assert by_name["good.png"]["verdict"] == "pass"
    assert station.inside("bad") == set(bad) and station.inside("done") == {"good.png"}


def test_what_is_no_finished_image_is_left_alone(station: Any, png: Callable[..., bytes]) -> None:
    folder = station.base / "in"
    for name in (".hidden.png", "a.png.part", "~b.png", "notes.txt"):
        (folder / name).write_bytes(png(1))
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(folder / ".hidden.png")
    os.mkfifo(folder / "pipe.png")
    before = {path.name for path in folder.iterdir()}
    station.start()
    station.put("good.png", png(2))

    station.wait_lines(1)
    station.stop()

    assert [record["name"] for record in station.lines()] == ["good.png"]
    assert {path.name for path in folder.iterdir()} == before | {"done"}


def test_a_file_that_grows_waits(station: Any, png: Callable[..., bytes]) -> None:
    station.start(source={"settle_ms": 60, "patience_ms": 400})
    data = png(1)
    with (station.base / "in" / "slow.png").open("wb") as file:
        for start in range(0, len(data), 300):
            file.write(data[start : start + 300])
            file.flush()
            time.sleep(0.03)
    with (station.base / "in" / "pauses.png").open("wb") as file:  # longer than it must settle
        file.write(data[:500])
        file.flush()
        time.sleep(0.2)
        file.write(data[500:])

    records = station.wait_lines(2)

    assert {record["verdict"] for record in records} == {"pass"}
    assert {r["image"]["sha256"] for r in records} == {hashlib.sha256(data).hexdigest()}


def test_an_old_name_and_equal_bytes_may_come_again(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start()
    for _ in range(3):
        path = station.put("part.png", png(1))
        until(lambda path=path: not path.exists())
    station.stop()

    assert len(station.lines()) == 3
    assert len(station.inside("done")) == 3  # nothing that was kept is written over


def test_delete_and_keep(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start(source={"after": "delete"})
    path = station.put("a.png", png(1))
    until(lambda: not path.exists())
    station.stop()
    assert not list((station.base / "in").iterdir())

    station.start(source={"after": "keep"})
    for number in range(5):
        station.put(f"{number}.png", png(number))
    station.wait_lines(6)
    time.sleep(0.1)
    station.stop()
    station.start(source={"after": "keep"})
    station.put("new.png", png(9))
    station.put("3.png", png(33))  # another image under an old name is another part
    station.wait_lines(8)
    time.sleep(0.1)
    station.stop()

    expected = Counter({"a.png": 1, "0.png": 1, "1.png": 1, "2.png": 1, "3.png": 2, "4.png": 1})
    assert station.names() == expected + Counter({"new.png": 1})
    assert len(list((station.base / "in").iterdir())) == 6


def test_a_recorded_file_that_was_not_moved_is_not_recorded_again(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start()
    station.put("a.png", png(1))
    station.put("bad.png", b"no image")
    station.wait_lines(2)
    station.stop()
    for path in (station.base / "in").glob("*/*/*.png"):  # as if killed before, or power was cut
        path.replace(station.base / "in" / path.name)

    station.start()
    station.put("b.png", png(2))
    station.wait_lines(3)
    until(lambda: not list((station.base / "in").glob("*.png")))
    station.stop()

    assert station.names() == Counter({"a.png": 1, "bad.png": 1, "b.png": 1})
    assert station.inside("bad") == {"bad.png"} and station.inside("done") == {"a.png", "b.png"}


def test_after_a_power_cut_all_moves_since_the_last_flush_may_be_undone(
    station: Any,
    png: Callable[..., bytes],
    until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_safe = [0]
    monkeypatch.setattr(
        folder_module, "flush_folder", lambda folder: n_safe.append(len(station.inside("done")))
    )
    station.start()
    for number in range(90):
        station.put(f"{number:02d}.png", png(number))
    records = station.wait_lines(90)
    settled = records[-1]["settled"]
    assert 0 < settled < 90
    assert {record["settled"] for record in records} <= set(n_safe)
    station.stop()
    for record in records:
        if record["seq"] > settled:
            (moved,) = (station.base / "in" / "done").glob(f"*/{record['name']}")
            moved.replace(station.base / "in" / record["name"])

    station.start()
    until(lambda: not list((station.base / "in").glob("*.png")))
    station.stop()

    assert len(station.lines()) == 90 and set(station.names().values()) == {1}


def test_a_folder_that_vanishes_is_a_fault_until_it_is_back(
    station: Any, png: Callable[..., bytes]
) -> None:
    station.start()
    station.put("a.png", png(1))
    station.wait_state(verdict="pass")
    since = time.monotonic()
    (station.base / "in").rename(station.base / "away")

    assert station.until_fault("folder", since) < 1.0

    (station.base / "away").rename(station.base / "in")
    station.wait_state(state="run", verdict="fault", reason="waiting for the next part")
    station.put("b.png", png(2))
    station.wait_state(verdict="pass", seq=2)


def test_a_file_that_cannot_be_moved_stops_the_line_and_is_recorded_once(
    station: Any, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    station.start()
    rename = Path.rename
    refused: list[Path] = []

    def refuse(self: Path, target: Path) -> Path:
        if len(refused) < 5 and self.name == "a.png":
            refused.append(self)
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    since = time.monotonic()
    station.put("a.png", png(1))
    assert station.until_fault("move", since) < 1.0
    station.wait_state(state="run")
    station.put("b.png", png(2))
    station.wait_state(verdict="pass", seq=2)
    assert station.names() == Counter({"a.png": 1, "b.png": 1})
    assert len(refused) == 5


def test_black_and_white_files_are_no_parts(station: Any, png: Callable[..., bytes]) -> None:
    import cv2

    station.start()
    for name, level in (("black.png", 3), ("white.png", 252)):
        image = np.full((24, 24, 3), level, np.uint8)
        station.put(name, bytes(cv2.imencode(".png", image)[1].tobytes()))
    by_name = {record["name"]: record for record in station.wait_lines(2)}
    for kind in ("black", "white"):
        record = by_name[f"{kind}.png"]
        assert (record["verdict"], record["error_kind"], record["output"]) == (
            "error",
            kind,
            "fault",
        )


def test_hold_by_file_and_signal_function(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start()
    mode = station.base / "state" / "mode"
    mode.write_text("hold")
    state = station.wait_state(state="hold", verdict="fault")
    assert state["reason"] == "hold"
    station.put("a.png", png(1))
    time.sleep(0.15)
    assert station.lines() == [] and (station.base / "in" / "a.png").exists()

    mode.write_text("nonsense")
    until(lambda: "must say run or hold" in station.state()["reason"])
    assert station.state()["state"] == "hold"
    station.watch.hold(False)
    assert mode.read_text() == "run\n"
    station.wait_state(state="run", verdict="pass", seq=1)

    (station.base / "state" / "line" / "mode").write_text("hold\n")  # of one source
    station.wait_state(state="hold", verdict="fault")


def test_a_part_in_work_when_hold_comes_is_recorded_and_put_out_as_fault(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start()
    station.controls.hangs.set()
    station.put("a.png", png(1))
    until(lambda: station.watch._worker.busy_since)
    station.watch.hold(True)
    station.wait_state(state="hold")
    station.controls.hangs.clear()

    (record,) = station.wait_lines(1)

    assert (record["verdict"], record["output"]) == ("pass", "fault")
    assert station.state()["verdict"] == "fault"


def test_two_watches_may_not_share_folder_or_records(station: Any, fake: Any) -> None:
    station.start()
    for changes in ({}, {"records": station.base / "other"}):
        config = fake.station_config(station.base, changes)
        with pytest.raises(UsageError, match="one watch only"):
            Watch(config, lambda config: fake.FakeEngine(config, fake.Controls()))


def test_observers_see_frames_and_cannot_hurt(station: Any, png: Callable[..., bytes]) -> None:
    seen = []

    def factory(source: str, judge: Any) -> Any:
        def observe(frame: Any, result: Any) -> list[str]:
            seen.append((source, judge.product, frame.name, result.verdict))
            if frame.name == "b.png":
                raise RuntimeError("no idea")
            return ["drifts"]

        return observe

    station.observers.append(factory)
    station.start()
    for name in ("a.png", "b.png"):
        station.put(name, png(1))
        station.wait_lines(len(seen) + 1 if name == "a.png" else 2)
    first, second = station.lines()
    assert first["warnings"] == ["drifts"]
    assert any("observer failed" in text for text in station.state()["warnings"])
    assert "observer failed" in second["warnings"][0] and second["verdict"] == "pass"
    assert seen == [("line", "disc", "a.png", "pass"), ("line", "disc", "b.png", "pass")]


def test_pictures_of_rejects_have_a_limit(station: Any, png: Callable[..., bytes]) -> None:
    station.start({"rejects_mb": 0.006})
    for number in range(12):
        station.put(f"{number:02d}.png", png(number, mean=180))
    records = station.wait_lines(12)
    station.stop()
    folder = station.base / "records" / "line" / "rejects"
    kept = sorted(path.name for path in folder.iterdir())
    assert 1 <= len(kept) < 12
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6000
    assert [Path(r["picture"]).name for r in records][-len(kept) :] == kept


def test_the_state_is_gone_when_it_cannot_be_renewed(
    station: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    station.start()
    path = station.base / "state" / "line" / "state.json"
    json.loads(path.read_text())

    def refuse(self: Path, *arguments: Any, **named: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        until(lambda: not path.exists())
    until(path.exists)
    shutil.rmtree(path.parent)  # nobody can be told any more; the line goes on
    path.parent.mkdir()
    until(path.exists)


@pytest.mark.parametrize("after", ["move", "delete"])
@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_takes_the_name_in_the_instant_of_the_move_is_not_lost(
    after: str, again: bool, station: Any, png: Callable[..., bytes], monkeypatch: Any
) -> None:
    rename = Path.rename
    came: list[bool] = []

    def rename_late(self: Path, target: Path) -> Path:
        if self.name == "part.png" and not came:
            came.append(True)
            station.put("part.png", png(2))  # after the last look at it
            moved = rename(self, target)
            if again:
                station.put("part.png", png(3))
            return moved
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    station.start(source={"after": after})
    station.put("part.png", png(1))
    n_parts = 3 if again else 2
    station.wait_lines(n_parts)
    time.sleep(0.1)
    station.stop()

    hashes = {record["image"]["sha256"] for record in station.lines()}
    assert hashes == {hashlib.sha256(png(n)).hexdigest() for n in range(1, n_parts + 1)}
    assert len(station.lines()) == n_parts
    assert not [path for path in (station.base / "in").iterdir() if path.is_file()]


def test_a_writer_with_one_name_for_all_parts(
    station: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    station.start(source={"settle_ms": 0, "poll_ms": 1})
    for number in range(60):
        station.put("current.png", png(number))
        wanted = hashlib.sha256(png(number)).hexdigest()
        until(lambda w=wanted: w in {r["image"]["sha256"] for r in station.lines()})
    station.stop()
    assert len(station.lines()) == 60
