import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Inspector
from cff_runtime.bundle import MAX_MANIFEST_BYTES
from cff_runtime.errors import BackendError, BundleError, UsageError

EditManifest = Callable[..., None]


def _refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def _files(folder: Path) -> list[str]:
    return list(json.loads((folder / "manifest.json").read_text())["files"])


def test_a_bundle_opens_from_str_and_path(lite_bundle: Bundle) -> None:
    for path in (lite_bundle.path, str(lite_bundle.path)):
        assert Bundle.open(path).manifest.id == lite_bundle.manifest.id


def test_a_link_to_a_bundle_opens(lite_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(lite_bundle.path)

    assert Bundle.open(tmp_path / "link").manifest.id == lite_bundle.manifest.id


@pytest.mark.parametrize("kind", ["missing", "file", "folder", "manifest is a folder"])
def test_what_is_no_bundle_is_a_wrong_call(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    if kind == "file":
        path.write_text("bundle")
    elif kind != "missing":
        path.mkdir()
    if kind == "manifest is a folder":
        (path / "manifest.json").mkdir()

    with pytest.raises(UsageError, match=r"must be a bundle.*cff-export"):
        Bundle.open(path)


def test_every_missing_file_is_named(bundle_copy: Path) -> None:
    for name in _files(bundle_copy):
        (bundle_copy / name).rename(bundle_copy / "away")

        assert name in _refused(bundle_copy)

        (bundle_copy / "away").rename(bundle_copy / name)


def test_a_changed_byte_in_any_file_is_found(bundle_copy: Path) -> None:
    for name in _files(bundle_copy):
        path = bundle_copy / name
        data = path.read_bytes()
        path.unlink()  # it may be a hard link
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

        message = _refused(bundle_copy)

        assert name in message and "SHA-256" in message
        path.write_bytes(data)


def test_a_short_file_is_found(bundle_copy: Path) -> None:
    path = bundle_copy / "text.safetensors"
    path.write_bytes(path.read_bytes()[:-10])

    assert "text.safetensors" in _refused(bundle_copy)


@pytest.mark.parametrize("kind", ["file", "folder", "relative"])
def test_a_link_out_of_the_folder_is_refused(kind: str, bundle_copy: Path) -> None:
    outside = bundle_copy.parent / "outside"
    outside.mkdir()
    name = "golden" if kind == "folder" else "text.safetensors"
    (bundle_copy / name).rename(outside / name)
    target = Path("..") / "outside" / name if kind == "relative" else outside / name
    (bundle_copy / name).symlink_to(target)

    assert "must lie inside the bundle" in _refused(bundle_copy)


def test_a_link_inside_the_folder_is_followed(bundle_copy: Path) -> None:
    (bundle_copy / "text.safetensors").rename(bundle_copy / "real")
    (bundle_copy / "text.safetensors").symlink_to("real")

    assert Bundle.open(bundle_copy).condition_of_word("object").shape == (64, 2)


def test_a_link_in_a_circle_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / "parity.json").unlink()
    (bundle_copy / "parity.json").symlink_to("parity.json")

    assert "parity.json" in _refused(bundle_copy)


def test_a_pipe_is_refused_without_waiting_for_a_writer(bundle_copy: Path) -> None:
    (bundle_copy / "parity.json").unlink()
    os.mkfifo(bundle_copy / "parity.json")

    assert "parity.json" in _refused(bundle_copy)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "golden"])
def test_a_name_that_no_file_can_have_is_refused(
    name: str, bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    entry = {"sha256": "0" * 64, "n_bytes": 1}
    edit_manifest(bundle_copy, lambda fields: fields["files"].update({name: entry}))

    assert "must" in _refused(bundle_copy)


@pytest.mark.parametrize("n_bytes", [-1, 0, 1 << 62])
def test_a_size_that_the_file_has_not_is_refused(
    n_bytes: int, bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    edit_manifest(bundle_copy, lambda f: f["files"]["parity.json"].update(n_bytes=n_bytes))

    assert f"must have {n_bytes} bytes" in _refused(bundle_copy)


def test_an_edited_map_weight_is_found(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    edit_manifest(bundle_copy, lambda fields: fields["map"].update(weight=0.5))

    assert "`id` must be the hash" in _refused(bundle_copy)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80abc", "{}".encode("utf-16")])
def test_a_manifest_that_is_no_utf8_is_refused(data: bytes, bundle_copy: Path) -> None:
    (bundle_copy / "manifest.json").write_bytes(data)

    assert "UTF-8" in _refused(bundle_copy)


def test_a_manifest_beyond_all_measure_is_not_read(bundle_copy: Path) -> None:
    path = bundle_copy / "manifest.json"
    path.write_bytes(path.read_bytes().ljust(MAX_MANIFEST_BYTES))
    Bundle.open(bundle_copy)
    path.write_bytes(path.read_bytes() + b" ")

    assert f"at most {MAX_MANIFEST_BYTES} bytes" in _refused(bundle_copy)


def test_a_manifest_that_cannot_be_read_is_one_sentence(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", deny)

    assert "Permission denied" in _refused(bundle_copy)


def test_files_outside_the_manifest_are_not_given(lite_bundle: Bundle) -> None:
    assert lite_bundle.file("parity.json").is_file()
    for name in ("manifest.json", "../conftest.py", "/etc/passwd", "nothing"):
        with pytest.raises(BundleError, match="must be a file of the manifest"):
            lite_bundle.file(name)


def test_text_vectors_are_those_of_the_file(lite_bundle: Bundle) -> None:
    stored = load_file(lite_bundle.path / "text.safetensors")

    for name in ("object", "bottle"):
        np.testing.assert_array_equal(lite_bundle.condition_of_word(name), stored[name])


def test_an_unknown_class_word_is_a_wrong_call(lite_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"one of object, bottle, got 'ring'"):
        lite_bundle.condition_of_word("ring")


def _nan_vectors() -> NDArray[np.float32]:
    vectors = np.eye(64, 2, dtype=np.float32)
    vectors[3, 1] = np.nan
    return vectors


@pytest.mark.parametrize(
    "tensors",
    [
        {"bottle": np.eye(64, 2, dtype=np.float32)},
        {"object": np.eye(64, 2, dtype=np.float64)},
        {"object": np.eye(2, 64, dtype=np.float32)},
        {"object": np.zeros(64, np.float32)},
        {"object": _nan_vectors()},
        b"no safetensors at all",
        b"",
    ],
)
def test_text_vectors_of_another_shape_are_refused(
    tensors: dict[str, NDArray[Any]] | bytes, bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    path = bundle_copy / "text.safetensors"
    path.unlink()
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    else:
        save_file(tensors, path)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(BundleError, match="text") as caught:
        Bundle.open(bundle_copy).condition_of_word("object")

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["F8_E4M3", "BF16"])
def test_tensors_of_a_type_that_numpy_lacks_are_refused(
    kind: str, bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    n_bytes = 128 * (1 if kind == "F8_E4M3" else 2)
    entry = {"dtype": kind, "shape": [64, 2], "data_offsets": [0, n_bytes]}
    header = json.dumps({"object": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(n_bytes)
    (bundle_copy / "text.safetensors").write_bytes(data)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(BundleError, match="must be"):
        Bundle.open(bundle_copy).condition_of_word("object")


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "scorer_1.fp32.onnx"])
def test_a_graph_that_is_none_is_one_sentence(
    name: str, bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    (bundle_copy / name).unlink()
    (bundle_copy / name).write_bytes(b"no graph" * 100)
    edit_manifest(bundle_copy, rehash=True)

    with pytest.raises(BackendError, match=name):
        Inspector.open(bundle_copy)
