"""The command `cff-bench thresholds`: its arguments, and the report as text."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cff_runtime.errors import UsageError
from cff_runtime.thresholds import DEFAULT_CONFIDENCE, DEFAULT_MARGIN

_DRAWS, _REFERENCE_DRAWS = 400_000, 3


def add_thresholds_parser(subparsers: Any) -> None:
    """Add ``thresholds`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "thresholds", help="do the promises of thresholds hold? docs/thresholds.md"
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help="without one, simulation alone"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: CFF_DATA")
    parser.add_argument(
        "--draws",
        type=int,
        default=_DRAWS,
        metavar="N",
        help="repeated draws (default: %(default)s)",
    )
    parser.add_argument(
        "--reference-draws",
        type=int,
        default=_REFERENCE_DRAWS,
        metavar="N",
        help="sets of references for each product and K (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the report as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from cff_runtime.storage import atomic_write

    report = measure(
        args.bundle, args.data, args.draws, args.reference_draws, tuple(args.command_line)
    )
    sys.stdout.write(format_report(report) + "\n")
    if args.json is not None:
        atomic_write(args.json, (json.dumps(report, indent=1) + "\n").encode())
    return 0 if report["holds"] else 1


def measure(
    bundle: Path | None,
    data: Path | None,
    n_draws: int,
    n_reference_draws: int,
    command: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Simulate, and measure on real parts if there is a bundle.

    Returns
    -------
    dict
        ``simulation`` (``further``, ``by_hand``, ``left_out``), ``real`` or None, ``holds``:
        whether every bound held in at least the confidence's share of draws, settings and
        environment; ready for JSON.

    Raises
    ------
    UsageError
        If a number of draws is not positive, or the data cannot be found.
    """
    from cff_bench.environment import collect_environment
    from cff_bench.thresholds import simulation

    if n_draws < 1 or n_reference_draws < 1:
        raise UsageError(
            f"`--draws` and `--reference-draws` must be 1 or more, got {n_draws} and "
            f"{n_reference_draws}"
        )
    _tell_progress()
    real = None
    if bundle is not None:
        from cff_bench.real_data import data_folder
        from cff_bench.thresholds.real import PRODUCTS, measure_real

        folder = data or data_folder(PRODUCTS)
        real = measure_real(bundle, folder, n_draws, n_reference_draws, DEFAULT_CONFIDENCE)
    simulated = {
        "further": simulation.simulate_further(n_draws, DEFAULT_CONFIDENCE),
        "by_hand": simulation.simulate_by_hand(n_draws, DEFAULT_CONFIDENCE),
        "left_out": simulation.simulate_left_out(n_draws),
    }
    bounds = [*simulated["further"], *simulated["by_hand"], *(real["further"] if real else [])]
    return {
        "simulation": simulated,
        "real": real,
        "holds": all(row["held"] >= DEFAULT_CONFIDENCE for row in bounds),
        "settings": {
            "confidence": DEFAULT_CONFIDENCE,
            "margin": DEFAULT_MARGIN,
            "draws": n_draws,
            "reference_draws": n_reference_draws,
        },
        "environment": asdict(collect_environment()),
        "command": list(command),
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report as text."""
    from cff_bench.timing import format_table

    simulated, real = report["simulation"], report["real"]
    further = [
        [row["law"], str(row["n"]), f"{row['stated']:.3g}", f"{row['held']:.4f}"]
        for row in simulated["further"]
    ]
    left_out = [
        [
            row["law"],
            str(row["n_references"]),
            *(f"{row[key]:.3f}" for key in ("stated", "rate", "text_stated", "text_rate")),
        ]
        for row in simulated["left_out"]
    ]
    parts = [
        format_table(("further parts from", "n", "false rejects <=", "held in"), further),
        format_table(("references left out", "K", "<=", "rate", "text <=", "rate"), left_out),
    ]
    if real is not None:
        held = [
            [
                f"{row['set']}/{row['product']}",
                str(row["n"]),
                f"{row['stated']:.3g}",
                f"{row['held']:.4f}",
            ]
            for row in real["further"]
        ]
        rule = [
            [
                "held out" if row["held_out"] else "chosen on",
                str(row["k"]),
                *(f"{share:.3f}" for share in (*row["former"], *row["rule"])),
            ]
            for row in real["rule_means"]
        ]
        parts += [
            format_table(("held-out parts of", "n", "false rejects <=", "held in"), held),
            format_table(("rule", "K", "rejects was", "accepts was", "rejects", "accepts"), rule),
        ]
    parts.append("every bound held" if report["holds"] else "A BOUND DID NOT HOLD")
    return "\n\n".join(parts)


def _tell_progress() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cff_bench").setLevel(logging.INFO)
