import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from cff_runtime.watch.camera import open_capture
from cff_runtime.watch.camera_checks import blankness


def test_frames_are_recorded_with_the_hash_of_their_pixels(station: Any) -> None:
    station.start_camera()
    records = station.wait_lines(10)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert {record["image"]["of"] for record in records} == {"pixels"}
    assert len({record["image"]["sha256"] for record in records}) == len(records)
    assert station.stop()


def test_the_oldest_are_dropped_and_counted(station: Any, until: Callable[..., Any]) -> None:
    station.controls.delay_s = 0.03
    station.start_camera()
    until(lambda: sum(record["dropped"] for record in station.lines()) > 15)
    numbers = [int(record["name"].removeprefix("frame-")) for record in station.lines()]
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    dropped = sum(record["dropped"] for record in station.lines()[1:])
    assert abs(dropped - missing) <= 4  # at most what waits between the two ends
    assert numbers == sorted(set(numbers))


def test_blocking_drops_nothing(station: Any) -> None:
    station.controls.delay_s = 0.01
    station.start_camera(policy="block")
    records = station.wait_lines(12)
    numbers = [int(record["name"].removeprefix("frame-")) for record in records]
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_interval_passes_frames_over(station: Any, until: Callable[..., Any]) -> None:
    station.start_camera(interval_ms=3_600_000)
    station.wait_lines(1)
    source = station.watch._lanes[0].source
    until(lambda: source._n_frames > 20)
    (record,) = station.lines()
    assert record["name"] == "frame-000000001" and record["dropped"] == 0


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("lost", "camera"),
        ("absent", "camera"),
        ("raises", "camera"),
        ("hangs", "camera"),
        ("frozen", "frozen"),
        ("black", "blank"),
        ("white", "blank"),
    ],
)
def test_a_failed_camera_is_a_fault_within_a_second_and_recovers(
    mode: str, kind: str, station: Any
) -> None:
    station.start_camera()
    station.wait_state(state="run", verdict="pass")
    since = time.monotonic()
    station.rig.mode = mode

    assert station.until_fault(kind, since) < 1.0
    assert station.state()["state"] == "fault" and station.state()["reason"]

    time.sleep(0.1)
    n_before = len(station.lines())
    time.sleep(0.1)
    assert len(station.lines()) == n_before  # nothing is inspected
    station.rig.mode = "ok"
    station.wait_state(state="run", verdict="pass")
    events = [line["event"] for line in station.lines("event")]
    assert "fault" in events and "fault ended" in events


def test_a_camera_that_is_not_there_at_first(station: Any) -> None:
    station.rig.mode = "absent"
    station.start_camera()
    state = station.wait_state(state="fault", verdict="fault")
    assert "7" in state["reason"]
    station.rig.mode = "ok"
    station.wait_state(state="run", verdict="pass")


def test_reads_that_hang_are_left_behind_but_not_without_end(
    station: Any, until: Callable[..., Any]
) -> None:
    station.start_camera(hang_ms=100, max_hung=2)
    station.wait_state(verdict="pass")
    station.rig.mode = "hangs"
    until(lambda: station.rig.n_reading == 3)
    until(lambda: any("reads hang" in text for text in station.state()["warnings"]))
    time.sleep(0.3)
    assert station.rig.n_reading == 3
    assert sum(t.name == "camera line" for t in threading.enumerate()) == 3
    station.rig.mode = "ok"
    station.wait_state(state="run", verdict="pass", warnings=[])
    until(lambda: sum(t.name == "camera line" for t in threading.enumerate()) == 1)


def test_pauses_between_openings_grow(station: Any) -> None:
    station.rig.mode = "absent"
    station.start_camera()
    time.sleep(0.7)  # 20, 40, 80, 160, 320 ms
    assert 3 <= station.rig.n_opened <= 7


def test_a_password_is_not_shown(station: Any) -> None:
    station.rig.mode = "absent"
    station.start_camera(camera="rtsp://admin:geheim@10.0.0.7/stream")
    state = station.wait_state(state="fault")
    assert "geheim" not in str(state) and "10.0.0.7" in state["reason"]


def test_hold_discards_what_waited(station: Any, until: Callable[..., Any]) -> None:
    station.start_camera()
    station.wait_state(verdict="pass")
    station.watch.hold(True)
    station.wait_state(state="hold")
    time.sleep(0.1)
    n_before = len(station.lines())
    time.sleep(0.1)
    assert len(station.lines()) == n_before
    station.watch.hold(False)
    station.wait_state(state="run", verdict="pass")
    assert sum(record["held"] for record in station.lines()) >= 10


def test_opencv_reads_a_stream_to_its_end_and_opens_it_again(
    station: Any, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = station.base / "stream.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    rng = np.random.default_rng(0)
    for level in range(10):  # bluer and bluer
        image = rng.integers(60, 100, (48, 64, 3)).astype(np.uint8)
        image[:, :, 0] += np.uint8(10 * level)
        writer.write(image)
    writer.release()
    monkeypatch.setattr(station.rig, "open", open_capture)

    station.start_camera(camera=str(path), policy="block")

    until(lambda: len(station.lines()) >= 25)
    records = station.lines()
    assert {tuple(record["image"]["size"]) for record in records} == {(64, 48)}
    scores = [record["score"] for record in records[:10]]
    assert scores == sorted(scores)  # every frame, in order, then from the beginning
    assert records[10]["score"] == records[0]["score"] < records[9]["score"]
    until(lambda: any("gave no frame" in line["reason"] for line in station.lines("event")))


def test_opencv_says_no_by_itself() -> None:
    capture = open_capture("/dev/video_that_is_none")
    assert not capture.isOpened()
    assert capture.read()[0] is False


@pytest.mark.parametrize(("level", "kind"), [(4, "black"), (250, "white"), (100, None)])
def test_blankness(level: int, kind: str | None) -> None:
    image = np.full((600, 800, 3), level, np.uint8)
    assert blankness(image) == kind
    image[200:400, 200:500] = 128  # a part on a black or white ground
    assert blankness(image) is None


def test_a_camera_that_waits_for_room_has_not_failed(station: Any, png: Any) -> None:
    station.controls.delay_s = 0.3
    station.start_camera(policy="block", queue=1, hang_ms=200)
    records = station.wait_lines(4)
    assert not any(line["event"] == "fault" for line in station.lines("event")[2:])
    assert [int(r["name"].removeprefix("frame-")) for r in records] == [1, 2, 3, 4]
