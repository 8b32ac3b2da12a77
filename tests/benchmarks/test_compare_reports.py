"""Comparing reports, budgets and baselines, through the command line where a user meets them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_bench import cli
from cff_bench.compare.baseline import make_baseline
from cff_bench.compare.budget import judge_budget
from cff_bench.compare.comparison import compare_reports, describe
from cff_bench.compare.intervals import Interval
from cff_bench.report.document import Report, Series
from cff_bench.report.options import parse_ms
from cff_bench.report.reading import save_reports
from cff_runtime.errors import UsageError

MACHINE = {"cpu_model": "A CPU", "cores_available": 2, "gpu": "none", "packages": {"numpy": "2"}}


def samples(seed: int, median: float = 10.0, n: int = 100) -> list[float]:
    noise = np.random.default_rng(seed).standard_normal(n)
    return [float(value) for value in median * np.exp(0.02 * noise)]


def report(seed: int = 0, encode_ms: float = 10.0, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "kind": "latency",
        "title": "T",
        "command": ["cff-bench", "latency"],
        "environment": MACHINE,
        "settings": {"n": 100, "threads": 2},
        "series": [
            Series("latency/encode", "ms", samples(seed, encode_ms), "rounds"),
            Series("latency/search", "ms", samples(seed + 1, 4.0), "rounds", "reference"),
            Series("latency/total", "ms", samples(seed + 2, encode_ms + 4.0), "rounds", "total"),
        ],
        "facts": {"bundle_id": "0123456789abcdef"},
    }
    return Report(**{**values, **changes})


def save(path: Path, *reports: Report) -> str:
    save_reports(path, reports)
    return str(path)


def test_the_same_build_twice_is_not_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save(tmp_path / "a.json", report(0)), save(tmp_path / "b.json", report(50))
    assert cli.main(["compare", a, b]) == 0
    out = capsys.readouterr().out
    assert out.count("no difference seen, within +-") == 3
    assert "none of 3 is slower by more than 10 % with confidence" in out


def test_a_slower_build_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save(tmp_path / "a.json", report(0)), save(tmp_path / "b.json", report(50, 10.4))
    page = tmp_path / "c.html"
    assert cli.main(["compare", a, b, "--limit", "2%", "--html", str(page)]) == 1
    out = capsys.readouterr().out
    assert "most of all `latency/encode`: slower by" in out
    assert "<svg" in page.read_text()
    assert cli.main(["compare", a, b, "--limit", "0.08"]) == 0
    assert cli.main(["compare", b, a, "--limit", "0"]) == 0  # faster is no fault
    assert "faster by" in capsys.readouterr().out


def test_false_alarms_are_rare_however_many_series() -> None:
    alarms = 0
    for run in range(60):
        pair = [
            report(
                series=[Series(f"s{i}", "ms", samples(1000 * run + 100 * k + i)) for i in range(8)]
            )
            for k in (1, 2)
        ]
        alarms += bool(compare_reports(pair[:1], pair[1:], limit=0.0).worse)
    assert alarms <= 5  # 2.5 % of 60, and four more


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (report(kind="table6"), "one kind, got latency and table6"),
        (report(environment={**MACHINE, "cpu_model": "B"}), "CPU A CPU -> B"),
        (report(environment={**MACHINE, "gpu": "H100, 550, 80 GiB, 200 MHz"}), "GPU none -> H100"),
        (report(series=[Series("x", "ms", [1.0] * 9)]), "series in common"),
        (report(series=[Series("latency/encode", "ms", [1.0] * 3)]), "8 samples or more"),
    ],
)
def test_what_does_not_compare_is_refused(
    other: Report, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save(tmp_path / "a.json", report()), save(tmp_path / "b.json", other)
    assert cli.main(["compare", a, b]) == 2
    assert words in capsys.readouterr().err


def test_anyway_compares_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**MACHINE, "cpu_model": "B", "packages": {"numpy": "3"}}
    other = report(
        7, environment=environment, settings={"n": 9, "threads": 1}, facts={"bundle_id": "f" * 16}
    )
    a, b = save(tmp_path / "a.json", report()), save(tmp_path / "b.json", other)
    assert cli.main(["compare", a, b, "--anyway"]) == 0
    out = capsys.readouterr().out
    for difference in (
        "CPU A CPU -> B",
        "threads 2 -> 1",
        "numpy 2 -> 3",
        "bundle id 0123456789ab -> ffffffffffff",
    ):
        assert f"Differs: {difference}" in out
    assert "n 100" not in out


def test_a_gpu_whose_clock_moved_is_the_same_gpu() -> None:
    a, b = (
        report(environment={**MACHINE, "gpu": f"H100, 550.1, 80 GiB, {clock} MHz, 700 W"})
        for clock in (345, 1980)
    )
    assert not compare_reports([a], [b], 0.05).differences


def test_sentences() -> None:
    assert describe("ms", Interval(1.04, 1.03, 1.05)) == "slower by 4.0 % +- 1.0 %"
    assert describe("s", Interval(0.9, 0.88, 0.92)) == "faster by 10.0 % +- 2.0 %"
    assert describe("ms", Interval(1.0, 0.99, 1.02)) == "no difference seen, within +-2.0 %"
    assert describe("MB", Interval(1.5, 1.4, 1.6)) == "larger by 50.0 % +- 10.0 %"
    # fewer images per second is slower: 1 / 0.8 = 1.25
    assert describe("images/s", Interval(0.8, 0.8, 0.8)) == "slower by 25.0 % +- 0.0 %"


def test_throughput_and_memory() -> None:
    def of(rate: float, memory: float) -> Report:
        series = [
            Series("rate", "images/s", samples(int(rate), rate)),
            Series("memory", "MB", samples(int(memory), memory)),
        ]
        return report(series=series)

    found = compare_reports([of(100, 50)], [of(80, 90)], 0.05)
    assert [verdict.name for verdict in found.worse] == ["rate"]  # memory is told, not judged


def test_a_call_of_nothing_is_not_judged() -> None:
    a, b = (
        report(series=[Series("x", "ms", samples(seed, ms))]) for seed, ms in ((1, 1e-3), (2, 2e-3))
    )
    found = compare_reports([a], [b], 0.05)
    assert not found.worse
    assert found.verdicts[0].sentence.endswith("(below 0.05 ms, not judged)")
    with pytest.raises(UsageError):
        make_baseline([report(series=[*a.series, Series("y", "ms", samples(3))])], "y")


def test_several_reports_are_compared_kind_by_kind(tmp_path: Path) -> None:
    a = [report(0), report(1, kind="table6", series=[Series("table6/none", "ms", samples(5))])]
    b = [report(2, kind="table6", series=[Series("table6/none", "ms", samples(6, 13.0))])]
    found = compare_reports(a, b, 0.05)
    assert [verdict.name for verdict in found.verdicts] == ["table6/none"]
    assert found.worse


def test_a_baseline_holds_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = str(tmp_path / "baseline.json")
    a = save(tmp_path / "a.json", report(0))
    assert cli.main(["compare", a, "--write-baseline", baseline]) == 0
    ratios = json.loads(Path(baseline).read_text())["ratios"]
    assert [ratio["name"] for ratio in ratios] == ["latency/encode", "latency/total"]
    expected = np.median(samples(0)) / np.median(samples(1, 4.0))
    assert ratios[0]["ratio"] == pytest.approx(expected)
    assert ratios[0]["low"] < expected < ratios[0]["high"]
    capsys.readouterr()

    # a machine that is 3 times slower in everything passes, one slow encoder does not
    def scaled(factor: float, encode_ms: float) -> Report:
        series = [
            Series(s.name, s.unit, [factor * value for value in s.values], s.group, s.role)
            for s in report(70, encode_ms).series
        ]
        return report(series=series, environment={**MACHINE, "cpu_model": "another"})

    same, slow = (
        save(tmp_path / f"{name}.json", found)
        for name, found in (("same", scaled(3, 10.0)), ("slow", scaled(1, 12.0)))
    )
    assert cli.main(["compare", "--baseline", baseline, same]) == 0
    assert cli.main(["compare", "--baseline", baseline, slow]) == 1
    assert "`latency/encode / latency/search`: slower by" in capsys.readouterr().out


def test_a_reference_may_be_named() -> None:
    ratios = make_baseline([report()], "latency/total")
    assert {ratio.reference for ratio in ratios} == {"latency/total"}
    with pytest.raises(UsageError, match="--reference"):
        make_baseline([report(series=[Series("a", "ms", [1.0] * 20)])])


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema_version": 2}', '{"schema_version": 1, "ratios": [{"name": 1}]}'],
)
def test_damaged_baselines_are_told(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "baseline.json").write_text(text)
    a = save(tmp_path / "a.json", report())
    assert cli.main(["compare", "--baseline", str(tmp_path / "baseline.json"), a]) == 2
    assert "must be a baseline" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["a"], ["a", "b", "c"], ["a", "b", "--baseline", "c"]])
def test_the_number_of_files_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments]) == 2
    assert "must get" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget_ms", "is_exceeded", "words"),
    [
        (13.0, True, "over the budget of 13 ms"),
        (20.0, False, "within the budget of 20 ms"),
        (14.48, False, "but not with confidence"),
    ],
)
def test_budgets(budget_ms: float, is_exceeded: bool, words: str) -> None:
    verdict = judge_budget([report(0)], budget_ms)
    assert verdict.is_exceeded is is_exceeded
    assert len(verdict.sentences) == 1
    assert words in verdict.sentences[0]
    assert verdict.sentences[0].startswith("p95 of `latency/total` is 14.")


def test_a_budget_needs_a_total() -> None:
    with pytest.raises(UsageError, match="total time"):
        judge_budget([report(series=[Series("a", "ms", [1.0])])], 80)


def test_a_total_in_seconds() -> None:
    slow = report(series=[Series("peers/total", "s", samples(0, 0.1), role="total")])
    assert judge_budget([slow], 80).is_exceeded
    assert not judge_budget([slow], 200).is_exceeded


@pytest.mark.parametrize(
    ("text", "expected"), [("80ms", 80.0), ("1.5s", 1500.0), ("80", 80.0), ("250 us", 0.25)]
)
def test_times(text: str, expected: float) -> None:
    assert parse_ms(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "ms", "-3ms", "0", "80 m", "nan"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="80ms"):
        parse_ms(text)
