"""Peers: their answers, ratios by hand, a real run in processes, what is absent, wrong calls."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_bench.peers import command, figures
from cff_bench.peers.command import add_peers_parser
from cff_bench.peers.contest import Contest, subject_key
from cff_bench.peers.contestants import (
    ANOMALIB,
    APRIL_GAN,
    COMPILED,
    EAGER,
    REDUCED,
    REFERENCE,
    contestant_names,
    load_contestant,
)
from cff_bench.peers.measurement import PeersSettings, run
from cff_bench.peers.subject import Subject, bench_profile, choose_subject
from cff_bench.peers.turns import Contestant, contestants, take_turns
from cff_bench.precision import eager as precision_eager
from cff_bench.report.document import Report
from cff_edge.backbones import Backbone
from cff_edge.checkpoint import HEAD_NAME
from cff_edge.heads import Head
from cff_edge.tfa_net.run_files import MODEL_NAME
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.backends import open_backend
from cff_runtime.errors import BackendError, CffError, UsageError


@pytest.fixture(scope="module")
def profile_file(lite_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profile") / "ring.safetensors"
    lite_profile.save(file)
    return file


@pytest.fixture(scope="module")
def subject(lite_bundle: Bundle, profile_file: Path, bad_part: NDArray[np.uint8]) -> Subject:
    chosen = choose_subject(lite_bundle.path, profile_file, None, None, 1)
    return replace(chosen, image=bad_part)


@pytest.fixture(scope="module")
def settings(lite_bundle: Bundle, profile_file: Path) -> PeersSettings:
    return PeersSettings(
        bundle=lite_bundle.path,
        profile=profile_file,
        run=None,
        image=None,
        full_bundle=None,
        n=3,
        full_n=1,
        warmup=1,
        threads=1,
        names=(REFERENCE, APRIL_GAN, "openvino int8"),
        command=("cff-bench", "peers"),
    )


@pytest.fixture(scope="module")
def report(settings: PeersSettings) -> Report:
    return run(settings)


def _contest(
    name: str,
    size: int,
    samples: dict[str, list[float]],
    folder: Path,
    trained_on: tuple[str, ...] = (),
) -> Contest:
    """A contest whose figures are written by hand; every map is of ones but the second, of 1.5."""
    ran = []
    for index, (contestant, values) in enumerate(samples.items()):
        file = folder / f"{index}.npy"
        np.save(file, np.full((2, 2), 1.5 if index == 1 else 1.0, np.float32))
        ran.append(
            Contestant(
                contestant,
                file,
                facts={"first_ms": 9.0, "load_s": 0.5, "peak_memory_mb": 100.0},
                total_ms=values,
                stages_ms=[{"encode": 0.75 * value, "search": 0.25 * value} for value in values],
            )
        )
    manifest: Any = SimpleNamespace(
        backbone={"name": name, "weights": "random"},
        head={"trained_on": trained_on},
        preprocessing=SimpleNamespace(height=size),
        precisions=("fp32", "int8", "fp16"),
    )
    four: Any = SimpleNamespace(references=np.zeros((4, 2, 2, 3), np.uint8), run=None)
    return Contest(
        "net-2", manifest, four, [*ran, Contestant(ANOMALIB, folder, absent="not there")]
    )


def test_the_same_map_in_pytorch(
    subject: Subject,
    lite_inspector: Inspector,
    lite_profile: Profile,
    lite_backbone: Backbone,
    make_head: Callable[..., Head],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head(lite_backbone, "affine")
    monkeypatch.setattr(precision_eager, "load_run", lambda run: (None, head.state_dict(), {}))
    with_run = replace(subject, run=Path("run"))
    expected = lite_inspector.inspect(subject.image, lite_profile)
    for name in (EAGER, REDUCED):
        answer = load_contestant(name, with_run)()
        np.testing.assert_allclose(answer.anomaly_map, expected.anomaly_map, atol=1e-3)
        assert answer.score == pytest.approx(expected.score, abs=1e-3)
        assert list(answer.stages_ms) == ["preprocess", "encode", "search", "finish"]


def test_the_same_map_in_openvino(
    subject: Subject, lite_inspector: Inspector, lite_profile: Profile
) -> None:
    pytest.importorskip("openvino")
    answer = load_contestant("openvino fp32", subject)()
    expected = lite_inspector.inspect(subject.image, lite_profile)
    np.testing.assert_allclose(answer.anomaly_map, expected.anomaly_map, atol=1e-3)
    assert answer.score == pytest.approx(expected.score, abs=1e-3)


def test_banks_are_made_of_the_references(lite_bundle: Bundle, lite_profile: Profile) -> None:
    backend = open_backend("onnxruntime", lite_bundle, {"threads": 1})
    pictures = list(lite_profile.reference_images)
    made = bench_profile(lite_profile, lite_bundle.manifest, backend, pictures)
    for bank, known in zip(made.banks, lite_profile.banks, strict=True):
        np.testing.assert_allclose(bank, known, atol=1e-5)
    made.require_bundle(lite_bundle.manifest)
    assert made.n_references == lite_profile.n_references
    fewer = bench_profile(lite_profile, lite_bundle.manifest, backend, pictures[:1])
    assert [len(bank) * 4 for bank in fewer.banks] == [len(bank) for bank in made.banks]


def test_a_run_in_processes(report: Report, lite_bundle: Bundle) -> None:
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    key = subject_key(lite_bundle.manifest)
    (series,) = again.series
    assert (series.name, series.role, len(series.values)) == (
        f"peers/{key}/{REFERENCE}",
        "reference",
        3,
    )
    rows = {row["name"]: row for row in again.tables[0].rows}
    ours = rows[REFERENCE]
    assert ours["p50_ms"] == pytest.approx(np.median(series.values))
    assert (ours["ratio"], ours["ratio_low"], ours["ratio_high"]) == (1.0, None, None)
    assert ours["map_difference"] == 0.0
    assert ours["peak_memory_mb"] is None or 20 < ours["peak_memory_mb"] < 2000
    assert "efficientnet-lite0" in rows[APRIL_GAN]["absent"]
    assert rows["openvino int8"]["absent"]
    assert set(again.facts[key]["absent"]) == {APRIL_GAN, "openvino int8"}
    parts = [row["part"] for row in again.tables[1].rows]
    assert parts == ["preprocess", "encode", "search", "finish"]
    assert again.checks == []  # 96 px is held to nothing
    assert any(f"{APRIL_GAN} did not run" in note for note in again.notes)


def test_ratio_of_medians() -> None:
    ratio = figures.ratio_of_medians([2.0, 8.0, 4.0, 6.0, 2.0], [1.0, 4.0, 2.0, 3.0, 1.0])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)  # every round has it
    spread = figures.ratio_of_medians([4.0, 6.0, 5.0, 7.0, 5.5], [2.0] * 5)
    assert spread.value == 2.75
    assert spread.low is not None and spread.high is not None
    assert 2.0 <= spread.low < 2.75 < spread.high <= 3.5
    few = figures.ratio_of_medians([4.0, 6.0], [2.0, 2.0])
    assert (few.value, few.low, few.high) == (2.5, None, None)


def test_checks_of_the_embedded_default(tmp_path: Path) -> None:
    samples = {REFERENCE: [10.0, 12.0, 11.0], EAGER: [50.0, 40.0, 44.0], REDUCED: [20.0] * 3}
    (check,) = figures.checks_of(_contest("efficientnet-lite0", 256, samples, tmp_path))
    assert (check.value, check.limit, check.better, check.passed) == (4.0, 4.0, "higher", True)
    alone = {REFERENCE: [10.0]}
    (check,) = figures.checks_of(_contest("efficientnet-lite0", 256, alone, tmp_path))
    assert (check.value, check.passed) == (None, None)
    assert figures.checks_of(_contest("efficientnet-lite0", 96, samples, tmp_path)) == []


def test_checks_of_the_full_network(tmp_path: Path) -> None:
    samples = {
        REFERENCE: [360.0],
        "onnxruntime int8": [180.0],
        APRIL_GAN: [1000.0],
    }
    fp32, best = figures.checks_of(_contest("open_clip:ViT-L-14-336", 518, samples, tmp_path))
    assert (fp32.value, fp32.limit, fp32.passed) == (0.36, 0.36, True)
    assert (best.value, best.limit, best.passed) == (0.18, 0.17, False)
    assert "int8" in best.name


def test_tables_by_hand(tmp_path: Path) -> None:
    samples = {REFERENCE: [10.0, 12.0, 11.0], EAGER: [50.0, 40.0, 44.0], APRIL_GAN: [99.0] * 3}
    contest = _contest("efficientnet-lite0", 256, samples, tmp_path)
    totals, parts = figures.tables_of(contest)
    rows = {row["name"]: row for row in totals.rows}
    assert (rows[EAGER]["p50_ms"], rows[EAGER]["min_ms"], rows[EAGER]["ratio"]) == (44.0, 40.0, 4.0)
    assert rows[EAGER]["map_difference"] == 0.5
    assert rows[APRIL_GAN]["map_difference"] is None  # it computes something else
    assert rows[ANOMALIB] == {"name": ANOMALIB, "absent": "not there"}
    shares = [row["share"] for row in parts.rows if row["name"] == EAGER]
    assert shares == [0.75, 0.25]
    trained = _contest("efficientnet-lite0", 256, samples, tmp_path, ("bottle",))
    rows = {row["name"]: row for row in figures.tables_of(trained)[0].rows}
    assert rows[EAGER]["map_difference"] is None  # its head is another
    (plot,) = figures.plots_of(contest)
    assert [series.name for series in plot.series] == ["encode", "search"]
    assert plot.series[1].y == [2.75, 11.0, 24.75]


def test_who_takes_part(lite_bundle: Bundle) -> None:
    names = contestant_names(lite_bundle.manifest)
    assert names[0] == REFERENCE
    assert {EAGER, COMPILED, REDUCED, "openvino bf16", APRIL_GAN, ANOMALIB} < set(names)


def test_order_rotates_and_warm_up_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    turns: list[str] = []

    def ask(self: Contestant) -> dict[str, Any]:
        turns.append(self.name)
        return {"ms": float(len(turns)), "stages_ms": {}}

    monkeypatch.setattr(Contestant, "_ask", ask)
    first, second = Contestant("a", tmp_path), Contestant("b", tmp_path)
    take_turns([first, second], n=2, warmup=1)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert (first.total_ms, second.total_ms) == ([4.0, 5.0], [3.0, 6.0])


def test_what_does_not_start_is_told(subject: Subject, tmp_path: Path) -> None:
    subject.save(tmp_path)
    none = tmp_path / "no-python"
    names = (REFERENCE, ANOMALIB)
    with contestants(names, tmp_path, 1, {REFERENCE: 10**18}, {ANOMALIB: none}) as started:
        ours, other = started
        assert "memory" in (ours.absent or "needs memory")
        assert other.absent == f"`{none}` does not exist"
        with pytest.raises(BackendError, match="does not take part"):
            other.inspect(timed=True)


def test_a_dead_process_is_told(subject: Subject, tmp_path: Path) -> None:
    subject.save(tmp_path)
    with contestants((REFERENCE,), tmp_path, 1, {}, {}) as (ours,):
        assert ours.absent is None and ours.process is not None
        ours.process.kill()
        ours.process.wait()
        with pytest.raises(BackendError, match="process has ended"):
            ours.inspect(timed=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "`-n`"),
        ({"names": ("pytorch eager",)}, "`--only` must hold"),
        ({"names": (REFERENCE, "torch")}, "`--only` must be of"),
    ],
)
def test_wrong_calls(settings: PeersSettings, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(replace(settings, **change))


def test_a_profile_of_another_size(
    lite_bundle: Bundle, lite_profile: Profile, tmp_path: Path
) -> None:
    small = replace(lite_profile, reference_images=lite_profile.reference_images[:, :64, :64])
    file = tmp_path / "small.safetensors"
    small.save(file)
    with pytest.raises(CffError):
        choose_subject(lite_bundle.path, file, None, None, 1)


def test_golden_images_take_the_place_of_a_profile(lite_bundle: Bundle) -> None:
    golden = [name for name in lite_bundle.manifest.files if name.startswith("golden/golden_")]
    chosen = choose_subject(lite_bundle.path, None, None, None, 1)
    assert len(chosen.references) == 4 < len(golden)
    assert not any(np.array_equal(chosen.image, one) for one in chosen.references)
    template = chosen.template()
    assert template.condition.shape == lite_bundle.manifest.condition.shape


def test_command(
    settings: PeersSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    add_peers_parser(parser.add_subparsers())
    words = ["peers", str(settings.bundle), "--profile", str(settings.profile), "-n", "2"]
    words += ["--threads", "1", "--only", REFERENCE, "--json", str(tmp_path / "peers.json")]
    args = parser.parse_args(words)
    args.command_line = ("cff-bench", *words)
    assert args.run(args) == 0
    assert REFERENCE in capsys.readouterr().out
    assert "peers" in (tmp_path / "peers.json").read_text()


def test_profile_and_run_beside_the_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert (command._profile_beside(bundle), command._run_beside(bundle)) == (None, None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/head.safetensors").touch()
    profile = tmp_path / "nut.profile.safetensors"
    profile.touch()
    assert command._profile_beside(bundle) == profile.resolve()
    assert command._run_beside(bundle) == (tmp_path / "run").resolve()
    (tmp_path / "cup.profile.safetensors").touch()
    assert command._profile_beside(bundle) is None  # which of two?
    assert command._TRAINED_FILES == (HEAD_NAME, MODEL_NAME)


def test_a_run_of_another_head(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_eager, "load_run", lambda run: (None, {}, {}))
    with pytest.raises(UsageError, match="does not fit"):
        load_contestant(EAGER, replace(subject, run=Path("other")))
