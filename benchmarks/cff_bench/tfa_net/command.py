"""The subcommand `tfa-net` of `cff-bench`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cff_bench.report.options import add_report_arguments

if TYPE_CHECKING:
    from cff_bench.report.document import Report
    from cff_bench.tfa_net.settings import TfaNetSettings

DATA_SET = "mvtec_mini"
PRODUCTS = ("transistor", "hazelnut")  # those of `DATA_SET` with more than four normals
log = logging.getLogger(__name__)


def add_tfa_net_parser(subparsers: Any) -> None:
    """Add ``tfa-net`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "tfa-net",
        help="TFA-Net trained on single products, beside CFF: accuracy, latency, cost",
        description="Train TFA-Net on the normals of single products, export it, judge it beside "
        "itself untrained and beside a CFF bundle on the same images and references, and time "
        "whole inspections of both by turns. Interrupted, the same command goes on.",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help=f"data set (default: {DATA_SET} below CFF_DATA)"
    )
    parser.add_argument(
        "--products",
        default=",".join(PRODUCTS),
        metavar="A,B",
        help="with dozens of normals each; latency is taken on the first (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/tfa-net"),
        metavar="DIR",
        help="where runs, bundles and cells are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--cff",
        type=Path,
        default=Path("build/demo/bundle"),
        metavar="BUNDLE",
        help="to stand beside (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="of the preset tfa-net, as for cff-train; may be repeated",
    )
    parser.add_argument(
        "--shots", default="1,4", metavar="K,K", help="numbers of references (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="draws of references (default: 5)"
    )
    parser.add_argument("-n", type=int, default=100, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=10, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        help="of ONNX Runtime when timed; with 1, nothing else takes more either "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--precisions",
        default="fp32,int8",
        metavar="A,B",
        help="to time; added to TFA-Net's bundle, and taken of the CFF bundle where it has them "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="PART,PART",
        help="training, accuracy, latency (default: all); figures of the other parts are taken "
        "over from the file of --json, if it exists",
    )
    add_report_arguments(parser)
    parser.set_defaults(run=_run_tfa_net)


def _run_tfa_net(args: argparse.Namespace) -> int:
    from cff_bench.report.options import write_report
    from cff_bench.tfa_net.document import run
    from cff_runtime.bundle import Bundle

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("cff_bench", "cff_export"):
        logging.getLogger(package).setLevel(logging.INFO)
    settings = read_settings(args)
    if settings.parts != ("training",):
        Bundle.open(settings.cff)  # what it lacks is told before minutes of training
    earlier = _earlier(args.json) if args.only else None
    try:
        report = run(settings, earlier)
    except KeyboardInterrupt:
        log.info(
            "interrupted; what is finished is kept in `%s`, the same command goes on", settings.out
        )
        raise
    return write_report(args, report)


def read_settings(args: argparse.Namespace) -> "TfaNetSettings":
    """Return the settings of a command line.

    Raises
    ------
    UsageError
        If a list holds something else than it must, or the data are nowhere.
    """
    from cff_bench.real_data import data_folder
    from cff_bench.sweep.command import numbers, split
    from cff_bench.tfa_net.settings import PARTS, TfaNetSettings

    return TfaNetSettings(
        data=args.data or data_folder((DATA_SET,)) / DATA_SET,
        products=tuple(split(args.products)),
        out=args.out,
        cff=args.cff,
        epochs=args.epochs,
        overrides=tuple(args.overrides),
        shots=numbers(args.shots, "--shots"),
        seeds=args.seeds,
        n=args.n,
        warmup=args.warmup,
        threads=args.threads,
        precisions=tuple(split(args.precisions)),
        parts=tuple(split(args.only)) or PARTS,
        command=tuple(args.command_line),
    )


def _earlier(path: Path | None) -> "Report | None":
    from cff_bench.report.reading import load_reports

    return load_reports(path)[0] if path is not None and path.is_file() else None
