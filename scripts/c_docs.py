#!/usr/bin/env python3
"""Write docs/libcff.md from the comments of runtime/c/include/cff.h.

`--check` changes nothing and fails if the document is not what the header says.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from c_header import ROOT, Declaration, HeaderError, Member, read_header

DOCUMENT = ROOT / "docs" / "libcff.md"


def main(argv: Sequence[str]) -> int:
    """Write or check the document; return the exit code."""
    try:
        written = render(*read_header())
        if "--check" not in argv:
            DOCUMENT.write_text(written, encoding="utf-8")
        elif not DOCUMENT.is_file() or DOCUMENT.read_text(encoding="utf-8") != written:
            raise HeaderError("docs/libcff.md is not what cff.h says; run scripts/c_docs.py")
    except (HeaderError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def render(opening: str, declarations: Sequence[Declaration]) -> str:
    """Return the document."""
    sections = [(name, list(group)) for name, group in groupby(declarations, lambda d: d.section)]
    lines = ["# libcff", "", "<!-- written by scripts/c_docs.py from runtime/c/include/cff.h -->"]
    lines += ["", *_opening(opening), "", "How to build it and link to it: [libcff_build.md]"]
    lines[-1] += "(libcff_build.md)."
    lines += ["", "## Contents", ""]
    n_used: Counter[str] = Counter()
    for name, group in sections:
        names = ", ".join(f"[`{one.name}`](#{_anchor(one.name, n_used)})" for one in group)
        lines.append(f"- [{name}](#{name.lower().replace(' ', '-')}): {names}")
    for name, group in sections:
        lines += ["", f"## {name}"]
        for one in group:
            lines += ["", f"### `{one.name}`", "", *_declaration(one)]
    return "\n".join(lines) + "\n"


def _anchor(heading: str, n_used: Counter[str]) -> str:
    """Return the name that Markdown gives a heading: small letters, numbered when repeated."""
    name = heading.lower()
    n_used[name] += 1
    return name if n_used[name] == 1 else f"{name}-{n_used[name] - 1}"


def _opening(text: str) -> list[str]:
    """Return the header's opening comment: its example as code, its paragraphs as text."""
    blocks = []
    for block in re.split(r"\n\n", text):
        if block.startswith("    "):
            code = [line.removeprefix("    ") for line in block.splitlines()]
            blocks.append("\n".join(["```c", *code, "```"]))
        elif topic := re.match(r"([A-Z]\w+)\. ", block):
            blocks.append(f"**{topic[1]}.** " + _text(block[topic.end() :]))
        else:
            start = block.removeprefix("libcff: ")
            blocks.append(_text(start[:1].upper() + start[1:]))
    return "\n\n".join(blocks).splitlines()


def _text(comment: str) -> str:
    """Return a comment as Markdown; names of the interface are code."""
    joined = comment.strip()
    return re.sub(r"(?<![`\w])(sizeof\(\w+\)|(?:cff|CFF)_\w+(?:\(\))?)(?![`\w])", r"`\1`", joined)


def _declaration(one: Declaration) -> list[str]:
    lines = []
    if one.comment:
        about = re.split(r"\n(?=\w+: )", one.comment)
        parameters = [part for part in about if re.match(r"\w+: ", part) and one.kind == "function"]
        plain = [part for part in about if part not in parameters]
        lines += [*_text("\n".join(plain)).splitlines(), ""] if plain else []
        for part in parameters:
            name, _, meaning = part.partition(": ")
            lines.append(f"- `{name}`: {_text(' '.join(meaning.split()))}")
        lines += [""] if parameters else []
    if one.kind in ("struct", "enum"):
        value = "field" if one.kind == "struct" else "value"
        lines += [f"| {value} | |", "|---|---|"]
        return lines + [_row(member) for member in one.members]
    code = one.code.removeprefix("CFF_API ")
    return [*lines, "```c", *_aligned(code, one.code), "```"]


def _row(member: Member) -> str:
    meaning = _text(" ".join(member.comment.split())).replace("|", "\\|")
    return f"| `{member.code}` | {meaning} |"


def _aligned(code: str, original: str) -> list[str]:
    """Return the declaration's lines, moved left by what was taken from the first."""
    n_taken = len(original) - len(code)
    first, *rest = code.splitlines()
    return [first, *(line[n_taken:] for line in rest)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
