"""An engine and a camera for tests of the watch; as a script, a watch that can be killed.

python fake_watch.py BASE [MS_PER_INSPECTION [FILE_MB [CAMERA]]]: watches BASE/in or a camera.
"""

import hashlib
import json
import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.errors import BackendError, BundleError, ProfileError, ProfileMismatchError
from cff_runtime.result import Result
from cff_runtime.watch.config import WatchConfig, make_config
from cff_runtime.watch.service import Watch

SIDE_PX = 32


@dataclass
class Controls:
    """What a test does to the engine while it runs."""

    delay_s: float = 0.0
    fails: bool = False
    hangs: threading.Event = field(default_factory=threading.Event)
    n_opened: int = 0
    poison: float | None = None  # an image of this mean grey value cannot be inspected


class FakeEngine:
    """The bundle is a folder with `manifest.json`, its text the id; a score is a mean."""

    def __init__(self, config: WatchConfig, controls: Controls) -> None:
        path = config.bundle / "manifest.json"
        if not path.is_file():
            raise BundleError(f"`{path}` must exist, the manifest names it; copy the bundle again")
        text = path.read_text().strip()
        if text == "broken":
            raise BundleError(f"`{path}` must have the SHA-256 of the manifest and has another")
        self.bundle_id, self._controls = text, controls
        self.files: tuple[Path, ...] = (path,)
        controls.n_opened += 1

    def load(self, path: Path) -> tuple[Any, str, NDArray[np.uint8]]:
        if not path.is_file():
            raise ProfileError(f"profile `{path}` must be an existing file")
        data = path.read_bytes()
        try:
            facts = json.loads(data)
        except ValueError as error:
            raise ProfileError(f"`{path}`: must be a complete safetensors file") from error
        if facts["bundle"] != self.bundle_id:
            raise ProfileMismatchError(f"profile of `{facts['product']}` belongs to another bundle")
        rng = np.random.default_rng(3)
        references = rng.integers(60, 190, (3, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
        profile = SimpleNamespace(product=facts["product"], threshold=facts["threshold"])
        return profile, hashlib.sha256(data).hexdigest(), references

    def inspect(self, pixels: NDArray[np.uint8], profile: Any) -> Result:
        time.sleep(self._controls.delay_s)
        while self._controls.hangs.is_set():
            time.sleep(0.01)
        score = float(pixels.mean())
        if self._controls.fails or score == self._controls.poison:
            raise BackendError("the device gave no answer")
        verdict = "reject" if score > profile.threshold else "pass"
        anomaly_map = np.zeros((2, 2), np.float32)
        stages = {"preprocess": 0.0, "encode": 0.0, "search": 0.0, "finish": 0.0}
        return Result(score, verdict, profile.threshold, anomaly_map, (), None, stages)  # type: ignore[arg-type]

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rows = np.arange(SIDE_PX) * pixels.shape[0] // SIDE_PX
        columns = np.arange(SIDE_PX) * pixels.shape[1] // SIDE_PX
        return pixels[rows][:, columns]


@dataclass
class Rig:
    """A camera: `mode` is ok, lost, absent, frozen, black, white, raises or hangs."""

    mode: str = "ok"
    pause_s: float = 0.005
    n_opened: int = 0
    n_reading: int = 0

    def open(self, camera: str) -> "FakeCapture":
        self.n_opened += 1
        return FakeCapture(self, self.n_opened)


class FakeCapture:
    def __init__(self, rig: Rig, number: int) -> None:
        self._rig, self._rng = rig, np.random.default_rng(number)
        self._still = self._rng.integers(60, 190, (24, 24, 3)).astype(np.uint8)

    def isOpened(self) -> bool:  # noqa: N802
        return self._rig.mode != "absent"

    def read(self) -> tuple[bool, Any]:
        rig = self._rig
        time.sleep(rig.pause_s)
        rig.n_reading += 1
        while rig.mode == "hangs":
            time.sleep(0.01)
        rig.n_reading -= 1
        if rig.mode in ("lost", "absent"):
            return False, None
        if rig.mode == "raises":
            raise RuntimeError("the driver has had enough")
        if rig.mode == "frozen":
            return True, self._still.copy()
        image = self._rng.integers(60, 190, (24, 24, 3)).astype(np.uint8)
        if rig.mode == "black":
            image //= 20
        if rig.mode == "white":
            image = 255 - image // 20
        return True, image

    def release(self) -> None:
        pass


def make_station(base: Path, threshold: float = 125.0) -> None:
    """Make a bundle, a profile and a folder to watch."""
    for name in ("bundle", "in", "state"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "bundle" / "manifest.json").write_text("bundle-1\n")
    write_profile(base / "profile", threshold)


def write_profile(path: Path, threshold: float, bundle: str = "bundle-1") -> str:
    """Write a profile whole; return its hash."""
    data = json.dumps({"product": "disc", "bundle": bundle, "threshold": threshold}).encode()
    temporary = path.with_name(".new-profile")
    temporary.write_bytes(data)
    temporary.replace(path)
    return hashlib.sha256(data).hexdigest()


def station_config(base: Path, watch: Any = None, source: Any = None) -> WatchConfig:
    """Return short times; `watch` and `source` change fields, None takes one away."""
    fields = {"bundle": base / "bundle", "records": base / "records", "state": base / "state"}
    times = {"poll_ms": 5, "settle_ms": 10, "patience_ms": 40, "reopen_ms": 20}
    given = {"profile": base / "profile", "folder": base / "in", **times, **(source or {})}
    watched: dict[str, Any] = {**fields, "check_ms": 20, **(watch or {})}
    return make_config(watched, [{k: v for k, v in given.items() if v is not None}], base)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    base = Path(sys.argv[1])
    controls = Controls(delay_s=float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0)
    source: dict[str, Any] = {"settle_ms": 0, "poll_ms": 1}
    if len(sys.argv) > 4:
        source |= {"folder": None, "camera": sys.argv[4]}
    file_mb = float(sys.argv[3]) if len(sys.argv) > 3 else 0.004
    config = station_config(base, {"file_mb": file_mb, "stdout": len(sys.argv) <= 3}, source)
    return Watch(config, lambda config: FakeEngine(config, controls)).run()


if __name__ == "__main__":
    sys.exit(main())
