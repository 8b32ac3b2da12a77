import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cff_runtime.cli import main
from cff_runtime.watch.records import read_records
from cff_runtime.watch.systemd import notify

SCRIPT = Path(__file__).with_name("fake_watch.py")
Popen = subprocess.Popen[str]


@pytest.fixture
def base(tmp_path: Path, fake: Any) -> Path:
    fake.make_station(tmp_path)
    return tmp_path


@pytest.fixture
def spawn(base: Path) -> Iterator[Callable[..., Popen]]:
    """Return ``spawn(*arguments, **environment)``, which starts the watch of `base`."""
    started: list[Popen] = []

    def start(*arguments: object, **environment: str) -> Popen:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(base), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _state(base: Path) -> dict[str, Any]:
    path = base / "state" / "line" / "state.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"state": None}


def _records(base: Path) -> list[dict[str, Any]]:
    lines = read_records(base / "records" / "line")
    return [line for line in lines if line["kind"] == "inspection"]


def _put(base: Path, name: str, data: bytes) -> None:
    temporary = base / "in" / f".{name}"
    temporary.write_bytes(data)
    temporary.replace(base / "in" / name)


def test_sigterm_finishes_what_is_in_work(
    base: Path, spawn: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    process = spawn(150)
    until(lambda: _state(base)["state"] == "run")
    for number in range(5):
        _put(base, f"{number}.png", png(number))
    until(lambda: len(_records(base)) == 1)
    time.sleep(0.05)  # the second is in work
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=5)

    assert process.returncode == 0, err
    assert [record["name"] for record in _records(base)] == ["0.png", "1.png"]
    assert {path.name for path in (base / "in").glob("*.png")} == {f"{n}.png" for n in (2, 3, 4)}
    assert _state(base)["state"] == "stopped" and _state(base)["verdict"] == "fault"
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2]


def test_a_second_signal_quits_at_once(
    base: Path, spawn: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    process = spawn(2500)
    until(lambda: _state(base)["state"] == "run")
    _put(base, "a.png", png(1))
    until(lambda: "stuck" in _state(base)["faults"])
    process.send_signal(signal.SIGINT)
    until(lambda: _state(base)["state"] == "stopped")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=2)
    assert process.returncode == 128 + signal.SIGINT
    assert _records(base) == []


def test_a_read_that_hangs_does_not_spoil_the_end(
    base: Path, spawn: Any, until: Callable[..., Any]
) -> None:
    """OpenCV waits in its own code for an address that takes a connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        process = spawn(0, 0.004, f"http://127.0.0.1:{port}/stream")
        until(lambda: _state(base)["state"] == "fault")
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert _state(base)["state"] == "stopped"


class _Stream(http.server.BaseHTTPRequestHandler):
    """Motion JPEG without end, 20 frames a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        rng = np.random.default_rng(0)
        with contextlib.suppress(OSError):
            while True:
                pixels = rng.integers(60, 190, (48, 64, 3)).astype(np.uint8)
                data = cv2.imencode(".jpg", pixels)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.05)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_camera_in_the_network_through_opencv(
    base: Path, spawn: Any, until: Callable[..., Any]
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stream) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = spawn(0, 0.05, f"http://127.0.0.1:{server.server_port}/stream")
        try:
            until(lambda: len(_records(base)) >= 5, 30.0)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=10)
        finally:
            server.shutdown()
    assert process.returncode == 0, err  # OpenCV's code aborts if its thread is ended by Python
    assert {tuple(record["image"]["size"]) for record in _records(base)} == {(64, 48)}


def test_signals_hold_and_go_on(base: Path, spawn: Any, until: Callable[..., Any]) -> None:
    process = spawn()
    until(lambda: _state(base)["state"] == "run")
    process.send_signal(signal.SIGUSR1)
    until(lambda: _state(base)["state"] == "hold")
    assert (base / "state" / "mode").read_text() == "hold\n"
    process.kill()
    process.wait()
    process = spawn()  # hold outlives the process
    until(lambda: _state(base)["state"] == "hold" and _state(base)["pid"] == process.pid)
    process.send_signal(signal.SIGUSR2)
    until(lambda: _state(base)["state"] == "run")


def test_systemd_is_told(base: Path, spawn: Any, until: Callable[..., Any]) -> None:
    address = str(base / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(20)
        process = spawn(NOTIFY_SOCKET=address)
        messages = [channel.recv(1000).decode() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        while messages[-1] != "STOPPING=1":
            messages.append(channel.recv(1000).decode())
    assert any(message.startswith("READY=1\n") for message in messages[:2])
    assert messages.count("WATCHDOG=1") >= 1


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    assert notify("READY=1") is False


def _kill_at_random_moments(
    base: Path, spawn: Any, png: Callable[..., bytes], until: Any, n_kills: int, seed: int
) -> int:
    """Feed files while the watch is killed again and again; return the number of files."""
    rng = random.Random(seed)
    expected: dict[str, str] = {}
    n_torn = 0
    for kill in range(n_kills):
        process = spawn(rng.choice((0, 1, 3)), 0.004)
        until(lambda p=process: _state(base).get("pid") == p.pid and _state(base)["state"] == "run")
        ends = time.monotonic() + rng.uniform(0.0, 0.15)
        while time.monotonic() < ends:
            name = f"{kill:03d}-{len(expected):05d}.png"
            is_bad = rng.random() < 0.1
            _put(base, name, b"no image" if is_bad else png(len(expected)))
            expected[name] = "error" if is_bad else "pass"
            time.sleep(rng.choice((0.001, 0.004, 0.015)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = max((base / "records" / "line").glob("records-*.jsonl"))
        if rng.random() < 0.3:  # what a power cut leaves
            n_torn += 1
            with newest.open("ab") as file:
                file.write(rng.choice((b'{"schema":1,"kind":"insp', b"\0" * 40)))
    process = spawn(0, 0.004)
    until(lambda: not list((base / "in").glob("*.png")), 120.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)

    records = _records(base)
    assert Counter(record["name"] for record in records) == Counter(expected.keys())
    assert [record["seq"] for record in records] == list(range(1, len(expected) + 1))
    for record in records:
        assert (record["verdict"] == "error") == (expected[record["name"]] == "error")
    moved = {path.name for path in (base / "in").glob("*/*/*.png")}
    assert moved == set(expected)
    assert len(list((base / "records" / "line").glob("torn-*"))) <= n_torn + n_kills
    return len(expected)


def test_killed_at_random_moments_nothing_is_lost_or_doubled(
    base: Path, spawn: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    assert _kill_at_random_moments(base, spawn, png, until, 15, seed=1) > 30


@pytest.mark.slow
def test_killed_200_times(
    base: Path, spawn: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    n_files = _kill_at_random_moments(base, spawn, png, until, 200, seed=2)
    sys.stderr.write(f"200 kills, {n_files} files, each with one record\n")
    assert n_files > 500


def test_the_command_with_a_real_bundle(
    tmp_path: Path,
    lite_bundle: Any,
    lite_profile: Any,
    draw_part: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    lite_profile.save(tmp_path / "ring.profile")
    Image.fromarray(draw_part(50)).save(folder / "good.png")
    Image.fromarray(draw_part(51, True)).save(folder / "defect.png")
    (folder / "bad.png").write_bytes(b"no image")
    (tmp_path / "watch.toml").write_text(
        f'[watch]\nbundle = "{lite_bundle.path}"\nrecords = "records"\nstate = "state"\n'
        "threads = 1\nstdout = true\n"
        '[[source]]\nname = "line"\nprofile = "ring.profile"\nfolder = "in"\npatience_ms = 100\n'
    )
    command = [sys.executable, "-m", "cff_runtime.cli", "watch", "--config"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "watch.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: len(_records(tmp_path)) == 3, 60.0)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, err
    records = {record["name"]: record for record in _records(tmp_path)}
    assert {name: record["verdict"] for name, record in records.items()} == {
        "good.png": "pass",
        "defect.png": "reject",
        "bad.png": "error",
    }
    assert records["defect.png"]["bundle"] == lite_profile.bundle_id
    assert records["defect.png"]["regions"] and records["good.png"]["score"] > 0
    assert sorted(json.loads(line)["verdict"] for line in out.splitlines()) == [
        "fault",
        "pass",
        "reject",
    ]
    assert "Traceback" not in err


def test_what_cannot_start_says_why_in_the_state_too(
    tmp_path: Path, lite_bundle: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "profile").write_bytes(b"none")
    arguments = ["--profile", "profile", "--folder", "in", "--records", "records", "--state", "st"]
    given = [str(tmp_path / a) if number % 2 else a for number, a in enumerate(arguments)]

    assert main(["watch", str(lite_bundle.path), *given]) == 1

    assert "must be a complete safetensors file" in capsys.readouterr().err
    state = json.loads((tmp_path / "st" / "line" / "state.json").read_text())
    assert state["verdict"] == "fault" and "safetensors" in state["reason"]
