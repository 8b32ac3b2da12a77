"""Measure this box, choose bank and precision, make the profile, measure again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend
from cff_runtime.bundle import Bundle
from cff_runtime.enrolment import enroll_references
from cff_runtime.errors import UsageError
from cff_runtime.inspector import Inspector
from cff_runtime.planner.advice import MAX_SLOWDOWN, closest, remarks
from cff_runtime.planner.budget import Budget
from cff_runtime.planner.loss import measure_loss
from cff_runtime.planner.memory import MeasureMemory, fit_memory
from cff_runtime.planner.plan import Candidate, Plan
from cff_runtime.planner.timing import (
    SHARES,
    Inspects,
    fit_time,
    largest_rows,
    summarize,
    thin,
    time_inspections,
)
from cff_runtime.precisions import refusal
from cff_runtime.profile import Profile
from cff_runtime.profile_history import record
from cff_runtime.references import ReferenceImage

MIN_SHARE = 1 / 32  # of the rows; a smaller bank is no plan
_ATTEMPTS = 3
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Opened:
    """A precision of the bundle, ready to run."""

    bundle: Bundle
    backend: Backend
    inspector: Inspects

    @classmethod
    def of(cls, bundle: Bundle, backend: Backend) -> "Opened":
        """Put an inspector over a backend."""
        return cls(bundle, backend, Inspector(bundle, backend))


class Planner:
    """Plans for one profile on one box.

    Parameters
    ----------
    bundle : Bundle
    profile : Profile
        Enrolled with one of the bundle's precisions.
    open_precision : callable
        From a view of the bundle to `Opened`.
    measure_memory : callable
        From bundle view and profile to the peak of a process in bytes.
    provider : str
    images : sequence of ndarrays of shape (h, w, 3), uint8
        What is timed; the profile's references if there is none.
    seconds : float
        Measured of each precision and of the plan.
    tell : callable
        Gets a line about what is being done.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile,
        open_precision: Callable[[Bundle], Opened],
        measure_memory: MeasureMemory,
        provider: str,
        images: Sequence[NDArray[np.uint8]] = (),
        seconds: float = 10.0,
        tell: Tell = lambda text: None,
    ) -> None:
        self._bundle = bundle
        self._profile = profile
        self._own_precision = profile.precision_in(bundle.manifest)
        self._open = open_precision
        self._measure_memory = measure_memory
        self._provider = provider
        self._images = list(images) or list(profile.reference_images)
        self._seconds = seconds
        self._tell = tell
        manifest = bundle.manifest
        self._searched = manifest.searched
        self._n_full = tuple(profile.n_references * stage.n_tokens for stage in self._searched)
        self._most_rows = max(self._n_full, default=1)  # without a bank: nothing to leave out

    def plan(self, budget: Budget, precisions: Sequence[str] = ()) -> Plan:
        """Choose the largest bank and, of precisions that allow as much, the fastest.

        Parameters
        ----------
        budget : Budget
        precisions : sequence of str
            To choose from; all of the bundle if empty.

        Raises
        ------
        UsageError
            If the bundle lacks one of `precisions`, or none is admitted.
        """
        known = self._bundle.manifest.precisions
        for name in precisions:
            self._bundle.manifest.view(name)
        reasons = {name: refusal(name, self._provider) for name in precisions or known}
        refused = {name: reason for name, reason in reasons.items() if reason}
        admitted = [name for name, reason in reasons.items() if not reason]
        if not admitted:
            told = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise UsageError(f"a precision must be computed by `{self._provider}`, got {told}")
        candidates = [self._measure(name, budget) for name in admitted]
        plan = Plan(budget, tuple(candidates), refused, self._n_full)
        fitting = [c for c in candidates if c.max_rows is not None]
        if not fitting:
            return replace(plan, notes=closest(candidates, self._least_rows(), budget))
        chosen = max(fitting, key=lambda c: (c.max_rows or 0, -c.time.predict_ms(c.max_rows or 0)))
        return self._realize(plan, chosen, budget)

    def _measure(self, precision: str, budget: Budget) -> Candidate:
        """Time a precision with banks of several sizes."""
        self._tell(f"measuring {precision}")
        opened = self._open(self._bundle.view(precision))
        stages = self._searched
        whole = self._whole_bank(opened)
        sizes = [max(1, round(share * self._most_rows)) for share in SHARES]
        taken = time_inspections(
            opened.inspector, [thin(whole, rows) for rows in sizes], self._images, self._seconds
        )
        time = fit_time(taken, sizes, stages, self._n_full, budget.percentile)
        memory = None
        if budget.memory_bytes is not None:
            ends = (sizes[0], sizes[-1])
            peaks = [self._measure_memory(opened.bundle, thin(whole, rows)) for rows in ends]
            memory = fit_memory(ends, peaks, stages, self._n_full)

        whole_bank = summarize(taken[0], budget.percentile)
        candidate = Candidate(precision, whole_bank, time, memory, None)
        return replace(candidate, max_rows=self._largest(candidate, self._most_rows, budget))

    def _largest(self, candidate: Candidate, most: int, budget: Budget) -> int | None:
        return largest_rows(lambda n: candidate.fits(n, budget), self._least_rows(), most)

    def _whole_bank(self, opened: Opened) -> Profile:
        """Return the profile with its references' whole bank, as this precision sees them."""
        features = [
            [opened.backend.download(handle) for handle in encoding.features[: len(self._n_full)]]
            for encoding in (
                opened.backend.encode(image, self._profile.condition)
                for image in self._profile.reference_images
            )
        ]
        banks = tuple(np.concatenate(stage) for stage in zip(*features, strict=True))
        return replace(self._profile, bundle_id=opened.bundle.manifest.id, banks=banks)

    def _least_rows(self) -> int:
        return max(1, round(MIN_SHARE * self._most_rows))

    def _realize(self, plan: Plan, chosen: Candidate, budget: Budget) -> Plan:
        """Make the profile and measure it; with fewer rows again where it misses the budget."""
        opened = self._open(self._bundle.view(chosen.precision))
        rows = chosen.max_rows or self._least_rows()
        for attempt in range(_ATTEMPTS):
            least = f", at most {rows} rows a stage" if self._n_full else ""
            self._tell(f"enrolling again: {chosen.precision}{least}")
            profile = self._enroll(opened, rows)
            plan = self._judge(replace(plan, chosen=chosen, profile=profile), opened, rows)
            if not plan.holds and plan.slowdown > MAX_SLOWDOWN:  # a busy moment, perhaps
                self._tell(f"the box is {plan.slowdown:.1f} times as slow as before, once more")
                plan = self._judge(plan, opened, rows)
            is_last = rows <= self._least_rows() or attempt == _ATTEMPTS - 1
            if plan.holds or plan.slowdown > MAX_SLOWDOWN or is_last:
                break
            rows = self._fewer(plan, chosen, rows, budget)
        self._tell("measuring what it decides otherwise")
        own = opened
        if self._own_precision != chosen.precision:
            own = self._open(self._bundle.view(self._own_precision))
        loss = measure_loss((own.inspector, self._profile), (opened.inspector, profile))
        return replace(plan, loss=loss, notes=remarks(plan, self._profile))

    def _judge(self, plan: Plan, opened: Opened, rows: int) -> Plan:
        """Measure the profile of a plan, beside what was predicted for so many rows."""
        profile, chosen = plan.profile, plan.chosen
        assert profile is not None and chosen is not None
        taken = time_inspections(opened.inspector, [profile], self._images, self._seconds)
        measured_bytes = None
        if plan.budget.memory_bytes is not None:
            measured_bytes = self._measure_memory(opened.bundle, profile)
        return replace(
            plan,
            n_rows=tuple(len(bank) for bank in profile.banks),
            predicted_ms=chosen.time.predict_ms(rows),
            predicted_bytes=chosen.memory.predict_bytes(rows) if chosen.memory else None,
            measured=summarize(taken[0], plan.budget.percentile),
            measured_bytes=measured_bytes,
        )

    def _enroll(self, opened: Opened, max_rows: int) -> Profile:
        pairs = zip(self._profile.references, self._profile.reference_images, strict=True)
        settings = dict(self._profile.settings)
        settings.pop("max_bank", None)
        is_whole = max_rows >= self._most_rows
        profile = enroll_references(
            opened.backend,
            opened.bundle.manifest,
            [ReferenceImage(*pair) for pair in pairs],
            self._profile.product,
            self._profile.condition,
            self._profile.condition_name,
            settings.pop("margin", None) or 0.0,
            wishes=settings,
            max_bank=None if is_whole else max_rows,
        )
        details: dict[str, object] = {"precision": opened.bundle.manifest.precision}
        if self._n_full:
            details["max_bank"] = max_rows
        return record(replace(profile, history=self._profile.history), "plan", details)

    def _fewer(self, plan: Plan, chosen: Candidate, rows: int, budget: Budget) -> int:
        """Return rows that hold the budget if the model errs again by as much as it did."""
        assert plan.measured is not None
        extra_ms = plan.measured.percentile_ms - (plan.predicted_ms or 0.0)
        extra_bytes = (plan.measured_bytes or 0) - (plan.predicted_bytes or 0.0)
        tighter = Budget(
            budget.cycle_ms and budget.cycle_ms - max(extra_ms, 0.0),
            budget.memory_bytes and round(budget.memory_bytes - max(extra_bytes, 0.0)),
        )

        return self._largest(chosen, rows - 1, tighter) or self._least_rows()
