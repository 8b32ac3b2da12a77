"""Percentiles, shares, copies and rounds, against numbers worked out by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cff_bench.latency import LatencySettings
from cff_bench.latency.configurations import Configuration
from cff_bench.latency.engines import engine_builds
from cff_bench.latency.figures import (
    configuration_facts,
    device_timings,
    reasons_of,
    stage_timings,
    summarize_rounds,
)
from cff_bench.latency.images import ImageSource, image_sources, noise_image
from cff_bench.latency.measurement import require_streams
from cff_bench.latency.rounds import inspect_once, measure_rounds, measure_streams, warm_up
from cff_bench.latency.timed_backend import TimedBackend, copy_reasons
from cff_runtime.errors import UsageError

STAGES_MS = {"preprocess": 1.0, "encode": 3.0, "search": 2.0, "finish": 1.5}
SOURCE = ImageSource("noise", None, lambda: np.zeros((4, 4, 3), np.uint8))


class FakeBackend:
    """Stands for a backend on a device."""

    def __init__(self, times_ms: dict[str, float] | None = None) -> None:
        if times_ms is not None:
            self.times_ms = times_ms
        self.is_closed = False

    def encode(self, image: Any, text: Any) -> str:
        return "encoding"

    def upload_bank(self, bank: Any) -> str:
        return "bank"

    def search(self, stage: int, features: Any, bank: Any) -> str:
        return "nearest"

    def download(self, features: Any) -> str:
        return "array"

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeInspector:
    """Calls its backend as the real one does, two stages, and remembers who was asked."""

    backend: TimedBackend
    log: list[str] = field(default_factory=list)
    name: str = "a"

    def inspect(self, image: Any, profile: Any) -> SimpleNamespace:
        self.log.append(self.name)
        text: Any = None
        encoding: Any = self.backend.encode(image, text)
        for stage in range(2):
            self.backend.search(stage, encoding, None)
        self.backend.download(encoding)
        return SimpleNamespace(stages_ms=dict(STAGES_MS))

    @property
    def bundle(self) -> SimpleNamespace:
        size = SimpleNamespace(height=4, width=4)
        manifest = SimpleNamespace(id="0123", precision="fp32", preprocessing=size, notes=("n",))
        return SimpleNamespace(manifest=manifest)


def fake(
    name: str = "a", times_ms: dict[str, float] | None = None, log: list[str] | None = None
) -> Configuration:
    backend = TimedBackend(FakeBackend(times_ms))  # type: ignore[arg-type]
    banks = (np.zeros((4, 3), np.float32), np.zeros((16, 3), np.float32))
    profile: Any = SimpleNamespace(product="bottle", n_references=2, banks=banks)
    inspector: Any = FakeInspector(backend, [] if log is None else log, name)
    return Configuration(
        name, Path("bundle"), "fp32", inspector, profile, Path("p"), False, backend
    )


def hand_made(timings: list[dict[str, float]], device: list[dict[str, float]]) -> Configuration:
    one = fake()
    one.timings, one.device = timings, device
    return one


def test_stages_add_up_to_the_total() -> None:
    one = fake()
    timing = inspect_once(one, SOURCE)
    assert list(timing) == ["decode", *STAGES_MS, "other", "total"]
    parts = [value for name, value in timing.items() if name != "total"]
    assert sum(parts) == pytest.approx(timing["total"])
    assert {name: timing[name] for name in STAGES_MS} == STAGES_MS


def test_percentiles_shares_and_throughput_by_hand() -> None:
    rows = [
        {"decode": 1.0, "encode": float(ms), "other": 0.0, "total": ms + 1.0}
        for ms in (10, 20, 30, 40)
    ]
    facts = configuration_facts(hand_made(rows, [{}] * 4), 1, copy_reasons("onnxruntime", {}, {}))
    by_name = {stage["name"]: stage for stage in facts["stages"]}
    assert list(by_name) == ["decode", "encode", "other"]
    assert facts["total"]["p50_ms"] == 26.0
    assert facts["total"]["p90_ms"] == pytest.approx(38.0)  # 31 + 0.7 * 10
    assert facts["total"]["p95_ms"] == pytest.approx(39.5)
    assert facts["total"]["p99_ms"] == pytest.approx(40.7)
    assert facts["total"]["jitter_ms"] == 10.0
    assert facts["throughput"] == pytest.approx(1000 / 26)
    assert by_name["encode"]["share"] == pytest.approx(25 / 26)
    assert sum(stage["share"] for stage in facts["stages"]) == pytest.approx(1.0)
    assert facts["profile"]["bank_rows"] == [4, 16]


def test_jitter_compares_an_image_with_itself() -> None:
    # two images take turns: 10, 11, 13 and 100, 100, 104
    values = [10.0, 100.0, 11.0, 100.0, 13.0, 104.0]
    assert summarize_rounds(values, 2).jitter_ms == pytest.approx((1 + 0 + 2 + 4) / 4)
    assert summarize_rounds(values[:2], 2).jitter_ms == 0.0


def test_on_a_cpu_copies_are_a_dash_with_the_reason() -> None:
    for options in ({}, {"provider": "cpu"}):
        reasons = copy_reasons("onnxruntime", options, {"download": 0.1})
        assert list(reasons) == ["host_to_device", "device_to_host"]
        assert all("nothing is copied" in reason for reason in reasons.values())


def test_copies_that_are_told_are_taken_out_of_their_stages() -> None:
    told = {
        "download": 0.25,
        "on_host_to_device": 0.5,
        "on_encode": 2.0,
        "on_device_to_host": 0.125,
    }
    row = {"decode": 0.0, **STAGES_MS, "other": 0.1, "total": 7.6}
    one = hand_made([row, row], [told, told])
    reasons = reasons_of(one, "tensorrt", {})
    assert reasons == {}
    timings = stage_timings(one, reasons)
    assert list(timings) == [
        "decode",
        "preprocess",
        "host_to_device",
        "encode",
        "search",
        "device_to_host",
        "finish",
        "other",
        "total",
    ]
    assert timings["host_to_device"] == [0.5, 0.5]
    assert timings["encode"] == [2.375, 2.375]
    assert timings["device_to_host"] == [0.375, 0.375]
    assert timings["finish"] == [1.25, 1.25]
    assert sum(v[0] for n, v in timings.items() if n != "total") == pytest.approx(7.6)


@pytest.mark.parametrize(
    ("backend", "options", "word"),
    [
        ("tensorrt", {}, "events enclose the copy"),
        ("onnxruntime", {"provider": "cuda"}, "part of ONNX Runtime"),
    ],
)
def test_a_device_that_does_not_tell_copies_apart(
    backend: str, options: dict[str, Any], word: str
) -> None:
    reasons = copy_reasons(backend, options, {"download": 1.0})
    assert list(reasons) == ["host_to_device"]
    assert word in reasons["host_to_device"]


def test_times_of_events_add_up_over_the_stages_of_a_search() -> None:
    one = fake(times_ms={"encode": 2.0, "search": 0.75})
    measure_rounds([one], [SOURCE], 3)
    assert device_timings(one) == {"encode": [2.0] * 3, "search": [1.5] * 3}
    assert all(told["download"] >= 0 for told in one.device)
    assert device_timings(hand_made([], [])) == {}
    one.backend.close()
    assert one.backend._backend.is_closed  # type: ignore[attr-defined]


def test_rounds_begin_with_another_configuration_each() -> None:
    log: list[str] = []
    three = [fake(name, log=log) for name in "abc"]
    measure_rounds(three, [SOURCE], 4)
    assert "".join(log) == "abc" + "bca" + "cab" + "abc"
    assert [len(one.timings) for one in three] == [4, 4, 4]


def test_images_take_turns() -> None:
    read: list[str] = []

    def source(name: str) -> ImageSource:
        def read_it() -> Any:
            read.append(name)
            return np.zeros((4, 4, 3), np.uint8)

        return ImageSource(name, None, read_it)

    measure_rounds([fake("a"), fake("b")], [source("x"), source("y")], 3)
    assert "".join(read) == "xx" + "yy" + "xx"


def test_warm_up_of_a_number_of_rounds_is_exact() -> None:
    log: list[str] = []
    warm = warm_up([fake(log=log)], [SOURCE], 7, 0.0)
    assert (warm.rounds, warm.is_stable, len(log)) == (7, None, 7)


def test_warm_up_goes_on_until_stable_or_says_that_it_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def totals(values: Callable[[int], float]) -> Callable[..., dict[str, float]]:
        calls: list[int] = []

        def inspect(*_: object) -> dict[str, float]:
            calls.append(0)
            return {"total": values(len(calls))}

        return inspect

    # falls to 10 ms over 20 rounds, and stays: 5 + 5 rounds that agree come after that
    steps = totals(lambda call: 10.0 + 40.0 * max(0, 20 - call))
    monkeypatch.setattr("cff_bench.latency.rounds.inspect_once", steps)
    warm = warm_up([fake()], [SOURCE], 2, 60.0)
    assert warm.is_stable is True
    assert 20 <= warm.rounds <= 30
    growing = totals(lambda call: 2.0**call)
    monkeypatch.setattr("cff_bench.latency.rounds.inspect_once", growing)
    assert warm_up([fake()], [SOURCE], 1, 0.01).is_stable is False


def test_streams_count_every_inspection() -> None:
    turns = measure_streams([fake("a"), fake("b")], [SOURCE], (1, 3), 0.06)
    assert list(turns) == [("a", 1), ("b", 1), ("a", 3), ("b", 3)]
    for (_, n_streams), found in turns.items():
        assert len(found) == 3
        for turn in found:
            assert len(turn.totals_ms) >= n_streams
            assert turn.per_second > 0


def test_noise_is_seeded_and_files_are_named(tmp_path: Path) -> None:
    (noise,) = image_sources(None)
    np.testing.assert_array_equal(noise.read(), noise_image())
    assert "seeded noise" in noise.name and noise.path is None
    assert [one.path for one in image_sources([tmp_path / "a", tmp_path / "b"])] == [
        tmp_path / "a",
        tmp_path / "b",
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n": 0}, "`n` must be at least 1"),
        ({"warmup": -1}, "`n` must be at least 1"),
        ({"streams": (0,)}, "`streams` must be at least 1"),
        ({"stream_seconds": 0.0}, "`stream_seconds` above 0"),
        ({"warmup_limit_s": -1.0}, "`warmup_limit_s`"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any], words: str) -> None:
    right: dict[str, Any] = {"n": 1, "warmup": 0}
    with pytest.raises(UsageError, match=words):
        LatencySettings(
            bundle=Path("b"),
            profile=Path("p"),
            images=None,
            backend="onnxruntime",
            **{**right, **wrong},
        )


def test_numbers_of_streams() -> None:
    assert require_streams("1,2, 2,8") == (1, 2, 8)
    assert require_streams("") == ()
    with pytest.raises(UsageError, match="whole numbers such as 1,2"):
        require_streams("1,two")


def test_engines_are_told_from_their_side_cars(tmp_path: Path) -> None:
    rows, reason = engine_builds(tmp_path, "onnxruntime", {})
    assert rows == [] and "builds none" in reason
    _, reason = engine_builds(tmp_path, "tensorrt", {"engines": str(tmp_path / "mine")})
    assert reason == f"no engine in `{tmp_path / 'mine'}`"
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / "encoder.tensorrt.0.engine.json").write_text(SIDE_CAR)
    rows, reason = engine_builds(tmp_path, "tensorrt", {})
    assert reason == ""
    assert rows == [
        {
            "graph": "encoder.fp32.onnx",
            "flavour": "tensorrt-rtx",
            "precision": "fp32",
            "gpu": "8.6, 8.9",
            "build_s": 27.5,
            "mb": 1.25,
        }
    ]


SIDE_CAR = """{"schema_version": 1,
 "key": {"graph": "ab", "precision": "fp32", "flavour": "tensorrt-rtx", "version": "1.3",
         "compute_capabilities": ["8.6", "8.9"], "gpu": "", "sizes": {"image": [1, 1, 1]},
         "tf32": false},
 "graph": {"name": "encoder.fp32.onnx", "n_bytes": 10},
 "engine": {"sha256": "cd", "n_bytes": 1250000},
 "build_seconds": 27.5,
 "layers": {"report": "x", "typing": "strong", "n_by_type": {}, "n_kept_fp32": 0},
 "warnings": [], "notes": [], "built": "2026-01-01T00:00:00+00:00", "accepted": null}
"""
