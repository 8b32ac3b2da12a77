"""The subcommand `evaluate-cost` of `cff-bench`."""

import argparse
import logging
import sys
from typing import Any

from cff_bench.report.options import add_report_arguments


def add_evaluate_cost_parser(subparsers: Any) -> None:
    """Add ``evaluate-cost`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "evaluate-cost",
        help="time and memory of cff-eval's metrics by number of images",
        description="Time the metrics of cff-eval on synthetic maps by the number of images, weigh "
        "them in processes of their own, and compare with scikit-learn's pixel AUROC and AP.",
    )
    parser.add_argument("--images", metavar="N,N", help="numbers of images (default: 15,50,150)")
    parser.add_argument("--size", type=int, metavar="PX", help="of the maps (default: 518)")
    parser.add_argument(
        "--subjects",
        metavar="A,B",
        help="of evaluate, collect_evidence, scikit-learn (default: all)",
    )
    parser.add_argument("-n", type=int, help="timed rounds (default: 5)")
    parser.add_argument(
        "--rival-rounds", type=int, help="of scikit-learn, which takes long (default: 3)"
    )
    parser.add_argument("--warmup", type=int, help="rounds before them (default: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="10, 20 and 40 images of 256 px, 3 rounds"
    )
    add_report_arguments(parser, has_checks=False)
    parser.set_defaults(run=_run_evaluate_cost)


def _run_evaluate_cost(args: argparse.Namespace) -> int:
    from cff_bench.evaluate_cost.document import run
    from cff_bench.report.options import write_report

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    return write_report(args, run(read_settings(args)))


def read_settings(args: argparse.Namespace) -> Any:
    """Return the `EvaluateCostSettings` of a command line.

    Raises
    ------
    UsageError
        If a list holds something else than numbers.
    """
    from dataclasses import replace

    from cff_bench.evaluate_cost.document import EvaluateCostSettings
    from cff_bench.sweep.command import numbers, split

    settings = EvaluateCostSettings(command=tuple(args.command_line))
    if args.quick:
        settings = replace(settings, counts=(10, 20, 40), size=256, n=3, rival_rounds=1)
    given = {
        name: getattr(args, name)
        for name in ("size", "n", "rival_rounds", "warmup")
        if getattr(args, name) is not None
    }
    if args.images is not None:
        given["counts"] = numbers(args.images, "--images")
    if args.subjects is not None:
        given["subjects"] = tuple(split(args.subjects))
    return replace(settings, **given)
