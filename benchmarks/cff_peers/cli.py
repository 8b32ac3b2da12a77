"""`cff-peers`: what anomalib's detectors and SPADE say about the splits of `cff-eval`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cff_runtime.errors import CffError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    import torch

    from cff_peers.predictions import NotRun

_INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cff-peers``; return the exit code, 1 if no peer ran."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_peers").setLevel(logging.INFO)
    try:
        return _run(arguments)
    except CffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cff-peers",
        description="Run other detectors on the references of cff-eval. Each peer's folder below "
        "OUT is a method for `cff-eval --method NAME=OUT/NAME`. Run again to continue.",
    )
    parser.add_argument(
        "--references", type=Path, required=True, metavar="F", help="references.json of cff-eval"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="data sets"
    )
    parser.add_argument("--products", help="only these products, separated by commas")
    parser.add_argument(
        "--methods",
        default="patchcore,padim,spade,winclip,anomalydino",
        metavar="A,B",
        help="peers, separated by commas (default: %(default)s); there are also patchcore-wrn50, "
        "padim-resnet18 and spade-wrn50, on the networks of their papers",
    )
    parser.add_argument("--shots", default="1,2,4", help="values of K (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="only the first N draws (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="of PyTorch (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder to write")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    try:  # here, so that --help is quick and a missing package is one sentence
        from cff_edge.evaluation.context import choose_references, read_datasets
        from cff_peers.peer import PEERS
        from cff_peers.runner import Plan, run_peer
    except ImportError as error:
        raise MissingDependencyError(
            f"`cff-peers` needs a package that is not installed ({error}); "
            "run `make peers-install` and use `.venv-peers/bin/cff-peers`"
        ) from error

    names = _split(arguments.methods)
    unknown = [name for name in names if name not in PEERS]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise UsageError(f"`--methods` must be of {', '.join(PEERS)}, got {got}")
    shots = _shots(arguments.shots)
    device = _device(arguments.device)
    datasets = read_datasets(arguments.data, _split(arguments.products))
    references, seeds = choose_references(
        datasets, shots, arguments.seeds, None, arguments.references
    )
    plan = Plan(datasets, references, shots, seeds, device, arguments.out)
    results = {name: run_peer(plan, name) for name in names}
    for name, not_run in results.items():
        _print_result(arguments.out / name, name, shots, not_run)
    ran = [name for name in names if _shots_run(shots, results[name])]
    return 0 if ran else 1


def _print_result(
    folder: Path, name: str, shots: Sequence[int], not_run: "Sequence[NotRun]"
) -> None:
    ran = _shots_run(shots, not_run)
    if ran:
        print(f"{name}: K = {', '.join(map(str, ran))} in {folder}")
    for entry in not_run:
        print(f"{name}: K = {', '.join(map(str, entry.shots))} NOT RUN: {entry.reason}")


def _shots_run(shots: Sequence[int], not_run: "Sequence[NotRun]") -> list[int]:
    left_out = {k for entry in not_run for k in entry.shots}
    return [k for k in shots if k not in left_out]


def _shots(text: str) -> tuple[int, ...]:
    parts = _split(text)
    if not parts or not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"`--shots` must be whole numbers separated by commas, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _device(name: str) -> "torch.device":
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own words for what is not there
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"`--device` must be a device of this machine, such as cpu, got {name!r}: {reason}"
        ) from error
    return device


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
