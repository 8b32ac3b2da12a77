"""A plan: what was measured of each precision, what was chosen, what it costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.planner.budget import Budget
from cff_runtime.planner.loss import Loss
from cff_runtime.planner.memory import MemoryModel
from cff_runtime.planner.timing import TimeModel, Timings
from cff_runtime.profile import Profile


@dataclass(frozen=True, eq=False)
class Candidate:
    """What an admitted precision can do on this box.

    Attributes
    ----------
    precision : str
    whole : Timings
        With the whole bank.
    time : TimeModel
    memory : MemoryModel or None
        None where memory has no limit.
    max_rows : int or None
        Rows a stage that hold the budget; None if not even the least do.
    """

    precision: str
    whole: Timings
    time: TimeModel
    memory: MemoryModel | None
    max_rows: int | None

    def fits(self, rows: int, budget: Budget) -> bool:
        """Whether at most so many rows a stage are predicted to hold a budget."""
        in_time = budget.cycle_ms is None or self.time.predict_ms(rows) <= budget.cycle_ms
        if self.memory is None or budget.memory_bytes is None:
            return in_time
        return in_time and self.memory.predict_bytes(rows) <= budget.memory_bytes


@dataclass(frozen=True, eq=False)
class Plan:
    """What was measured and chosen.

    Attributes
    ----------
    budget : Budget
    candidates : tuple of Candidate
    refused : mapping of str to str
        Precisions of the bundle that are not admitted, and why.
    n_full : tuple of int
        Rows of the whole bank, by stage.
    chosen : Candidate or None
        None where nothing holds the budget.
    profile : Profile or None
        The planned profile.
    n_rows : tuple of int
        Its rows by stage.
    predicted_ms, predicted_bytes, measured_bytes : float or None
    measured : Timings or None
    loss : Loss or None
    notes : tuple of str
        What comes closest and would help, or what the plan does not say.
    """

    budget: Budget
    candidates: tuple[Candidate, ...]
    refused: Mapping[str, str]
    n_full: tuple[int, ...]
    chosen: Candidate | None = None
    profile: Profile | None = None
    n_rows: tuple[int, ...] = ()
    predicted_ms: float | None = None
    predicted_bytes: float | None = None
    measured: Timings | None = None
    measured_bytes: int | None = None
    loss: Loss | None = None
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the planned profile was measured to keep the budget."""
        if self.measured is None:
            return False
        cycle, memory = self.budget.cycle_ms, self.budget.memory_bytes
        in_time = cycle is None or self.measured.percentile_ms <= cycle
        return in_time and (memory is None or (self.measured_bytes or 0) <= memory)

    @property
    def slowdown(self) -> float:
        """How much longer the encoder took when the plan was measured than when it was made."""
        if self.chosen is None or self.measured is None:
            return 1.0
        before = self.chosen.whole.stages_ms["encode"]
        return self.measured.stages_ms["encode"] / before if before > 0.0 else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return all but the profile, ready for JSON."""
        return {
            "holds": self.holds,
            "budget": asdict(self.budget),
            "candidates": [
                {
                    "precision": c.precision,
                    "whole": asdict(c.whole),
                    "time": {k: v for k, v in asdict(c.time).items() if k.endswith("_ms")},
                    "max_rows": c.max_rows,
                }
                for c in self.candidates
            ],
            "refused": dict(self.refused),
            "n_rows_full": self.n_full,
            "precision": self.chosen and self.chosen.precision,
            "n_rows": self.n_rows,
            "predicted_ms": self.predicted_ms,
            "measured": self.measured and asdict(self.measured),
            "predicted_bytes": self.predicted_bytes,
            "measured_bytes": self.measured_bytes,
            "slowdown": self.slowdown,
            "loss": self.loss and self.loss.to_dict(),
            "notes": self.notes,
        }
