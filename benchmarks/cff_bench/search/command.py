"""The subcommand `search` of `cff-bench`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cff_bench.environment import available_cores

DEFAULT_SHOTS = (1, 4, 16)


def add_search_parser(subparsers: Any) -> None:
    """Add ``search`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "search",
        help="searching the memory bank: its share of an inspection, growth, memory, exactness",
        description="Searching the memory bank, by number of references: its share of an "
        "inspection, growth with the bank, memory beyond the bank, and the largest difference to "
        "a brute force in float64 on real features.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="of good parts (default: hazelnut of mvtec_mini below CFF_DATA)",
    )
    parser.add_argument(
        "--shots",
        default=",".join(map(str, DEFAULT_SHOTS)),
        metavar="K,K",
        help="numbers of references (default: %(default)s)",
    )
    parser.add_argument(
        "--encode",
        type=int,
        default=16,
        metavar="N",
        help="references to encode; a larger bank repeats their rows, moved a little "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max-bank",
        type=int,
        metavar="N",
        help="also search banks compressed to N rows a stage, and time the compression",
    )
    parser.add_argument(
        "--max-share",
        type=float,
        metavar="S",
        help="exit code 1 where the search takes a larger share at the first K, such as 0.1",
    )
    parser.add_argument("-n", type=int, default=20, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=3, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        help="of ONNX Runtime (default: physical cores, %(default)s here)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.set_defaults(run=_run_search)


def _run_search(args: argparse.Namespace) -> int:
    from cff_bench.cli import write_json
    from cff_bench.real_data import data_folder
    from cff_bench.search.measurement import SearchSettings, run_search
    from cff_bench.search.report import format_search, too_slow
    from cff_runtime.errors import UsageError

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    try:
        shots = tuple(sorted({int(word) for word in args.shots.split(",")}))
    except ValueError:
        raise UsageError(f"`--shots` must be numbers such as 1,4,16, got {args.shots!r}") from None
    settings = SearchSettings(
        bundle=args.bundle,
        images=args.images or data_folder(("mvtec_mini",)) / "mvtec_mini/hazelnut/train/good",
        shots=shots,
        n_encoded=args.encode,
        max_bank=args.max_bank,
        max_share=args.max_share,
        n=args.n,
        warmup=args.warmup,
        threads=args.threads,
        command=args.command_line,
    )
    report = run_search(settings)
    sys.stdout.write(format_search(report) + "\n")
    write_json(args.json, report)
    return 1 if too_slow(report) else 0
