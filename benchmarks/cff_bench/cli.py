"""`cff-bench`: what inspection costs on this machine, and what it finds.

A subcommand is a function that adds its parser and names, as `run`, the function that does the
work; the packages it needs are imported there and nowhere earlier.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cff_bench.accuracy_latency.command import add_accuracy_latency_parser
from cff_bench.c_library.command import add_c_library_parser
from cff_bench.compare.command import add_compare_parser
from cff_bench.drift.command import add_drift_parser
from cff_bench.environment import available_cores, package_version
from cff_bench.evaluate_cost.command import add_evaluate_cost_parser
from cff_bench.latency.command import add_latency_parser
from cff_bench.peers.command import add_peers_parser
from cff_bench.report.all_parts import add_all_parser
from cff_bench.roofline.command import add_roofline_parser
from cff_bench.search.command import add_search_parser
from cff_bench.sweep.command import add_sweep_parser
from cff_bench.table6.command import add_table6_parser
from cff_bench.tfa_net.command import add_tfa_net_parser
from cff_bench.thresholds.command import add_thresholds_parser
from cff_runtime.errors import CffError, MissingDependencyError
from cff_runtime.storage import atomic_write

INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C

# import name -> extra that installs it
_EXTRAS = {
    "onnx": "cff-edge[export]",
    "onnxruntime": "cff-edge[bench]",
    "packaging": "cff-edge[bench]",
    "skimage": "cff-edge[bench]",
    "torch": "cff-edge[train]",
    "torchvision": "cff-edge[train]",
    "sklearn": "cff-edge[train]",
    "tomli_w": "cff-edge[train]",
    "tqdm": "cff-edge[train]",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cff-bench` and return its exit status."""
    args = _build_parser().parse_args(argv)
    args.command_line = ("cff-bench", *(sys.argv[1:] if argv is None else argv))
    try:
        with naming_the_extra():
            status: int = args.run(args)
        sys.stdout.flush()  # here, where a reader that left can still be told
    except BrokenPipeError:
        # such as `| head`; Python would try once more at its end and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


@contextlib.contextmanager
def naming_the_extra() -> Iterator[None]:
    """Turn a missing optional package into an error that names the extra to install.

    Raises
    ------
    MissingDependencyError
        If a package of one of the project's extras is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = _EXTRAS[package]
        raise MissingDependencyError(
            f"package `{package}` must be installed for this; run `pip install '{extra}'`"
        ) from error


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report as JSON, whole or not at all; nothing without a path.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    if path is not None:
        atomic_write(path, (json.dumps(report, indent=2) + "\n").encode())


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-bench", description="Measure and demonstrate on this machine."
    )
    version = package_version("cff-edge") or "unknown"
    parser.add_argument("--version", action="version", version=f"cff-bench {version}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    reports = (
        add_table6_parser,
        add_latency_parser,
        add_sweep_parser,
        add_accuracy_latency_parser,
        add_roofline_parser,
        add_peers_parser,
        add_search_parser,
        add_tfa_net_parser,
        add_evaluate_cost_parser,
        add_compare_parser,
        add_all_parser,
    )
    further = (
        _add_footprint,
        _add_precision,
        _add_demo,
        _add_real_parts,
        _add_experiment,
        add_thresholds_parser,
        add_drift_parser,
        add_c_library_parser,
    )
    for add_command in (*reports, *further):
        add_command(subparsers)
    return parser


def _add_footprint(subparsers: Any) -> None:
    parser = subparsers.add_parser("footprint", help="import time and installed size of the box")
    parser.add_argument("-n", type=_positive, default=11, help="imports (default: 11)")
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond the limits")
    parser.set_defaults(run=_run_footprint)


def _run_footprint(args: argparse.Namespace) -> int:
    from cff_bench.footprint import format_footprint, run_footprint, too_large

    report = run_footprint(args.n)
    print(format_footprint(report))
    write_json(args.json, report)
    return 1 if args.check and too_large(report) else 0


def _add_precision(subparsers: Any) -> None:
    parser = subparsers.add_parser("precision", help="fp16 and int8 beside fp32: speed and drift")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    speed = kinds.add_parser("speed", help="one encoder in PyTorch and in ONNX Runtime, on the CPU")
    speed.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help="folder made by cff-export"
    )
    speed.add_argument("--backbone", metavar="NAME", help="instead: export it, head untrained")
    speed.add_argument("--weights", metavar="W", help="of --backbone, such as random")
    speed.add_argument("--image-size", type=_positive, metavar="PX", help="of --backbone")
    speed.add_argument("--keep", type=Path, metavar="DIR", help="leave the exported bundle here")
    speed.add_argument(
        "--precisions", default="", metavar="A,B", help="default: the bundle's, or fp32,int8"
    )
    speed.add_argument(
        "--repeats", type=_positive, default=7, help="timed rounds, 5 or more (default: 7)"
    )
    speed.add_argument(
        "--warmup", type=_not_negative, default=2, help="rounds before them (default: 2)"
    )
    speed.add_argument(
        "--threads",
        type=_positive,
        default=available_cores(),
        help="of PyTorch and of ONNX Runtime (default: physical cores, %(default)s here)",
    )
    speed.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    speed.set_defaults(run=_run_precision_speed)
    drift = kinds.add_parser(
        "drift", help="AUROC, verdicts and scores on real images, by precision"
    )
    drift.add_argument("bundle", type=Path, metavar="BUNDLE", help="with precisions besides fp32")
    drift.add_argument(
        "--data", type=Path, metavar="DIR", help="default: mvtec_mini below CFF_DATA"
    )
    drift.add_argument("--products", default="", metavar="A,B", help="default: all")
    drift.add_argument(
        "--shots", type=_positive, default=4, metavar="K", help="good parts to enrol (default: 4)"
    )
    drift.add_argument(
        "--max-auroc-points",
        type=float,
        default=0.2,
        metavar="P",
        help="exit code 1 where a mean AUROC differs by more from that of fp32 (default: 0.2)",
    )
    drift.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    drift.set_defaults(run=_run_precision_drift)


def _run_precision_speed(args: argparse.Namespace) -> int:
    from cff_bench.precision.speed import SpeedSettings, format_speed, run_speed

    _tell_progress()
    settings = SpeedSettings(
        bundle=args.bundle,
        backbone=args.backbone,
        weights=args.weights,
        image_size=args.image_size,
        precisions=_names(args.precisions),
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        keep=args.keep,
        command=args.command_line,
    )
    report = run_speed(settings)
    print(format_speed(report))
    write_json(args.json, report)
    return 0


def _run_precision_drift(args: argparse.Namespace) -> int:
    from cff_bench.demo.real_parts import TEST_SET
    from cff_bench.precision.drift import DriftSettings, format_drift, run_drift
    from cff_bench.real_data import data_folder

    _tell_progress()
    settings = DriftSettings(
        bundle=args.bundle,
        data=args.data or data_folder((TEST_SET,)) / TEST_SET,
        products=_names(args.products),
        shots=args.shots,
        max_auroc_points=args.max_auroc_points,
        command=args.command_line,
    )
    report = run_drift(settings)
    print(format_drift(report))
    write_json(args.json, report)
    return 0 if report["passed"] else 1


def _tell_progress() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("cff_bench", "cff_export"):
        logging.getLogger(package).setLevel(logging.INFO)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _add_demo(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo", help="train, export, enrol and inspect, with a report to look at"
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="default: %(default)s")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="MVTec AD or VisA layout (default: synthetic)"
    )
    parser.add_argument("--train", default="", metavar="A,B", help="products to train on")
    parser.add_argument("--product", help="product to enrol and inspect, never trained on")
    parser.add_argument("-k", type=_positive, default=4, help="good parts to enrol (default: 4)")
    _add_overrides(parser)
    parser.set_defaults(run=_run_demo)


def _run_demo(args: argparse.Namespace) -> int:
    from cff_bench.demo.pipeline import run_demo

    train = [name.strip() for name in args.train.split(",") if name.strip()]
    run_demo(args.out, args.data, train, args.product, args.k, args.overrides)
    return 0


def _add_real_parts(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "real-parts", help="raw, none and affine heads on the real defects below CFF_DATA"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/real-parts"), help="default: %(default)s"
    )
    parser.add_argument("-k", type=_positive, default=4, help="good parts to enrol (default: 4)")
    _add_overrides(parser)
    parser.set_defaults(run=_run_real_parts)


def _run_real_parts(args: argparse.Namespace) -> int:
    from cff_bench.demo.real_parts import run_real_parts

    run_real_parts(args.out, args.k, overrides=args.overrides)
    return 0


def _add_experiment(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "experiment", help="what calibration is worth: docs/experiment.md, on the data of CFF_DATA"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/experiment"), help="default: %(default)s"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results"), help="default: %(default)s"
    )
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=available_cores(),
        help="commands side by side (default: physical cores, %(default)s here)",
    )
    parser.set_defaults(run=_run_experiment)


def _run_experiment(args: argparse.Namespace) -> int:
    from cff_bench.experiment.pipeline import Experiment
    from cff_bench.experiment.report import format_report, write_report
    from cff_bench.real_data import data_folder

    experiment = Experiment(data_folder(()), args.out, args.jobs)  # which names what it lacks
    experiment.develop()
    experiment.test()
    print(format_report(write_report(experiment, args.results, ("cff-bench", "experiment"))))
    return 0


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="of the training configuration, as for cff-train; may be repeated",
    )


def _positive(text: str) -> int:
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _not_negative(text: str) -> int:
    value = _integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
