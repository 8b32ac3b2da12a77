"""Rounds that are split over several starts of the process: joined in order, refused in a word."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cff_bench import cli
from cff_bench.latency import LatencySettings, run, starts
from cff_bench.latency.rounds import WarmUp
from cff_bench.latency.starts import OwnTime, Start, count_as_own, without_gaps
from cff_bench.report.document import Report
from cff_bench.sensors import Sampler
from cff_bench.sensors.load import LoadSource
from cff_bench.sensors.quantity import RATE, FileSource, Quantity
from cff_bench.sensors.sampler import Sample
from cff_runtime import Inspector
from cff_runtime.doctor.box import Box
from cff_runtime.errors import BackendError, ProfileMismatchError, UsageError

SET = Path(__file__).parents[1] / "conformance"
BUNDLE = SET / "bundles" / "plain"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inspector = Inspector.open(BUNDLE, options={"threads": 1})
    path = tmp_path_factory.mktemp("profile") / "cup.profile.safetensors"
    inspector.enroll([SET / "images" / "reference_0.png"], "cup").save(path)
    return path


@pytest.fixture
def settings(profile: Path) -> LatencySettings:
    return LatencySettings(
        bundle=BUNDLE,
        profile=profile,
        images=None,
        n=7,
        warmup=1,
        backend="onnxruntime",
        options={"threads": 1},
        warmup_limit_s=0.0,
        rest_seconds=0.0,
        starts=3,
    )


class Fake:
    """Stands for the processes: every round takes as many ms as its number says."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(
        self, _: LatencySettings, n: int, n_before: int, sampler: Sampler, __: OwnTime
    ) -> Start:
        self.asked.append((n, n_before))
        with sampler.phase("while"):
            pass
        names = ("decode", "preprocess", "encode", "search", "finish", "other", "total")
        rows = [dict.fromkeys(names, 1.0 + n_before + index) for index in range(n)]
        warm = WarmUp(4 + n_before, 0.5, n_before != 3)
        return Start(warm, [rows], [[{} for _ in rows]])


def test_starts_are_joined_in_order(
    settings: LatencySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(starts, "run_start", fake)
    report = run(settings)
    assert fake.asked == [(3, 0), (2, 3), (2, 5)]
    for series in report.series:
        assert series.values == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        assert series.starts == [3, 2, 2]
    assert report.facts["starts"] == [3, 2, 2]
    assert report.settings["starts"] == 3
    # the most rounds of one, the seconds of all, stable where all were
    assert report.facts["warm_up"] == {"rounds": 9, "seconds": 1.5, "is_stable": False}
    assert any(
        note.startswith("3 processes") and "3 or 2 rounds each" in note for note in report.notes
    )
    (plot,) = [plot for plot in report.plots if plot.name == "over_time"]
    assert [(mark.label, mark.x) for mark in plot.marks] == [("start 2", 4), ("start 3", 6)]
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.series[0].starts == [3, 2, 2]


def test_real_processes_measure_their_share(settings: LatencySettings) -> None:
    report = run(replace(settings, starts=2))
    assert all(series.starts == [4, 3] and len(series.values) == 7 for series in report.series)
    assert all(value > 0 for one in report.series if one.role == "total" for value in one.values)
    assert report.facts["warm_up"]["rounds"] == 1
    assert sum(stage["share"] for stage in report.facts["stages"]) == pytest.approx(1.0)
    told = {row["name"]: row for row in report.environment["sensors"]}
    assert told["cpu_others"]["reason"] or told["cpu_others"]["during"] is not None


def test_one_start_measures_here(
    settings: LatencySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "run_start", None)
    report = run(replace(settings, starts=1))
    assert all(series.starts == [] for series in report.series)
    assert not any("started one after the other" in note for note in report.notes)


def test_an_error_of_a_start_is_raised_here(settings: LatencySettings) -> None:
    with pytest.raises(ProfileMismatchError):
        run(replace(settings, bundle=SET / "bundles" / "text"))


def _die(*_: object) -> None:
    os._exit(3)


def test_a_start_that_dies_is_one_sentence(
    settings: LatencySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "_work", _die)
    with pytest.raises(BackendError, match=r"its process ended without a word.*`--starts 1`"):
        run(settings)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--starts", "0"], "got 0 for 50 rounds"),
        (["--starts", "-2"], "got -2 for 50 rounds"),
        (["-n", "3", "--starts", "4"], "got 4 for 3 rounds"),
        (["-n", "0"], "`n` must be at least 1"),
    ],
)
def test_numbers_of_starts_are_refused_in_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["latency", "b", "--profile", "p", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_rounds_of_starts_are_as_equal_as_can_be(settings: LatencySettings) -> None:
    assert replace(settings, n=500, starts=5).rounds_of_starts == [100] * 5
    assert replace(settings, n=7, starts=7).rounds_of_starts == [1] * 7
    with pytest.raises(UsageError, match="`--starts` must be at least 1"):
        replace(settings, starts=8)


class Meter(FileSource):
    """Tells a counter and a gauge."""

    def __init__(self) -> None:
        super().__init__()
        self._add(Quantity("joules", "j", "W", "f", RATE))
        self._add(Quantity("clock", "c", "MHz", "f"))

    def read(self) -> Mapping[str, float]:
        """Tell nothing."""
        return {}


def test_what_happens_between_starts_is_not_counted() -> None:
    def sample(at_s: float, joules: float, is_edge: bool, phase: str = "while") -> Sample:
        return Sample(at_s, phase, {"joules": joules, "clock": 3000 + at_s}, is_edge)

    samples = [
        sample(0, 0, True, "before"),
        sample(1, 10, True),
        sample(2, 20, False),
        sample(3, 40, True),  # 2 s, 30 J; then 4 s and 100 J until the next start is ready
        sample(7, 140, True),
        sample(8, 150, True),  # 1 s, 10 J; then 1 s and 5 J
        sample(9, 155, True),
        sample(11, 175, True),  # 2 s, 20 J
        sample(12, 180, True, "after"),
    ]
    joined = without_gaps(samples, [Meter()])
    during = [one for one in joined if one.phase == "while"]
    assert [one.at_s for one in during] == [1, 2, 3, 3, 4, 4, 6]
    assert [one.values["joules"] for one in during] == [10, 20, 40, 40, 50, 50, 70]
    assert [one.values["clock"] for one in during] == [3001, 3002, 3003, 3007, 3008, 3009, 3011]
    assert (joined[0], joined[-1]) == (samples[0], samples[-1])


def test_the_time_of_a_start_is_ours() -> None:
    own = OwnTime()
    alone = own()
    own.pid = os.getpid()  # stands for a child: counted besides this process
    if Path("/proc/self/stat").is_file():
        assert own() == pytest.approx(alone + time.process_time(), abs=0.2)
    own.pid = 2**30  # of nobody
    assert own() >= alone
    box = Box(Path("/"))
    sources = count_as_own([Meter(), LoadSource(box)], box, own)
    assert isinstance(sources[0], Meter) and isinstance(sources[1], LoadSource)


def test_the_median_has_its_interval(
    settings: LatencySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "run_start", Fake())
    report = run(replace(settings, n=9))
    # medians of the starts: 2, 5 and 8; Student's t of two degrees of freedom
    logs = np.log([2.0, 5.0, 8.0])
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / np.sqrt(3)
    ends = np.exp(logs.mean() + half * np.array([-1, 1]))
    total = report.facts["total"]
    assert (total["low_ms"], total["high_ms"]) == pytest.approx(tuple(ends))
    (table,) = [table for table in report.tables if table.name == "stages"]
    assert [column.title for column in table.columns][1:5] == ["n", "p50 ms", "from", "to"]
    assert table.rows[-1]["low_ms"] == total["low_ms"]
    few = run(settings).facts["total"]  # seven
    assert (few["low_ms"], few["high_ms"]) == (None, None)
