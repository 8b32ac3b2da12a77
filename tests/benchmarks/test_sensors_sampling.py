"""Phases, summaries and what is said about a machine that was not quiet."""

import time
from collections.abc import Mapping, Sequence

import pytest

from cff_bench.sensors import Quantity, Sampler, judge_quietness, sensor_rows, sensor_table
from cff_bench.sensors.quantity import COUNT, GAUGE, RATE
from cff_bench.sensors.sampler import MAX_SHARE_OF_CORE, Sample
from cff_bench.sensors.summary import SensorRow
from cff_runtime.doctor.box import Reading


class Played:
    """A source that tells what it is given, one dict after the other."""

    def __init__(
        self,
        quantities: Sequence[Quantity],
        values: Sequence[Mapping[str, float]] = ({},),
        reasons: Mapping[str, str] | None = None,
        cost_s: float = 0.0,
    ) -> None:
        self.quantities, self.reasons = quantities, reasons or {}
        self._values, self._cost_s = list(values), cost_s
        self.spent_s = 0.0
        self.n_read, self.is_closed = 0, False

    def read(self) -> Mapping[str, float]:
        until = time.thread_time() + self._cost_s
        while time.thread_time() < until:
            pass
        self.n_read += 1
        return self._values[min(self.n_read, len(self._values)) - 1]

    def close(self) -> None:
        self.is_closed = True


def row(name: str, unit: str = "cores", **values: object) -> SensorRow:
    filled = {"before": None, "during": None, "after": None, **values}
    return SensorRow(name, name, unit, "here", **filled)  # type: ignore[arg-type]


def rows_of(quantity: Quantity, told: Sequence[tuple[float, str, float, bool]]) -> SensorRow:
    sampler = Sampler([Played([quantity])])
    sampler.samples = [Sample(at, phase, {quantity.name: v}, edge) for at, phase, v, edge in told]
    (found,) = sensor_rows(sampler)
    return found


def test_phases_are_sampled_at_both_ends_and_sources_closed() -> None:
    source = Played([Quantity("a", "A", "MHz", "here")], [{"a": 1.0}, {"a": 2.0}])
    with Sampler([source], interval_s=60.0) as sampler:
        with sampler.phase("while"):
            pass
        sampler.rest("after", 0.0)
    assert [sample.phase for sample in sampler.samples] == ["while", "while", "after", "after"]
    assert all(sample.is_edge for sample in sampler.samples)
    assert source.is_closed


def test_sampling_goes_on_in_the_background() -> None:
    source = Played([Quantity("a", "A", "MHz", "here")], [{"a": 1.0}])
    with Sampler([source], interval_s=0.01) as sampler, sampler.phase("while"):
        time.sleep(0.3)
    inner = [sample for sample in sampler.samples if not sample.is_edge]
    assert len(inner) >= 3
    assert 0 <= sampler.share_of_core < 1


def test_what_tools_spend_counts() -> None:
    source = Played([Quantity("a", "A", "MHz", "here")], [{"a": 1.0}])
    with Sampler([source]) as sampler:
        sampler.rest("while", 0.05)
        cheap = sampler.share_of_core
        source.spent_s = 10.0
        assert sampler.share_of_core > cheap + 10.0


def test_a_dear_sample_is_taken_less_often() -> None:
    cost_s = 0.004
    source = Played([Quantity("a", "A", "MHz", "here")], [{"a": 1.0}], cost_s=cost_s)
    with Sampler([source], interval_s=0.001) as sampler, sampler.phase("while"):
        time.sleep(0.5)
    # after the first one it waits for cost / share
    assert len(sampler.samples) - 2 <= 1 + 0.5 / (cost_s / MAX_SHARE_OF_CORE)


def test_a_gauge_is_the_median_without_the_edges() -> None:
    told = [
        (0.0, "while", 800.0, True),
        (1.0, "while", 3000.0, False),
        (2.0, "while", 2900.0, False),
        (3.0, "while", 3100.0, False),
        (4.0, "while", 900.0, True),
        (5.0, "after", 700.0, True),
    ]
    found = rows_of(Quantity("clock", "clock", "MHz", "here", GAUGE), told)
    assert (found.during, found.lowest, found.highest) == (3000.0, 2900.0, 3100.0)
    assert (found.before, found.after) == (None, 700.0)


def test_a_rate_is_the_increase_per_second_and_a_count_the_increase() -> None:
    told = [(10.0, "while", 5.0, True), (12.0, "while", 6.0, False), (14.0, "while", 9.0, True)]
    assert rows_of(Quantity("w", "w", "W", "here", RATE), told).during == pytest.approx(1.0)
    assert rows_of(Quantity("t", "t", "times", "here", COUNT), told).during == pytest.approx(4.0)


def test_a_share_is_the_mean_of_the_samples() -> None:
    told = [(float(i), "while", value, False) for i, value in enumerate([0, 0, 0, 1])]
    found = rows_of(Quantity("gpu0_heat_capped", "x", "share", "here", GAUGE), told)
    assert found.during == pytest.approx(0.25)


def test_what_is_not_told_is_a_dash_with_the_reason() -> None:
    source = Played([Quantity("a", "A", "W", "RAPL")], reasons={"a": "only root may read it"})
    silent = Played([Quantity("b", "B", "W", "tool")])
    with Sampler([source, silent]) as sampler:
        sampler.rest("before", 0.0)
    modes = {"power mode": Reading("MAXN (0)"), "turbo off": Reading[str].missing("not found")}
    rows = sensor_rows(sampler, modes, modes)
    table = sensor_table(rows)
    by_title = {found["title"]: found for found in table.rows}
    assert by_title["A"]["told_by"] == "only root may read it"
    assert by_title["A"]["during"] is None
    assert by_title["B"]["told_by"] == "it told nothing while this ran"
    assert by_title["power mode"]["before"] == "MAXN (0)"
    assert by_title["turbo off"]["told_by"] == "not found"


def test_a_quiet_machine_is_said_to_be_quiet() -> None:
    rows = [row("cpu_others", during=0.01), row("cpu_steal", during=0.0)]
    quiet, (note,) = judge_quietness(rows, 2)
    assert quiet is True
    assert "0.01 of 2 cores" in note and "clocks cannot be read" in note


def test_disturbances_are_told_with_numbers() -> None:
    rows = [
        row("cpu_others", during=0.80, before=1.25),
        row("cpu_steal", during=0.1),
        row("load_1min", "tasks", before=4.86, during=4.0),
        row("cpu_clock", "MHz", during=2800.0, lowest=2100.0, highest=3000.0),
        row("cpu_throttled", "times", during=3.0),
        row("gpu0_heat_capped", "share", during=0.5),
    ]
    quiet, notes = judge_quietness(rows, 2)
    assert quiet is False
    told = "\n".join(notes)
    for part in (
        "0.80 of 2 cores (1.25 before)",
        "5.0% of its processor time (steal)",
        "4.86 on 2 cores",
        "between 2100 and 3000 MHz",
        "slowed down by heat 3 times",
        "in 50% of the samples",
    ):
        assert part in told
    assert len(notes) == 6


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([row("cpu_others", during=0.04)], True),  # 2 % of 2 cores
        ([row("cpu_others", during=0.05)], False),
        ([row("cpu_clock", "MHz", during=3.0, lowest=2860.0, highest=3000.0)], None),
        ([], None),
    ],
)
def test_limits_of_quiet(found: list[SensorRow], expected: bool | None) -> None:
    assert judge_quietness(found, 2)[0] is expected


def test_reading_this_machine_costs_little() -> None:
    from cff_bench.sensors.discovery import find_sources, this_box

    with Sampler(find_sources(this_box()), interval_s=0.2) as sampler:
        sampler.rest("while", 1.0)
        rows = sensor_rows(sampler)
        assert sampler.share_of_core < 0.05  # of five samples a second, where one is taken
    for found in rows:
        assert found.reason or found.during is not None, found.name
