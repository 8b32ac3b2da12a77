"""The subcommand `roofline` of `cff-bench`: its arguments."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cff_bench.environment import available_cores
from cff_bench.report.options import add_report_arguments, write_report


def add_roofline_parser(subparsers: Any) -> None:
    """Add the command to `cff-bench`."""
    parser = subparsers.add_parser(
        "roofline", help="measured ceilings of this machine, and a bundle's distance from them"
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    parser.add_argument(
        "--precisions", default="", metavar="A,B", help="default: those that a CPU computes"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        help="of products and encoder (default: physical cores, %(default)s here)",
    )
    parser.add_argument("-n", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=3, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--profiled",
        type=int,
        default=10,
        help="runs of an encoder with the profiler on (default: %(default)s)",
    )
    add_report_arguments(parser)
    parser.set_defaults(run=_run_roofline)


def _run_roofline(args: argparse.Namespace) -> int:
    from cff_bench.environment import collect_environment
    from cff_bench.roofline.measurement import RooflineSettings, measure
    from cff_bench.roofline.report import build_report
    from cff_runtime.errors import UsageError

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    for name in ("threads", "n", "profiled"):
        if getattr(args, name) < 1:
            raise UsageError(f"`{name}` must be at least 1, got {getattr(args, name)}")
    settings = RooflineSettings(
        bundle=args.bundle,
        threads=args.threads,
        n=args.n,
        warmup=args.warmup,
        profiled=args.profiled,
        precisions=tuple(name for name in args.precisions.split(",") if name),
        command=args.command_line,
    )
    environment = collect_environment().to_dict()  # before the run: its load is not the machine's
    return write_report(args, build_report(measure(settings), settings, environment))
