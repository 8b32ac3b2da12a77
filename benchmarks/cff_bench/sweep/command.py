"""The subcommand `sweep` of `cff-bench`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cff_bench.report.options import add_report_arguments

DEFAULT_JOURNAL = Path("build/bench/sweep.jsonl")
log = logging.getLogger(__name__)


def add_sweep_parser(subparsers: Any) -> None:
    """Add ``sweep`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "sweep",
        help="batch x bank x K x precision x threads x image size x backend, with scaling laws",
        description="Time the encoder by batch, precision and threads and the search by K and bank "
        "size, for bundles of one or several image sizes, and fit the laws that these times should "
        "follow. Interrupted, the same command goes on where it stopped.",
    )
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="BUNDLE", help="folders made by cff-export"
    )
    for name, metavar, what in (
        ("batches", "B,B", "images at once (default: 1,2,4,8)"),
        ("shots", "K,K", "numbers of references (default: 1,2,4,8,16)"),
        ("banks", "whole,N", "rows a stage may have (default: whole)"),
        ("precisions", "A,B", "default: those of the bundles"),
        ("threads", "N,N", "on a CPU (default: 1, 2, 4 .. physical cores)"),
        ("backends", "A,B", "default: onnxruntime/cpu; or onnxruntime/cuda and so on, tensorrt"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=what)
    parser.add_argument("-n", type=int, help="timed rounds (default: 20)")
    parser.add_argument(
        "--warmup", type=int, default=2, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="5 rounds, batches 1,2,4, references 1,4,16"
    )
    parser.add_argument(
        "--journal",
        type=Path,
        default=DEFAULT_JOURNAL,
        metavar="F",
        help="where rounds are kept until the sweep is complete (default: %(default)s)",
    )
    add_report_arguments(parser)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(args: argparse.Namespace) -> int:
    from cff_bench.report.options import write_report
    from cff_bench.sweep.document import run

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    settings = read_settings(args)
    try:
        report = run(settings)
    except KeyboardInterrupt:
        log.info("interrupted; rounds are kept in `%s`, the same command goes on", args.journal)
        raise
    return write_report(args, report)


def read_settings(args: argparse.Namespace) -> Any:
    """Return the `SweepSettings` of a command line.

    Raises
    ------
    UsageError
        If a list holds something else than numbers.
    """
    from dataclasses import replace

    from cff_bench.sweep.axes import WHOLE, Axes
    from cff_bench.sweep.measurement import QUICK, QUICK_ROUNDS, SweepSettings

    given: dict[str, Any] = {}
    for name in ("batches", "shots", "threads"):
        if (text := getattr(args, name)) is not None:
            given[name] = numbers(text, f"--{name}")
    if args.banks is not None:
        words = ("0" if word == "whole" else word for word in split(args.banks))
        given["banks"] = numbers(",".join(words), "--banks") or (WHOLE,)
    for name in ("precisions", "backends"):
        if (text := getattr(args, name)) is not None:
            given[name] = tuple(split(text))
    axes = replace(QUICK if args.quick else Axes(), **given)
    n = args.n if args.n is not None else (QUICK_ROUNDS if args.quick else 20)
    return SweepSettings(
        bundles=tuple(args.bundles),
        axes=axes,
        n=n,
        warmup=args.warmup,
        journal=args.journal,
        command=tuple(args.command_line),
    )


def split(text: str) -> Sequence[str]:
    """Return the words of a list separated by commas, each once, in order."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers of a list separated by commas, ascending.

    Raises
    ------
    UsageError
        If a word is no whole number.
    """
    from cff_runtime.errors import UsageError

    try:
        return tuple(sorted({int(word) for word in split(text)}))
    except ValueError:
        raise UsageError(f"`{option}` must be numbers such as 1,2,4, got {text!r}") from None
