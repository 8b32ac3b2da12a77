#!/usr/bin/env python3
"""Write runtime/c/abi/libcff.symbols: what a program that was compiled with cff.h relies on.

Functions with their types, sizes of structs, places of their fields, numbers of enums, on 64-bit
Linux. `--check` changes nothing and fails if the header's differ; `--library` also compares what a
library exports, by `nm -D`. A difference that takes away or moves what was there breaks programs:
CFF_ABI_VERSION rises then.
"""

import argparse
import difflib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from c_header import HEADER, ROOT, Declaration, HeaderError, read_header

SYMBOLS = ROOT / "runtime" / "c" / "abi" / "libcff.symbols"
TIMEOUT_S = 60


def main(argv: Sequence[str]) -> int:
    """Write or check the list; return the exit code."""
    parser = argparse.ArgumentParser(description="The list of what programs rely on.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--library", type=Path, metavar="FILE", help="libcff.so")
    arguments = parser.parse_args(argv)
    try:
        _, declarations = read_header()
        listed = "\n".join(_lines(declarations)) + "\n"
        if arguments.library:
            declared = {one.name for one in declarations if one.kind == "function"}
            if difference := declared ^ exported(arguments.library):
                return _fail(f"declared or exported, but not both: {', '.join(sorted(difference))}")
        if not arguments.check:
            SYMBOLS.parent.mkdir(exist_ok=True)
            SYMBOLS.write_text(listed, encoding="utf-8")
            return 0
        committed = SYMBOLS.read_text(encoding="utf-8")
    except (HeaderError, OSError, subprocess.SubprocessError) as error:
        return _fail(str(error))
    if committed == listed:
        return 0
    changes = difflib.unified_diff(
        committed.splitlines(), listed.splitlines(), str(SYMBOLS), str(HEADER), "", "", 0, ""
    )
    return _fail("\n".join(["the ABI is not the committed one; run scripts/c_abi.py", *changes]))


def exported(library: Path) -> set[str]:
    """Return the functions that a library shows to programs."""
    command = ["nm", "-D", "--defined-only", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    lines = [line for line in done.stdout.splitlines() if " A " not in line]  # version names
    return {line.split()[-1].split("@")[0] for line in lines}


def _lines(declarations: Sequence[Declaration]) -> list[str]:
    """Return the list; numbers come from a program that the compiler made of the header."""
    rows = ["# written by scripts/c_abi.py from include/cff.h, 64-bit Linux"]
    body = []
    for one in declarations:
        if one.kind in ("function", "handle", "callback"):
            body.append(
                f'puts("{one.kind} {" ".join(one.code.removeprefix("CFF_API ").split())}");'
            )
        elif one.kind == "macro":
            body.append(f'printf("macro {one.name} %d\\n", {one.name});')
        elif one.kind == "enum":
            body.append(f'printf("enum {one.name} size %zu\\n", sizeof({one.name}));')
            body += [
                f'printf("enum {one.name} {value.name} %d\\n", (int){value.name});'
                for value in one.members
            ]
        else:
            body.append(f'printf("struct {one.name} size %zu\\n", sizeof({one.name}));')
            body += [
                f'printf("struct {one.name} at %zu size %zu: {part.code}\\n", '
                f"offsetof({one.name}, {part.name}), sizeof((({one.name} *)0)->{part.name}));"
                for part in one.members
            ]
    return rows + _run(body)


def _run(body: Sequence[str]) -> list[str]:
    source = '#include <stdio.h>\n#include "cff.h"\nint main(void) {\n' + "\n".join(body)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "abi"
        (path := program.with_suffix(".c")).write_text(source + "\nreturn 0;\n}\n")
        compiler = os.environ.get("CC", "cc").split()
        command = [*compiler, "-std=c99", f"-I{HEADER.parent}", str(path), "-o", str(program)]
        for each in (command, [str(program)]):
            done = subprocess.run(each, capture_output=True, text=True, timeout=TIMEOUT_S)
            if done.returncode:
                raise HeaderError(f"{each[0]} failed: {done.stderr}")
    return done.stdout.splitlines()


def _fail(why: str) -> int:
    sys.stderr.write(f"error: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
