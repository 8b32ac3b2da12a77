"""The reference backbone at full size: ViT-L/14 at 518 px, from random weights to a verdict.

In a process of its own, so that the peak of its memory is its own.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cff_runtime import Bundle

# 2.4 GiB of model; protobuf takes five times the weights while it writes them
MAX_PEAK_BYTES = 10 * 2**30

_EXPORT_AND_INSPECT = """
import json, resource, sys, time
from pathlib import Path

from cff_edge.backbones import load_backbone
from cff_edge.config import load_config
from cff_edge.heads import Head
from cff_export import ExportSettings, export_bundle
from cff_export.golden import draw_golden_images
from cff_runtime import Inspector

out, seconds, started = Path(sys.argv[1]), {}, time.monotonic()


def lap(name):
    global started
    seconds[name] = round(time.monotonic() - started, 1)
    started = time.monotonic()


name = "open_clip:ViT-L-14-336"
config = load_config(None, [f"backbone.name={name}", "backbone.weights=random"])
backbone = load_backbone(name, "random", config.backbone.image_size)
lap("load")
backbone.text_vectors("object")
lap("420 prompts")
info = backbone.info
widths = [stage.width for stage in info.stages]
head = Head(widths, info.joint_dim, "affine", config.head.projector_init).eval()
bundle = export_bundle(backbone, head, config, out)
lap("export")
inspector = Inspector.open(out)
good, *_, bad = draw_golden_images()
profile = inspector.enroll([good], "disc")
lap("enroll")
result = inspector.inspect(bad, profile)
lap("inspect")
print(json.dumps({
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "seconds": seconds,
    "n_parameters": sum(parameter.numel() for parameter in head.parameters()),
    "grids": [stage.grid for stage in bundle.manifest.stages],
    "widths": [stage.width for stage in bundle.manifest.stages],
    "notes": bundle.manifest.notes,
    "parity": bundle.manifest.parity,
    "bank_shapes": [bank.shape for bank in profile.banks],
    "map_shape": result.anomaly_map.shape,
    "score": result.score,
    "verdict": result.verdict,
    "text_score": result.text_score,
}))
"""


@pytest.fixture(scope="module")
def exported_vit_l(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundle, and what the process that made it said."""
    out = tmp_path_factory.mktemp("vit-l") / "bundle"
    command = [sys.executable, "-c", _EXPORT_AND_INSPECT, str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, json.loads(done.stdout)


@pytest.mark.slow
def test_vit_l_is_exported_and_inspects_in_less_than_10_gib(
    exported_vit_l: tuple[Path, dict[str, Any]], record_property: Callable[[str, object], None]
) -> None:
    out, facts = exported_vit_l
    record_property("seconds", facts["seconds"])
    record_property("peak_gib", facts["peak_bytes"] / 2**30)
    print(facts["seconds"], f"peak {facts['peak_bytes'] / 2**30:.2f} GiB")  # noqa: T201
    assert facts["peak_bytes"] < MAX_PEAK_BYTES
    assert facts["n_parameters"] == 5_511_168
    assert facts["grids"] == [[37, 37]] * 4
    assert facts["widths"] == [768] * 4
    assert facts["notes"][0].startswith("random backbone weights")
    assert facts["parity"]["passed"] is True
    assert max(facts["parity"]["feature_max_diff"]) <= 1e-4
    assert facts["parity"]["map_max_diff"] <= 1e-3
    assert facts["bank_shapes"] == [[1369, 768]] * 4
    assert facts["map_shape"] == [518, 518]
    assert 0 <= facts["text_score"] <= 1
    assert facts["verdict"] in ("pass", "reject")
    graph = out / "encoder.fp32.onnx"
    assert 1.1e9 < graph.stat().st_size < 1.4e9


@pytest.mark.slow
def test_vit_l_in_fp16_passes_the_gate_and_becomes_an_engine(
    exported_vit_l: tuple[Path, dict[str, Any]],
) -> None:
    pytest.importorskip("tensorrt_rtx")
    out, _ = exported_vit_l
    options = ["--precision", "fp16", "--engine", "tensorrt-rtx", "--compute-capability", "8.6,8.9"]
    command = [sys.executable, "-m", "cff_export.cli", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stderr[-2000:]
    bundle = Bundle.open(out)
    variant = bundle.manifest.variants["fp16"]
    assert variant.kept_fp32 == ()
    assert min(variant.parity["feature_mean_cosine"]) > 0.9995
    assert variant.parity["batch_position_max_diff"] <= 0.02
    half = (out / variant.encoder).stat().st_size
    assert 0.45 < half / (out / "encoder.fp32.onnx").stat().st_size < 0.55
    (engine,) = (out / "engines").glob("encoder.fp16.*.engine")
    assert engine.stat().st_size > 0.9 * half
