"""`cff-bench tfa-net`: times and sizes against the samples and the files, then all of it once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cff_bench import cli
from cff_bench.report.document import Series
from cff_bench.tfa_net import latency
from cff_bench.tfa_net.settings import PARTS, TfaNetSettings
from cff_runtime import Bundle, Inspector

METHODS = ["cff", "tfa-net", "untrained", "untrained-plain"]
SMALL = (
    "backbone.image_size=64",
    "train.device=cpu",
    "tfa.width=24",
    "tfa.heads=3",
    "tfa.aggregation_blocks=1",
    "tfa.refinement_width=16",
    "tfa.refinement_heads=2",
    "tfa.refinement_blocks=1",
)


@pytest.fixture(scope="module")
def data(draw_part: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product in MVTec AD layout: 5 normals, 3 good and 3 defective test parts."""
    root: Path = tmp_path_factory.mktemp("data") / "parts"
    truth = root / "ring" / "ground_truth" / "bar"
    bar = np.zeros((120, 150), np.uint8)
    bar[52:60, 80:115] = 255
    truth.mkdir(parents=True)
    for kind, n_images in (("train/good", 5), ("test/good", 3), ("test/bar", 3)):
        (root / "ring" / kind).mkdir(parents=True)
        for index in range(n_images):
            pixels = draw_part(10 * len(kind) + index, kind == "test/bar")
            Image.fromarray(pixels).save(root / "ring" / kind / f"{index:03}.png")
    for index in range(3):
        Image.fromarray(bar).save(truth / f"{index:03}_mask.png")
    return root


@pytest.fixture(scope="module")
def timed(
    data: Path, lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[Series]]:
    """Two bundles by turns; the network's is of the same kind here."""
    out: Path = tmp_path_factory.mktemp("timed")
    settings = TfaNetSettings(
        data, ("ring",), out, lite_bundle.path, shots=(1, 2), n=9, warmup=1, precisions=("fp32",)
    )
    bundle = settings.bundle("ring", "tfa-net")
    bundle.parent.mkdir(parents=True)
    bundle.symlink_to(lite_bundle.path, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "PAUSE_MS", 0.0)
        return latency.time_networks(settings)


def test_latency_is_of_the_samples(timed: tuple[dict[str, Any], list[Series]]) -> None:
    facts, series = timed
    values = {one.name: one.values for one in series}
    assert list(values) == ["tfa-net/cff fp32", "tfa-net/tfa-net fp32"]
    assert [one.role for one in series] == ["reference", "total"]
    assert (facts["product"], facts["k"], facts["n_images"]) == ("ring", 2, 6)
    for row in facts["rows"]:
        own = values[f"tfa-net/{row['name']}"]
        assert row["n"] == len(own) == 9
        assert row["p50_ms"] == pytest.approx(np.median(own))
        assert row["p95_ms"] == pytest.approx(np.percentile(own, 95))
        assert row["images_s"] == pytest.approx(1000 / np.median(own))
        reference = np.median(values["tfa-net/cff fp32"])
        assert row["ratio"] == pytest.approx(np.median(own) / reference)
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert sum(row["stages_ms"].values()) < max(own)
        assert set(row["stages_ms"]) == {"preprocess", "encode", "search", "finish"}


def test_sizes_are_of_the_files(
    timed: tuple[dict[str, Any], list[Series]], lite_bundle: Bundle
) -> None:
    facts, _ = timed
    files = {path for path in lite_bundle.path.rglob("*") if path.is_file()}
    graphs = sum(path.stat().st_size for path in files if path.suffix == ".onnx")
    whole = sum(path.stat().st_size for path in files if path.name != "manifest.json")
    for row in facts["rows"]:
        assert row["graph_mb"] * 1e6 == graphs
        assert row["bundle_mb"] * 1e6 == whole
        assert row["profile_mb"] > 2 * 96 * 96 * 3 / 1e6  # the references' pixels alone


def test_a_ratio_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(1.0, 2.0, 60)
    reference = list(10 * drift)
    values = list(25 * drift * rng.uniform(0.99, 1.01, 60))
    found = latency.ratio(reference, values)
    assert found.low is not None and found.high is not None
    assert found.value == pytest.approx(np.median(values) / np.median(reference))
    assert found.low <= found.value <= found.high
    assert found.high / found.low < 1.1  # what hit both in a round leaves the ratio
    short = latency.ratio([1.0, 2.0, 3.0], [2.0, 8.0, 5.0])
    assert (short.value, short.low, short.high) == (2.5, None, None)


@pytest.mark.slow
def test_trained_exported_judged_and_timed(
    data: Path, lite_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "r.json"
    words = ["--data", str(data), "--products", "ring", "--cff", str(lite_bundle.path)]
    words += ["--out", str(tmp_path / "out"), "--json", str(target), "--threads", "1"]
    words += ["--shots", "1,2", "--seeds", "2", "-n", "3", "--warmup", "1", "--epochs", "2"]
    words += ["--precisions", "fp32", *(word for text in SMALL for word in ("--set", text))]
    assert cli.main(["tfa-net", *words]) == 0
    found = json.loads(target.read_text())["facts"]
    assert found["training"]["products"][0]["n_epochs_measured"] == 2
    assert found["training"]["products"][0]["cpu_minutes"] > 0
    assert [row["method"] for row in found["accuracy"]["rows"]] == [*METHODS * 2, "cff", "tfa-net"]
    bundle = tmp_path / "out" / "ring" / "tfa-net" / "bundle"
    cell = next(c for c in found["accuracy"]["cells"] if (c["method"], c["k"]) == ("tfa-net", 2))
    inspector = Inspector.open(bundle)
    profile = inspector.enroll([data / name for name in cell["references"]], "ring")
    masks = np.zeros((6, 64, 64), bool)
    paths = sorted((data / "ring" / "test").glob("*/*.png"))
    for index, path in enumerate(paths):
        if path.parent.name == "bar":
            mask = Image.open(data / "ring" / "ground_truth" / "bar" / f"{path.stem}_mask.png")
            small = mask.resize((64, 64), Image.Resampling.BILINEAR)
            masks[index] = np.asarray(small) > 127
    maps = np.stack([inspector.inspect(path, profile).anomaly_map for path in paths])
    inside, outside = maps[masks], np.sort(maps[~masks])
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    expected = below.mean() / (2 * len(outside))
    assert cell["metrics"]["pixel_auroc"] == pytest.approx(expected, abs=1e-6)
    assert [row["name"] for row in found["latency"]["rows"]] == ["cff fp32", "tfa-net fp32"]
    capsys.readouterr()
    assert cli.main(["tfa-net", *words, "--only", "latency"]) == 0
    assert set(json.loads(target.read_text())["facts"]) == set(PARTS)
