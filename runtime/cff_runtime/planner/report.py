"""A plan as text: what the box takes, what was chosen, what it costs."""

from collections.abc import Iterator

from cff_runtime.planner.budget import MEGABYTE
from cff_runtime.planner.loss import Loss
from cff_runtime.planner.plan import Plan


def write_report(plan: Plan) -> str:
    """Return the plan for people, the outcome last."""
    return "\n".join([*_box(plan), *_outcome(plan), *(f"note: {note}" for note in plan.notes)])


def _box(plan: Plan) -> Iterator[str]:
    p = plan.budget.percentile
    bank = f"whole bank, {_rows(plan.n_full)} rows" if plan.n_full else "no memory bank"
    yield f"{bank}; medians in ms"
    header = f"  {'precision':10}{'encode':>9}{'search':>9}{'rest':>9}{'total':>9}"
    yield f"{header}{f'p{p:g}':>9}{'n':>6}  rows a stage that hold"
    for candidate in plan.candidates:
        whole = candidate.whole
        steps = whole.stages_ms
        rest = sum(ms for name, ms in steps.items() if name not in ("encode", "search"))
        values = (steps["encode"], steps["search"], rest, whole.median_ms, whole.percentile_ms)
        cells = "".join(f"{value:9.1f}" for value in values)
        held = "none" if candidate.max_rows is None else f"{candidate.max_rows}"
        if candidate.max_rows is not None and candidate.max_rows >= max(plan.n_full, default=0):
            held = "all"
        yield f"  {candidate.precision:10}{cells}{whole.n:6}  {held}"
    for precision, reason in plan.refused.items():
        yield f"  {precision:10} not admitted: {reason}"


def _outcome(plan: Plan) -> Iterator[str]:
    if plan.chosen is None or plan.measured is None or plan.loss is None:
        yield f"nothing holds {_budget(plan)}"
        return
    is_whole = plan.n_rows == plan.n_full
    bank = "the whole bank" if is_whole else f"{_rows(plan.n_rows)} of {_rows(plan.n_full)} rows"
    verb = "holds" if plan.holds else "MISSES"
    bank = f" with {bank}" if plan.n_full else ""
    yield f"{plan.chosen.precision}{bank} {verb} {_budget(plan)}"
    p, measured = plan.budget.percentile, plan.measured
    yield (
        f"  time    p{p:g} {plan.predicted_ms or 0.0:.1f} ms predicted, "
        f"{measured.percentile_ms:.1f} ms measured (median {measured.median_ms:.1f} ms, "
        f"n = {measured.n})"
    )
    if plan.measured_bytes is not None and plan.predicted_bytes is not None:
        yield (
            f"  memory  {plan.predicted_bytes / MEGABYTE:.0f} MB predicted, "
            f"{plan.measured_bytes / MEGABYTE:.0f} MB measured, of the whole process"
        )
    yield from _loss(plan.loss)


def _loss(loss: Loss) -> Iterator[str]:
    yield (
        f"  loss    {len(loss.changed)} of {loss.n_images} verdicts changed (references and "
        f"augmentations); scores relative to the threshold moved by {loss.mean_shift:+.3f} on "
        f"average, {loss.largest_shift:+.3f} at most"
    )
    for changed in loss.changed:
        yield f"          {changed}"
    yield f"  threshold {loss.old_threshold:.4f} to {loss.new_threshold:.4f}"
    if loss.coverage is not None:
        largest = ", ".join(f"{value:.3f}" for value in loss.coverage.get("largest", ()))
        yield f"  coverage  dropped rows lie at most {largest} (by stage) from a kept one"


def _budget(plan: Plan) -> str:
    limits = []
    if plan.budget.cycle_ms is not None:
        limits.append(f"{plan.budget.cycle_ms:g} ms in {plan.budget.percentile:g}% of inspections")
    if plan.budget.memory_bytes is not None:
        limits.append(f"{plan.budget.memory_bytes / MEGABYTE:.0f} MB")
    return " and ".join(limits)


def _rows(rows: tuple[int, ...]) -> str:
    return " + ".join(map(str, rows))
