"""The planner on boxes whose times and memory are known to the digit."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Inspector, Profile, Result
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Variant
from cff_runtime.planner.budget import Budget, parse_budget
from cff_runtime.planner.memory import bank_bytes, fit_memory
from cff_runtime.planner.planning import Opened, Planner
from cff_runtime.planner.report import write_report
from cff_runtime.planner.timing import (
    MIN_ROUNDS,
    fit_time,
    largest_rows,
    multiply_adds,
    summarize,
    thin,
    time_inspections,
)
from cff_runtime.precisions import refusal

Parts = list[NDArray[np.uint8]]

REST_MS, SEARCH_MS, PER_MULTIPLY_ADD_MS = 1.0, 2.0, 1e-3
ENCODE_MS = {"fp32": 10.0, "int8": 6.0, "fp16": 1.0}
PROCESS_BYTES, PER_BANK_BYTE = 50_000_000, 2


class ClockedInspector:
    """An inspector whose steps take what was planted; every tenth inspection 4 ms more."""

    def __init__(self, inspector: Inspector, slowness: Callable[[], float]) -> None:
        self._inspector = inspector
        self._slowness = slowness
        self._n = 0

    def inspect(self, image: NDArray[np.uint8], profile: Profile) -> Result:
        result = self._inspector.inspect(image, profile)
        stages = self._inspector.bundle.manifest.stages
        work = sum(
            s.n_tokens * s.width * len(b) for s, b in zip(stages, profile.banks, strict=True)
        )
        self._n += 1
        encode = ENCODE_MS[self._inspector.bundle.manifest.precision] * self._slowness()
        steps = {
            "preprocess": REST_MS,
            "encode": encode,
            "search": SEARCH_MS + PER_MULTIPLY_ADD_MS * work,
            "finish": 4.0 if self._n % 10 == 0 else 0.0,
        }
        return replace(result, stages_ms=steps)


def box_bytes(bundle: Bundle, profile: Profile) -> int:
    return PROCESS_BYTES + PER_BANK_BYTE * sum(bank.nbytes for bank in profile.banks)


class Box:
    """A bundle of three precisions on a box with planted times."""

    def __init__(self, inspector: Inspector, parts: Parts) -> None:
        variants = {
            name: Variant(f"encoder.{name}.onnx", letter * 64, (), {}, {})
            for name, letter in (("fp16", "a"), ("int8", "b"))
        }
        manifest = replace(inspector.bundle.manifest, variants=variants)
        self.bundle = Bundle(inspector.bundle.path, manifest)
        self.backend: Any = inspector._backend
        self.profile = Inspector(self.bundle, self.backend).enroll(parts, "ring")
        self.opened: list[str] = []
        self.slowness: Callable[[], float] = lambda: 1.0
        self.stages = manifest.stages
        self.n_full = [len(bank) for bank in self.profile.banks]

    def open(self, view: Bundle) -> Opened:
        self.opened.append(view.manifest.precision)
        clocked = ClockedInspector(Inspector(view, self.backend), lambda: self.slowness())
        return Opened(view, self.backend, clocked)

    def planner(self, provider: str = "cpu") -> Planner:
        return Planner(self.bundle, self.profile, self.open, box_bytes, provider, seconds=1.0)

    def predicted_ms(self, precision: str, rows: int, tail_ms: float = 0.0) -> float:
        work = multiply_adds(self.stages, self.n_full, rows)
        return REST_MS + ENCODE_MS[precision] + SEARCH_MS + PER_MULTIPLY_ADD_MS * work + tail_ms


@pytest.fixture
def box(numpy_inspector: Callable[..., Inspector], good_parts: Parts) -> Box:
    return Box(numpy_inspector(), good_parts)


def test_a_wide_budget_keeps_the_whole_bank_in_the_fastest_precision(box: Box) -> None:
    whole = box.predicted_ms("fp32", max(box.n_full), tail_ms=4.0)
    plan = box.planner().plan(Budget(whole + 1.0, None))
    assert plan.holds and plan.chosen is not None and plan.profile is not None
    assert plan.chosen.precision == "int8"
    assert list(plan.n_rows) == box.n_full
    assert plan.profile.bundle_id == box.bundle.manifest.variants["int8"].id
    assert set(plan.refused) == {"fp16"}
    assert "fp16" not in box.opened
    assert plan.loss is not None and plan.loss.n_images == 4 * 5
    assert plan.loss.changed == () and plan.loss.largest_shift == 0.0


def test_rows_are_the_most_that_the_cycle_time_allows(box: Box) -> None:
    wanted = 100
    budget = Budget(box.predicted_ms("int8", wanted, tail_ms=4.0) + 1e-6, None)
    plan = box.planner().plan(budget)
    assert plan.holds
    assert list(plan.n_rows) == [min(wanted, rows) for rows in box.n_full]
    assert plan.measured is not None and plan.predicted_ms is not None
    assert plan.predicted_ms == pytest.approx(budget.cycle_ms, abs=1e-3)
    assert plan.measured.percentile_ms == pytest.approx(budget.cycle_ms, abs=1e-3)
    assert plan.loss is not None and plan.loss.coverage is not None
    assert plan.loss.coverage["n_rows"] == list(plan.n_rows)


def test_a_slower_precision_wins_if_it_is_the_only_one_asked_for(box: Box) -> None:
    budget = Budget(box.predicted_ms("fp32", 64, tail_ms=4.0) + 1e-6, None)
    plan = box.planner().plan(budget, ["fp32"])
    assert plan.chosen is not None and plan.chosen.precision == "fp32"
    assert max(plan.n_rows) == 64


def test_memory_alone_sets_the_rows(box: Box) -> None:
    wanted = 40
    limit = PROCESS_BYTES + PER_BANK_BYTE * bank_bytes(box.stages, box.n_full, wanted)
    plan = box.planner().plan(Budget(None, limit))
    assert plan.holds
    assert max(plan.n_rows) == wanted
    assert plan.measured_bytes == limit
    assert plan.predicted_bytes == pytest.approx(limit)
    assert "MB predicted" in write_report(plan)


def test_the_tighter_of_two_limits_decides(box: Box) -> None:
    limit = PROCESS_BYTES + PER_BANK_BYTE * bank_bytes(box.stages, box.n_full, 90)
    plan = box.planner().plan(Budget(box.predicted_ms("int8", 30, 4.0) + 1e-6, limit))
    assert max(plan.n_rows) == 30


def test_nothing_holds_says_what_comes_closest(box: Box) -> None:
    plan = box.planner().plan(Budget(5.0, None))
    assert not plan.holds and plan.profile is None
    told = write_report(plan)
    assert "nothing holds 5 ms in 99% of inspections" in told
    assert "closest: int8 with 8 rows a stage" in told
    assert "the encoder alone takes 6.0 ms" in told
    assert "smaller backbone" in told


def test_a_tail_that_alone_exceeds_is_told(box: Box) -> None:
    budget = Budget(box.predicted_ms("int8", 8) + 0.5, None)
    told = write_report(box.planner().plan(budget))
    assert "its median would hold" in told and "`--percentile`" in told


def test_memory_that_nothing_holds_is_told(box: Box) -> None:
    told = write_report(box.planner().plan(Budget(None, PROCESS_BYTES // 2)))
    assert "closest in memory" in told and "25 MB" in told


def test_a_box_that_becomes_slower_is_told_and_no_row_is_dropped(box: Box) -> None:
    budget = Budget(box.predicted_ms("int8", 100, 4.0) + 1e-6, None)
    n_opened = 3  # fp32, int8, and then the plan
    box.slowness = lambda: 3.0 if len(box.opened) >= n_opened else 1.0
    plan = box.planner().plan(budget)
    assert not plan.holds
    assert max(plan.n_rows) == 100
    assert plan.slowdown == pytest.approx(3.0)
    assert "its encoder took 3.0 times as long" in " ".join(plan.notes)
    assert "MISSES" in write_report(plan)


def test_an_unadmitted_choice_is_refused_with_the_reason(box: Box) -> None:
    with pytest.raises(UsageError, match="computes fp16 in fp32"):
        box.planner().plan(Budget(50.0, None), ["fp16"])
    with pytest.raises(UsageError, match="must be one of this bundle's"):
        box.planner().plan(Budget(50.0, None), ["int4"])


def test_the_profile_is_enrolled_as_by_hand_and_says_so(box: Box) -> None:
    plan = box.planner().plan(Budget(box.predicted_ms("fp32", 50, 4.0), None), ["fp32"])
    assert plan.profile is not None
    inspector = Inspector(box.bundle, box.backend)
    images = list(box.profile.reference_images)
    by_hand = inspector.enroll(images, "ring", max_bank=max(plan.n_rows))
    assert plan.profile.threshold.scores == by_hand.threshold.scores
    for own, other in zip(plan.profile.banks, by_hand.banks, strict=True):
        assert np.array_equal(own, other)
    assert [entry["action"] for entry in plan.profile.history] == ["enroll", "plan"]
    assert plan.profile.references == box.profile.references


def test_a_plan_is_json(box: Box) -> None:
    for cycle_ms in (5.0, 500.0):
        facts = json.loads(json.dumps(box.planner().plan(Budget(cycle_ms, 10**9)).to_dict()))
        assert facts["holds"] is (cycle_ms > 100.0)
        assert facts["candidates"][0]["precision"] == "fp32"


class TestParts:
    def test_timing_stops_by_measured_time_and_takes_turns(self, box: Box) -> None:
        opened = box.open(box.bundle)
        sizes = [thin(box.profile, rows) for rows in (256, 16)]
        taken = time_inspections(opened.inspector, sizes, box.profile.reference_images, 0.5)
        each = (box.predicted_ms("fp32", 256) + box.predicted_ms("fp32", 16)) / 1e3
        assert len(taken[0]) == len(taken[1])
        assert 0.5 / (each + 0.008) <= len(taken[0]) <= 0.5 / each + 1
        assert (
            len(time_inspections(opened.inspector, sizes, [sizes[0].reference_images[0]], 1e-9)[0])
            == MIN_ROUNDS
        )

    def test_thinned_banks_are_rows_of_the_bank(self, box: Box) -> None:
        few = thin(box.profile, 20)
        for bank, whole in zip(few.banks, box.profile.banks, strict=True):
            assert len(bank) == min(20, len(whole))
            assert {row.tobytes() for row in bank} <= {row.tobytes() for row in whole}

    def test_the_fit_finds_a_planted_line_under_noise(self, box: Box) -> None:
        rng = np.random.default_rng(0)
        sizes = [256, 128, 64]
        taken = []
        for rows in sizes:
            search = 3.0 + 2e-4 * multiply_adds(box.stages, box.n_full, rows)
            taken.append(
                [{"encode": 7.0, "search": search + rng.normal(0, 0.02)} for _ in range(400)]
            )
        model = fit_time(taken, sizes, box.stages, box.n_full, 99.0)
        assert model.per_multiply_add_ms == pytest.approx(2e-4, rel=0.02)
        assert model.fixed_ms == pytest.approx(10.0, abs=0.05)
        assert model.tail_ms == pytest.approx(2.326 * 0.02, rel=0.25)

    def test_noise_gives_no_negative_slope_or_offset(self, box: Box) -> None:
        for searches in ((1.0, 2.0, 3.0), (9.0, 3.0, 0.1)):
            taken = [[{"encode": 1.0, "search": ms}] for ms in searches]
            model = fit_time(taken, (256, 128, 64), box.stages, box.n_full, 90.0)
            assert model.per_multiply_add_ms >= 0.0
            assert model.predict_ms(1) >= 1.0

    def test_percentiles_of_few_timings_are_the_slowest(self) -> None:
        timings = summarize([{"encode": float(ms)} for ms in (3, 1, 2)], 99.0)
        assert (timings.n, timings.median_ms, timings.percentile_ms) == (3, 2.0, 3.0)

    @pytest.mark.parametrize("limit", [0, 1, 5, 77, 99, 100, 500])
    def test_bisection_is_linear_search(self, limit: int) -> None:
        expected = max((rows for rows in range(1, 101) if rows <= limit), default=None)
        assert largest_rows(lambda rows: rows <= limit, 1, 100) == expected

    def test_memory_is_a_line_that_is_never_flatter_than_the_bank(self, box: Box) -> None:
        flat = fit_memory((256, 64), (10**7, 10**7), box.stages, box.n_full)
        assert flat.per_bank_byte == 1.0
        assert flat.predict_bytes(256) == pytest.approx(10**7)

    @pytest.mark.parametrize(
        ("precision", "provider", "admitted"),
        [
            ("fp32", "cpu", True),
            ("fp32", "cuda", True),
            ("fp16", "cpu", False),
            ("fp16", "cuda", True),
            ("int8", "cpu", True),
            ("int8", "cuda", False),
            ("int8-qdq", "cpu", False),
            ("int8-qdq", "cuda", False),
            ("int8-qdq", "tensorrt", True),
            ("int4", "cpu", False),
        ],
    )
    def test_precisions_are_admitted_where_they_are_computed(
        self, precision: str, provider: str, admitted: bool
    ) -> None:
        assert (refusal(precision, provider) == "") is admitted

    def test_budgets_are_read_with_units(self) -> None:
        assert parse_budget("80ms", "500MB", 99.0) == Budget(80.0, 500_000_000, 99.0)
        assert parse_budget(" 0.1 s", "2GiB", 90.0) == Budget(100.0, 2 << 30, 90.0)
        assert parse_budget(None, "1.5gb", 99.0).memory_bytes == 1_500_000_000

    @pytest.mark.parametrize(
        ("cycle", "memory", "percentile"),
        [
            (None, None, 99.0),
            ("80", None, 99.0),
            ("0ms", None, 99.0),
            ("-5ms", None, 99.0),
            ("80min", None, 99.0),
            (None, "500", 99.0),
            (None, "lots", 99.0),
            ("80ms", None, 100.0),
            ("80ms", None, float("nan")),
        ],
    )
    def test_other_budgets_are_refused(
        self, cycle: str | None, memory: str | None, percentile: float
    ) -> None:
        with pytest.raises(UsageError):
            parse_budget(cycle, memory, percentile)
