"""The command `cff-run doctor`: its arguments. The examination is imported when it is asked for."""

import argparse
from pathlib import Path
from typing import Any

ENGINE_FOLDER = "engines"


def add_doctor_parser(commands: Any) -> None:
    """Add ``doctor`` to the subparsers of ``cff-run``."""
    doctor = commands.add_parser(
        "doctor",
        help="say what this box is, what a bundle needs, and what to mend",
        description="Say what this box is, what a bundle needs, what will work, and the command "
        "that mends each mismatch. Exit code 0 if the bundle can be run here, or without a bundle "
        "if there is no problem; else 1.",
    )
    doctor.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE")
    doctor.add_argument(
        "--engines", type=Path, metavar="DIR", help=f"of engines, BUNDLE/{ENGINE_FOLDER} by default"
    )
    doctor.add_argument("--json", action="store_true", help="JSON to stdout")
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from cff_runtime.doctor.examination import examine  # inspecting needs none of it

    bundle: Path | None = arguments.bundle
    folder = arguments.engines
    if folder is None and bundle is not None:
        folder = bundle / ENGINE_FOLDER
    return examine(bundle, folder, arguments.json)
