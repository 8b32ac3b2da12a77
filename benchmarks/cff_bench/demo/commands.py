"""Running the command lines as a user would, each shown before it runs."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cff_runtime.errors import CffError

_MODULE_OF = {
    "cff-train": "cff_edge.cli",
    "cff-export": "cff_export.cli",
    "cff-run": "cff_runtime.cli",
}


def run(command: Sequence[object]) -> str:
    """Show and run a command line of the project; return what it printed on stdout.

    Its progress and messages go to this process's stderr as they come.

    Raises
    ------
    CffError
        If it fails; its own message has been shown by then.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", file=sys.stderr, flush=True)
    module = _MODULE_OF[words[0]]
    finished = subprocess.run(
        [sys.executable, "-m", module, *words[1:]], stdout=subprocess.PIPE, text=True, check=False
    )
    if finished.returncode != 0:
        raise CffError(f"`{words[0]}` failed with exit code {finished.returncode}, see above")
    return finished.stdout


def run_json(command: Sequence[object]) -> list[dict[str, Any]]:
    """Run a command line with ``--json``; return its JSON lines."""
    return [json.loads(line) for line in run([*command, "--json"]).splitlines()]
