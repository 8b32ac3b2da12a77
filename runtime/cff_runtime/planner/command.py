"""`cff-run plan`: its arguments. The work is imported when it is asked for."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_runtime.console import add_box_options, say, tell
from cff_runtime.errors import UsageError
from cff_runtime.opening import backend_options

if TYPE_CHECKING:
    from cff_runtime.planner.planning import Planner

DEFAULT_SECONDS = 10.0


def add_plan_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command `plan` to the commands of `cff-run`."""
    plan = commands.add_parser(
        "plan",
        help="choose memory bank and precision for a cycle time or memory limit",
        description="Measure this box, choose the largest memory bank and, of the precisions that "
        "allow as much, the fastest; enrol the profile again from its own images, measure it, and "
        "say what it decides otherwise. Exit code 0 if the plan holds when measured, else 1.",
    )
    plan.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    plan.add_argument("--profile", type=Path, required=True)
    plan.add_argument("--cycle-time", metavar="80ms", help="of an inspection, without reading it")
    plan.add_argument("--max-memory", metavar="500MB", help="of the whole process")
    plan.add_argument(
        "--percentile", type=float, default=99.0, help="of inspections that keep the time (99)"
    )
    plan.add_argument(
        "--precision", action="append", default=[], help="to choose from, all if not given"
    )
    plan.add_argument(
        "--image",
        type=Path,
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="from the camera, to time its resize too; the profile's own images if not given",
    )
    plan.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        help=f"timed of each precision ({DEFAULT_SECONDS:g})",
    )
    plan.add_argument("--out", type=Path, metavar="NEW_PROFILE")
    add_box_options(plan)
    plan.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from cff_runtime.planner.budget import parse_budget
    from cff_runtime.planner.report import write_report
    from cff_runtime.profile_history import store_profile

    budget = parse_budget(arguments.cycle_time, arguments.max_memory, arguments.percentile)
    if not 0.0 < arguments.seconds <= 600.0:
        raise UsageError(f"`--seconds` must be above 0 and at most 600, got {arguments.seconds}")
    plan = _planner(arguments).plan(budget, arguments.precision)
    if arguments.out and plan.profile is not None and plan.holds:
        store_profile(arguments.out, plan.profile)
    if arguments.json:
        out = str(arguments.out) if arguments.out and plan.holds else None
        say(json.dumps({"profile": out, **plan.to_dict()}))
    else:
        say(write_report(plan))
        if arguments.out:
            say(f"{arguments.out}  {'written' if plan.holds else 'not written'}")
    return 0 if plan.holds else 1


def _planner(arguments: argparse.Namespace) -> "Planner":
    from cff_runtime.backends import open_backend
    from cff_runtime.bundle import Bundle
    from cff_runtime.imaging import list_images, load_image
    from cff_runtime.planner.memory import measure_in_process
    from cff_runtime.planner.planning import Opened, Planner
    from cff_runtime.profile import Profile

    profile = Profile.load(arguments.profile)
    bundle = Bundle.open(arguments.bundle)
    images = [load_image(path) for path in list_images(arguments.image)]
    if not images:
        tell("note: the profile's own images are timed, which need no resize; see `--image`")

    def open_precision(view: Bundle) -> Opened:
        return Opened.of(view, open_backend(arguments.backend, view, backend_options(arguments)))

    measure = measure_in_process(arguments.backend, arguments.provider, arguments.threads)
    return Planner(
        bundle,
        profile,
        open_precision,
        measure,
        arguments.provider,
        images,
        arguments.seconds,
        tell,
    )
