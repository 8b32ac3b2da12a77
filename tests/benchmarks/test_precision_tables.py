"""The tables of both precision reports: digits from reports written by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "update_tables.py"
VIT = {"name": "open_clip:ViT-L-14-336", "weights": "random"}


def timed(
    name: str, p50_ms: float, graph_mb: float | None, kept: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "name": name,
        "precision": name.split()[-1],
        "p50_ms": p50_ms,
        "graph_mb": graph_mb,
        "peak_memory_mb": None if graph_mb is None else 2 * graph_mb,
        "kept_fp32": list(kept),
    }


SPEED: dict[str, Any] = {
    "rows": [
        timed("pytorch eager fp32", 800.0, None, ()),
        timed("onnxruntime fp32", 560.0, 1220.4, ()),
        timed("onnxruntime int8", 200.04, 310.0, ("trunk.blocks.3",)),
    ],
    "ratios": [
        {"name": "onnxruntime fp32 / pytorch eager fp32", "limit": 0.75},
        {"name": "onnxruntime int8 / pytorch eager fp32", "limit": 0.35},
        {"name": "onnxruntime int8 / onnxruntime fp32", "limit": None},
    ],
    "not_timed": {"fp16": "a CPU has none"},
    "bundle": {"backbone": VIT, "input_px": [518, 518]},
    "environment": {"cpu_model": "CPU"},
    "settings": {"threads": 2, "repeats": 7},
}
SPEED_TABLE = """\
| encoder | p50 ms | of PyTorch | at most | graph MB | memory MB | kept in fp32 |
| --- | --- | --- | --- | --- | --- | --- |
| PyTorch eager fp32 | 800.0 | 1.00 |  |  |  |  |
| ONNX Runtime fp32 | 560.0 | 0.70 | 0.75 | 1220 | 2441 |  |
| ONNX Runtime int8 | 200.0 | 0.25 | 0.35 | 310 | 620 | 1 block |"""


def judged(
    precision: str, points: float, flips: int, shift: float | None, kept: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "precision": precision,
        "computed": "emulated, in detail" if precision == "fp16" else "as it is",
        "means": {"image_auroc": 0.95 + points / 100, "pixel_auroc": 0.97},
        "minus_fp32": {"image_auroc_points": points, "pixel_auroc_points": -0.001},
        "flips": [{}] * flips,
        "score_shift": shift,
        "kept_fp32": list(kept),
        "products": [{"points_per_pair": 2.0}, {"points_per_pair": 0.5}],
    }


DRIFT: dict[str, Any] = {
    "precisions": [
        judged("fp32", 0.0, 0, 0.0, ()),
        judged("fp16", -0.142, 1, 0.0261, ("heads.2", "trunk.blocks.3")),
        judged("int8", 0.1, 0, None, ()),
    ],
    "data": {"name": "parts", "products": ["bolt", "nut"], "n_test_images": 31},
    "bundle": {"backbone": VIT, "input_px": [256, 256]},
    "settings": {"shots": 4},
}
DRIFT_TABLE = """\
| precision | image AUROC | points | pixel AUROC | points | verdict flips | largest score shift \
| kept in fp32 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| fp32 | 0.9500 |  | 0.9700 |  |  |  |  |
| fp16 | 0.9486 | -0.14 | 0.9700 | +0.00 | 1 | 2.6% | 2 blocks |
| int8 | 0.9510 | +0.10 | 0.9700 | +0.00 | 0 |  | none |"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_speed(script: ModuleType) -> None:
    words, _, table = script.TABLES["precision_speed"][1](SPEED).partition("\n\n")
    assert table == SPEED_TABLE
    assert "`open_clip:ViT-L-14-336` (random weights) at 518 px, CPU, threads: 2" in words
    assert words.endswith("fp16 is not timed: a CPU has none.")


def test_drift(script: ModuleType) -> None:
    words, _, table = script.TABLES["precision_drift"][1](DRIFT).partition("\n\n")
    assert table == DRIFT_TABLE
    assert "Means over 2 products of parts (31 test images), K = 4" in words
    assert "changes places is worth 0.25 to 1.00 of them" in words
    assert words.endswith("fp16 emulated on a CPU, roundings included.")


@pytest.mark.parametrize("name", ["precision_speed", "precision_drift"])
def test_tables_have_their_json(script: ModuleType, name: str) -> None:
    file, write = script.TABLES[name]
    assert file == f"benchmarks/results/{name}.json"
    assert write.__name__ == name
