"""Several sources on one engine."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cff_runtime.watch import service as service_module
from cff_runtime.watch.config import make_config
from cff_runtime.watch.records import read_records
from cff_runtime.watch.service import Watch


@pytest.fixture
def three(tmp_path: Path, fake: Any) -> Iterator[Any]:
    """Two folders and a camera, each with a profile of its own; one engine."""
    fake.make_station(tmp_path)
    controls, rig = fake.Controls(delay_s=0.005), fake.Rig()
    quick = {"poll_ms": 5, "settle_ms": 0, "patience_ms": 0}
    sources: list[dict[str, Any]] = []
    for name, threshold in (("left", 125.0), ("right", 50.0)):
        (tmp_path / name).mkdir()
        fake.write_profile(tmp_path / f"{name}.profile", threshold)
        folder = {"name": name, "folder": name, "profile": f"{name}.profile"}
        sources.append({**folder, **quick})
    sources.append({"name": "top", "camera": "7", "profile": "profile", "frozen_ms": 60})
    watched = {"bundle": "bundle", "records": "records", "state": "state", "check_ms": 20}
    config = make_config(watched, sources, tmp_path)
    watch = Watch(config, lambda config: fake.FakeEngine(config, controls), rig.open)
    watch.start()

    def records(name: str) -> list[dict[str, Any]]:
        lines = read_records(tmp_path / "records" / name)
        return [line for line in lines if line["kind"] == "inspection"]

    def state(name: str) -> Any:
        return json.loads((tmp_path / "state" / name / "state.json").read_text())

    yield SimpleNamespace(
        base=tmp_path, watch=watch, rig=rig, controls=controls, records=records, state=state
    )
    rig.mode = "lost"
    watch.stop()


def _fill(folder: Path, n_files: int, png: Callable[..., bytes]) -> None:
    for number in range(n_files):
        hidden = folder / f".{number}"
        hidden.write_bytes(png(number))
        hidden.replace(folder / f"{number:03d}.png")


def test_each_has_its_profile_its_numbers_and_its_turn(
    three: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    for name in ("left", "right"):
        _fill(three.base / name, 40, png)
    until(lambda: len(three.records("left")) == 40 and len(three.records("right")) == 40)

    left, right, top = (three.records(name) for name in ("left", "right", "top"))
    assert {record["verdict"] for record in left} == {"pass"}
    assert {record["verdict"] for record in right} == {"reject"}
    assert [record["seq"] for record in right] == list(range(1, 41))
    first, last = left[0]["at"], left[-1]["at"]
    assert len([r for r in right if first <= r["at"] <= last]) >= 30
    assert len([r for r in top if first <= r["at"] <= last]) >= 30  # no one waits for another
    assert three.controls.n_opened == 1


def test_one_camera_lost_is_no_fault_of_the_others(
    three: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    until(lambda: three.records("top"))
    three.rig.mode = "hangs"
    until(lambda: three.state("top")["state"] == "fault")
    _fill(three.base / "left", 10, png)
    until(lambda: len(three.records("left")) == 10)
    assert three.state("left")["state"] == "run" and three.state("left")["verdict"] == "pass"
    three.rig.mode = "ok"
    until(lambda: three.state("top")["verdict"] == "pass")


def test_what_is_shared_is_a_fault_of_all(three: Any, until: Callable[..., Any]) -> None:
    since = time.monotonic()
    (three.base / "bundle" / "manifest.json").unlink()
    names = ("left", "right", "top")
    until(lambda: all(three.state(name)["faults"] == ["bundle"] for name in names))
    assert time.monotonic() - since < 1.0
    assert {three.state(name)["verdict"] for name in names} == {"fault"}


def test_one_source_on_hold(
    three: Any, png: Callable[..., bytes], until: Callable[..., Any]
) -> None:
    (three.base / "state" / "left" / "mode").write_text("hold")
    until(lambda: three.state("left")["state"] == "hold")
    for name in ("left", "right"):
        _fill(three.base / name, 5, png)
    until(lambda: len(three.records("right")) == 5)
    assert three.records("left") == []


@pytest.mark.parametrize("wanted", [True, False])
def test_drift_is_watched_unless_told_otherwise(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    seen: list[Any] = []

    def watch_of(config: Any, observers: Any) -> Any:
        seen.extend(observers)
        return SimpleNamespace(run=lambda: 0)

    monkeypatch.setattr(service_module, "Watch", watch_of)
    monkeypatch.setattr(service_module, "drift_observers", folders.append)
    watched = {"bundle": "b", "records": "r", "drift": wanted}
    config = make_config(watched, [{"profile": "p", "folder": "f"}], tmp_path)
    assert service_module.watch(config) == 0
    assert folders == ([tmp_path / "r"] if wanted else []) and len(seen) == wanted
