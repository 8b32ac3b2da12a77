"""Weights beside a standalone graph: written above the limit, hashed, checked."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cff_export.hosts import check_external_data, external_data, write_standalone
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.storage import sha256_file


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Any]) -> Bundle:
    made: Bundle = exported("vit", "affine").bundle
    return made


@pytest.fixture(scope="module")
def profile(bundle: Bundle, good_parts: list[NDArray[np.uint8]]) -> Profile:
    return Inspector.open(bundle.path).enroll(good_parts[:1], "ring")


@pytest.fixture
def apart(
    bundle: Bundle, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A standalone graph whose weights are too large for one file, as the limit stands."""
    monkeypatch.setattr(external_data, "MAX_SINGLE_FILE_BYTES", 100_000)
    report = write_standalone(bundle, profile, tmp_path / "ring.onnx")
    assert report.data == tmp_path / "ring.onnx.data"
    sizes = [path.stat().st_size for path in (report.path, report.data)]
    assert report.n_bytes == sum(sizes)
    assert sizes[1] > 500_000 > 200_000 > sizes[0]
    monkeypatch.undo()
    return report.path


def _answers(path: Path) -> list[NDArray[Any]]:
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers: list[NDArray[Any]] = session.run(None, {"image": image})
    return answers


def test_the_same_answer_from_two_files(
    apart: Path, bundle: Bundle, profile: Profile, tmp_path: Path
) -> None:
    one = write_standalone(bundle, profile, tmp_path / "one.onnx")
    assert one.data is None
    assert check_external_data(one.path) is None
    assert check_external_data(str(apart)) == tmp_path / "ring.onnx.data"
    for got, want in zip(_answers(apart), _answers(one.path), strict=True):
        np.testing.assert_array_equal(got, want)
    onnx.checker.check_model(str(apart), full_check=True)
    props = {p.key: p.value for p in onnx.load(apart, load_external_data=False).metadata_props}
    assert props[external_data.SHA256_KEY] == sha256_file(tmp_path / "ring.onnx.data")
    assert props["cff_product"] == "ring"


def test_an_encoder_with_weights_beside_it(
    bundle: Bundle, profile: Profile, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    name = bundle.manifest.encoder
    ir.save(ir.load(bundle.file(name)), folder / name, external_data=f"{name}.data")
    moved = Bundle(folder, bundle.manifest)
    report = write_standalone(moved, profile, tmp_path / "ring.onnx")
    assert report.data is not None
    assert check_external_data(report.path) == report.data
    shutil.rmtree(folder)  # it needs nothing of the bundle
    whole = write_standalone(bundle, profile, tmp_path / "whole.onnx")
    for got, want in zip(_answers(report.path), _answers(whole.path), strict=True):
        np.testing.assert_array_equal(got, want)


def test_changed_weights_are_named_with_both_hashes(apart: Path) -> None:
    data = apart.with_name("ring.onnx.data")
    expected = sha256_file(data)
    content = bytearray(data.read_bytes())
    content[1234] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        check_external_data(apart)
    for part in (str(data), expected, sha256_file(data)):
        assert part in str(caught.value)


def test_missing_weights(apart: Path) -> None:
    apart.with_name("ring.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"ring\.onnx\.data` must exist"):
        check_external_data(apart)


def test_a_renamed_graph(apart: Path) -> None:
    renamed = apart.rename(apart.with_name("other.onnx"))
    with pytest.raises(BundleError, match=r"`other\.onnx\.data` beside it, got ring\.onnx\.data"):
        check_external_data(renamed)


def test_weights_of_another_place_or_without_a_hash(apart: Path) -> None:
    model = onnx.load(apart, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../etc/passwd"
    strange = apart.with_name("strange.onnx")
    strange.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="must stand in"):
        check_external_data(strange)
    model = onnx.load(apart, load_external_data=False)
    del model.metadata_props[:]
    apart.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="must name the SHA-256"):
        check_external_data(apart)


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="existing ONNX file"):
        check_external_data(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"\x08\xff not a graph")
    with pytest.raises(BundleError, match="must be an ONNX file"):
        check_external_data(tmp_path / "junk.onnx")


def test_an_old_opset_is_refused(bundle: Bundle, profile: Profile, tmp_path: Path) -> None:
    model = onnx.load(bundle.file(bundle.manifest.encoder))
    model.opset_import[0].version = 17
    (tmp_path / "bundle").mkdir()
    onnx.save(model, tmp_path / "bundle" / "old.onnx")
    files = {"old.onnx": bundle.manifest.files[bundle.manifest.encoder]}
    old = Bundle(tmp_path / "bundle", replace(bundle.manifest, encoder="old.onnx", files=files))
    with pytest.raises(BundleError, match="opset 18 or later, got 17"):
        write_standalone(old, profile, tmp_path / "ring.onnx")
