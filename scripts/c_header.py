"""Reading runtime/c/include/cff.h: what it declares, with the comments that stand there.

The header keeps to one style, and so this is no parser of C: one declaration after another, each
behind its comment, sections behind `/* ---- Name ---- */`. Whatever does not fit is an error.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "runtime" / "c" / "include" / "cff.h"

Kind = Literal["function", "struct", "enum", "handle", "callback", "macro"]


class HeaderError(Exception):
    """The header holds something that these scripts do not know."""


@dataclass(frozen=True)
class Member:
    """A field of a struct or a value of an enum."""

    name: str
    code: str
    comment: str


@dataclass(frozen=True)
class Declaration:
    """A function, type or macro."""

    kind: Kind
    name: str
    code: str
    comment: str
    section: str
    members: tuple[Member, ...] = field(default=())


_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("macro", r"#define (CFF_ABI_VERSION) \d+$"),
    ("function", r"CFF_API [^;{}]*?\b(cff_\w+)\([^;{}]*\);"),
    ("struct", r"typedef struct (cff_\w+) \{[^{}]*\} \1;"),
    ("enum", r"typedef enum (cff_\w+) \{[^{}]*\} \1;"),
    ("handle", r"typedef struct (cff_\w+) \1;"),
    ("callback", r"typedef \w+ \(\*(cff_\w+)\)\([^;{}]*\);"),
)


def read_header(path: Path = HEADER) -> tuple[str, list[Declaration]]:
    """Return the opening comment and all declarations, in their order."""
    text = path.read_text(encoding="utf-8")
    opening = re.match(r"/\*(.*?)\*/\n", text, flags=re.DOTALL)
    if opening is None:
        raise HeaderError(f"{path} must begin with a comment")
    return _plain(opening[1]), _declarations(_body(text[opening.end() :]))


def _body(text: str) -> str:
    """Return the text between the preprocessor's guards."""
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#if defined\(__GNUC__\)\n.*?^#endif\n", "", text, flags=re.DOTALL | re.M)
    text = re.sub(
        r"^#(ifndef CFF_H|define CFF_H|endif /\* CFF_H \*/|include .*)\n", "", text, flags=re.M
    )
    return text


def _declarations(text: str) -> list[Declaration]:
    declarations: list[Declaration] = []
    section, comment = "Version", ""
    while text := text.lstrip():
        if text.startswith("/*"):
            end = text.index("*/") + 2
            banner = re.fullmatch(r"/\* -+ (.+?) -+ \*/", text[:end])
            section, comment = (banner[1], "") if banner else (section, _plain(text[2 : end - 2]))
            text = text[end:]
            continue
        for kind, pattern in _PATTERNS:
            if found := re.match(pattern, text, flags=re.MULTILINE):
                members = _members(kind, found[0])
                declarations.append(
                    Declaration(kind, found[1], found[0], comment, section, members)
                )
                text, comment = text[found.end() :], ""
                break
        else:
            raise HeaderError(f"not a known declaration: {text.splitlines()[0]!r}")
    return declarations


def _members(kind: Kind, code: str) -> tuple[Member, ...]:
    if kind not in ("struct", "enum"):
        return ()
    end = ";" if kind == "struct" else ",?"
    line = re.compile(rf"^  ([^/\n]*?(\w+)(?: = \d+)?){end}\s*(?:/\*(.*?)\*/)?$", re.M | re.DOTALL)
    inside = code[code.index("{") + 1 : code.rindex("}")]
    members = tuple(Member(m[2], m[1].strip(), _plain(m[3] or "")) for m in line.finditer(inside))
    if len(members) != sum(bool(row.strip()) for row in inside.splitlines()):
        raise HeaderError(f"a member of this has an unknown form:\n{code}")
    return members


def _plain(comment: str) -> str:
    """Return a comment's text without its stars."""
    lines = [re.sub(r"^ ?\*( |$)", "", line).rstrip() for line in comment.strip("\n").splitlines()]
    return "\n".join(lines).strip()
