"""The subcommand `table6` of `cff-bench`: its arguments."""

import argparse
import re
from typing import Any

from cff_bench.environment import available_cores
from cff_bench.report.options import add_report_arguments, write_report

DEFAULT_GRID = "256x768,1024x768,4096x768,1369x256,1369x512,1369x1024"


def add_table6_parser(subparsers: Any) -> None:
    """Add the command to `cff-bench`."""
    parser = subparsers.add_parser(
        "table6", help="the paper's Table 6: heads alone, unfolded and folded"
    )
    parser.add_argument("-n", type=_positive, default=50, help="timed rounds (default: 50)")
    parser.add_argument(
        "--warmup", type=_not_negative, default=5, help="rounds before them (default: 5)"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=available_cores(),
        help="of PyTorch and of ONNX Runtime (default: physical cores, %(default)s here)",
    )
    parser.add_argument(
        "--projector",
        type=_not_negative,
        default=1024,
        metavar="E",
        help="width of the real backbone's features, a second table; 0: none (default: 1024)",
    )
    parser.add_argument(
        "--grid",
        nargs="?",
        const=DEFAULT_GRID,
        default="",
        metavar="NxC,NxC",
        help=f"also these tokens and channels (without a value: {DEFAULT_GRID})",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out: it takes a minute"
    )
    add_report_arguments(parser)
    parser.set_defaults(run=_run_table6)


def parse_grid(text: str) -> tuple[tuple[int, int], ...]:
    """Return the (N, C) of ``256x768,1369x512``.

    Raises
    ------
    UsageError
        If it reads otherwise.
    """
    from cff_runtime.errors import UsageError

    pairs = []
    for word in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,5})x([1-9][0-9]{0,4})\s*", word)
        if match is None:
            raise UsageError(
                f"`--grid` must be tokens x channels such as 256x768,1369x512, got {word!r}"
            )
        pairs.append((int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(pairs))


def _run_table6(args: argparse.Namespace) -> int:
    from cff_bench.environment import collect_environment
    from cff_bench.table6.candidates import Table6Settings
    from cff_bench.table6.heads import HeadShape
    from cff_bench.table6.measurement import run_table6
    from cff_bench.table6.report import build_report

    grid = [HeadShape(dim=dim, n_tokens=tokens) for tokens, dim in parse_grid(args.grid)]
    settings = Table6Settings(
        n=args.n,
        warmup=args.warmup,
        threads=args.threads,
        projector_width=args.projector or None,
        grid=tuple(shape for shape in grid if shape != HeadShape()),
        compiled=not args.no_compile,
        command=args.command_line,
    )
    environment = collect_environment().to_dict()  # before the run: its load is not the machine's
    return write_report(args, build_report(run_table6(settings), settings, environment))


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _not_negative(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value
