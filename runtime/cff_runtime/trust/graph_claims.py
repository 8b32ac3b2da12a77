"""What an ONNX file asks a runtime to load besides itself: other files, and foreign operators.

ONNX Runtime refuses both where they do harm (1.31: a path out of the folder, an operator that it
does not know), older ones and other runtimes less surely; and a file inside the folder that the
manifest does not name would be loaded without a hash. So the bundle asks first, here.

The file is walked as protobuf, field by field (onnx.proto3 gives the numbers), without the package
`onnx`, which no box has. Weights are skipped by their length: it takes milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

DOMAINS = ("", "ai.onnx", "com.microsoft")
COMPILED_OPERATOR = "EPContext"
_MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> number of a field -> the message that it holds
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


@dataclass
class GraphClaims:
    """What was found.

    Attributes
    ----------
    files : set of str
        Where weights lie outside the file.
    operators : set of (str, str)
        Domain and name of every operator.
    functions : set of str
        Domains of functions that the file itself defines.
    """

    files: set[str] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)

    def refusal(self, graph: str, known: set[str]) -> str | None:
        """Say why a graph must not be loaded; None if it may.

        Parameters
        ----------
        graph : str
            Its name in the manifest.
        known : set of str
            Names of all files of the manifest.
        """
        folder = PurePosixPath(graph).parent
        for name in sorted(self.files):
            inside = (folder / name).as_posix()
            if name.startswith("/") or ".." in PurePosixPath(name).parts or inside not in known:
                return f"take weights from files of the manifest only, it names {name!r:.80}"
        for domain, operator in sorted(self.operators):
            if domain not in DOMAINS and domain not in self.functions:
                return (
                    "have operators of ONNX and ONNX Runtime only, it has "
                    f"{operator!r:.40} of domain {domain!r:.40}"
                )
            if operator == COMPILED_OPERATOR:
                return f"hold no compiled engine, it has an operator {operator}"
        return None


def read_claims(data: memoryview) -> GraphClaims:
    """Walk an ONNX file.

    Raises
    ------
    ValueError
        If it is no protobuf, or nested too deeply.
    """
    claims = GraphClaims()
    _walk(data, "model", claims, 0)
    return claims


def _walk(data: memoryview, message: str, claims: GraphClaims, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    texts: dict[int, bytes] = {}
    inside = _INSIDE.get(message, {})
    for number, value in _fields(data):
        if number in inside:
            _walk(value, inside[number], claims, depth + 1)
        elif message in ("node", "entry", "function") and number in (1, 2, 4, 7, 10):
            texts[number] = bytes(value[:4096])
    if message == "node":
        claims.operators.add((_text(texts, 7), _text(texts, 4)))
    elif message == "function":
        claims.functions.add(_text(texts, 10))
    elif message == "entry" and _text(texts, 1) == "location":
        claims.files.add(_text(texts, 2))


def _text(texts: dict[int, bytes], number: int) -> str:
    return texts.get(number, b"").decode("utf-8", "backslashreplace")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of every field of a message that has a length."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if length > end - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
    if at != end:
        raise ValueError("a field is longer than its message")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
