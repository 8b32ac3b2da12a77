"""The subcommand `peers` of `cff-bench`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cff_bench.environment import available_cores

DEFAULT_BUNDLE = Path("build/demo/bundle")
FULL_BUNDLE = Path("build/vit-l")
ANOMALIB_PYTHON = Path(".venv-peers/bin/python")
DEFAULT_N, DEFAULT_FULL_N = 50, 5
# of a finished run; asking cff_edge would import PyTorch
_TRAINED_FILES = ("head.safetensors", "model.safetensors")


def add_peers_parser(subparsers: Any) -> None:
    """Add ``peers`` to the subparsers of ``cff-bench``."""
    from cff_bench.report.options import add_report_arguments

    parser = subparsers.add_parser(
        "peers",
        help="whole inspections beside PyTorch, OpenVINO, anomalib and published APRIL-GAN",
        description="Whole inspections by this project, by its own PyTorch path (eager and "
        "compiled), by OpenVINO on the same graphs, by anomalib's exported PatchCore, and by "
        "APRIL-GAN's published inference, taking turns in one run. What is not installed is a dash "
        "with its reason.",
    )
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        metavar="BUNDLE",
        default=DEFAULT_BUNDLE,
        help="folder made by cff-export (default: %(default)s of `make demo`)",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="P",
        help="made by cff-run enroll: references and decision (default: the only one beside "
        "BUNDLE, else golden images)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        dest="training_run",
        metavar="DIR",
        help="training run behind the bundle, so that PyTorch's answers can be compared (default: "
        "`run` beside BUNDLE, else an untrained head)",
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="F",
        help="part to inspect (default: the profile's first reference)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="also ViT-L/14 at 518 px, which takes seconds an inspection and up to 20 GB of memory",
    )
    parser.add_argument(
        "--full-bundle",
        type=Path,
        default=FULL_BUNDLE,
        metavar="B",
        help="of --full (default: %(default)s, as `cff-bench precision speed --backbone "
        "open_clip:ViT-L-14-336 --weights random --image-size 518 --keep` leaves it)",
    )
    parser.add_argument(
        "-n", type=int, default=DEFAULT_N, help="timed rounds (default: %(default)s)"
    )
    parser.add_argument(
        "--full-n", type=int, default=DEFAULT_FULL_N, help="of --full (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=int, default=1, help="rounds before them (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        help="of every contestant (default: physical cores, %(default)s here)",
    )
    parser.add_argument(
        "--only", default="", metavar="A,B", help="contestants, by name (default: all)"
    )
    parser.add_argument(
        "--anomalib-python",
        type=Path,
        default=ANOMALIB_PYTHON,
        metavar="F",
        help="interpreter of anomalib's environment (default: %(default)s of `make peers-install`)",
    )
    add_report_arguments(parser)
    parser.set_defaults(run=_run_peers)


def _run_peers(args: argparse.Namespace) -> int:
    from cff_bench.peers.measurement import PeersSettings, run
    from cff_bench.report.options import write_report

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
    settings = PeersSettings(
        bundle=args.bundle,
        profile=args.profile or _profile_beside(args.bundle),
        run=args.training_run or _run_beside(args.bundle),
        image=args.image,
        full_bundle=args.full_bundle if args.full else None,
        n=args.n,
        full_n=args.full_n,
        warmup=args.warmup,
        threads=args.threads,
        names=tuple(name.strip() for name in args.only.split(",") if name.strip()),
        anomalib_python=args.anomalib_python,
        command=args.command_line,
    )
    return write_report(args, run(settings))


def _profile_beside(bundle: Path) -> Path | None:
    found = list(bundle.resolve().parent.glob("*.profile.safetensors"))
    return found[0] if len(found) == 1 else None


def _run_beside(bundle: Path) -> Path | None:
    folder = bundle.resolve().parent / "run"
    return folder if any((folder / name).is_file() for name in _TRAINED_FILES) else None
