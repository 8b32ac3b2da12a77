"""The safetensors reader of libcff against files of the safetensors package, and hostile ones."""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

STATUS = 5


class Tensor(ctypes.Structure):
    """`cff__tensor`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("n_dimensions", ctypes.c_int),
        ("shape", ctypes.c_int64 * 4),
        ("begin", ctypes.c_uint64),
        ("n_bytes", ctypes.c_uint64),
    )


class File(ctypes.Structure):
    """`cff__safetensors`."""

    _fields_ = (
        ("file", ctypes.c_void_p),
        ("status", ctypes.c_int),
        ("arena", ctypes.c_void_p),
        ("metadata", ctypes.c_void_p),
        ("tensors", ctypes.POINTER(Tensor)),
        ("n_tensors", ctypes.c_size_t),
        ("data_start", ctypes.c_uint64),
    )


def _read(library: ctypes.CDLL, path: Path) -> Any:
    """Return the arrays by name, or the error sentence."""
    file, found = File(), {}
    status = library.cff__safetensors_open(str(path).encode(), STATUS, ctypes.byref(file))
    free = ctypes.CDLL(None).free
    for index in range(0 if status else file.n_tensors):
        tensor, data = file.tensors[index], ctypes.c_void_p()
        library.cff__safetensors_read.argtypes = [ctypes.c_void_p] * 3
        assert not library.cff__safetensors_read(
            ctypes.addressof(file), ctypes.addressof(tensor), ctypes.addressof(data)
        )
        raw = ctypes.string_at(data.value or 0, tensor.n_bytes)
        free(data)
        dtype = (np.float32, np.uint8)[tensor.dtype]
        shape = list(tensor.shape)[: tensor.n_dimensions]
        found[tensor.name.decode()] = np.frombuffer(raw, dtype).reshape(shape)
    library.cff__safetensors_close(ctypes.byref(file))
    return library.cff_last_error().decode() if status else found


def _file(header: Any, n_data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(n_data)


def _entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_files_of_the_package(c_internals: ctypes.CDLL, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "matrix": rng.normal(size=(7, 3)).astype(np.float32),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "images": rng.integers(0, 256, (2, 5, 3, 3), np.uint8),
        "ü": np.ones(1, np.uint8),
    }
    save_file(arrays, tmp_path / "a", metadata={"x": "y"})
    found = _read(c_internals, tmp_path / "a")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_writes_files_that_the_package_reads(c_internals: ctypes.CDLL, tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    images = np.arange(9, dtype=np.uint8)
    tensors = (Tensor * 2)()
    tensors[0] = Tensor(b"matrix", 0, 2, (ctypes.c_int64 * 4)(2, 3))
    tensors[1] = Tensor(b"images", 1, 1, (ctypes.c_int64 * 4)(9))
    data = (ctypes.c_void_p * 2)(matrix.ctypes.data, images.ctypes.data)
    path = str(tmp_path / "out").encode()
    assert not c_internals.cff__safetensors_write(
        path, b"key", "é".encode(), tensors, data, ctypes.c_size_t(2)
    )
    found = load_file(tmp_path / "out")
    np.testing.assert_array_equal(found["matrix"], matrix)
    np.testing.assert_array_equal(found["images"], images)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


HUGE = 1 << 40
OTHER_ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "got 0 bytes"),
        (b"1234567", "got 7 bytes"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "header would take"),
        ((33 << 20).to_bytes(8, "little") + b"{}", "header would take"),
        ((3).to_bytes(8, "little") + b"{}", "header would take"),
        (_file(b""), "JSON"),
        (_file(b"[]"), "object"),
        (_file(b'{"a":{},"a":{}}'), "twice"),
        (_file({"a": 3}), "object"),
        (_file({"a": {}}), "dtype"),
        (_file({"a": _entry([1], 0, 8, "F64")}, 8), "F32 or U8"),
        (_file({"a": _entry([1], 0, 4)}, 3), "inside the file"),
        (_file({"a": _entry([1], 0, 4)}, 5), "1 bytes are left"),
        (_file({"a": _entry([2], 0, 4)}, 4), "offsets"),
        (_file({"a": _entry([1], 4, 8)}, 8), "one after the other"),
        (_file({"a": _entry([1], 4, 0)}, 4), "offsets"),
        (_file({"a": _entry([-1], 0, 4)}, 4), "from 0 on"),
        (_file({"a": {**OTHER_ENTRY, "shape": [1.0]}}, 4), "from 0 on"),
        (_file({"a": {**OTHER_ENTRY, "shape": [True]}}, 4), "from 0 on"),
        (_file({"a": {**OTHER_ENTRY, "data_offsets": [0]}}, 4), "offsets"),
        (_file({"a": {**OTHER_ENTRY, "data_offsets": [0, 4, 4]}}, 4), "at most"),
        (_file({"a": _entry([1, 1, 1, 1, 1], 0, 4)}, 4), "at most"),
        (_file({"a": _entry([HUGE, HUGE], 0, 4)}, 4), "offsets"),
        (_file({"a": _entry([1 << 62, 4], 0, 0)}), "offsets"),
        (_file({"a": _entry([1], 0, 4), "b": _entry([1], 0, 4)}, 4), "one after the other"),
        (_file({"a": _entry([2], 0, 8), "b": _entry([1], 4, 8)}, 8), "one after the other"),
        (_file({"__metadata__": []}), "object"),
        (_file({"__metadata__": {"a": 1}}), "texts"),
    ],
)
def test_refuses(c_internals: ctypes.CDLL, tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "bad").write_bytes(data)
    said = _read(c_internals, tmp_path / "bad")
    assert isinstance(said, str), said
    assert sentence in said


def test_every_truncation_is_refused(c_internals: ctypes.CDLL, tmp_path: Path) -> None:
    data = save({"a": np.ones((2, 3), np.float32)}, metadata={"x": "y"})
    for size in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:size])
        assert isinstance(_read(c_internals, tmp_path / "cut"), str), size


def test_folder_and_missing_file(c_internals: ctypes.CDLL, tmp_path: Path) -> None:
    assert "existing file" in _read(c_internals, tmp_path)
    assert "existing file" in _read(c_internals, tmp_path / "none")
