"""The subcommand `c-library` of `cff-bench`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cff_bench.environment import available_cores

_SOURCES = Path("runtime/c")


def add_c_library_parser(subparsers: Any) -> None:
    """Add ``c-library`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "c-library",
        help="libcff beside the Python runtime: time and memory",
        description="Inspect one image with libcff and with the Python runtime in turns: time by "
        "stage, memory, and whether libcff's memory stays as it is.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    parser.add_argument(
        "--profile", type=Path, required=True, metavar="P", help="made by cff-run enroll"
    )
    parser.add_argument(
        "--image", type=Path, metavar="F", help="part to inspect (default: seeded noise)"
    )
    parser.add_argument(
        "--library",
        type=Path,
        default=Path("build/c/libcff.so"),
        metavar="F",
        help="default: %(default)s, which `make c` builds",
    )
    parser.add_argument(
        "--include",
        type=Path,
        default=_SOURCES / "include",
        metavar="DIR",
        help="folder of cff.h (default: %(default)s)",
    )
    parser.add_argument("-n", type=int, default=100, help="timed inspections (default: 100)")
    parser.add_argument(
        "--warmup", type=int, default=10, help="inspections before them (default: 10)"
    )
    parser.add_argument(
        "--endurance",
        type=int,
        default=0,
        metavar="N",
        help="also inspect N times with libcff and follow its memory",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        help="of both (default: physical cores, %(default)s here)",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 where libcff is not what it promises"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.set_defaults(run=_run_c_library)


def _run_c_library(args: argparse.Namespace) -> int:
    from cff_bench.c_library.comparison import (
        ComparisonSettings,
        fails,
        format_comparison,
        run_comparison,
    )
    from cff_bench.cli import write_json

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    settings = ComparisonSettings(
        library=args.library,
        include=args.include,
        bundle=args.bundle,
        profile=args.profile,
        image=args.image,
        n=args.n,
        warmup=args.warmup,
        endurance=args.endurance,
        threads=args.threads,
        command=args.command_line,
    )
    report = run_comparison(settings)
    sys.stdout.write(format_comparison(report) + "\n")
    write_json(args.json, report)
    failures = fails(report) if args.check else []
    for failure in failures:
        sys.stdout.write(f"not as promised: {failure}\n")
    return 1 if failures else 0
