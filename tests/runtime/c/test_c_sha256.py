"""SHA-256 of libcff against hashlib."""

import ctypes
import hashlib

import numpy as np
import pytest


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
