import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench import latency
from cff_bench.latency import LatencySettings, format_latency, noise_image, run_latency
from cff_runtime.errors import ProfileMismatchError, UsageError

STAGES_MS = {"preprocess": 0.001, "encode": 0.003, "search": 0.002, "finish": 0.001}


@dataclass
class Recorder:
    """Stands for `Inspector` and `Profile`, and remembers every call."""

    opened: list[tuple[Any, ...]] = field(default_factory=list)
    loaded: list[Path] = field(default_factory=list)
    inspected: list[NDArray[np.uint8]] = field(default_factory=list)
    error: Exception | None = None

    def open(self, bundle: Path, backend: str, options: dict[str, Any]) -> "Recorder":
        self.opened.append((bundle, backend, options))
        return self

    def load(self, path: Path) -> SimpleNamespace:
        self.loaded.append(path)
        banks = tuple(np.zeros((rows, 3), np.float32) for rows in (4, 16))
        return SimpleNamespace(product="bottle", n_references=2, banks=banks)

    def inspect(self, image: NDArray[np.uint8], profile: object) -> SimpleNamespace:
        if self.error:
            raise self.error
        self.inspected.append(image)
        return SimpleNamespace(stages_ms=dict(STAGES_MS))

    @property
    def bundle(self) -> SimpleNamespace:
        size = SimpleNamespace(height=518, width=518)
        notes = ("random weights: latency work only",)
        manifest = SimpleNamespace(
            id="0123456789abcdef", precision="fp32", preprocessing=size, notes=notes
        )
        return SimpleNamespace(manifest=manifest)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(latency, "Inspector", recorder)
    monkeypatch.setattr(latency, "Profile", recorder)
    return recorder


SETTINGS = LatencySettings(
    bundle=Path("bundle"),
    profile=Path("bottle.profile.safetensors"),
    image=None,
    n=4,
    warmup=2,
    backend="onnxruntime",
    options={"threads": 2},
)


def test_report_has_stages_in_order_and_shares_that_add_up(recorder: Recorder) -> None:
    report = json.loads(json.dumps(run_latency(SETTINGS)))
    names = [stage["name"] for stage in report["stages"]]
    assert names == ["decode", "preprocess", "encode", "search", "finish", "other"]
    assert sum(stage["share"] for stage in report["stages"]) == pytest.approx(1.0)
    assert sum(stage["mean_ms"] for stage in report["stages"]) == pytest.approx(
        report["total"]["mean_ms"]
    )
    by_name = {stage["name"]: stage for stage in report["stages"]}
    for name, milliseconds in STAGES_MS.items():
        assert by_name[name]["p50_ms"] == pytest.approx(milliseconds)
        assert by_name[name]["n"] == 4
    assert report["throughput"] == pytest.approx(1000 / report["total"]["p50_ms"])


def test_one_first_inspection_then_warm_up_then_n(recorder: Recorder) -> None:
    report = run_latency(SETTINGS)
    assert recorder.opened == [(Path("bundle"), "onnxruntime", {"threads": 2})]
    assert recorder.loaded == [Path("bottle.profile.safetensors")]
    assert len(recorder.inspected) == 1 + 2 + 4
    assert all(value >= 0 for value in report["cold_start"].values())
    assert set(report["cold_start"]) == {"open_ms", "profile_ms", "first_ms"}


def test_report_says_what_was_inspected(recorder: Recorder) -> None:
    report = run_latency(SETTINGS)
    assert report["bundle"]["id"] == "0123456789abcdef"
    assert report["bundle"]["precision"] == "fp32"
    assert report["profile"]["bank_rows"] == [4, 16]
    assert report["settings"]["backend"] == "onnxruntime"
    assert "seeded noise" in report["image"]["source"]
    assert report["environment"]["python"]
    np.testing.assert_array_equal(recorder.inspected[0], noise_image())


def test_an_image_file_is_decoded_every_time(recorder: Recorder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "part.png"
    Image.fromarray(pixels).save(path)
    report = run_latency(replace(SETTINGS, image=path))
    assert report["image"] == {"source": str(path), "width_px": 60, "height_px": 40}
    assert len({id(image) for image in recorder.inspected}) == len(recorder.inspected)
    np.testing.assert_array_equal(recorder.inspected[-1], pixels)


def test_text_names_stages_bank_and_noise(recorder: Recorder) -> None:
    text = format_latency(run_latency(SETTINGS))
    for part in ("encode", "total", "100.0 %", "4 + 16", "seeded noise", "threads=2", "0123456789"):
        assert part in text
    assert "note     random weights" in text


@pytest.mark.parametrize(("n", "warmup"), [(0, 0), (1, -1)])
def test_counts_out_of_range_are_refused(n: int, warmup: int, recorder: Recorder) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        run_latency(replace(SETTINGS, n=n, warmup=warmup))
    assert not recorder.opened


def test_errors_of_the_runtime_pass_through(recorder: Recorder) -> None:
    recorder.error = ProfileMismatchError("belongs to another bundle")
    with pytest.raises(ProfileMismatchError):
        run_latency(SETTINGS)


def test_pytorch_is_not_imported() -> None:
    code = "import sys, cff_bench.cli, cff_bench.latency; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
