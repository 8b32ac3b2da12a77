"""The options that every command with a report has, and what they lead to."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cff_bench.report.document import Report
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write

CHECK_FAILED = 1
OVER_BUDGET = 3
DEFAULT_PERCENTILE = 95.0

_UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}


def add_report_arguments(parser: argparse.ArgumentParser, has_checks: bool = True) -> None:
    """Add ``--json``, ``--markdown``, ``--html``, ``--budget`` and its percentile, ``--check``.

    Parameters
    ----------
    parser : ArgumentParser
    has_checks : bool, default=True
        Whether to add ``--check``.
    """
    add_output_arguments(parser)
    parser.add_argument(
        "--budget",
        type=_budget_ms,
        metavar="T",
        help="such as 80ms: exit code 3 where a percentile of the total exceeds it with 95 %% "
        "confidence",
    )
    parser.add_argument(
        "--budget-percentile",
        type=_percentile,
        default=DEFAULT_PERCENTILE,
        metavar="P",
        help="of --budget (default: %(default)g)",
    )
    if has_checks:
        parser.add_argument(
            "--check", action="store_true", help="exit code 1 where a check of the report fails"
        )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, ``--markdown`` and ``--html``."""
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="F", help="and as Markdown")
    parser.add_argument("--html", type=Path, metavar="F", help="and as one page, with plots")


def write_report(args: argparse.Namespace, report: Report | Sequence[Report]) -> int:
    """Print a report, write the files that were asked for, and return the exit code.

    Returns
    -------
    int
        3 over budget, else 1 where ``--check`` finds one that does not hold, else 0.

    Raises
    ------
    StorageError
        If a file cannot be written.
    UsageError
        If a budget is given and no series is the total.
    """
    from cff_bench.report.terminal import format_terminal

    reports = [report] if isinstance(report, Report) else list(report)
    sys.stdout.write(format_terminal(reports) + "\n")
    write_files(args, reports)
    code = 0
    if getattr(args, "check", False) and any(report.failed for report in reports):
        code = CHECK_FAILED
    if args.budget is not None:
        from cff_bench.compare.budget import judge_budget

        verdict = judge_budget(reports, args.budget, args.budget_percentile)
        sys.stdout.write("\n" + "\n".join(verdict.sentences) + "\n")
        code = OVER_BUDGET if verdict.is_exceeded else code
    return code


def write_files(args: argparse.Namespace, reports: Sequence[Report]) -> None:
    """Write what ``--json``, ``--markdown`` and ``--html`` ask for, each whole or not at all."""
    if args.json is not None:
        from cff_bench.report.reading import save_reports

        save_reports(args.json, reports)
    if args.markdown is not None:
        from cff_bench.report.markdown import format_markdown

        atomic_write(args.markdown, format_markdown(reports).encode())
    if args.html is not None:
        from cff_bench.report.html import format_html

        atomic_write(args.html, format_html(reports).encode())


def parse_ms(text: str) -> float:
    """Return the milliseconds of ``80ms``, ``1.5 s`` or ``80``.

    Raises
    ------
    UsageError
        If it is no positive time.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|µs|ms|s|)\s*", text)
    value = float(match[1]) * _UNITS_MS[match[2]] if match else 0.0
    if value <= 0:
        raise UsageError(f"a time must be positive and read like 80ms or 1.5s, got {text!r}")
    return value


def _budget_ms(text: str) -> float:
    try:
        return parse_ms(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _percentile(text: str) -> float:
    value = re.fullmatch(r"p?([0-9]*\.?[0-9]+)", text.strip())
    if value is None or not 0 < float(value[1]) < 100:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 100, such as 95, got {text!r}")
    return float(value[1])
