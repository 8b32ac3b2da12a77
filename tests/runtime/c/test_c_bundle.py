"""Opening bundles in C: what Python takes is taken, what it refuses is refused."""

import ctypes
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cff_runtime import Bundle

TEXTS = {"id": 0, "precision": 1, "precisions": 2, "text_names": 3, "distance": 4}
INFO = ("height", "width", "n_stages", "joint_dim", "has_text_tower", "n_precisions")
MORE = ("n_text_names", "condition_source", "condition_rows", "condition_columns", "n_scorers")


class Info(ctypes.Structure):
    """`cff_bundle_info`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in INFO),
        *((name, ctypes.c_int32) for name in MORE),
    )


OpenBundle = Callable[..., tuple[int, Any]]


@pytest.fixture
def open_bundle(c_library: ctypes.CDLL) -> OpenBundle:
    """Return ``open_bundle(path, precision=None) -> (status, facts or sentence)``."""

    def run(path: Path, precision: str | None = None) -> tuple[int, Any]:
        handle = ctypes.c_void_p(1)
        named = None if precision is None else precision.encode()
        status = c_library.cff_bundle_open(str(path).encode(), named, ctypes.byref(handle))
        if status:
            assert handle.value is None
            return status, c_library.cff_last_error().decode()
        info = Info(ctypes.sizeof(Info))
        assert not c_library.cff_bundle_get_info(handle, ctypes.byref(info))
        facts = {name: getattr(info, name) for name in (*INFO, *MORE)}
        facts |= {name: _text(c_library, handle, which) for name, which in TEXTS.items()}
        c_library.cff_bundle_free(handle)
        return status, facts

    return run


def _text(library: ctypes.CDLL, handle: ctypes.c_void_p, which: int) -> str:
    size = ctypes.c_size_t()
    get = library.cff_bundle_get_text
    assert not get(handle, which, None, ctypes.c_size_t(0), ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    assert get(handle, which, buffer, ctypes.c_size_t(size.value - 1), None) == 9
    assert not get(handle, which, buffer, size, None)
    assert len(buffer.value) == size.value - 1
    return buffer.value.decode()


def test_opens_what_python_opens(lite_bundle: Bundle, open_bundle: OpenBundle) -> None:
    status, facts = open_bundle(lite_bundle.path)
    manifest = lite_bundle.manifest
    assert status == 0, facts
    assert facts == {
        "height": manifest.preprocessing.height,
        "width": manifest.preprocessing.width,
        "n_stages": len(manifest.stages),
        "joint_dim": manifest.condition.shape[0],
        "has_text_tower": int(manifest.score.output is not None),
        "n_precisions": len(manifest.precisions),
        "n_text_names": len(manifest.condition.names),
        "condition_source": 0,
        "condition_rows": manifest.condition.shape[0],
        "condition_columns": 2,
        "n_scorers": len(manifest.stages),
        "id": manifest.id,
        "precision": "fp32",
        "precisions": "\n".join(manifest.precisions),
        "text_names": "\n".join(manifest.condition.names),
        "distance": manifest.distance,
    }


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(fields: dict[str, Any]) -> None:
        for name in path[:-1]:
            fields = fields[name]
        fields[path[-1]] = to

    return edit


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.pop(name)


ENTRY = {"sha256": "0" * 64, "n_bytes": 0}
TEMPLATE = {
    "input": "template",
    "shape": [9, 64],
    "source": "reference",
    "file": None,
    "names": [],
    "stage": 3,
    "choice": "medoid",
}


@pytest.mark.parametrize("weight", [0, 1, 0.1, 1e16, 1e-5, 123456789.123456789, -0.0, 2.5e-300])
def test_id_of_any_map_weight(
    bundle_copy: Path, edit_manifest: Callable[..., None], open_bundle: OpenBundle, weight: float
) -> None:
    """Python hashes the shortest decimal of the number."""
    edit_manifest(bundle_copy, _set("map", "weight", to=float(weight)), rehash=True)
    status, facts = open_bundle(bundle_copy)
    assert status == 0, facts
    assert facts["id"] == Bundle.open(bundle_copy).manifest.id


@pytest.mark.parametrize("choice", ["medoid", "first"])
def test_id_with_a_template_and_without_scorers(
    bundle_copy: Path, edit_manifest: Callable[..., None], open_bundle: OpenBundle, choice: str
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        fields["condition"] = TEMPLATE | {"choice": choice}
        fields["scorers"] = []
        fields["map"] = {"output": "anomaly_map", "weight": 1.0}
        fields["score"] = {"output": None, "statistic": "std"}

    edit_manifest(bundle_copy, edit, rehash=True)
    status, facts = open_bundle(bundle_copy)
    assert status == 0, facts
    assert facts["id"] == Bundle.open(bundle_copy).manifest.id
    assert (facts["condition_source"], facts["joint_dim"], facts["n_scorers"]) == (1, 0, 0)
    assert (facts["condition_rows"], facts["condition_columns"]) == (9, 64)
    assert (facts["n_text_names"], facts["text_names"]) == (0, "")


def test_id_of_other_stages(
    bundle_copy: Path, edit_manifest: Callable[..., None], open_bundle: OpenBundle
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        fields["stages"][0]["tap"] = 'ü"\\\n\U0001f600'
        fields["distance"] = "cosine"

    edit_manifest(bundle_copy, edit, rehash=True)
    status, facts = open_bundle(bundle_copy)
    assert status == 0, facts
    assert facts["id"] == Bundle.open(bundle_copy).manifest.id


def test_variant_is_opened_by_name(bundle_copy: Path, open_bundle: OpenBundle) -> None:
    fields = json.loads((bundle_copy / "manifest.json").read_text())
    manifest = Bundle.open(bundle_copy).manifest
    scorer = manifest.scorers[0]
    id_ = replace(manifest, encoder=scorer).compute_id()
    entry = {"encoder": scorer, "id": id_, "kept_fp32": [], "facts": {}, "parity": {}}
    fields["variants"] = {"fp16": entry}
    (bundle_copy / "manifest.json").write_text(json.dumps(fields))
    assert Bundle.open(bundle_copy, "fp16").manifest.id == id_
    status, facts = open_bundle(bundle_copy, "fp16")
    assert status == 0, facts
    assert (facts["id"], facts["precisions"]) == (id_, "fp32\nfp16")
    status, said = open_bundle(bundle_copy, "int8")
    assert status == 1
    assert "fp32 fp16" in said


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_set("schema_version", to=3), "export the bundle again"),
        (_set("schema_version", to="4"), "a number"),
        (_set("id", to="0" * 64), "hash of the graphs"),
        (_set("precision", to="fp16"), "must be fp32"),
        (_set("encoder", to="none.onnx"), "must list every file"),
        (_set("golden", to="none"), "must list every file"),
        (_set("scorers", to=["scorer_0.fp32.onnx"]), "one entry per stage (4) or none, got 1"),
        (_set("scorers", to=[1]), "every entry of `scorers`"),
        (_set("stages", to=[]), "`stages` must have"),
        (_set("stages", to=[3] * 4), "must be an object"),
        (_drop("condition"), "`condition` must be present"),
        (_set("condition", "shape", to=[0, 2]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[64]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[64, 2, 1]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[1 << 40, 2]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[64, (1 << 14) + 1]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[64.0, 2]), "`condition.shape` must be"),
        (_set("condition", "shape", to=[True, 2]), "`condition.shape` must be"),
        (_set("condition", "input", to="image"), "`condition.input` must be at most 64"),
        (_set("condition", "input", to="features_1"), "`condition.input` must be at most 64"),
        (_set("condition", "input", to="Text"), "`condition.input` must be at most 64"),
        (_set("condition", "input", to="2nd"), "`condition.input` must be at most 64"),
        (_set("condition", "input", to=""), "`condition.input` must be at most 64"),
        (_set("condition", "input", to="a" * 65), "`condition.input` must be at most 64"),
        (_set("condition", "input", to="text_map"), "must have different names"),
        (_set("condition", "source", to="picture"), "must be one of words, reference"),
        (_set("condition", "file", to=None), "`file` must be a text"),
        (_set("condition", "file", to="none"), "must list every file"),
        (_set("condition", "names", to=[None]), "names"),
        (_set("condition", "names", to=[]), "`condition.names` must hold"),
        (_set("condition", "stage", to=0), "`condition.stage` must be null"),
        (_set("condition", "choice", to="first"), "`condition.choice` must be null"),
        (_set("condition", to=TEMPLATE | {"file": "text.safetensors"}), "`condition.file`"),
        (_set("condition", to=TEMPLATE | {"names": ["object"]}), "`condition.names` must be empty"),
        (_set("condition", to=TEMPLATE | {"stage": None}), "`stage` must be a number"),
        (_set("condition", to=TEMPLATE | {"stage": -1}), "`stage` must be 0 to 3"),
        (_set("condition", to=TEMPLATE | {"stage": 4}), "`stage` must be 0 to 3"),
        (_set("condition", to=TEMPLATE | {"choice": "best"}), "one of medoid, first"),
        (_set("condition", to=TEMPLATE | {"choice": None}), "`choice` must be a text"),
        (_set("condition", to=TEMPLATE | {"shape": [7, 7]}), "must be that of stage 3, (9, 64)"),
        (_set("distance", to="l2"), "cosine, log"),
        (_set("preprocessing", "height", to=15), "height"),
        (_set("preprocessing", "cubic_a", to=-0.75), "cubic_a"),
        (_set("preprocessing", "antialias", to=False), "antialias"),
        (_set("preprocessing", "resample", to="bicubic2"), "resample"),
        (_set("preprocessing", "more", to=1), "no other fields"),
        (_set("map", "weight", to="1"), "weight"),
        (_set("map", "output", to="features_map"), "`map.output` must be at most 64"),
        (_set("map", "output", to=None), "`output` must be a text"),
        (_set("score", "output", to=1), "`output` must be a text"),
        (_set("score", "output", to="text_map"), "must have different names"),
        (_set("score", "statistic", to="mean"), "must be one of max, std"),
        (_set("score", to={"output": "text_score", "statistic": "std"}), "must be max where"),
        (_set("score", to={"statistic": "max"}), "`output` must be present"),
        (_set("files", "../escape", to=ENTRY), "inside the bundle"),
        (_set("files", "a/../../b", to=ENTRY), "inside the bundle"),
        (_set("files", "/etc/passwd", to=ENTRY), "inside the bundle"),
        (_set("files", "a\\b", to=ENTRY), "inside the bundle"),
        (_set("files", ".", to=ENTRY), "inside the bundle"),
        (_set("files", "", to=ENTRY), "inside the bundle"),
        (_set("files", "missing", to=ENTRY), "must exist"),
        (_set("files", "n" * 5000, to=ENTRY), "must exist"),
        (_set("files", "golden", to=ENTRY), "existing file"),
        (_set("files", "x", to=[]), "must be an object"),
        (_set("files", "x", to={"sha256": "", "n_bytes": -1}), "n_bytes"),
        (_set("variants", to={"fp32": {}}), "another precision"),
        (_set("variants", to={"fp16": {"encoder": "x", "id": "y"}}), "must list every file"),
        (_drop("notes"), "`notes` must be present"),
        (_drop("created"), "`created` must be present"),
    ],
)
def test_refuses_manifest(
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    open_bundle: OpenBundle,
    c_status: SimpleNamespace,
    edit: Callable[[dict[str, Any]], None],
    sentence: str,
) -> None:
    edit_manifest(bundle_copy, edit)
    status, said = open_bundle(bundle_copy)
    assert status == c_status.BUNDLE
    assert sentence in said
    with pytest.raises(Exception):  # noqa: B017  Python refuses it too
        Bundle.open(bundle_copy)


def test_refuses_stage_grids(
    bundle_copy: Path, edit_manifest: Callable[..., None], open_bundle: OpenBundle
) -> None:
    for grid in ([0, 3], [3], [1, 2, 3], [-1, -1], [1 << 16, 2], [1 << 62, 4], [1.5, 2], ["a", 1]):
        edit_manifest(bundle_copy, lambda fields, g=grid: fields["stages"][0].update(grid=g))
        status, said = open_bundle(bundle_copy)
        assert status
        assert "grid" in said


@pytest.mark.parametrize("size", [0, 1, 100, 2000])
def test_refuses_cut_manifest(bundle_copy: Path, open_bundle: OpenBundle, size: int) -> None:
    path = bundle_copy / "manifest.json"
    path.write_bytes(path.read_bytes()[:size])
    status, said = open_bundle(bundle_copy)
    assert status == 4
    assert "manifest.json" in said


def test_refuses_huge_manifest(bundle_copy: Path, open_bundle: OpenBundle) -> None:
    with (bundle_copy / "manifest.json").open("ab") as file:
        file.write(b" " * (5 << 20))
    status, said = open_bundle(bundle_copy)
    assert (status, "at most" in said) == (4, True)


def test_refuses_changed_byte_and_cut_file(bundle_copy: Path, open_bundle: OpenBundle) -> None:
    path = bundle_copy / "text.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    status, said = open_bundle(bundle_copy)
    assert (status, "SHA-256" in said) == (4, True)
    path.write_bytes(data[:-1])
    status, said = open_bundle(bundle_copy)
    assert (status, f"must have {len(data)} bytes" in said) == (4, True)
    path.unlink()
    status, said = open_bundle(bundle_copy)
    assert (status, "must exist" in said) == (4, True)


def test_refuses_links_out_of_the_folder(
    bundle_copy: Path, open_bundle: OpenBundle, tmp_path: Path
) -> None:
    path = bundle_copy / "text.safetensors"
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    status, said = open_bundle(bundle_copy)
    assert (status, "behind a link" in said) == (4, True)
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    status, said = open_bundle(bundle_copy)
    assert (status, "existing file" in said) == (4, True)


def test_opens_through_a_link_to_the_folder(
    bundle_copy: Path, open_bundle: OpenBundle, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(bundle_copy)
    assert open_bundle(tmp_path / "link")[0] == 0


def test_usage(
    c_library: ctypes.CDLL, open_bundle: OpenBundle, tmp_path: Path, lite_bundle: Bundle
) -> None:
    assert open_bundle(tmp_path)[0] == 1
    assert open_bundle(tmp_path / "none")[0] == 1
    handle = ctypes.c_void_p()
    assert c_library.cff_bundle_open(None, None, ctypes.byref(handle)) == 1
    assert c_library.cff_bundle_open(b"x", None, None) == 1
    assert c_library.cff_bundle_get_info(None, None) == 1
    assert c_library.cff_bundle_get_text(None, 0, None, ctypes.c_size_t(0), None) == 1
    c_library.cff_bundle_free(None)
    path = str(lite_bundle.path).encode()
    assert c_library.cff_bundle_open(path, None, ctypes.byref(handle)) == 0
    assert c_library.cff_bundle_get_text(handle, 99, None, ctypes.c_size_t(0), None) == 1
    assert c_library.cff_bundle_get_text(handle, 0, None, ctypes.c_size_t(0), None) == 1
    assert c_library.cff_bundle_get_text(handle, 0, None, ctypes.c_size_t(9), None) == 1
    c_library.cff_bundle_free(handle)


def test_info_of_older_and_newer_callers(c_library: ctypes.CDLL, lite_bundle: Bundle) -> None:
    handle = ctypes.c_void_p()
    path = str(lite_bundle.path).encode()
    assert c_library.cff_bundle_open(path, None, ctypes.byref(handle)) == 0
    older = Info(8, *[-7] * 11)
    assert c_library.cff_bundle_get_info(handle, ctypes.byref(older)) == 0
    assert (older.struct_size, older.height, older.width) == (8, 96, -7)
    newer = (ctypes.c_int32 * 14)(56, *[-7] * 13)
    assert c_library.cff_bundle_get_info(handle, newer) == 0
    assert list(newer)[12:] == [0, 0]
    for size in (0, 3, 1 << 20):
        assert c_library.cff_bundle_get_info(handle, ctypes.byref(Info(size))) == 1
    c_library.cff_bundle_free(handle)


def test_condition_of_a_class_word(c_internals: ctypes.CDLL, lite_bundle: Bundle) -> None:
    import numpy as np

    handle, values = ctypes.c_void_p(), ctypes.POINTER(ctypes.c_float)()
    path = str(lite_bundle.path).encode()
    assert c_internals.cff_bundle_open(path, None, ctypes.byref(handle)) == 0
    get = c_internals.cff__bundle_condition_of_word
    for name in lite_bundle.manifest.condition.names:
        assert get(handle, name.encode(), ctypes.byref(values)) == 0
        expected = lite_bundle.condition_of_word(name)
        np.testing.assert_array_equal(np.ctypeslib.as_array(values, expected.shape), expected)
        ctypes.CDLL(None).free(values)
    assert get(handle, b"teapot", ctypes.byref(values)) == 1
    c_internals.cff_bundle_free(handle)
