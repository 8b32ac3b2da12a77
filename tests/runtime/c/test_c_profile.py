"""Profiles in C: read, checked and written as in Python."""

import ctypes
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Inspector, Profile

TEXTS = ("product", "bundle_id", "precision", "text_name", "method", "statement", "facts")
COUNTS = ("n_references", "n_stages", "height", "width", "is_compressed")
NUMBERS = ("threshold", "review_threshold", "pixel_threshold", "peak_scale", "product_limit")


class Info(ctypes.Structure):
    """`cff_profile_info`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in COUNTS),
        ("n_bank_rows", ctypes.c_int64),
        *((name, ctypes.c_double) for name in NUMBERS),
        ("display_low", ctypes.c_double),
        ("display_high", ctypes.c_double),
        ("expected_false_rejects", ctypes.c_double),
    )


@pytest.fixture
def profile_path(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


Load = Callable[[Path], ctypes.c_void_p]


@pytest.fixture
def load(c_library: ctypes.CDLL) -> Load:
    """Return ``load(path) -> handle``, which the caller frees."""

    def run(path: Path) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        status = c_library.cff_profile_load(str(path).encode(), ctypes.byref(handle))
        assert status == 0, c_library.cff_last_error()
        return handle

    return run


@pytest.fixture
def refusal(c_library: ctypes.CDLL) -> Callable[[Path], str]:
    """Return ``refusal(path) -> sentence`` of a damaged file."""

    def run(path: Path) -> str:
        handle = ctypes.c_void_p(1)
        status = c_library.cff_profile_load(str(path).encode(), ctypes.byref(handle))
        assert (status, handle.value) == (5, None)
        return str(c_library.cff_last_error().decode())

    return run


def _text(library: ctypes.CDLL, handle: ctypes.c_void_p, name: str) -> str:
    size = ctypes.c_size_t()
    which, get = TEXTS.index(name), library.cff_profile_get_text
    assert not get(handle, which, None, ctypes.c_size_t(0), ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    assert get(handle, which, buffer, ctypes.c_size_t(size.value - 1), None) == 9
    assert not get(handle, which, buffer, size, None)
    return buffer.value.decode()


def _metadata(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return str(file.metadata()["cff_profile"])


def test_reads_what_python_wrote(
    c_library: ctypes.CDLL, load: Load, profile_path: Path, lite_profile: Profile
) -> None:
    handle, info = load(profile_path), Info(ctypes.sizeof(Info))
    assert not c_library.cff_profile_get_info(handle, ctypes.byref(info))
    limits = lite_profile.threshold
    assert {field[0]: getattr(info, field[0]) for field in Info._fields_} == {
        "struct_size": ctypes.sizeof(Info),
        "n_references": 4,
        "n_stages": 4,
        "height": 96,
        "width": 96,
        "is_compressed": 0,
        "n_bank_rows": sum(map(len, lite_profile.banks)),
        "threshold": limits.value,
        "review_threshold": limits.review,
        "pixel_threshold": limits.pixel_value,
        "peak_scale": lite_profile.peak_scale,
        "product_limit": lite_profile.product_limit,
        "display_low": lite_profile.display_range[0],
        "display_high": lite_profile.display_range[1],
        "expected_false_rejects": limits.expected_false_rejects,
    }
    assert {name: _text(c_library, handle, name) for name in TEXTS} == {
        "product": "ring",
        "bundle_id": lite_profile.bundle_id,
        "precision": "fp32",
        "text_name": lite_profile.condition_name,
        "method": limits.method,
        "statement": limits.statement,
        "facts": _metadata(profile_path),
    }
    c_library.cff_profile_free(handle)


def test_writes_what_python_reads(
    c_library: ctypes.CDLL, load: Load, lite_profile: Profile, tmp_path: Path
) -> None:
    full = replace(
        lite_profile,
        product='ü "quoted" \U0001f600\n\x7f',
        compression={"method": "coreset", "rows": [1, 2], "coverage": 0.1},
        history=({"action": "enroll", "at": "now", "sha256_before": None, "n": 1e-7},),
        settings={"margin": 0.2, "max_false_reject": None, "max_bank": 1e22},
    )
    before, after = tmp_path / "before", tmp_path / "after"
    full.save(before)
    handle = load(before)
    after.write_bytes(b"old")
    assert c_library.cff_profile_save(handle, str(after).encode()) == 0
    c_library.cff_profile_free(handle)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["after", "before"]
    assert _metadata(after) == _metadata(before)
    ours, theirs = load_file(after), load_file(before)
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    found = Profile.load(after)
    assert asdict(found.threshold) == asdict(full.threshold)
    assert (found.product, found.history) == (full.product, full.history)
    assert found.compression == full.compression


def test_python_inspects_the_same_with_it(
    c_library: ctypes.CDLL,
    load: Load,
    profile_path: Path,
    lite_inspector: Inspector,
    bad_part: Any,
    tmp_path: Path,
) -> None:
    handle = load(profile_path)
    assert c_library.cff_profile_save(handle, str(tmp_path / "copy").encode()) == 0
    c_library.cff_profile_free(handle)
    first = lite_inspector.inspect(bad_part, Profile.load(profile_path))
    second = lite_inspector.inspect(bad_part, Profile.load(tmp_path / "copy"))
    assert first.score == second.score


def test_failed_save_leaves_the_old_file(
    c_library: ctypes.CDLL, load: Load, profile_path: Path, tmp_path: Path
) -> None:
    handle = load(profile_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for target in (folder, tmp_path / "none" / "p", Path("/dev/full/x")):
        assert c_library.cff_profile_save(handle, str(target).encode()) == 3
        assert b"could not be written" in c_library.cff_last_error()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "ring.safetensors"]
    assert list(folder.iterdir()) == []
    c_library.cff_profile_free(handle)


def test_belongs_to_its_bundle(
    c_library: ctypes.CDLL, load: Load, lite_bundle: Bundle, lite_profile: Profile, tmp_path: Path
) -> None:
    bundle = ctypes.c_void_p()
    path = str(lite_bundle.path).encode()
    assert c_library.cff_bundle_open(path, None, ctypes.byref(bundle)) == 0
    origin = lite_profile.origin
    other_size = {**origin.preprocessing, "height": 95}
    narrow = np.eye(1, 4, dtype=np.float32)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"bundle_id": "0" * 64}, "another scorer"),
        (
            {"bundle_id": "0", "origin": replace(origin, encoder_sha256="0")},
            "another encoder",
        ),
        ({"bundle_id": "0", "origin": replace(origin, precision="x")}, "another precision"),
        ({"bundle_id": "0", "origin": replace(origin, distance="x")}, "another distance"),
        (
            {"bundle_id": "0", "origin": replace(origin, map_weight=9.0)},
            "another weight of the encoder's map",
        ),
        (
            {
                "bundle_id": "0",
                "origin": replace(origin, preprocessing=other_size),
                "reference_images": lite_profile.reference_images[:, 1:],
            },
            "another image size",
        ),
        ({"banks": (narrow, *lite_profile.banks[1:])}, "widths"),
        ({"banks": lite_profile.banks[1:], "means": lite_profile.means[1:]}, "widths"),
        ({"condition": lite_profile.condition[1:]}, "shape (64, 2)"),
        ({"banks": ()}, "widths"),
        ({"bundle_id": "0", "origin": replace(origin, map_weight=9.0)}, "weight of the encoder's"),
        ({"bundle_id": "0", "origin": replace(origin, score_statistic="std")}, "image score"),
    ]
    for change, sentence in cases:
        replace(lite_profile, **change).save(tmp_path / "p")
        handle = load(tmp_path / "p")
        status = c_library.cff_profile_check(handle, bundle)
        c_library.cff_profile_free(handle)
        assert status == (6 if change else 0)
        assert not change or sentence in c_library.cff_last_error().decode()
    c_library.cff_bundle_free(bundle)


def _resave(path: Path, facts: Any = None, **tensors: Any) -> None:
    """Write the profile again with other facts or tensors; None leaves a tensor out."""
    text = _metadata(path) if facts is None else json.dumps(facts)
    arrays = {**load_file(path), **tensors}
    kept = {k: np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}
    save_file(kept, path, metadata={"cff_profile": text})


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("schema_version", 1, "earlier version"),
        ("schema_version", None, "a number"),
        ("product", 3, "a text"),
        ("bundle_id", None, "a text"),
        ("origin", {}, "present"),
        ("references", [], "image of every entry"),
        ("references", [1], "must be an object"),
        ("threshold", {}, "present"),
        ("display_range", [1.0, 1.0], "rising"),
        ("display_range", [1.0], "rising"),
        ("display_range", ["a", 1.0], "every entry"),
        ("peak_scale", "1", "a number"),
        ("peak_scale", True, "a number"),
        ("peak_scale", float("nan"), "JSON"),
        ("settings", {"margin": "x"}, "finite number"),
        ("compression", 3, "an object"),
        ("history", [3], "history"),
        ("history", {}, "a list"),
    ],
)
def test_refuses_facts(
    refusal: Callable[[Path], str], profile_path: Path, field: str, value: Any, sentence: str
) -> None:
    facts = json.loads(_metadata(profile_path))
    _resave(profile_path, {**facts, field: value})
    assert sentence in refusal(profile_path)
    with pytest.raises(Exception):  # noqa: B017  Python refuses it too
        Profile.load(profile_path)
    del facts[field]
    _resave(profile_path, facts)
    assert f"`{field}` must be present" in refusal(profile_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"review": 1e9}, "`review` must be at most"),
        ({"value": 1e7}, "`value` of the threshold must be at most 1000000, which no score"),
        ({"review": -1e7}, "`review` of the threshold must be at most 1000000"),
        ({"pixel_value": 1e7}, "`pixel_value` of the threshold must be at most 1000000"),
        ({"review": None}, "a number"),
        ({"card": []}, "an object"),
        ({"n_parts": 1.5}, "whole number"),
        ({"scores": [None]}, "every entry"),
        ({"value": None}, "a number"),
        ({"statement": 1}, "a text"),
    ],
)
def test_refuses_threshold(
    refusal: Callable[[Path], str], profile_path: Path, change: dict[str, Any], sentence: str
) -> None:
    facts = json.loads(_metadata(profile_path))
    facts["threshold"].update(change)
    _resave(profile_path, facts)
    assert sentence in refusal(profile_path)


def test_threshold_without_review_and_card(
    c_library: ctypes.CDLL, load: Load, profile_path: Path
) -> None:
    facts = json.loads(_metadata(profile_path))
    del facts["threshold"]["review"], facts["threshold"]["card"]
    _resave(profile_path, facts)
    handle, info = load(profile_path), Info(ctypes.sizeof(Info))
    assert not c_library.cff_profile_get_info(handle, ctypes.byref(info))
    assert info.review_threshold == info.threshold
    c_library.cff_profile_free(handle)


F32 = np.float32


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"bank_0": np.ones((3, 24), F32)}, "`bank_0` must have unit length"),
        ({"bank_0": np.full((3, 24), np.nan, F32)}, "unit length"),
        ({"bank_0": np.zeros((0, 24), F32)}, "unit length"),
        ({"bank_0": np.zeros((3, 0), F32)}, "unit length"),
        ({"bank_0": np.ones((3, 24, 1), F32)}, "float32 matrix"),
        ({"bank_0": np.ones((3, 24), np.uint8)}, "float32 matrix"),
        ({"bank_0": np.ones((3, 24), np.float64)}, "F32 or U8"),
        ({"bank_0": None}, "tensors must be"),
        ({"bank_0": None, "mean_0": None}, "tensors must be"),
        ({"bank_9": np.eye(1, 3, dtype=F32)}, "tensors must be"),
        ({"mean_3": None}, "tensors must be"),
        ({"condition": None}, "tensors must be"),
        ({"text": np.zeros((64, 2), F32)}, "tensors must be"),
        ({"condition": np.full((64, 2), np.inf, F32)}, "`condition` must be finite"),
        ({"condition": np.zeros((0, 2), F32)}, "`condition` must not be empty"),
        ({"condition": np.zeros((2, 2), np.uint8)}, "`condition` must be a float32 matrix"),
        ({"references": None}, "tensors must be"),
        ({"references": np.zeros((4, 96, 96, 4), np.uint8)}, "uint8 [K,H,W,3]"),
        ({"references": np.zeros((3, 96, 96, 3), np.uint8)}, "image of every entry"),
        ({"references": np.zeros((4, 96, 95, 3), np.uint8)}, "image of every entry"),
        ({"references": np.zeros((4, 96, 96, 3), F32)}, "uint8 [K,H,W,3]"),
    ],
)
def test_refuses_tensors(
    refusal: Callable[[Path], str], profile_path: Path, tensors: dict[str, Any], sentence: str
) -> None:
    _resave(profile_path, **tensors)
    assert sentence in refusal(profile_path)
    with pytest.raises(Exception):  # noqa: B017  Python refuses it too
        Profile.load(profile_path)


def test_refuses_too_few_means(refusal: Callable[[Path], str], profile_path: Path) -> None:
    _resave(profile_path, mean_1=load_file(profile_path)["mean_1"][:2])
    assert "`mean_s` must have a row" in refusal(profile_path)


def test_refuses_other_files(
    refusal: Callable[[Path], str], profile_path: Path, tmp_path: Path
) -> None:
    save_file({"x": np.ones(1, F32)}, tmp_path / "x")
    assert "this safetensors file is none" in refusal(tmp_path / "x")
    data = profile_path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    for size in (0, 7, 8, 100, 8 + header, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        assert "copy it again" in refusal(tmp_path / "cut")


def test_random_damage_of_the_header(
    c_library: ctypes.CDLL, profile_path: Path, tmp_path: Path
) -> None:
    """Whatever stands in the header: a status, and never more than Python would take."""
    data = bytearray(profile_path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for _ in range(150):
        damaged = data.copy()
        for at in rng.integers(8 + header, size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        handle = ctypes.c_void_p()
        status = c_library.cff_profile_load(str(path).encode(), ctypes.byref(handle))
        assert status in (0, 5)
        if status == 0:
            c_library.cff_profile_free(handle)
            Profile.load(path)


def test_usage(c_library: ctypes.CDLL, load: Load, profile_path: Path, tmp_path: Path) -> None:
    handle = ctypes.c_void_p()
    size = ctypes.c_size_t(0)
    assert c_library.cff_profile_load(str(tmp_path).encode(), ctypes.byref(handle)) == 1
    assert c_library.cff_profile_load(None, ctypes.byref(handle)) == 1
    assert c_library.cff_profile_load(b"x", None) == 1
    assert c_library.cff_profile_save(None, b"x") == 1
    assert c_library.cff_profile_check(None, None) == 1
    assert c_library.cff_profile_get_info(None, None) == 1
    assert c_library.cff_profile_get_text(None, 0, None, size, None) == 1
    c_library.cff_profile_free(None)
    handle = load(profile_path)
    assert c_library.cff_profile_get_text(handle, -1, None, size, None) == 1
    assert c_library.cff_profile_get_info(handle, ctypes.byref(Info(0))) == 1
    assert c_library.cff_profile_save(handle, None) == 1
    c_library.cff_profile_free(handle)
