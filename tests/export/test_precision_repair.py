"""The search for blocks to keep, on faults with known answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest

from cff_export.precision.repair import Judgement, Trial, repair
from cff_runtime.errors import ParityError

BLOCKS = tuple(f"block.{index}" for index in range(16))


@dataclass(frozen=True)
class Built:
    """A candidate: what was kept, by whom."""

    kept: tuple[str, ...]
    forced: Mapping[str, str] = field(default_factory=dict)


def _judge(passes: Callable[[set[str]], bool], error: Callable[[set[str]], float]) -> object:
    """Return a judge of the blocks that are *low*."""

    def judge(candidate: Built) -> Judgement:
        low = set(BLOCKS) - set(candidate.kept) - set(candidate.forced)
        ok = passes(low)
        return Judgement(ok, error(low), () if ok else ("stage 2 left the limit",))

    return judge


def _faulty(*offenders: str) -> Callable[[Built], Judgement]:
    """Each offender alone is enough to overflow."""
    bad = set(offenders)
    return _judge(  # type: ignore[return-value]
        lambda low: not low & bad, lambda low: math.inf if low & bad else 1e-5 * len(low)
    )


def test_nothing_is_kept_if_all_passes() -> None:
    found = repair(BLOCKS, Built, _faulty())
    assert found.kept == ()
    assert found.n_trials == 1
    assert found.candidate == Built(())
    assert found.judgement.passed
    assert found.to_dict() == {"kept": {}, "n_trials": 1}


@pytest.mark.parametrize(
    "offenders", [(0,), (15,), (3, 4), (9, 2), (1, 7, 12), (0, 5, 6, 11), tuple(range(7))]
)
def test_offenders_are_found_and_no_others(offenders: tuple[int, ...]) -> None:
    names = [BLOCKS[index] for index in offenders]
    trials: list[Trial] = []
    found = repair(BLOCKS, Built, _faulty(*names), progress=trials.append)
    assert found.kept == tuple(sorted(names, key=BLOCKS.index))
    assert found.candidate == Built(found.kept)
    assert all("overflow" in reason for reason in found.reasons.values())
    # all low, all kept, each alone, then few
    assert found.n_trials == len(trials) <= 2 + len(BLOCKS) + 12
    assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
    assert trials[0].purpose == "everything low"
    assert sum("alone low" in trial.purpose for trial in trials) == len(BLOCKS)


def test_small_errors_add_up_and_the_largest_go_first() -> None:
    """Errors of blocks add; the least number of blocks to keep is known."""
    errors = dict(zip(BLOCKS, np.random.default_rng(0).permutation(16) + 1.0, strict=True))

    def total(low: set[str]) -> float:
        return sum(errors[block] for block in low) * 1e-3

    for limit in (0.135, 0.1, 0.05, 0.01, 0.0):
        judge = _judge(lambda low, limit=limit: total(low) <= limit + 1e-9, total)  # type: ignore[misc]
        found = repair(BLOCKS, Built, judge)  # type: ignore[arg-type]
        order = sorted(errors.values(), reverse=True)
        fewest = next(n for n in range(17) if sum(order[n:]) * 1e-3 <= limit + 1e-9)
        assert len(found.kept) == fewest
        assert {errors[block] for block in found.kept} == set(order[:fewest])
        assert found.judgement.error <= limit + 1e-9
    assert found.reasons[max(errors, key=lambda block: errors[block])].endswith("error of 1.6e-02")


def test_two_blocks_that_fail_only_together_cost_one() -> None:
    """Either may stay low: what is kept is minimal, though the order put both first."""
    pair = {BLOCKS[4], BLOCKS[8]}
    judge = _judge(
        lambda low: not pair <= low and BLOCKS[2] not in low,
        lambda low: math.inf if BLOCKS[2] in low else 0.5 * len(low & pair),
    )
    found = repair(BLOCKS, Built, judge)  # type: ignore[arg-type]
    assert found.kept == (BLOCKS[2], BLOCKS[4])


def test_a_given_back_block_leaves_the_rest_minimal() -> None:
    """The most harmful block by itself is harmless once another is kept."""
    errors = {BLOCKS[1]: 3.0, BLOCKS[6]: 2.0}

    def passes(low: set[str]) -> bool:
        return BLOCKS[6] not in low

    judge = _judge(passes, lambda low: max((errors.get(b, 0.0) for b in low), default=0.0))
    found = repair(BLOCKS, Built, judge)  # type: ignore[arg-type]
    assert found.kept == (BLOCKS[6],)
    for smaller in combinations(found.kept, len(found.kept) - 1):
        assert not passes(set(BLOCKS) - set(smaller))


def test_probe_orders_and_judge_decides() -> None:
    judged: list[int] = []
    probed: list[int] = []

    def judge(candidate: Built) -> Judgement:
        judged.append(len(candidate.kept))
        return _faulty(BLOCKS[5])(candidate)

    def probe(candidate: Built) -> Judgement:
        probed.append(len(candidate.kept))
        return _faulty(BLOCKS[5])(candidate)

    assert repair(BLOCKS, Built, judge, probe).kept == (BLOCKS[5],)
    assert probed == [15] * 16  # one block low each time
    assert judged == [0, 16, 1]


def test_suspects_alone_are_measured_if_they_suffice() -> None:
    suspects = BLOCKS[:4]

    def judge(candidate: Built) -> Judgement:
        plain = _faulty(BLOCKS[2])(candidate)
        return Judgement(plain.passed, plain.error, plain.failures, suspects)

    trials: list[Trial] = []
    found = repair(BLOCKS, Built, judge, progress=trials.append)
    assert found.kept == (BLOCKS[2],)
    assert sum("alone low" in trial.purpose for trial in trials) == 4


def test_others_are_measured_too_if_suspects_do_not_suffice() -> None:
    def judge(candidate: Built) -> Judgement:
        plain = _faulty(BLOCKS[2], BLOCKS[9])(candidate)
        return Judgement(plain.passed, plain.error, plain.failures, BLOCKS[:4])

    assert repair(BLOCKS, Built, judge).kept == (BLOCKS[2], BLOCKS[9])


def test_not_a_number_is_the_worst_error() -> None:
    def judge(candidate: Built) -> Judgement:
        bad = BLOCKS[3] not in candidate.kept
        return Judgement(not bad, math.nan if bad else 5.0, ("nan",) if bad else ())

    assert repair(BLOCKS, Built, judge).kept == (BLOCKS[3],)


def test_a_fault_that_is_not_the_precisions_is_refused_at_once() -> None:
    trials: list[Trial] = []
    with pytest.raises(ParityError, match="everything in float32 fails as well: stage 2 left"):
        judge = _judge(lambda low: False, lambda low: 1.0)
        repair(BLOCKS, Built, judge, progress=trials.append)  # type: ignore[arg-type]
    assert len(trials) == 2


def test_blocks_that_the_builder_keeps_are_reported_and_not_searched() -> None:
    forced = {BLOCKS[7]: "`weight` reaches 1e+06, float16 ends at 65504"}
    asked: list[tuple[str, ...]] = []

    def build(kept: Sequence[str]) -> Built:
        asked.append(tuple(kept))
        return Built(tuple(kept), forced)

    trials: list[Trial] = []
    found = repair(BLOCKS, build, _faulty(BLOCKS[7], BLOCKS[3]), progress=trials.append)
    assert found.kept == (BLOCKS[3], BLOCKS[7])
    assert found.reasons[BLOCKS[7]] == forced[BLOCKS[7]]
    assert "overflow" in found.reasons[BLOCKS[3]]
    assert not any(BLOCKS[7] in kept for kept in asked)
    assert not any(BLOCKS[7] in trial.purpose for trial in trials)


def test_the_candidate_is_the_last_that_was_built() -> None:
    """Candidates may overwrite each other's files."""
    built: list[tuple[str, ...]] = []

    def build(kept: Sequence[str]) -> Built:
        built.append(tuple(kept))
        return Built(tuple(kept))

    found = repair(BLOCKS, build, _faulty(BLOCKS[3], BLOCKS[8]))
    assert found.kept == (BLOCKS[3], BLOCKS[8])
    assert built[-1] == found.kept == found.candidate.kept


def test_few_blocks() -> None:
    assert repair(BLOCKS[:1], Built, _faulty(BLOCKS[0])).kept == (BLOCKS[0],)
    with pytest.raises(ParityError):
        repair((), Built, _faulty(BLOCKS[0]))
