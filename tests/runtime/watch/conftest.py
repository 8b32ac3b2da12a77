"""A station: a folder or a fake camera under a watch with a fake engine."""

import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from cff_runtime.watch.records import read_records
from cff_runtime.watch.service import Watch

SCRIPT = Path(__file__).with_name("fake_watch.py")


def _load_fake() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_watch", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_watch"] = module
    spec.loader.exec_module(module)
    return module


fake_module = _load_fake()


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Return the condition's value once it is true; fail if it never is."""
    ends = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {timeout_s} s")
        time.sleep(0.004)
    return value


def make_png(seed: int, mean: int = 100) -> bytes:
    """Return a noisy image of 24 x 24 px."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(mean - 40, mean + 40, (24, 24, 3)).astype(np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


class Station:
    """A watch in this process."""

    def __init__(self, base: Path) -> None:
        self.base = base
        fake_module.make_station(base)
        self.controls = fake_module.Controls()
        self.rig = fake_module.Rig()
        self.watch: Watch | None = None
        self.observers: list[Any] = []

    def start(self, watch: Any = None, source: Any = None) -> "Station":
        config = fake_module.station_config(self.base, watch, source)
        controls = self.controls
        self.watch = Watch(
            config,
            lambda config: fake_module.FakeEngine(config, controls),
            self.rig.open,
            self.observers,
        )
        self.watch.start()
        return self

    def start_camera(self, watch: Any = None, **source: Any) -> "Station":
        given = {"folder": None, "camera": "7", "frozen_ms": 60, "read_timeout_ms": 150}
        return self.start(watch, {**given, **source})

    def stop(self) -> bool:
        assert self.watch is not None
        watch, self.watch = self.watch, None
        return watch.stop()

    def put(self, name: str, data: bytes, folder: Path | None = None) -> Path:
        """Write a file as a careful writer does."""
        path = (folder or self.base / "in") / name
        temporary = path.with_name(f".{name}.part")
        temporary.write_bytes(data)
        temporary.replace(path)
        return path

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.base / "state" / "line" / "state.json").read_text()))

    def lines(self, kind: str = "inspection") -> list[dict[str, Any]]:
        folder = self.base / "records" / "line"
        return [line for line in read_records(folder) if line["kind"] == kind]

    def names(self) -> Counter[str]:
        return Counter(record["name"] for record in self.lines())

    def inside(self, where: str) -> set[str]:
        return {path.name for path in (self.base / "in" / where).glob("*/*")}

    def wait_lines(self, n_lines: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.lines()) >= n_lines)
        return self.lines()

    def wait_state(self, **fields: Any) -> dict[str, Any]:
        def matches() -> dict[str, Any] | None:
            state = self.state()
            return state if all(state[key] == value for key, value in fields.items()) else None

        try:
            return dict(wait_until(matches))
        except AssertionError:
            raise AssertionError(f"wanted {fields}, got {self.state()}") from None

    def until_fault(self, kind: str, since: float) -> float:
        """Wait for a fault of a kind; return the seconds from `since`."""
        wait_until(lambda: (s := self.state())["verdict"] == "fault" and kind in s["faults"])
        return time.monotonic() - since


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.controls.hangs.clear()
    made.rig.mode = "lost"
    if made.watch is not None:
        made.stop()


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    return fake_module


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    return make_png


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until
