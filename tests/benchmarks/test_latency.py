"""`cff-bench latency` from end to end on the conformance set's bundles."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cff_bench.latency import LatencySettings, run, run_latency
from cff_bench.latency.command import add_latency_parser, given_backend_options
from cff_bench.report.document import Report
from cff_runtime import Inspector
from cff_runtime.errors import (
    BackendError,
    MissingDependencyError,
    ProfileMismatchError,
    UsageError,
)

SET = Path(__file__).parents[1] / "conformance"
IMAGES = [SET / "images" / "large.png", SET / "images" / "portrait.png"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inspector = Inspector.open(SET / "bundles" / "plain", options={"threads": 1})
    good = [SET / "images" / f"reference_{index}.png" for index in range(2)]
    path = tmp_path_factory.mktemp("profile") / "cup.profile.safetensors"
    inspector.enroll(good, "cup").save(path)
    return path


@pytest.fixture
def settings(profile: Path) -> LatencySettings:
    return LatencySettings(
        bundle=SET / "bundles" / "plain",
        profile=profile,
        images=IMAGES,
        n=6,
        warmup=2,
        backend="onnxruntime",
        options={"threads": 1},
        warmup_limit_s=0.0,
        rest_seconds=0.0,
        command=("cff-bench", "latency"),
    )


@pytest.fixture(scope="module")
def compared(profile: Path) -> Report:
    """Two bundles in turns, with everything that can be asked for."""
    return run(
        LatencySettings(
            bundle=SET / "bundles" / "plain",
            profile=profile,
            images=IMAGES,
            n=6,
            warmup=2,
            backend="onnxruntime",
            options={"threads": 1},
            compare_with=(SET / "bundles" / "text",),
            streams=(2,),
            stream_seconds=0.1,
            cold_starts=2,
            warmup_limit_s=0.2,
            rest_seconds=0.05,
        )
    )


def test_a_report_goes_through_json(settings: LatencySettings) -> None:
    report = run(settings)
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.kind == "latency"
    assert [one.name for one in again.series] == [
        "latency/decode",
        "latency/preprocess",
        "latency/encode",
        "latency/search",
        "latency/finish",
        "latency/other",
        "latency/total",
    ]
    assert [one.role for one in again.series if one.role] == ["total"]
    assert all(len(one.values) == 6 and one.unit == "ms" for one in again.series)


def test_facts_keep_what_the_tables_of_the_documents_read(settings: LatencySettings) -> None:
    facts = run(settings).facts
    assert [stage["name"] for stage in facts["stages"]] == [
        "decode",
        "preprocess",
        "encode",
        "search",
        "finish",
        "other",
    ]
    assert sum(stage["share"] for stage in facts["stages"]) == pytest.approx(1.0)
    assert facts["total"]["n"] == 6
    assert facts["bundle"]["precision"] == "fp32"
    assert facts["profile"]["n_references"] == 2
    assert facts["cold_start"] is None
    assert facts["warm_up"]["rounds"] == 2
    assert facts["image"]["source"] == str(IMAGES[0])
    assert len(facts["images"]) == 2


def test_scripts_get_facts_and_environment_as_one_dict(settings: LatencySettings) -> None:
    answer = json.loads(json.dumps(run_latency(replace(settings, images=None, n=1))))
    assert answer["settings"]["backend"] == "onnxruntime"
    assert answer["environment"]["python"]
    assert "seeded noise" in answer["image"]["source"]
    assert answer["throughput"] == pytest.approx(1000 / answer["total"]["p50_ms"])


def test_rows_of_copies_say_why_they_are_empty(settings: LatencySettings) -> None:
    (stages,) = [table for table in run(settings).tables if table.name == "stages"]
    by_name = {row["stage"]: row for row in stages.rows}
    for name in ("host_to_device", "device_to_host"):
        assert "p50_ms" not in by_name[name]
        assert "nothing is copied" in by_name[name]["note"]
    assert by_name["total"]["share"] == 1.0


def test_bundles_take_turns_and_are_enrolled_where_they_must_be(compared: Report) -> None:
    names = [facts["name"] for facts in compared.facts["configurations"]]
    assert names == ["plain, fp32", "text, fp32"]
    enrolled = [f["profile"]["enrolled_here"] for f in compared.facts["configurations"]]
    assert enrolled == [False, True]
    assert any(
        "`text, fp32` inspects with a profile that was enrolled" in n for n in compared.notes
    )
    series = {one.name: one for one in compared.series}
    first, second = (series[f"{name}/latency/total"].values for name in names)
    (ratios,) = [table for table in compared.tables if table.name == "ratios"]
    by_hand = sorted(b / a for a, b in zip(first, second, strict=True))
    assert ratios.rows[0]["ratio"] == pytest.approx((by_hand[2] + by_hand[3]) / 2)


def test_cold_starts_have_every_step_and_their_memory(compared: Report) -> None:
    cold = compared.facts["cold_start"]
    assert cold["n"] == 2
    steps = ("interpreter", "import", "verify", "load", "profile", "first")
    assert all(cold[f"{step}_ms"] > 0 for step in steps)
    series = {one.name: one.values for one in compared.series}
    for index in range(2):
        parts = [series[f"plain, fp32/cold/{step}"][index] for step in steps]
        assert sum(parts) == pytest.approx(series["plain, fp32/cold/total"][index])
    assert cold["peak_memory_mb"] is None or cold["peak_memory_mb"] > 10


def test_throughput_is_measured_with_streams(compared: Report) -> None:
    (series,) = [one for one in compared.series if one.name == "plain, fp32/throughput/2"]
    assert series.unit == "images/s" and len(series.values) == 3
    (table,) = [table for table in compared.tables if table.name == "throughput"]
    row = next(row for row in table.rows if row["streams"] == 2)
    assert row["low"] <= row["per_second"] <= row["high"]


def test_the_machine_is_told_before_while_and_after(compared: Report) -> None:
    names = [row["name"] for row in compared.environment["sensors"]]
    assert {"cpu_clock", "cpu_others", "load_1min"} <= set(names)
    assert all(
        row["reason"] or row["during"] is not None or row["before"] is not None
        for row in compared.environment["sensors"]
    )
    assert any("quiet" in note for note in compared.notes)
    assert 0 <= compared.facts["sampler_share_of_core"] < 1


def test_every_plot_has_points(compared: Report) -> None:
    assert [plot.name for plot in compared.plots] == ["stages", "spread", "over_time", "cold"]
    for plot in compared.plots:
        assert plot.series and all(len(one.x) == len(one.y) > 0 for one in plot.series)


def test_a_profile_of_another_bundle_is_refused(settings: LatencySettings) -> None:
    with pytest.raises(ProfileMismatchError):
        run(replace(settings, bundle=SET / "bundles" / "text"))


def test_a_precision_that_the_bundle_lacks_is_refused(settings: LatencySettings) -> None:
    with pytest.raises(UsageError, match="int8"):
        run(replace(settings, precisions=("fp32", "int8")))


def test_a_cold_start_that_fails_is_one_sentence(
    settings: LatencySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cff_bench.latency.cold_start._SCRIPT", Path("/no/such/script.py"))
    with pytest.raises(BackendError, match="`--cold-starts 0`"):
        run(replace(settings, cold_starts=1))


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_latency_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["latency", "b", "--profile", "p", *words])
    args.command_line = ("cff-bench", "latency", "b", "--profile", "p", *words)
    return args


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--threads", "2"], {"threads": 2}),
        (["--provider", "cpu"], {"provider": "cpu"}),
        (["--backend-option", "threads=3"], {"threads": 3}),
        (["--provider-option", "a=b"], {"provider_options": {"a": "b"}}),
        (["--backend", "tensorrt"], {}),
    ],
)
def test_options_that_were_not_given_are_left_out(
    words: list[str], expected: dict[str, Any]
) -> None:
    assert given_backend_options(parse(*words)) == expected


def test_options_of_another_backend_are_refused() -> None:
    # without TensorRT its options cannot be known, which is told as well
    with pytest.raises((UsageError, MissingDependencyError)):
        given_backend_options(parse("--backend", "tensorrt", "--threads", "2"))


def test_the_command_prints_and_writes(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse("-n", "2", "--warmup", "1", "--warmup-limit", "0", "--streams", "")
    args.bundle, args.profile, args.json = SET / "bundles" / "plain", [profile], tmp_path / "l.json"
    args.cold_starts = 0
    assert args.run(args) == 0
    printed = capsys.readouterr().out
    for part in ("encode", "total", "100.0%", "seeded noise", "nothing is copied", "told by"):
        assert part in printed
    assert json.loads((tmp_path / "l.json").read_text())["schema_version"] == 1


def test_pytorch_is_not_imported() -> None:
    code = (
        "import sys, cff_bench.cli, cff_bench.latency.command, cff_bench.latency; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
