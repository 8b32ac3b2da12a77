"""The subcommand `compare` of `cff-bench`."""

import argparse
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

SLOWER = 1
DEFAULT_LIMIT = 0.10  # a stage of 0.3 ms differed by 8 % between two starts of one build


def add_compare_parser(subparsers: Any) -> None:
    """Add ``compare`` to the subparsers of ``cff-bench``."""
    from cff_bench.report.options import add_output_arguments

    parser = subparsers.add_parser(
        "compare",
        help="two reports, or a report and a baseline: what became slower, with intervals",
        description="Compares every series that two reports share by the ratio of their medians, "
        "with 95 %% intervals that allow for samples that depend on each other. Exit code 1 where "
        "something is slower by more than the limit with confidence.",
    )
    parser.add_argument(
        "reports", type=Path, nargs="+", metavar="F", help="A.json B.json; with a baseline, one"
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        default=DEFAULT_LIMIT,
        metavar="P",
        help="such as 10%% (the default), or 0%%",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="compare different kinds or machines as well"
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="F", help="ratios to hold the one report against"
    )
    parser.add_argument(
        "--write-baseline", type=Path, metavar="F", help="write the one report's ratios"
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="series that --write-baseline takes ratios against"
    )
    add_output_arguments(parser)
    parser.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> int:
    from cff_bench.compare.baseline import compare_to_baseline, load_baseline
    from cff_bench.compare.comparison import compare_reports
    from cff_bench.compare.document import comparison_report
    from cff_bench.environment import collect_environment
    from cff_bench.report.options import write_files
    from cff_bench.report.reading import load_reports
    from cff_bench.report.terminal import format_text_table

    _require_files(args)
    if args.write_baseline is not None:
        return _write_baseline(args)
    loaded = [load_reports(path) for path in args.reports]
    if args.baseline is not None:
        comparison = compare_to_baseline(load_baseline(args.baseline), loaded[0], args.limit)
        files = [str(args.baseline), str(args.reports[0])]
    else:
        comparison = compare_reports(loaded[0], loaded[1], args.limit, args.anyway)
        files = [str(path) for path in args.reports]
    command = getattr(args, "command_line", ("cff-bench", "compare"))
    report = comparison_report(comparison, command, files, asdict(collect_environment()))
    lines = [format_text_table(report.tables[0]), "", *report.notes]
    sys.stdout.write("\n".join(lines) + "\n")
    write_files(args, [report])
    return SLOWER if comparison.worse else 0


def _write_baseline(args: argparse.Namespace) -> int:
    from cff_bench.compare.baseline import make_baseline, save_baseline
    from cff_bench.report.reading import load_reports

    reports = load_reports(args.reports[0])
    ratios = make_baseline(reports, args.reference)
    save_baseline(args.write_baseline, ratios, reports[0].command)
    for ratio in ratios:
        sys.stdout.write(
            f"{ratio.name} / {ratio.reference}: {ratio.ratio:.3f} "
            f"({ratio.low:.3f} to {ratio.high:.3f}, n = {ratio.n})\n"
        )
    return 0


def _require_files(args: argparse.Namespace) -> None:
    from cff_runtime.errors import UsageError

    needs_one = args.baseline is not None or args.write_baseline is not None
    expected = 1 if needs_one else 2
    if len(args.reports) != expected:
        words = "one report with a baseline" if needs_one else "two reports"
        raise UsageError(f"`compare` must get {words}, got {len(args.reports)}")


def _limit(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must read like 5% or 0.05, got {text!r}")
    return float(found[1]) / 100 if found[2] else float(found[1])
