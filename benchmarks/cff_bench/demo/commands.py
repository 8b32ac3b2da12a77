"""Running the command lines as a user would, each shown before it runs."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cff_runtime.errors import CffError

_MODULE_OF = {
    "cff-train": "cff_edge.cli",
    "cff-eval": "cff_edge.evaluation.cli",
    "cff-export": "cff_export.cli",
    "cff-run": "cff_runtime.cli",
}


def run(command: Sequence[object], n_lines: int = 0, one_thread: bool = False) -> str:
    """Show and run a command line of the project; return what it printed on stdout.

    Its progress and messages go to this process's stderr as they come.

    Parameters
    ----------
    command : sequence
        ``cff-train``, ``cff-eval``, ``cff-export`` or ``cff-run``, and its arguments.
    n_lines : int
        Lines expected on stdout, one per image; their number is shown as progress.
    one_thread : bool
        Keep its arithmetic to one thread, for commands that run side by side.

    Raises
    ------
    CffError
        If it fails; its own message has been shown by then.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", file=sys.stderr, flush=True)
    module = _MODULE_OF[words[0]]
    lines = []
    arguments = [sys.executable, "-m", module, *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if one_thread else None
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            lines.append(line)
            if n_lines:
                _show_progress(len(lines), n_lines)
    if process.returncode != 0:
        raise CffError(f"`{words[0]}` failed with exit code {process.returncode}, see above")
    return "".join(lines)


def run_json(command: Sequence[object], n_lines: int = 0) -> list[dict[str, Any]]:
    """Run a command line with ``--json``; return its JSON lines."""
    return [json.loads(line) for line in run([*command, "--json"], n_lines).splitlines()]


def _show_progress(done: int, total: int) -> None:
    text = f"inspected {done} of {total} images"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done % 25 == 0 or done == total:
        print(text, file=sys.stderr, flush=True)
