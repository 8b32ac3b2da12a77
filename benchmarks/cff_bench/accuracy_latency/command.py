"""The subcommand `accuracy-latency` of `cff-bench`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cff_bench.environment import available_cores
from cff_bench.report.options import add_report_arguments


def add_accuracy_latency_parser(subparsers: Any) -> None:
    """Add ``accuracy-latency`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "accuracy-latency",
        help="AUROC, AP and milliseconds of the same exported artefacts in one table",
        description="Judge every precision of the bundles as cff-eval does, time whole inspections "
        "of all of them taking turns, and name those that no other beats in both. Finished cells "
        "are kept: the same command goes on where it stopped.",
    )
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="BUNDLE", help="folders made by cff-export"
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="default: mvtec_mini below CFF_DATA",
    )
    parser.add_argument("--products", default="", metavar="A,B", help="default: all")
    parser.add_argument("--precisions", default="", metavar="A,B", help="default: all")
    parser.add_argument("--shots", metavar="K,K", help="values of K (default: 1,2,4)")
    parser.add_argument("--seeds", type=int, metavar="N", help="draws of references (default: 5)")
    parser.add_argument("--references", type=Path, metavar="F", help="references.json of cff-eval")
    parser.add_argument("-n", type=int, help="timed rounds (default: 50)")
    parser.add_argument(
        "--warmup", type=int, default=5, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        help="of ONNX Runtime (default: physical cores, %(default)s here)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/bench/accuracy-latency"),
        metavar="DIR",
        help="where cells are kept (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="one draw, K = 1 and 4, 10 rounds")
    add_report_arguments(parser, has_checks=False)
    parser.set_defaults(run=_run_accuracy_latency)


def _run_accuracy_latency(args: argparse.Namespace) -> int:
    from cff_bench.accuracy_latency.document import run
    from cff_bench.report.options import write_report

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    return write_report(args, run(read_settings(args)))


def read_settings(args: argparse.Namespace) -> Any:
    """Return the `AccuracyLatencySettings` of a command line.

    Raises
    ------
    UsageError
        If a list holds something else than numbers, or the data is nowhere.
    """
    from cff_bench.accuracy_latency.measurement import AccuracyLatencySettings
    from cff_bench.real_data import data_folder
    from cff_bench.sweep.command import numbers, split

    quick_shots = "1,4" if args.quick else "1,2,4"
    return AccuracyLatencySettings(
        bundles=tuple(args.bundles),
        data=tuple(args.data or [data_folder(("mvtec_mini",)) / "mvtec_mini"]),
        products=tuple(split(args.products)),
        precisions=tuple(split(args.precisions)),
        shots=numbers(args.shots if args.shots is not None else quick_shots, "--shots"),
        seeds=1 if args.seeds is None and args.quick else args.seeds,
        references=args.references,
        n=args.n if args.n is not None else (10 if args.quick else 50),
        warmup=args.warmup,
        threads=args.threads,
        out=args.out,
        command=tuple(args.command_line),
    )
