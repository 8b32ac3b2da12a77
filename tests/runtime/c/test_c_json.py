"""The JSON parser and writer of libcff against Python's."""

import ctypes
import json
import math
import struct
from typing import Any

import numpy as np
import pytest

STATUS = 5
MAX_DEPTH = 64


class Node(ctypes.Structure):
    """`cff__json`."""


Node._fields_ = [
    ("kind", ctypes.c_int),
    ("boolean", ctypes.c_bool),
    ("is_integer", ctypes.c_bool),
    ("integer", ctypes.c_int64),
    ("number", ctypes.c_double),
    ("text", ctypes.c_char_p),
    ("key", ctypes.c_char_p),
    ("source", ctypes.c_void_p),
    ("n_source", ctypes.c_size_t),
    ("n_children", ctypes.c_size_t),
    ("first", ctypes.POINTER(Node)),
    ("next", ctypes.POINTER(Node)),
]


def _children(node: Node) -> list[Node]:
    found, at = [], node.first
    while at:
        found.append(at.contents)
        at = at.contents.next
    assert len(found) == node.n_children
    return found


def _to_python(node: Node) -> Any:
    if node.kind == 1:
        return node.boolean
    if node.kind == 2:
        return node.integer if node.is_integer else node.number
    if node.kind == 3:
        return node.text.decode()
    if node.kind == 4:
        return [_to_python(child) for child in _children(node)]
    if node.kind == 5:
        return {child.key.decode(): _to_python(child) for child in _children(node)}
    return None


def _parse(library: ctypes.CDLL, data: bytes) -> Any:
    """Return what the parser reads, or its error sentence."""
    arena, root = ctypes.c_void_p(), ctypes.POINTER(Node)()
    # a copy without a NUL behind it, so that a sanitizer sees every byte read too far
    text = (ctypes.c_char * max(1, len(data))).from_buffer_copy(data or b"x")
    status = library.cff__json_parse(
        text, ctypes.c_size_t(len(data)), b"it", STATUS, ctypes.byref(arena), ctypes.byref(root)
    )
    try:
        if status:
            assert status == STATUS
            assert not root
            return str(library.cff_last_error().decode())
        return _to_python(root.contents)
    finally:
        library.cff__arena_free(ctypes.byref(arena))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": [], "b": {}, "c": None, "d": True, "e": False},
        {"n": [0, -1, 1.5, -2.5e-3, 1e300, 2**63 - 1, -(2**63) + 1, 5e-324]},
        {"t": ["", "ü", "日本", "\U0001f600", '"\\/\b\f\n\r\t', "\x7f\u2028"], "": {"": 1}},
        {"deep": [[[[[[[[{"x": [1, [2, [3]]]}]]]]]]]]},
        {f"key {i}": i for i in range(2000)},
    ],
)
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_reads_what_python_writes(
    c_internals: ctypes.CDLL, value: Any, options: dict[str, Any]
) -> None:
    assert _parse(c_internals, json.dumps(value, **options).encode()) == value


def test_integers_beyond_64_bits_are_numbers(c_internals: ctypes.CDLL) -> None:
    assert _parse(c_internals, b'{"a": 9223372036854775808}') == {"a": 2.0**63}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no value"),
        (b"{", "no quotation mark"),
        (b'{"a"', "no colon"),
        (b'{"a":', "no value"),
        (b'{"a":1', "no comma"),
        (b'{"a":1,}', "no quotation mark"),
        (b'{"a":[1,]}', "no value"),
        (b'{"a":1}x', "more text"),
        (b"[1]", "JSON object"),
        (b'{"a":01}', "starts with 0"),
        (b'{"a":-}', "no value"),
        (b'{"a":1.}', "after a point"),
        (b'{"a":1e}', "exponent"),
        (b'{"a":+1}', "no value"),
        (b'{"a":NaN}', "no value"),
        (b'{"a":Infinity}', "no value"),
        (b'{"a":1e999}', "not finite"),
        (b'{"a":' + b"1" * 5000 + b"}", "too long"),
        (b'{"a":"\x01"}', "control character"),
        (b'{"a":"\\x"}', "unknown escape"),
        (b'{"a":"\\u12"}', "hex digits"),
        (b'{"a":"\\u0000"}', "NUL"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\ud800\\u0041"}', "surrogate"),
        (b'{"a":"\\udc00"}', "surrogate"),
        (b'{"a":"', "without end"),
        (b'{"a":"\\', "without end"),
        (b'{"a":"\\"', "without end"),
        (b'{"a":"\x00"}', "control character"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xc0\x80"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"a":"\xf4\x90\x80\x80"}', "UTF-8"),
        (b'{"a":"\xe2\x82', "UTF-8"),
        (b'{"a":1,"b":2,"a":3}', "twice"),
        (b'{"a":1,"\\u0061":3}', "twice"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "too deeply"),
        (b"[" * 100_000, "too deeply"),
        (b'{"a":tru}', "no value"),
        (b"\xef\xbb\xbf{}", "no value"),
    ],
)
def test_refuses(c_internals: ctypes.CDLL, data: bytes, sentence: str) -> None:
    said = _parse(c_internals, data)
    assert isinstance(said, str), said
    assert sentence in said


def test_deepest(c_internals: ctypes.CDLL) -> None:
    n = MAX_DEPTH - 1
    assert isinstance(_parse(c_internals, b'{"a":' + b"[" * n + b"]" * n + b"}"), dict)


def test_every_truncation_is_refused(c_internals: ctypes.CDLL) -> None:
    data = json.dumps({"a": [1, 2.5, "x\n\U0001f600", {"b": None}], "c": True}).encode()
    for size in range(len(data)):
        assert isinstance(_parse(c_internals, data[:size]), str), size


def test_random_damage_never_reads_more_than_python(c_internals: ctypes.CDLL) -> None:
    """What the strict parser takes, Python takes too, and reads the same."""
    data = json.dumps({"a": [1, -2.5e3, "xü\n", {"b": None}], "c": True, "d": {}}).encode()
    rng = np.random.default_rng(0)
    n_taken = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            damaged[at] = rng.choice(list(b'{}[],:"\\0123456789eE+-.truefalsn \xc3\x80'))
        found = _parse(c_internals, bytes(damaged))
        if not isinstance(found, str):
            n_taken += 1
            assert found == json.loads(bytes(damaged).decode())
    assert n_taken > 100


def _format(library: ctypes.CDLL, value: float) -> str:
    out = ctypes.create_string_buffer(64)
    library.cff__format_double(ctypes.c_double(value), out)
    return out.value.decode()


def test_doubles_are_written_as_python_does(c_internals: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    values = [0.0, -0.0, 1.0, -0.5, 0.1, 1e16, 1e15, 123456789012345680.0, 1e-4, 1e-5, 5e-324]
    values += [9007199254740993.0, 1.7976931348623157e308, 2.2250738585072014e-308, 1e22, 1e23]
    values += [2.0**n for n in range(-1074, 1024)]
    bits = rng.integers(0, 2**64, size=20_000, dtype=np.uint64)
    values += [struct.unpack("d", struct.pack("Q", int(b)))[0] for b in bits]
    values += [float(v) for v in rng.normal(size=5000).astype(np.float32)]
    values += [round(float(v), 3) for v in rng.normal(size=2000) * 1e4]
    for value in values:
        if math.isfinite(value):
            assert _format(c_internals, value) == repr(value)


class Writer(ctypes.Structure):
    """`cff__json_writer`."""

    _fields_ = (
        ("text", ctypes.c_char_p),
        ("n_bytes", ctypes.c_size_t),
        ("n_allocated", ctypes.c_size_t),
        ("needs_comma", ctypes.c_bool),
        ("failed", ctypes.c_bool),
    )


def test_texts_are_written_as_python_does(c_internals: ctypes.CDLL) -> None:
    every = "".join(map(chr, range(1, 0x800))) + "\uffff\U00010000\U0001f600\U0010ffff"
    writer = Writer()
    put = ctypes.byref(writer)
    c_internals.cff__json_open(put, ctypes.c_char(b"{"))
    for key, text in (("a", every), (every, "")):
        c_internals.cff__json_put_key(put, key.encode())
        c_internals.cff__json_put_text(put, text.encode())
    c_internals.cff__json_put_key(put, b"list")
    c_internals.cff__json_open(put, ctypes.c_char(b"["))
    c_internals.cff__json_put_integer(put, ctypes.c_int64(-7))
    c_internals.cff__json_put_bool(put, ctypes.c_bool(True))
    c_internals.cff__json_put_double(put, ctypes.c_double(2.0))
    c_internals.cff__json_close(put, ctypes.c_char(b"]"))
    c_internals.cff__json_close(put, ctypes.c_char(b"}"))
    assert writer.text is not None
    assert writer.text.decode() == json.dumps({"a": every, every: "", "list": [-7, True, 2.0]})
    c_internals.cff__json_free(put)
