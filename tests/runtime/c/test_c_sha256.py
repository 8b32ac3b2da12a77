"""SHA-256 of libcff against hashlib."""

import ctypes
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

WAYS = {"portable": 0, "x86": 1, "arm": 2}


def _digest(library: ctypes.CDLL, data: bytes) -> str:
    out = ctypes.create_string_buffer(65)
    library.cff__sha256_of(data, ctypes.c_size_t(len(data)), out)
    return out.value.decode()


def test_known_answers(c_internals: ctypes.CDLL) -> None:
    """Examples that NIST gives with FIPS 180-4."""
    assert _digest(c_internals, b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert _digest(c_internals, b"").startswith("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934c")


def test_every_size_around_the_blocks(c_internals: ctypes.CDLL) -> None:
    data = np.random.default_rng(0).bytes(300)
    for size in range(len(data)):
        assert _digest(c_internals, data[:size]) == hashlib.sha256(data[:size]).hexdigest(), size


def test_large_message(c_internals: ctypes.CDLL) -> None:
    data = np.random.default_rng(1).bytes((1 << 20) + 13)
    assert _digest(c_internals, data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("step", [1, 3, 55, 63, 64, 65, 200])
def test_message_in_pieces(c_internals: ctypes.CDLL, step: int) -> None:
    data = np.random.default_rng(2).bytes(1000)
    state, out = ctypes.create_string_buffer(256), ctypes.create_string_buffer(65)
    c_internals.cff__sha256_init(state)
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        c_internals.cff__sha256_update(state, piece, ctypes.c_size_t(len(piece)))
    c_internals.cff__sha256_finish(state, out)
    assert out.value.decode() == hashlib.sha256(data).hexdigest()


@pytest.fixture(params=WAYS)
def way(c_internals: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute in this way for a test; skip where the processor does not know it."""
    c_internals.cff__sha256_choose.restype = ctypes.c_bool
    if not c_internals.cff__sha256_choose(WAYS[request.param]):
        pytest.skip(f"this processor has no {request.param} instructions for SHA-256")
    yield request.param
    for number in range(len(WAYS)):  # back to the fastest that there is
        c_internals.cff__sha256_choose(number)


def test_every_way_gives_the_same(c_internals: ctypes.CDLL, way: str) -> None:
    rng = np.random.default_rng(3)
    data = rng.bytes(1 << 17)
    for size in (*range(200), *rng.integers(len(data), size=200)):
        piece = data[-int(size) :] if size else b""
        assert _digest(c_internals, piece) == hashlib.sha256(piece).hexdigest(), (way, size)


@pytest.mark.parametrize("shift", range(1, 16))
def test_every_way_takes_any_address(c_internals: ctypes.CDLL, way: str, shift: int) -> None:
    data = ctypes.create_string_buffer(np.random.default_rng(4).bytes(1000))
    out = ctypes.create_string_buffer(65)
    c_internals.cff__sha256_of(ctypes.byref(data, shift), ctypes.c_size_t(900), out)
    assert out.value.decode() == hashlib.sha256(data.raw[shift : shift + 900]).hexdigest()


def test_unknown_way_changes_nothing(c_internals: ctypes.CDLL, way: str) -> None:
    absent = WAYS["arm" if platform.machine() in ("x86_64", "AMD64") else "x86"]
    assert not c_internals.cff__sha256_choose(absent)
    assert _digest(c_internals, b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_fast_way_is_found(c_internals: ctypes.CDLL) -> None:
    """Where Linux says that the processor has the instructions, they are used."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.is_file() else set()
    c_internals.cff__sha256_choose.restype = ctypes.c_bool
    assert c_internals.cff__sha256_choose(WAYS["portable"])
    if {"sha_ni", "sse4_1"} <= words and platform.machine() == "x86_64":
        assert c_internals.cff__sha256_choose(WAYS["x86"])
    if "sha2" in words and platform.machine() == "aarch64":
        assert c_internals.cff__sha256_choose(WAYS["arm"])
