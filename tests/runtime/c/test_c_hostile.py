"""libcff on files that end early, and on files made to take its time or memory."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cff_runtime import Profile

SIZE = ctypes.c_size_t


@pytest.fixture
def profile_path(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


def _refuse(library: ctypes.CDLL, function: str, path: Path, *more: Any) -> tuple[int, str]:
    handle = ctypes.c_void_p(1)
    status = getattr(library, function)(os.fsencode(path), *more, ctypes.byref(handle))
    assert (handle.value is None) == (status != 0)
    return status, library.cff_last_error().decode()


def test_profile_cut_anywhere(c_library: ctypes.CDLL, profile_path: Path, tmp_path: Path) -> None:
    data = profile_path.read_bytes()
    n_header = 8 + int.from_bytes(data[:8], "little")
    cuts = np.random.default_rng(5).integers(n_header, len(data), size=50)
    for size in (*range(0, n_header, 7), *(int(cut) for cut in cuts), len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        status, sentence = _refuse(c_library, "cff_profile_load", tmp_path / "cut")
        assert status == 5 and "copy it again" in sentence, size


def test_manifest_cut_anywhere(c_library: ctypes.CDLL, bundle_copy: Path) -> None:
    path = bundle_copy / "manifest.json"
    text = path.read_bytes().rstrip()
    path.unlink()
    for size in (*range(0, len(text), 41), len(text) - 1):
        path.write_bytes(text[:size])
        status, sentence = _refuse(c_library, "cff_bundle_open", bundle_copy, None)
        assert status == 4 and "JSON" in sentence, size


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [' + "0," * (1 << 20) + "0]}",
        '{"a": [' + "{}," * (1 << 20) + "0]}",
        '{"a": ' + "[" * 100 + "]" * 100 + "}",
    ],
    ids=["numbers", "objects", "depth"],
)
def test_json_beyond_the_limits(c_internals: ctypes.CDLL, text: str) -> None:
    arena, found, data = ctypes.c_void_p(), ctypes.c_void_p(), text.encode()
    status = c_internals.cff__json_parse(
        data, SIZE(len(data)), b"text", 5, ctypes.byref(arena), ctypes.byref(found)
    )
    c_internals.cff__arena_free(ctypes.byref(arena))
    assert (status, found.value) == (5, None)


def test_a_million_keys(c_internals: ctypes.CDLL) -> None:
    """Comparing all pairs would take hours; ten seconds allow for the slowest machine."""
    keys = [f'"{"x" * 15}{i:08}": {i}' for i in range(1_000_000)]
    for twin in (False, True):
        text = ", ".join([*keys, keys[7]] if twin else keys)
        data = b"{" + text.encode() + b"}"
        arena, found = ctypes.c_void_p(), ctypes.c_void_p()
        start = time.monotonic()
        status = c_internals.cff__json_parse(
            data, SIZE(len(data)), b"text", 5, ctypes.byref(arena), ctypes.byref(found)
        )
        assert time.monotonic() - start < 10
        c_internals.cff__arena_free(ctypes.byref(arena))
        assert status == (5 if twin else 0)


Regions = Callable[[np.ndarray[Any, np.dtype[np.float32]]], int]


@pytest.fixture
def count_regions(c_internals: ctypes.CDLL) -> Regions:
    """Return ``count_regions(map) -> n``, above 0.5."""

    def run(board: np.ndarray[Any, np.dtype[np.float32]]) -> int:
        found, n = ctypes.c_void_p(), SIZE()
        height, width = board.shape
        start = time.monotonic()
        status = c_internals.cff__find_regions(
            ctypes.c_void_p(board.ctypes.data),
            *(SIZE(height), SIZE(width), ctypes.c_double(0.5), SIZE(height), SIZE(width)),
            *(ctypes.byref(found), ctypes.byref(n)),
        )
        assert status == 0
        assert time.monotonic() - start < 10
        ctypes.CDLL(None).free(found)
        return n.value

    return run


def test_a_million_runs(count_regions: Regions) -> None:
    """Lone pixels, combs whose teeth meet at the last row, and a spiral of chequers."""
    side = 2048
    board = np.zeros((side, side), np.float32)
    board[::2, ::2] = 1.0
    assert count_regions(board) == (side // 2) ** 2
    board[:] = 0.0
    board[:, ::2] = 1.0
    assert count_regions(board) == side // 2
    board[-1] = 1.0
    assert count_regions(board) == 1
    rows, columns = np.mgrid[:side, :side]
    chequers = ((rows + columns) % 2).astype(np.float32)
    assert count_regions(chequers) == 1


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda f: f["variants"].update({f"p{i}": {} for i in range(32)}), "fewer than"),
        (lambda f: f["stages"][0].update(tap="x" * 1001), "at most 1000 bytes"),
        (lambda f: f["files"][f["encoder"]].update(sha256="0" * 63), "64 hex digits"),
        (lambda f: f["files"][f["encoder"]].update(sha256="0" * 100000), "64 hex digits"),
    ],
)
def test_manifest_that_would_take_hours(
    c_library: ctypes.CDLL,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    edit: Callable[[Any], None],
    sentence: str,
) -> None:
    """An id hashes all of these, once per precision."""
    edit_manifest(bundle_copy, edit)
    status, said = _refuse(c_library, "cff_bundle_open", bundle_copy, None)
    assert status == 4 and sentence in said


@pytest.mark.parametrize("pixel_format", range(4))
def test_image_with_a_side_too_long(c_internals: ctypes.CDLL, pixel_format: int) -> None:
    """Refused before it is copied: nobody has its pixels."""
    fields = (("pixels", ctypes.c_void_p), ("width", ctypes.c_int32), ("height", ctypes.c_int32))
    layout = (*fields, ("stride", SIZE), ("format", ctypes.c_int32))
    image_type = type("Image", (ctypes.Structure,), {"_fields_": layout})
    pixel, resized = ctypes.c_uint8(), ctypes.create_string_buffer(48)
    for width, height in ((2**31 - 1, 16), (16, 2**31 - 1), (2**20 + 1, 16)):
        image = image_type(ctypes.addressof(pixel), width, height, width * 4, pixel_format)
        status = c_internals.cff__preprocess(ctypes.byref(image), resized, SIZE(4), SIZE(4))
        assert status == 7, (width, height)


def test_sentences_can_be_shown(
    c_library: ctypes.CDLL, bundle_copy: Path, edit_manifest: Callable[..., None]
) -> None:
    """What a hostile manifest says neither moves the cursor nor breaks a character."""
    for text, shown in (
        ("\x1b[2J\r\n\x9b\x7f", "?[2J?????"),
        ("ä€😀", "ä€😀"),
        ("a" * 79 + "€", "a" * 79 + "?"),
    ):
        edit_manifest(bundle_copy, lambda fields, text=text: fields.update(distance=text))
        status, said = _refuse(c_library, "cff_bundle_open", bundle_copy, None)
        assert status == 4 and said.isprintable()
        assert said.split("got ")[1] == shown
