"""Protocol buffers in text form, as far as a Triton configuration needs it.

A message is a mapping. A mapping inside it is a message, a list of mappings a repeated message, a
list of numbers a repeated number, an `Identifier` an enum value, a string a quoted string.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Identifier(str):
    """The name of an enum value, written without quotes."""


def write_message(fields: Mapping[str, Any]) -> str:
    """Return a message, one field a line.

    Parameters
    ----------
    fields : mapping
        Field name to bool, int, str, `Identifier`, mapping, or a sequence of one of these.
    """
    return "".join(f"{line}\n" for line in _lines(fields, ""))


def quote(text: str) -> str:
    """Return a string literal: printable ASCII as it is, every other byte of UTF-8 in octal."""
    return '"' + "".join(_escape(byte) for byte in text.encode("utf-8")) + '"'


def _lines(fields: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _message(name, value, indent)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(entry, Mapping) for entry in value):
                for entry in value:
                    yield from _message(name, entry, indent)
            else:
                yield f"{indent}{name}: [{', '.join(_scalar(entry) for entry in value)}]"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _message(name: str, fields: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}{name} {{"
    yield from _lines(fields, f"{indent}  ")
    yield f"{indent}}}"


def _scalar(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Identifier):
        return str(value)
    return quote(value)


def _escape(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return f"\\{character}"
    return character if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
