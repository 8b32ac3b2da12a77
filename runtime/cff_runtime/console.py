"""What the commands that work through many images write: data to stdout, progress to stderr."""

import argparse
import sys
from collections.abc import Callable

from cff_runtime.opening import add_backend_arguments

Progress = Callable[[int, int], None]


def say(text: str) -> None:
    """Write data to stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Write a line to stderr, above the progress of a terminal."""
    sys.stderr.write(f"\r{text}\n" if sys.stderr.isatty() else f"{text}\n")


def show_progress(verb: str) -> Progress:
    """Return a callback for (done, total): one line on a terminal, its end alone in a log file."""

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{verb} {done} of {total}{end}")
            sys.stderr.flush()
        elif end:
            sys.stderr.write(f"{verb} {done} of {total}\n")

    return show


def add_box_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a bundle runs, see `cff_runtime.opening`, and ``--json``."""
    add_backend_arguments(parser)
    parser.add_argument("--json", action="store_true", help="JSON to stdout")
