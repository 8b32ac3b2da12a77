"""Months in short: many inspections with everything going on at once."""

import gc
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("fake_watch.py")


def _resident_bytes(pid: object = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Feeder:
    """Lets files come, some of them bad, and changes the profile, some of them bad too."""

    def __init__(self, station: Any, fake: Any, images: list[bytes], n_files: int) -> None:
        self._station, self._fake, self._images, self._n_files = station, fake, images, n_files
        self._rng = random.Random(0)
        self._over = threading.Event()
        self.bad: dict[str, bool] = {}
        self.profiles = {hashlib.sha256((station.base / "profile").read_bytes()).hexdigest()}
        targets = [lambda: self._feed(0), lambda: self._feed(1), self._swap]
        self._threads = [threading.Thread(target=target) for target in targets]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _feed(self, part: int) -> None:
        for number in range(part, self._n_files, 2):
            name, data = f"{number:06d}.png", self._images[number % len(self._images)]
            self.bad[name] = self._rng.random() < 0.03
            if self.bad[name]:
                data = data[: self._rng.randrange(len(data) - 20)]
            self._station.put(name, data)
            while number > self._station.state()["seq"] + 100 and not self._over.is_set():
                time.sleep(0.002)

    def _swap(self) -> None:
        path = self._station.base / "profile"
        while not self._over.wait(0.12):
            if self._rng.random() < 0.25:
                path.write_text("no profile")
            else:
                threshold = 50.0 + self._rng.random() * 100
                self.profiles.add(self._fake.write_profile(path, threshold))


def _work_through(
    station: Any, png: Callable[..., bytes], fake: Any, until: Any, n_files: int
) -> list[int]:
    """Return the memory of the watch's process, 20 times after the first fifth of the files."""
    feeder = Feeder(station, fake, [png(seed) for seed in range(50)], n_files)
    command = [sys.executable, str(SCRIPT), str(station.base), "0", "0.5"]
    memory: list[int] = []
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # as docs/cff-watch.service has it
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        try:
            path = station.base / "state" / "line" / "state.json"
            until(lambda: path.exists() and station.state()["state"] == "run", 60.0)
            feeder.start()
            for at in range(n_files // 5, n_files, max(1, n_files // 25)):
                until(lambda at=at: station.state()["seq"] >= at, 300.0)
                memory.append(_resident_bytes(process.pid))
            until(lambda: station.state()["seq"] >= n_files, 300.0)
            until(lambda: not list((station.base / "in").glob("*.png")))
        finally:
            feeder.stop()
            process.terminate()
            _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and b"Traceback" not in err, err
    _check_records(station, feeder, n_files)
    return memory


def _check_records(station: Any, feeder: Feeder, n_files: int) -> None:
    records = station.lines()
    assert Counter(record["name"] for record in records) == Counter(feeder.bad.keys())
    assert [record["seq"] for record in records] == list(range(1, n_files + 1))
    good = [record for record in records if not feeder.bad[record["name"]]]
    bad = [record for record in records if feeder.bad[record["name"]]]
    assert {record["verdict"] for record in good} <= {"pass", "reject"}
    assert {record["verdict"] for record in bad} == {"error"}
    used = {record["profile"] for record in records}
    assert len(used) >= 2 and used <= feeder.profiles
    for record in good:
        assert (record["verdict"] == "reject") == (record["score"] > record["threshold"])


def test_much_at_once(
    station: Any, png: Callable[..., bytes], fake: Any, until: Callable[..., Any]
) -> None:
    _work_through(station, png, fake, until, 400)


@pytest.mark.slow
def test_ten_thousand_inspections_and_flat_memory(
    station: Any, png: Callable[..., bytes], fake: Any, until: Callable[..., Any]
) -> None:
    memory = _work_through(station, png, fake, until, 10_000)
    growth = max(memory) / memory[0] - 1
    sys.stderr.write(
        f"10000 inspections: {memory[0] / 1e6:.1f} MB, at most {max(memory) / 1e6:.1f} MB, "
        f"{growth:+.1%}\n"
    )
    assert growth <= 0.05


@pytest.mark.slow
def test_flat_memory_with_a_real_bundle(
    tmp_path: Path,
    lite_bundle: Any,
    lite_inspector: Any,
    good_parts: Any,
    draw_part: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """Memory banks that are exchanged must leave the device, too."""
    import cv2

    from cff_runtime.watch.config import make_config
    from cff_runtime.watch.service import Watch

    folder, path = tmp_path / "in", tmp_path / "profile"
    folder.mkdir()
    profiles = [lite_inspector.enroll(good_parts[:k], "ring") for k in (2, 3)]
    profiles[0].save(path)
    config = make_config(
        {"bundle": str(lite_bundle.path), "records": str(tmp_path / "r"), "check_ms": 20,
         "threads": 1},
        [{"profile": str(path), "folder": str(folder), "poll_ms": 1, "settle_ms": 0}],
        tmp_path,
    )  # fmt: skip
    watch = Watch(config)
    watch.start()
    records = watch._lanes[0].records
    images = [cv2.imencode(".png", draw_part(seed)[:, :, ::-1])[1].tobytes() for seed in range(8)]
    memory = []
    n_images = 1500
    for number in range(n_images):
        hidden = folder / f".{number}.png"
        hidden.write_bytes(images[number % 8])
        hidden.replace(folder / f"{number}.png")
        until(lambda n=number: records.last_seq > n - 3)
        if number % 25 == 24:
            profiles[number // 25 % 2].save(path)
        if number >= 300 and number % 50 == 0:
            gc.collect()
            memory.append(_resident_bytes())
    until(lambda: records.last_seq == n_images)
    assert watch.stop()
    growth = max(memory) / memory[0] - 1
    sys.stderr.write(f"{n_images} inspections of a real bundle: {growth:+.1%} of memory\n")
    assert growth <= 0.05
