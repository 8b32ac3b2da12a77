"""Automatic repair: which blocks must stay in float32 so that a reduced precision passes.

Nothing here knows graphs: blocks are names, `build` makes a candidate that keeps some of them, and
`judge` says whether it passes.

1. Everything low. If that passes, nothing is kept.
2. Everything kept. If that fails, the fault is no matter of precision: `ParityError`.
3. Each block alone low, judged by the cheap `probe`: its own error. Blocks are ordered by it, most
   harmful first, equal ones in graph order.
4. The fewest of the most harmful that pass when kept: 1, 2, 4, 8 .. then bisecting. Keeping more
   is taken never to hurt.
5. Each of few kept blocks is given back on trial, least harmful first; at the end no single one of
   them can be low.

Where an output is not finite, its judgement may name the suspects: the blocks upstream of it. A
passing set holds one of them at least, so they are measured first, and the others only if keeping
all suspects is not enough.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cff_runtime.errors import ParityError

MAX_GIVEN_BACK = 4


class Built(Protocol):
    """What `build` returns."""

    @property
    def forced(self) -> Mapping[str, str]:
        """Blocks that the builder kept by itself, each with the reason."""
        ...


C = TypeVar("C", bound=Built)


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a candidate.

    Attributes
    ----------
    passed : bool
    error : float
        Larger is worse; infinite where an output is not finite.
    failures : tuple of str
        One sentence per limit that was left.
    suspects : tuple of str
        Blocks that can have caused a non-finite output; empty if nothing is known.
    """

    passed: bool
    error: float
    failures: tuple[str, ...]
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One candidate that was built and judged, for whoever watches."""

    number: int
    purpose: str
    n_kept: int
    judgement: Judgement


@dataclass(frozen=True)
class Repair(Generic[C]):
    """The candidate that passes and what it took.

    Attributes
    ----------
    candidate : C
    judgement : Judgement
        Of the candidate.
    kept : tuple of str
        Blocks left in float32, in graph order, those that the builder kept by itself included.
    reasons : mapping of str to str
        Why each block was kept.
    n_trials : int
        Candidates that were built and judged.
    """

    candidate: C
    judgement: Judgement
    kept: tuple[str, ...]
    reasons: Mapping[str, str]
    n_trials: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts for the manifest and `parity.json`."""
        return {"kept": dict(self.reasons), "n_trials": self.n_trials}


def repair(
    blocks: Sequence[str],
    build: Callable[[tuple[str, ...]], C],
    judge: Callable[[C], Judgement],
    probe: Callable[[C], Judgement] | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Repair[C]:
    """Find a small set of blocks to keep in float32 so that the candidate passes.

    Parameters
    ----------
    blocks : sequence of str
        In graph order.
    build : callable
        From blocks to keep to a candidate; the same blocks give the same candidate.
    judge : callable
        Decides.
    probe : callable, optional
        A cheaper judge of one block's own error; `judge` if None.
    progress : callable, optional
        Told of every trial.

    Raises
    ------
    ParityError
        If not even everything in float32 passes.
    """
    return _Search(tuple(blocks), build, judge, probe or judge, progress).run()


class _Search(Generic[C]):
    def __init__(
        self,
        blocks: tuple[str, ...],
        build: Callable[[tuple[str, ...]], C],
        judge: Callable[[C], Judgement],
        probe: Callable[[C], Judgement],
        progress: Callable[[Trial], None] | None,
    ) -> None:
        self.all_blocks = self.blocks = blocks
        self.build = build
        self.judge = judge
        self.probe = probe
        self.progress = progress
        self.n_trials = 0
        self.last: tuple[tuple[str, ...], C] | None = None
        self.judgements: dict[tuple[str, ...], Judgement] = {}
        self.own_errors: dict[str, float] = {}

    def run(self) -> Repair[C]:
        first = self._judge((), "everything low")
        if first.passed:
            return self._result(())
        forced = self._candidate(()).forced
        self.blocks = tuple(block for block in self.blocks if block not in forced)
        best = self._judge(self.blocks, "everything kept")
        if not best.passed:
            raise ParityError(
                "no block's precision is to blame, everything in float32 fails as well: "
                + "; ".join(best.failures or first.failures)
            )
        suspects = tuple(block for block in self.blocks if block in first.suspects)
        groups = [suspects, self.blocks] if 0 < len(suspects) < len(self.blocks) else [self.blocks]
        for group in groups:
            if self._judge(group, "suspects kept").passed:
                return self._result(self._smallest(self._ordered(group)))
        raise AssertionError("keeping every block has passed before")

    def _smallest(self, order: Sequence[str]) -> tuple[str, ...]:
        """Return the fewest first blocks of `order` that pass, less those given back."""
        fails, passes = 0, 1
        while not self._judge(order[:passes], "most harmful kept").passed:
            fails, passes = passes, min(2 * passes, len(order))
        while passes - fails > 1:
            middle = (fails + passes) // 2
            if self._judge(order[:middle], "most harmful kept").passed:
                passes = middle
            else:
                fails = middle
        kept = list(order[:passes])
        if len(kept) <= MAX_GIVEN_BACK:
            for block in reversed(order[:passes]):
                fewer = [other for other in kept if other != block]
                if self._judge(fewer, "one given back").passed:
                    kept = fewer
        return self._sorted(kept)

    def _ordered(self, group: Sequence[str]) -> list[str]:
        for block in group:
            if block not in self.own_errors:
                others = self._sorted(set(self.blocks) - {block})
                error = self._try(others, self.probe, f"{block} alone low").error
                self.own_errors[block] = math.inf if math.isnan(error) else error
        return sorted(group, key=lambda block: -self.own_errors[block])

    def _judge(self, kept: Collection[str], purpose: str) -> Judgement:
        key = self._sorted(kept)
        if key not in self.judgements:
            self.judgements[key] = self._try(key, self.judge, purpose)
        return self.judgements[key]

    def _try(
        self, kept: tuple[str, ...], judge: Callable[[C], Judgement], purpose: str
    ) -> Judgement:
        judgement = judge(self._candidate(kept))
        self.n_trials += 1
        if self.progress is not None:
            self.progress(Trial(self.n_trials, purpose, len(kept), judgement))
        return judgement

    def _candidate(self, kept: tuple[str, ...]) -> C:
        """Build, unless the last candidate built is this one; earlier ones may be overwritten."""
        if self.last is None or self.last[0] != kept:
            self.last = (kept, self.build(kept))
        return self.last[1]

    def _sorted(self, kept: Collection[str]) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if block in kept)

    def _result(self, kept: tuple[str, ...]) -> Repair[C]:
        candidate = self._candidate(kept)
        why = {block: _reason(self.own_errors[block]) for block in kept} | dict(candidate.forced)
        reasons = {block: why[block] for block in self.all_blocks if block in why}
        return Repair(candidate, self.judgements[kept], tuple(reasons), reasons, self.n_trials)


def _reason(error: float) -> str:
    if math.isinf(error):
        return "overflow: alone in low precision it makes an output infinite or NaN"
    return f"alone in low precision it gives an error of {error:.1e}"
