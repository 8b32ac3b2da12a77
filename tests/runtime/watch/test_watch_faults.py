import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cff_runtime.watch import guard as guard_module
from cff_runtime.watch import keepers as keepers_module


@pytest.fixture
def running(station: Any, png: Callable[..., bytes]) -> Any:
    station.start()
    station.put("first.png", png(1))
    station.wait_state(state="run", verdict="pass", seq=1)
    return station


def test_a_deleted_bundle(running: Any, png: Callable[..., bytes]) -> None:
    path = running.base / "bundle" / "manifest.json"
    since = time.monotonic()
    path.unlink()
    assert running.until_fault("bundle", since) < 1.0
    running.put("second.png", png(2))
    time.sleep(0.15)
    assert len(running.lines()) == 1

    path.write_text("broken")
    time.sleep(0.1)
    assert running.state()["verdict"] == "fault"
    path.write_text("bundle-1")
    running.wait_state(state="run", verdict="pass", seq=2)
    assert running.names() == Counter({"first.png": 1, "second.png": 1})


def test_another_bundle_needs_its_own_profile(running: Any, fake: Any, png: Any) -> None:
    (running.base / "bundle" / "manifest.json").write_text("bundle-2")
    state = running.wait_state(state="fault", verdict="fault")
    running.put("second.png", png(2))
    time.sleep(0.1)
    assert running.state()["state"] == "fault", state
    fake.write_profile(running.base / "profile", 125.0, bundle="bundle-2")
    running.wait_state(state="run", verdict="pass", seq=2)
    assert [record["bundle"] for record in running.lines()] == ["bundle-1", "bundle-2"]


def test_a_changed_profile_is_used_from_the_next_frame_on(
    running: Any, fake: Any, png: Any, until: Any
) -> None:
    digest = fake.write_profile(running.base / "profile", 50.0)
    until(lambda: any(digest in line["reason"] for line in running.lines("event")))
    running.put("second.png", png(1))
    running.wait_state(verdict="reject", seq=2)
    assert running.lines()[1]["profile"] == digest


@pytest.mark.parametrize("text", ["no profile", '{"product": "x", "bundle": "b", "threshold": 1}'])
def test_a_bad_profile_is_refused_and_the_old_one_goes_on(
    text: str, running: Any, fake: Any, png: Any, until: Any
) -> None:
    old = running.lines()[0]["profile"]
    (running.base / "profile").write_text(text)
    until(lambda: any("was refused" in warning for warning in running.state()["warnings"]))
    running.put("second.png", png(1))
    running.wait_state(verdict="pass", seq=2)
    assert running.lines()[1]["profile"] == old

    fake.write_profile(running.base / "profile", 50.0)
    running.wait_state(warnings=[])
    running.put("third.png", png(1))
    running.wait_state(verdict="reject", seq=3)


def test_a_deleted_profile(running: Any, fake: Any, png: Any) -> None:
    path = running.base / "profile"
    since = time.monotonic()
    path.unlink()
    assert running.until_fault("profile", since) < 1.0
    path.write_text("no profile")
    time.sleep(0.15)
    assert running.state()["verdict"] == "fault"
    fake.write_profile(path, 125.0)
    running.put("second.png", png(2))
    running.wait_state(state="run", verdict="pass", seq=2)


def test_a_full_disk(running: Any, png: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        since = time.monotonic()
        for number in range(5):
            running.put(f"{number}.png", png(number))
        assert running.until_fault("records", since) < 1.0
        assert "No space left" in running.state()["reason"]
        time.sleep(0.2)
        assert len(running.lines()) == 1
    records = running.wait_lines(6)

    assert running.names() == Counter({"first.png": 1, **{f"{n}.png": 1 for n in range(5)}})
    assert (records[1]["verdict"], records[1]["output"]) == ("pass", "fault")  # it came too late
    assert {record["output"] for record in records[2:]} == {"pass"}
    running.wait_state(state="run", verdict="pass", seq=6)


def test_an_engine_that_fails_is_opened_again(running: Any, png: Any) -> None:
    running.controls.fails = True
    since = time.monotonic()
    running.put("second.png", png(2))
    assert running.until_fault("engine", since) < 1.0
    time.sleep(0.2)
    running.controls.fails = False
    running.wait_state(state="run", seq=2, verdict="fault")
    running.put("third.png", png(3))
    running.wait_state(verdict="pass", seq=3)
    assert running.controls.n_opened >= 2
    verdicts = [(record["verdict"], record["output"]) for record in running.lines()]
    assert verdicts == [("pass", "pass"), ("pass", "fault"), ("pass", "pass")]


def test_an_image_that_the_engine_cannot_take_does_not_stop_the_line(
    running: Any, png: Any, fake: Any
) -> None:
    import cv2
    import numpy as np

    data = png(7)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    running.controls.poison = float(pixels.mean())
    running.put("poison.png", data)
    running.wait_lines(2)
    running.put("third.png", png(3))
    running.wait_state(verdict="pass", seq=3)
    assert running.lines()[1]["error_kind"] == "engine"
    assert running.inside("bad") == {"poison.png"}


def test_a_worker_that_stands_still(station: Any, png: Any) -> None:
    station.start({"stuck_ms": 200})
    station.put("first.png", png(1))
    station.wait_state(verdict="pass", seq=1)
    station.controls.hangs.set()
    since = time.monotonic()
    station.put("second.png", png(2))
    assert station.until_fault("stuck", since) < 1.0
    beat = station.state()["beat"]
    time.sleep(0.25)
    assert station.state()["beat"] > beat  # it is the worker that is stuck, not the process
    station.controls.hangs.clear()
    station.wait_state(state="run", verdict="fault", seq=2)
    station.put("third.png", png(3))
    station.wait_state(verdict="pass", seq=3)


def test_a_stop_does_not_wait_for_ever(station: Any, png: Any, until: Any) -> None:
    station.start({"stop_ms": 100})
    station.controls.hangs.set()
    station.put("first.png", png(1))
    until(lambda: station.watch._worker.busy_since)
    assert station.stop() is False
    assert station.state()["verdict"] == "fault"
    assert "did not end" in station.state()["reason"]


def test_an_error_of_our_own_is_a_fault_and_not_the_end(
    running: Any, png: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = running.watch._lanes[0]
    with monkeypatch.context() as patch:
        patch.setattr(lane.queue, "take_counts", lambda: 1 / 0)
        since = time.monotonic()
        running.put("second.png", png(2))
        assert running.until_fault("worker", since) < 1.0
    running.wait_state(state="run", seq=2)
    assert running.names() == Counter({"first.png": 1, "second.png": 1})


def test_a_disk_that_is_nearly_full_is_said(station: Any, png: Any) -> None:
    station.start({"low_mb": 1e9})
    state = station.wait_state(state="run")
    assert state
    station.put("first.png", png(1))
    station.wait_state(verdict="pass")
    assert any("left for records" in text for text in station.state()["warnings"])


def test_a_full_disk_is_seen_before_the_next_part(
    running: Any, png: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    statvfs = os.statvfs

    def full(path: Any) -> Any:
        real = statvfs(path)
        return SimpleNamespace(f_bavail=3, f_frsize=real.f_frsize)

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", full)
        since = time.monotonic()
        assert running.until_fault("disk", since) < 1.0
    running.wait_state(state="run")
    running.put("second.png", png(2))
    running.wait_state(verdict="pass", seq=2)


def test_a_fault_that_comes_while_the_record_is_written_is_told_behind_it(
    running: Any, png: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    output = running.watch.outputs["line"]
    append = running.watch._lanes[0].records.append

    def append_and_fail(record: Any) -> None:
        append(record)
        if record.get("seq") == 2:
            output.fault("planted", "now")

    with monkeypatch.context() as patch:
        patch.setattr(running.watch._lanes[0].records, "append", append_and_fail)
        running.put("second.png", png(2))
        running.wait_lines(2)
        wanted = "record 2 was put out as fault"
        until(lambda: any(line["reason"] == wanted for line in running.lines("event")))
    assert running.lines()[1]["output"] == "pass" and running.state()["verdict"] == "fault"


def test_an_engine_that_stays_broken_asks_for_a_new_process(
    running: Any, png: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    told: list[str] = []
    monkeypatch.setattr(guard_module, "notify", told.append)
    monkeypatch.setattr(keepers_module, "_HOPELESS_S", 0.3)
    until(lambda: told)
    running.controls.fails = True
    running.put("second.png", png(2))
    until(lambda: running.watch._keepers.needs_new_process)
    time.sleep(0.15)
    told.clear()
    time.sleep(0.3)
    assert told == []  # systemd ends a process that is silent
    running.controls.fails = False
    until(lambda: told)
