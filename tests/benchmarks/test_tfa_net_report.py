"""`cff-bench tfa-net`: its report, parts taken over from an earlier one, checks, the command."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cff_bench import cli
from cff_bench.report.document import Report, Series
from cff_bench.tfa_net import document
from cff_bench.tfa_net.command import add_tfa_net_parser, read_settings
from cff_bench.tfa_net.settings import METRICS, PARTS, TfaNetSettings
from cff_runtime import Bundle
from cff_runtime.errors import UsageError

NAMES = ["tfa-net", "untrained", "untrained-plain"]
METHODS = ["cff", *NAMES]


@pytest.fixture
def settings(tmp_path: Path) -> TfaNetSettings:
    command = ("cff-bench", "tfa-net")
    return TfaNetSettings(tmp_path, ("ring",), tmp_path / "out", tmp_path / "cff", command=command)


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 0.012, "worst": mean - 0.03}


def accuracy_facts(own: float = 0.97, cff: float = 0.95, low: float = 0.1) -> dict[str, Any]:
    means = dict(zip(METHODS, (cff, own, 0.8, 0.3), strict=True))
    return {
        "cff": {"backbone": "lite", "trained_on": ["cup"], "notes": []},
        "products": [{"product": "ring", "n_images": 39, "n_defective": 17}],
        "rows": [
            {
                "product": "ring",
                "k": k,
                "method": method,
                "label": f"label of {method}",
                "n_draws": 5,
                **{metric: figure(mean) for metric in METRICS},
            }
            for k in (1, 4)
            for method, mean in means.items()
        ],
        "differences": [
            {
                "product": "ring",
                "k": 4,
                "minus": other,
                "metric": "pixel_auroc",
                "mean": low + 0.1,
                "low": low,
                "high": low + 0.2,
                "p_value": 0.01,
            }
            for other in NAMES[1:]
        ],
    }


def training_facts(minutes: float = 4.04, n_measured: int = 60) -> dict[str, Any]:
    one = {
        "product": "ring",
        "n_normals": 30,
        "n_held_out": 3,
        "n_parameters": 3_140_000,
        "n_epochs": 60,
        "n_epochs_measured": n_measured,
        "cpu_minutes": minutes,
        "wall_minutes": 5.0,
        "losses": [3.0] * 60,
        "held_out_losses": [3.5] * 60,
        "backbone": "lite",
        "notes": [],
    }
    return {"products": [one]}


def latency_facts() -> dict[str, Any]:
    row = {
        "name": "cff fp32",
        "input_px": [256, 256],
        "n": 100,
        "p50_ms": 10.04,
        "p90_ms": 11.0,
        "p95_ms": 12.06,
        "p99_ms": 13.0,
        "jitter_ms": 0.4,
        "images_s": 99.6,
        "ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
        "stages_ms": {"preprocess": 1.0, "encode": 6.04, "search": 2.0, "finish": 1.0},
        "graph_mb": 15.26,
        "bundle_mb": 20.0,
        "profile_mb": 2.68,
    }
    own = {**row, "name": "tfa-net fp32", "ratio": 1.404, "ratio_low": 1.38, "ratio_high": 1.436}
    own["stages_ms"] = {**row["stages_ms"], "search": 0.0}  # type: ignore[dict-item]
    return {
        "product": "ring",
        "k": 4,
        "reference": "cff fp32",
        "rows": [row, own],
        "notes": ["tfa-net int8 is not timed: it moves a verdict"],
    }


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put made-up figures in the place of the measurements; return the parts that were done."""
    done: list[str] = []

    def part(name: str, facts: Any) -> Callable[[TfaNetSettings], Any]:
        def measure(settings: TfaNetSettings) -> Any:
            done.append(name)
            return facts

        return measure

    series = [Series("tfa-net/tfa-net fp32", "ms", [10.0] * 100, role="total")]
    by = {
        "training": part("training", training_facts()),
        "accuracy": part("accuracy", accuracy_facts()),
    }
    monkeypatch.setattr(document, "_MEASURED_BY", by)
    monkeypatch.setattr(document, "time_networks", part("latency", (latency_facts(), series)))
    return done


def test_a_report_reads_back(settings: TfaNetSettings, measured: list[str]) -> None:
    report = document.run(settings)
    assert measured == list(PARTS)
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert [table.name for table in again.tables] == [
        "accuracy",
        "differences",
        "training",
        "latency",
        "stages",
    ]
    assert [plot.name for plot in again.plots] == ["pixel_auroc", "loss_ring"]
    assert set(again.facts) == set(PARTS)
    assert again.to_dict() == report.to_dict()


def test_only_latency_is_measured_again(settings: TfaNetSettings, measured: list[str]) -> None:
    first = Report.from_dict(json.loads(json.dumps(document.run(settings).to_dict())))
    measured.clear()
    command = ("cff-bench", "tfa-net", "--only", "latency")
    again = document.run(replace(settings, parts=("latency",), n=7, command=command), first)
    assert measured == ["latency"]
    for part in ("training", "accuracy"):
        assert again.facts[part] == first.facts[part]
        assert again.facts[part]["command"] == ["cff-bench", "tfa-net"]
    assert again.facts["latency"]["command"] == list(command)
    assert again.settings == {**first.settings, "n": 7}
    assert [table.name for table in again.tables] == [table.name for table in first.tables]


def test_parts_without_a_report_are_left_out(settings: TfaNetSettings, measured: list[str]) -> None:
    report = document.run(replace(settings, parts=("training",)))
    assert (measured, set(report.facts)) == (["training"], {"training"})
    assert [table.name for table in report.tables] == ["training"]
    assert report.series == []


def test_the_report_of_another_command_is_refused(settings: TfaNetSettings) -> None:
    other = Report("peers", "Peers", [], {}, {})
    with pytest.raises(UsageError, match="`--json` must be a report of `cff-bench tfa-net`"):
        document.run(settings, other)


def checks_of(training_part: dict[str, Any], accuracy_part: dict[str, Any]) -> dict[str, Any]:
    facts = {"training": training_part, "accuracy": accuracy_part}
    checks = document.build_report((), {}, facts, []).checks
    return {check.name: (check.value, check.passed) for check in checks}


def test_checks_hold_what_was_promised() -> None:
    words = "pixel AUROC, {}, K = 4, lower end"
    assert checks_of(training_facts(), accuracy_facts()) == {
        "training of ring": (4.04, True),
        "pixel AUROC of tfa-net, ring, K = 4": (0.97, True),
        f"tfa-net minus untrained-plain, {words.format('ring')}": (0.1, True),
        f"tfa-net minus untrained, {words.format('best product')}": (0.1, True),
    }
    bad = checks_of(training_facts(30.1), accuracy_facts(own=0.84, low=-0.01))
    assert [passed for _, passed in bad.values()] == [False] * 4
    lost = checks_of(training_facts(1.0, n_measured=59), accuracy_facts(cff=0.84))
    assert lost["training of ring"] == (None, None)  # some epochs were not measured
    assert "pixel AUROC of tfa-net, ring, K = 4" not in lost  # CFF does not reach it either


def test_one_product_is_enough_against_statistics_alone() -> None:
    facts = accuracy_facts()
    for name in ("rows", "differences"):
        facts[name] += [{**row, "product": "nut"} for row in facts[name]]
    for row in facts["differences"]:
        row["low"] = {"ring": -0.002, "nut": 0.02}[row["product"]]
    checks = checks_of(training_facts(), facts)
    against = [name for name in checks if "minus" in name]
    assert [checks[name] for name in against] == [(-0.002, False), (0.02, True), (0.02, True)]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_tfa_net_parser(parser.add_subparsers())
    args = parser.parse_args(["tfa-net", *words])
    args.command_line = ("cff-bench", "tfa-net", *words)
    return args


def test_defaults_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mvtec_mini").mkdir()
    monkeypatch.setenv("CFF_DATA", str(tmp_path))
    found = read_settings(parse())
    assert found == TfaNetSettings(
        tmp_path / "mvtec_mini",
        ("transistor", "hazelnut"),
        Path("build/tfa-net"),
        Path("build/demo/bundle"),
        command=("cff-bench", "tfa-net"),
    )
    assert found.parts == PARTS


def test_the_command_adds_to_its_json(
    lite_bundle: Bundle,
    tmp_path: Path,
    measured: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "r.json"
    fixed = ["tfa-net", "--data", str(tmp_path), "--products", "ring", "--json", str(target)]
    fixed += ["--cff", str(lite_bundle.path)]
    assert cli.main([*fixed, "--check"]) == 0
    assert cli.main([*fixed, "--only", "latency", "--budget", "33ms"]) == 0
    assert measured == [*PARTS, "latency"]
    assert set(json.loads(target.read_text())["facts"]) == set(PARTS)
    assert "TFA-Net beside CFF" in capsys.readouterr().out
