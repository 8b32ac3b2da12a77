"""Speed of precisions: a real run on a tiny transformer, what is not timed, memory, errors."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory

from cff_bench import cli
from cff_bench.precision import memory, speed, untrained
from cff_bench.precision.eager import load_eager, rebuild_detector
from cff_bench.precision.encoders import EAGER, load_encoder, noise_pixels
from cff_bench.precision.speed import SpeedSettings, format_speed, run_speed
from cff_edge.detector import Detection
from cff_export import variants
from cff_runtime import Bundle
from cff_runtime.backends import Encoding
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.manifest import Variant

TINY = "tiny-bench"
SIZE_PX = 64
_TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": SIZE_PX,
        "layers": 4,
        "width": 48,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SETTINGS = SpeedSettings(
    bundle=None,
    backbone=None,
    weights=None,
    image_size=None,
    precisions=(),
    repeats=5,
    warmup=0,
    threads=1,
)
INT8 = "onnxruntime int8"
FP32 = "onnxruntime fp32"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def tiny(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a tiny vision transformer known to open_clip; return its name."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(_TINY_CONFIG))
    patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(folder)
    return f"open_clip:{TINY}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the bundle that `report` leaves."""
    return tmp_path_factory.mktemp("kept") / "bundle"


@pytest.fixture(scope="module")
def report(tiny: str, kept: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A whole measurement, of a network so small that int8 is no faster."""
    patch.setattr(variants, "_FAST_ENOUGH", float("inf"))
    # a process of its own would not know the tiny model
    patch.setattr(speed, "peak_memory_mb", lambda name, *_: float(len(name)))
    patch.setattr(speed, "_HELD", (tiny, SIZE_PX))
    settings = dataclasses.replace(
        SETTINGS,
        backbone=tiny,
        weights="random",
        image_size=SIZE_PX,
        precisions=("fp32", "int8", "fp16"),
        keep=kept,
        command=("cff-bench", "precision", "speed"),
    )
    n_threads = torch.get_num_threads()
    found: dict[str, Any] = json.loads(json.dumps(run_speed(settings)))
    assert torch.get_num_threads() == n_threads
    return found


def test_rows_are_the_encoders_in_order(report: dict[str, Any], kept: Path) -> None:
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == [EAGER, FP32, INT8]
    assert [row["precision"] for row in rows.values()] == ["fp32", "fp32", "int8"]
    assert {row["n"] for row in rows.values()} == {5}
    assert all(0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] for row in rows.values())
    assert [row["peak_memory_mb"] for row in rows.values()] == [len(name) for name in rows]
    assert rows[EAGER]["graph_mb"] is None
    for name in (FP32, INT8):
        assert rows[name]["graph_mb"] == (kept / rows[name]["graph"]).stat().st_size / 1e6
    assert rows[INT8]["graph_mb"] < 0.6 * rows[FP32]["graph_mb"]
    assert rows[INT8]["facts"]["n_int8_layers"] > 8


def test_ratios_are_of_medians_with_what_is_held(report: dict[str, Any]) -> None:
    p50 = {row["name"]: row["p50_ms"] for row in report["rows"]}
    ratios = {ratio["name"]: ratio for ratio in report["ratios"]}
    pairs = ((FP32, EAGER, 0.75), (INT8, EAGER, 0.35), (INT8, FP32, None))
    assert list(ratios) == [f"{name} / {base}" for name, base, _ in pairs]
    for name, base, limit in pairs:
        ratio = ratios[f"{name} / {base}"]
        assert ratio["p50"] == pytest.approx(p50[name] / p50[base])
        assert ratio["limit"] == limit


def test_report_says_what_was_measured(report: dict[str, Any]) -> None:
    assert list(report["not_timed"]) == ["fp16"]
    assert "computes float16 in float32 on a CPU" in report["not_timed"]["fp16"]
    assert report["bundle"]["path"] is None
    assert report["bundle"]["backbone"]["name"] == f"open_clip:{TINY}"
    assert report["bundle"]["input_px"] == [SIZE_PX, SIZE_PX]
    assert report["command"] == ["cff-bench", "precision", "speed"]
    assert report["settings"]["threads"] == 1
    assert report["environment"]["packages"]["onnxruntime"]
    text = format_speed(report)
    assert "fp16     is not timed" in text
    assert "random backbone weights: for latency and parity only" in text
    assert f"{INT8} / {EAGER}" in text


@pytest.mark.usefixtures("report")
def test_both_runtimes_do_the_same_work(kept: Path) -> None:
    bundle = Bundle.open(kept)
    expected = load_encoder(EAGER, bundle, 1)()
    found = load_encoder(FP32, bundle, 1)()
    assert isinstance(expected, Detection)
    assert isinstance(found, Encoding)
    np.testing.assert_allclose(found.map, expected.text_map[0].numpy(), atol=1e-3)
    assert expected.text_score is not None
    assert found.score == pytest.approx(float(expected.text_score[0]), abs=1e-3)
    for stage, features in enumerate(found.features):
        difference = features.numpy()[0] - expected.features[stage][0].numpy()
        assert np.abs(difference).max() < 1e-4


# --- bundles


def test_a_bundle_is_timed_with_its_precisions(
    lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "peak_memory_mb", lambda *_: None)
    report = run_speed(dataclasses.replace(SETTINGS, bundle=lite_bundle.path))
    assert [row["name"] for row in report["rows"]] == [EAGER, FP32]
    assert [ratio["limit"] for ratio in report["ratios"]] == [None]
    assert report["not_timed"] == {}
    assert report["bundle"]["path"] == str(lite_bundle.path)
    assert format_speed(report).splitlines()[-1].startswith(f"{FP32} / {EAGER}")


def test_refused_and_gpu_precisions_are_told(
    lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[object] = []

    def export(*arguments: object) -> tuple[Bundle, dict[str, str]]:
        wanted.append(arguments[:4])
        return lite_bundle, {"int8": "it is not faster"}

    monkeypatch.setattr(untrained, "export_untrained", export)
    monkeypatch.setattr(speed, "peak_memory_mb", lambda *_: None)
    chosen = dataclasses.replace(
        SETTINGS, backbone="efficientnet-lite0", precisions=("int8", "int8-qdq")
    )
    report = run_speed(chosen)
    assert wanted == [("efficientnet-lite0", None, None, ["int8"])]
    assert [row["name"] for row in report["rows"]] == [EAGER, FP32]
    assert report["not_timed"]["int8"] == "refused at export: it is not faster"
    assert "made for TensorRT" in report["not_timed"]["int8-qdq"]


def test_blocks_kept_in_fp32_are_told(lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = lite_bundle.manifest
    variant = Variant(manifest.encoder, manifest.id, ("heads.2",), {"n_int8_layers": 3}, {})
    with_int8 = dataclasses.replace(manifest, variants={"int8": variant})
    bundle = Bundle(lite_bundle.path, with_int8)
    monkeypatch.setattr(speed.Bundle, "open", lambda *_: bundle)
    monkeypatch.setattr(speed, "peak_memory_mb", lambda *_: None)
    report = run_speed(dataclasses.replace(SETTINGS, bundle=lite_bundle.path))
    row = report["rows"][-1]
    assert (row["name"], row["kept_fp32"]) == (INT8, ["heads.2"])
    assert row["facts"] == {"n_int8_layers": 3}
    assert "int8     keeps in fp32: heads.2" in format_speed(report)


def test_weights_that_are_not_at_hand_become_random(lite_bundle: Bundle) -> None:
    backbone = {**lite_bundle.manifest.backbone, "weights": "file:mine.pt"}
    manifest = dataclasses.replace(lite_bundle.manifest, backbone=backbone)
    assert rebuild_detector(lite_bundle.manifest).info.weights == "imagenet"
    assert rebuild_detector(manifest).info.weights == "random"


def test_other_stages_than_the_bundle_are_refused(lite_bundle: Bundle) -> None:
    stages = lite_bundle.manifest.stages
    for change, message in (
        ({"grid": (5, 5)}, "must be the bundle's"),
        ({"tap": "last"}, "must end in its block's number, got 'last'"),
    ):
        changed = (dataclasses.replace(stages[0], **change), *stages[1:])
        manifest = dataclasses.replace(lite_bundle.manifest, stages=changed)
        image, text = noise_pixels(manifest), lite_bundle.condition_of_word("object")
        with pytest.raises(UsageError, match=message):
            load_eager(manifest, image, text)


# --- memory


def test_memory_is_of_a_process_with_this_encoder_alone(lite_bundle: Bundle) -> None:
    graph = memory.peak_memory_mb(FP32, lite_bundle.path, 1)
    eager = memory.peak_memory_mb(EAGER, lite_bundle.path, 1)
    if graph is None or eager is None:
        pytest.skip("this system does not tell")
    weights_mb = lite_bundle.file(lite_bundle.manifest.encoder).stat().st_size / 1e6
    assert weights_mb < graph < 500
    assert eager > graph + 100  # PyTorch itself; the graph is weighed without it


def test_memory_of_what_cannot_run_names_it(lite_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="`onnxruntime int8` must run in a process of its own"):
        memory.peak_memory_mb(INT8, lite_bundle.path, 1)


def test_memory_is_unknown_where_the_system_does_not_tell(
    lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert memory.peak_memory_mb(FP32, lite_bundle.path, 1) is None


# --- settings and command line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "either `BUNDLE` or `--backbone` must be given"),
        ({"bundle": Path("b"), "backbone": "x"}, "and not both"),
        ({"bundle": Path("b"), "weights": "random"}, "`--weights` must be given with `--backbone`"),
        ({"bundle": Path("b"), "image_size": 64}, "`--image-size` must be given with"),
        ({"bundle": Path("b"), "repeats": 4}, "`--repeats` must be at least 5"),
        ({"bundle": Path("b"), "precisions": ("int4",)}, "must be of fp32, int8, .* got 'int4'"),
        ({"backbone": "x", "keep": Path("/")}, "`--keep` must be a new folder, `/` exists"),
        ({"backbone": "x"}, "`name` must be a backbone"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_speed(dataclasses.replace(SETTINGS, **change))


def test_command_line_passes_its_arguments_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[SpeedSettings] = []

    def run(settings: SpeedSettings) -> dict[str, Any]:
        seen.append(settings)
        return {"rows": 3}

    monkeypatch.setattr(speed, "run_speed", run)
    monkeypatch.setattr(speed, "format_speed", lambda report: f"{report['rows']} rows")
    path = tmp_path / "speed.json"
    arguments = ["precision", "speed", "--backbone", "x", "--weights", "random"]
    arguments += ["--image-size", "518", "--precisions", "fp32, int8", "--repeats", "6"]
    arguments += ["--warmup", "1", "--threads", "2", "--keep", "out", "--json", str(path)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "3 rows\n"
    assert json.loads(path.read_text()) == {"rows": 3}
    command = ("cff-bench", *arguments)
    assert seen == [
        SpeedSettings(None, "x", "random", 518, ("fp32", "int8"), 6, 1, 2, Path("out"), command)
    ]
