"""Benchmarks of a bundle with a template and without memory banks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_bench.peers.contestants import (
    APRIL_GAN,
    COMPILED,
    EAGER,
    REDUCED,
    REFERENCE,
    contestant_names,
    load_contestant,
)
from cff_bench.peers.subject import Subject, choose_subject
from cff_bench.precision.eager import load_trained_part, rebuild_detector
from cff_bench.precision.facts import bundle_facts
from cff_bench.report.document import Report
from cff_bench.report.terminal import format_terminal
from cff_bench.search.measurement import SearchSettings, run_search
from cff_bench.sweep.axes import Axes, EncodePart, combinations, parts_of
from cff_bench.sweep.document import run as run_sweep
from cff_bench.sweep.measurement import SweepSettings
from cff_edge.backbones import load_backbone
from cff_edge.checkpoint import CONFIG_NAME
from cff_edge.tfa_net.detector import TfaDetector
from cff_edge.tfa_net.run_files import save_tfa_run
from cff_runtime import Inspector, Profile
from cff_runtime.errors import UsageError

Image = NDArray[np.uint8]
CPU = "onnxruntime/cpu"


@pytest.fixture(scope="module")
def run(tfa: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    facts = {"products": ["ring"], "template": {"name": "a.png", "sha256": "0" * 64}}
    save_tfa_run(folder, tfa.net, tfa.backbone.info, facts)
    (folder / CONFIG_NAME).write_text(tfa.config.to_toml())
    return folder


@pytest.fixture(scope="module")
def profile(tfa: Any, good_parts: list[Image]) -> Profile:
    return Inspector.open(tfa.bundle.path).enroll(good_parts, "ring")


@pytest.fixture(scope="module")
def subject(
    tfa: Any, profile: Profile, bad_part: Image, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    file = tmp_path_factory.mktemp("profile") / "ring.safetensors"
    profile.save(file)
    return replace(choose_subject(tfa.bundle.path, file, None, None, 1), image=bad_part)


# --- sweep


@pytest.fixture(scope="module")
def report(tfa: Any) -> Report:
    axes = Axes(batches=(1, 2, 3), shots=(1, 4), banks=(0, 8), threads=(1,))
    report = run_sweep(SweepSettings((tfa.bundle.path,), axes, 3, 0, None, ("cff-bench",)))
    return Report.from_dict(json.loads(json.dumps(report.to_dict())))


def test_only_encoders_are_swept(tfa: Any) -> None:
    cells = combinations(Axes((1, 2), (1, 4), (0, 8), (), (1,)), CPU, tfa.bundle, {})
    assert [(cell.encode.batch, cell.search, cell.reason) for cell in cells] == [
        (1, None, None),
        (2, None, None),
    ]
    assert parts_of(cells) == [EncodePart("fp32", 1, 1), EncodePart("fp32", 1, 2)]


def test_a_sweep_has_no_search(report: Report) -> None:
    tables = {table.name: table.rows for table in report.tables}
    assert "search" not in tables
    assert [row["batch"] for row in tables["matrix"]] == [1, 2, 3]
    for row, series in zip(tables["matrix"], report.series, strict=True):
        assert (row["shots"], row["bank"], row["rows"], row["search_ms"]) == (None,) * 4
        expected = np.median(series.values) / row["batch"]
        assert row["p50_ms"] == row["encode_ms"] == pytest.approx(expected)
    assert [row["law"] for row in tables["laws"]] == ["t = a + b B"]
    assert any("nothing is searched" in note for note in report.notes)
    heatmap = next(plot for plot in report.plots if plot.kind == "heatmap")
    assert heatmap.series[0].x == ["B1", "B2", "B3"]
    assert "B = 3" in format_terminal([report])


# --- search


def test_a_search_of_nothing_is_refused(tfa: Any, tmp_path: Path, good_parts: list[Image]) -> None:
    from PIL import Image as Pillow

    for index, part in enumerate(good_parts[:2]):
        Pillow.fromarray(part).save(tmp_path / f"{index}.png")
    with pytest.raises(UsageError, match=r"must search memory banks, .* has none"):
        run_search(SearchSettings(tfa.bundle.path, tmp_path, (1,), n=1))


# --- PyTorch


def test_the_unfolded_detector_is_the_bundles(tfa: Any, run: Path, bad_part: Image) -> None:
    import torch

    manifest = tfa.bundle.manifest
    detector = rebuild_detector(manifest)
    assert isinstance(detector, TfaDetector)
    assert detector.net.config == tfa.net.config
    load_trained_part(detector, manifest, run)
    images = torch.tensor(manifest.preprocessing(bad_part))[None]
    reference = TfaDetector(tfa.backbone, tfa.net).eval()
    with torch.inference_mode():
        template = reference.template(images)[0]
        expected, found = reference(images, template), detector(images, template)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"model": "patchcore"}, "`head.model` of the bundle must be one of cff, tfa-net"),
        ({"model": "tfa-net"}, "`head.options` of the bundle must be those of TFA-Net"),
    ],
)
def test_what_cannot_be_built_is_refused(tfa: Any, head: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rebuild_detector(replace(tfa.bundle.manifest, head=head))


def test_a_run_of_another_network_is_refused(tfa: Any, run: Path, tmp_path: Path) -> None:
    manifest = tfa.bundle.manifest
    options = {**manifest.head["options"], "width": 32}
    other = rebuild_detector(replace(manifest, head={**manifest.head, "options": options}))
    with pytest.raises(UsageError, match=r"the net in .* does not fit"):
        load_trained_part(other, manifest, run)
    with pytest.raises(UsageError, match="must be a finished run of TFA-Net"):
        load_trained_part(other, manifest, tmp_path)


def test_the_published_trunk_can_be_rebuilt(tfa: Any) -> None:
    """Its stages have no numbers and no choice."""
    info = load_backbone("wide_resnet50_2", "random", 64).info
    stages = [{"tap": s.tap, "width": s.width, "grid": list(s.grid)} for s in info.stages]
    facts = {"name": info.name, "weights": "random", "stages": stages, "joint_dim": 512}
    size = replace(tfa.bundle.manifest.preprocessing, width=64, height=64)
    manifest = replace(tfa.bundle.manifest, backbone=facts, preprocessing=size)
    detector = rebuild_detector(manifest)
    assert detector.info.stages == info.stages


# --- peers


def test_who_takes_part(tfa: Any) -> None:
    names = contestant_names(tfa.bundle.manifest)
    assert {REFERENCE, EAGER, COMPILED} < set(names)
    assert REDUCED not in names  # there are no banks


def test_peers_find_the_same_map(
    tfa: Any, subject: Subject, run: Path, profile: Profile, bad_part: Image
) -> None:
    expected = Inspector.open(tfa.bundle.path).inspect(bad_part, profile)
    largest = float(expected.anomaly_map.max())
    for name in (REFERENCE, EAGER):
        answer = load_contestant(name, replace(subject, run=run))()
        np.testing.assert_allclose(answer.anomaly_map, expected.anomaly_map, atol=1e-4 * largest)
        deviation = expected.anomaly_map.astype(np.float64).std()
        assert answer.score == pytest.approx(deviation, rel=1e-3)
        assert list(answer.stages_ms) == ["preprocess", "encode", "search", "finish"]


def test_april_gan_needs_text_vectors(tfa: Any, subject: Subject, monkeypatch: Any) -> None:
    backbone = {**tfa.bundle.manifest.backbone, "name": "open_clip:ViT-L-14-336"}
    manifest = replace(tfa.bundle.manifest, backbone=backbone)
    bundle = replace(tfa.bundle, manifest=manifest)
    monkeypatch.setattr("cff_bench.peers.contestants.Bundle.open", lambda *_: bundle)
    with pytest.raises(UsageError, match="compares with text vectors, and the bundle has none"):
        load_contestant(APRIL_GAN, subject)


def test_facts_of_the_bundle(tfa: Any) -> None:
    facts = bundle_facts(tfa.bundle.path, tfa.bundle.manifest)
    assert (facts["calibrator"], facts["trained_on"]) == (None, ["ring"])
