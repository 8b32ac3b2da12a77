"""What to know of a plan, and what would help where nothing holds the budget."""

from collections.abc import Sequence

from cff_runtime.planner.budget import MEGABYTE, Budget
from cff_runtime.planner.plan import Candidate, Plan
from cff_runtime.profile import Profile

MAX_SLOWDOWN = 1.25  # of the encoder, which the plan does not change


def remarks(plan: Plan, profile: Profile) -> tuple[str, ...]:
    """Return what a plan does not say of itself; `profile` is the old one."""
    notes = []
    assert plan.measured is not None
    if not plan.holds and plan.slowdown > MAX_SLOWDOWN:
        notes.append(
            "the box has become slower since it was measured: its encoder took "
            f"{plan.slowdown:.1f} times as long; no bank is at fault, plan again on a box "
            "that is otherwise idle"
        )
    elif not plan.holds:
        notes.append("the plan held in the model and not when measured: allow more, or plan again")
    n, percentile = plan.measured.n, plan.budget.percentile
    if n < 100.0 / (100.0 - percentile):
        notes.append(
            f"{n} inspections were timed: their {percentile:g}th percentile is the slowest one"
        )
    if profile.threshold.method == "further-parts":
        notes.append(
            "the old threshold was set from further parts, which a profile does not hold; the "
            "new one is set from the references alone: set it again with the parts"
        )
    return tuple(notes)


def closest(candidates: Sequence[Candidate], least: int, budget: Budget) -> tuple[str, ...]:
    """Say what comes closest to a budget that nothing holds, and what would help."""
    notes = []
    best = min(candidates, key=lambda c: c.time.predict_ms(least))
    rows = f" with {least} rows a stage" if best.time.n_full else ""
    if budget.cycle_ms is not None and best.time.predict_ms(least) > budget.cycle_ms:
        encode = best.whole.stages_ms.get("encode", 0.0)
        notes.append(
            f"closest: {best.precision}{rows}, "
            f"{best.time.predict_ms(least):.1f} ms predicted of {budget.cycle_ms:g} ms; the "
            f"encoder alone takes {encode:.1f} ms"
        )
        median = best.time.predict_ms(least) - best.time.tail_ms
        if median <= budget.cycle_ms:
            notes.append(
                f"its median would hold ({median:.1f} ms): the other {best.time.tail_ms:.1f} ms "
                "are what else this box does; stop that, leave it a core (`--threads`), or accept "
                "a lower `--percentile`"
            )
        else:
            notes.append(
                "a faster precision or provider would help (`cff-run doctor BUNDLE`), a bundle "
                "exported at a smaller image size, or a smaller backbone; fewer references would "
                "not"
            )
    sized = [(c.memory.predict_bytes(least), c) for c in candidates if c.memory]
    if budget.memory_bytes is not None and sized:
        n_bytes, smallest = min(sized, key=lambda pair: pair[0])
        if n_bytes > budget.memory_bytes:
            notes.append(
                f"closest in memory: {smallest.precision}{rows}, "
                f"{n_bytes / MEGABYTE:.0f} MB predicted of {budget.memory_bytes / MEGABYTE:.0f} "
                "MB, most of it the encoder and the program; a smaller backbone would help"
            )
    if not notes:
        notes.append("time and memory are held by different precisions, but by none both")
    return tuple(notes)
