"""The subcommand `latency` of `cff-bench`."""

import argparse
from pathlib import Path
from typing import Any

from cff_bench.report.options import add_report_arguments
from cff_runtime.opening import add_backend_arguments

DEFAULT_STARTS = 5


def add_latency_parser(subparsers: Any) -> None:
    """Add ``latency`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "latency",
        help="one inspection, stage by stage",
        description="One inspection, stage by stage, with percentiles, jitter, throughput, cold "
        "start, memory, and what the machine did meanwhile. Several precisions or bundles take "
        "turns in one run.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    parser.add_argument(
        "--profile",
        type=Path,
        action="append",
        required=True,
        metavar="P",
        help="made by cff-run enroll; given again, of a further precision or bundle",
    )
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        metavar="F",
        help="part to inspect, may be given again (default: seeded noise)",
    )
    _add_turns(parser)
    _add_besides(parser)
    add_backend_arguments(parser, "of the backend (default: the backend chooses)")
    parser.set_defaults(provider=None, threads=None)  # left to the backend where not given
    add_report_arguments(parser)
    parser.set_defaults(run=_run_latency)


def _add_turns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", default="", metavar="A,B", help="taking turns (default: the profile's)"
    )
    parser.add_argument(
        "--compare-with",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE2",
        help="another bundle, taking turns with the first; may be given again",
    )
    parser.add_argument("-n", type=int, default=50, help="timed rounds (default: 50)")
    parser.add_argument(
        "--starts",
        type=int,
        metavar="N",
        help="processes, one after the other, that the rounds are split over, so that intervals "
        f"hold what differs between them (default: {DEFAULT_STARTS}, or -n if fewer)",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        default=5,
        help="rounds before them at least, of each start (default: 5)",
    )
    parser.add_argument(
        "--warmup-limit",
        type=float,
        default=30.0,
        metavar="S",
        help="longest warm-up of a start beyond them, until timings are stable; 0 takes exactly "
        "--warmup (default: 30)",
    )


def _add_besides(parser: argparse.ArgumentParser) -> None:
    """Add what is measured besides the rounds."""
    parser.add_argument(
        "--streams",
        default="1,2",
        metavar="N,N",
        help="threads that inspect at the same time, for the throughput (default: %(default)s)",
    )
    parser.add_argument(
        "--stream-seconds",
        type=float,
        default=6.0,
        metavar="S",
        help="for each number of them (default: 6)",
    )
    parser.add_argument(
        "--cold-starts",
        type=int,
        default=5,
        metavar="N",
        help="processes that open and inspect once (default: 5)",
    )


def _run_latency(args: argparse.Namespace) -> int:
    from cff_bench.latency.measurement import require_streams, run
    from cff_bench.latency.settings import LatencySettings
    from cff_bench.report.options import write_report

    settings = LatencySettings(
        bundle=args.bundle,
        profile=args.profile[0],
        images=args.image,
        n=args.n,
        warmup=args.warmup,
        backend=args.backend,
        options=given_backend_options(args),
        precisions=tuple(dict.fromkeys(w.strip() for w in args.precision.split(",") if w.strip())),
        compare_with=args.compare_with,
        further_profiles=args.profile[1:],
        streams=require_streams(args.streams),
        stream_seconds=args.stream_seconds,
        cold_starts=args.cold_starts,
        warmup_limit_s=args.warmup_limit,
        command=args.command_line,
        starts=max(1, min(DEFAULT_STARTS, args.n)) if args.starts is None else args.starts,
    )
    return write_report(args, run(settings))


def given_backend_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the backend's options that were given; what was not is left to the backend.

    Raises
    ------
    UsageError, MissingDependencyError
        As `cff_runtime.opening.backend_options`.
    """
    from cff_runtime.opening import backend_options

    given = {"provider": args.provider, "threads": args.threads}
    defaults = {"provider": "cpu", "threads": 0}
    filled = {name: defaults[name] if value is None else value for name, value in given.items()}
    options = backend_options(argparse.Namespace(**{**vars(args), **filled}))
    named = {text.partition("=")[0] for text in args.backend_option}
    for name, value in given.items():
        if value is None and name not in named:
            options.pop(name, None)
    return options
