import json
from collections.abc import Callable
from typing import Any

import pytest

from cff_runtime import Bundle
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.manifest import MAX_STAGES, Manifest, Stage, Variant, parse_manifest

Fields = dict[str, Any]
# of a file that no bundle has
_VARIANT = {"encoder": "x.onnx", "id": "0", "kept_fp32": [], "facts": {}, "parity": {}}
WRONG_TYPES: dict[str, list[object]] = {
    "id": [None, 7, []],
    "precision": [32, None],
    "encoder": [1, ["encoder.onnx"], None],
    "scorers": ["scorer.onnx", {}, [1, 2, 3, 4], None],
    "preprocessing": [[], "bicubic", None],
    "stages": [{}, None, ["stage"] * 4, [[]] * 4],
    "distance": [1, None, ["log"], "", "Log", "euclidean", "l" * 10_000],
    "condition": [[], "text.safetensors", None],
    "map": [[], 1.0, None],
    "score": [[], "max", None],
    "golden": [0, None],
    "files": [[], None, "all"],
    "backbone": ["lite", None],
    "head": [[], None],
    "parity": ["passed", None],
    "passes": [{}, None],
    "tools": [[], None],
    "licences": ["MIT", None],
    "notes": ["a note", [1], None],
    "created": [20260101, None],
    "variants": [[], None, {"fp16": []}, {"fp32": _VARIANT}],
    "schema_version": ["1", 1.0, True, None, [1]],
}
PARTS: list[tuple[tuple[str | int, ...], object]] = [
    (("condition", "input"), None),
    (("condition", "input"), "Text"),
    (("condition", "input"), "0text"),
    (("condition", "input"), "te xt"),
    (("condition", "input"), "image"),
    (("condition", "input"), "features_9"),
    (("condition", "input"), "t" * 65),
    (("condition", "shape"), None),
    (("condition", "shape"), [64]),
    (("condition", "shape"), [64, 2, 1]),
    (("condition", "shape"), [0, 2]),
    (("condition", "shape"), [64.0, 2]),
    (("condition", "shape"), [True, 2]),
    (("condition", "shape"), [1 << 17, 2]),
    (("condition", "shape"), [64, 1 << 15]),
    (("condition", "source"), "template"),
    (("condition", "source"), "reference"),  # with a file and names
    (("condition", "source"), None),
    (("condition", "file"), 1),
    (("condition", "file"), None),
    (("condition", "names"), "object"),
    (("condition", "names"), [1]),
    (("condition", "names"), []),
    (("condition", "stage"), 0),
    (("condition", "stage"), "0"),
    (("condition", "choice"), "medoid"),
    (("map", "output"), None),
    (("map", "output"), "features_0"),
    (("map", "output"), "text-map"),
    (("map", "weight"), "0.05"),
    (("map", "weight"), True),
    (("map", "weight"), float("nan")),
    (("map", "weight"), float("inf")),
    (("map", "weight"), 10**400),
    (("score", "output"), 0),
    (("score", "output"), "image"),
    (("score", "statistic"), "mean"),
    (("score", "statistic"), None),
    (("stages", 0, "grid"), [12]),
    (("stages", 0, "grid"), [12, 12, 12]),
    (("stages", 0, "grid"), [12, -12]),
    (("stages", 0, "grid"), [12, 0]),
    (("stages", 0, "grid"), [12, 12.0]),
    (("stages", 0, "grid"), [True, 12]),
    (("stages", 0, "grid"), [1 << 20, 1 << 20]),
    (("stages", 0, "grid"), "12x12"),
    (("stages", 0, "width"), 0),
    (("stages", 0, "width"), 1 << 30),
    (("stages", 0, "width"), 25.0),
    (("stages", 0, "tap"), 2),
    (("files", "encoder.fp32.onnx"), []),
    (("files", "encoder.fp32.onnx", "sha256"), 1),
    (("files", "encoder.fp32.onnx", "n_bytes"), "many"),
    (("files", "encoder.fp32.onnx", "n_bytes"), True),
]


@pytest.fixture
def fields(lite_bundle: Bundle) -> Fields:
    loaded: Fields = json.loads(lite_bundle.manifest.to_json())
    return loaded


def _put(fields: Fields, path: tuple[str | int, ...], value: object) -> None:
    place: Any = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


def _refused(text: str) -> str:
    """Parse what must fail; return the message, one line of reasonable length."""
    with pytest.raises(BundleError) as caught:
        parse_manifest(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_manifest_survives_its_json(lite_bundle: Bundle) -> None:
    manifest = parse_manifest(lite_bundle.manifest.to_json())

    assert json.loads(manifest.to_json()) == json.loads(lite_bundle.manifest.to_json())
    assert manifest.stages == lite_bundle.manifest.stages
    assert manifest.files == lite_bundle.manifest.files


def test_n_tokens_is_the_area_of_the_grid() -> None:
    assert Stage("block", (12, 7), 25).n_tokens == 84


def test_every_field_of_the_class_is_tested_below() -> None:
    assert set(WRONG_TYPES) == set(Manifest.__dataclass_fields__)


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_missing_field_is_named(name: str, fields: Fields) -> None:
    del fields[name]

    assert f"`{name}` must be present" in _refused(json.dumps(fields)).replace("field ", "")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_TYPES.items() for value in values]
)
def test_a_field_of_a_wrong_type_is_named(name: str, value: object, fields: Fields) -> None:
    fields[name] = value

    assert name in _refused(json.dumps(fields))


@pytest.mark.parametrize(("path", "value"), PARTS)
def test_a_wrong_part_of_a_field_is_named(
    path: tuple[str | int, ...], value: object, fields: Fields
) -> None:
    _put(fields, path, value)

    assert str(path[-1]) in _refused(json.dumps(fields))


@pytest.mark.parametrize(
    "path",
    [("condition", name) for name in ("input", "shape", "source", "file", "names")]
    + [("condition", name) for name in ("stage", "choice")]
    + [("map", "output"), ("map", "weight"), ("score", "output"), ("score", "statistic")]
    + [("stages", 1, name) for name in ("grid", "width", "tap")]
    + [("files", "scorer_0.fp32.onnx", name) for name in ("sha256", "n_bytes")],
)
def test_a_missing_part_of_a_field_is_named(path: tuple[str | int, ...], fields: Fields) -> None:
    place: Any = fields
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]

    assert f"`{path[-1]}` must be present" in _refused(json.dumps(fields))


@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", "null", "[]", "3", '"manifest"', "{'id': 1}", "[" * 100_000, "1" * 9999],
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    assert "`manifest.json` must" in _refused(text)


@pytest.mark.parametrize("version", [0, 1, 2, 99, -1])
def test_another_schema_version_says_what_to_do(version: int, fields: Fields) -> None:
    fields["schema_version"] = version

    message = _refused(json.dumps(fields))

    assert f"must be 4, got {version}" in message
    assert "export" in message and "update" in message


def test_a_bundle_of_the_first_version_is_to_be_exported_again(fields: Fields) -> None:
    """It says nothing about `distance`: the version must be what is complained about."""
    del fields["distance"]
    fields["schema_version"] = 1

    message = _refused(json.dumps(fields))

    assert message.startswith("`schema_version` must be 4, got 1; export the bundle again")


def test_an_unknown_distance_says_which_there_are(fields: Fields) -> None:
    fields["distance"] = "euclidean"

    message = _refused(json.dumps(fields))

    assert message == "`distance` must be one of cosine, log, got 'euclidean'"


@pytest.mark.parametrize("distance", ["cosine", "log"])
def test_either_distance_is_read(
    distance: str, fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    fields["distance"] = distance
    fields["id"] = manifest_id(fields)

    assert parse_manifest(json.dumps(fields)).distance == distance


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "golden/../../secret",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        ".",
        "",
        "golden\\..\\secret",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(name: str, fields: Fields) -> None:
    fields["files"][name] = {"sha256": "0" * 64, "n_bytes": 1}

    assert "inside the bundle" in _refused(json.dumps(fields))


@pytest.mark.parametrize("field", ["encoder", "golden"])
def test_a_graph_that_the_list_of_files_lacks_is_refused(field: str, fields: Fields) -> None:
    fields[field] = "../elsewhere.onnx"

    assert "'../elsewhere.onnx' is not" in _refused(json.dumps(fields))


def test_scorers_and_stages_must_be_equally_many(fields: Fields) -> None:
    fields["scorers"] = fields["scorers"][:3]

    assert "one entry per stage (4) or none, got 3" in _refused(json.dumps(fields))


@pytest.mark.parametrize("n_stages", [0, MAX_STAGES + 1])
def test_the_number_of_stages_is_limited(n_stages: int, fields: Fields) -> None:
    fields["stages"] = fields["stages"][:1] * n_stages
    fields["scorers"] = fields["scorers"][:1] * n_stages

    assert "`stages` must have 1 to 16" in _refused(json.dumps(fields))


def test_the_id_is_the_documented_hash(
    lite_bundle: Bundle, fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    assert lite_bundle.manifest.id == manifest_id(fields)
    assert lite_bundle.manifest.compute_id() == manifest_id(fields)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("map", "weight"), 0.06),
        (("score", "output"), "text_score"),
        (("score", "statistic"), "std"),
        (("condition", "input"), "words"),
        (("condition", "shape"), [32, 2]),
        (("preprocessing", "height"), 97),
        (("distance",), "cosine"),
        (("stages", 0, "tap"), "block3"),
        (("stages", 0, "grid"), [144, 1]),
        (("stages", 3, "width"), 63),
        (("files", "encoder.fp32.onnx", "sha256"), "0" * 64),
        (("files", "scorer_2.fp32.onnx", "sha256"), "0" * 64),
        (("id",), "0" * 64),
    ],
)
def test_whatever_decides_a_score_is_in_the_id(
    path: tuple[str | int, ...], value: object, fields: Fields
) -> None:
    _put(fields, path, value)

    assert "`id` must be the hash" in _refused(json.dumps(fields))


def test_weights_beside_a_graph_are_in_the_id(
    fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    """As the exporter writes them above protobuf's limit of 2 GiB."""
    ids = set()
    for digest in ("1" * 64, "2" * 64):
        fields["files"]["encoder.fp32.onnx.data"] = {"sha256": digest, "n_bytes": 1 << 31}
        fields["id"] = manifest_id(fields)
        ids.add(parse_manifest(json.dumps(fields)).id)

    assert len(ids) == 2
    fields["files"]["encoder.fp32.onnx.data"]["sha256"] = "3" * 64
    assert "`id` must be the hash" in _refused(json.dumps(fields))


def test_swapped_scorers_change_the_id(fields: Fields) -> None:
    fields["scorers"][0], fields["scorers"][2] = fields["scorers"][2], fields["scorers"][0]

    assert "`id` must be the hash" in _refused(json.dumps(fields))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("notes",), ["checked by hand"]), (("tools", "torch"), "9"), (("created",), "later")],
)
def test_what_is_for_people_may_change(
    path: tuple[str | int, ...], value: object, fields: Fields
) -> None:
    _put(fields, path, value)

    assert parse_manifest(json.dumps(fields)).id == fields["id"]


def test_unknown_fields_of_later_versions_are_ignored(fields: Fields) -> None:
    fields["colour"] = "green"

    assert parse_manifest(json.dumps(fields)).id == fields["id"]


def _with_variant(fields: Fields, manifest_id: Callable[[Fields], str]) -> Variant:
    """Give the manifest an fp16 encoder, signed as the documentation says."""
    fields["files"]["encoder.fp16.onnx"] = {"sha256": "ab" * 32, "n_bytes": 7}
    variant = {**_VARIANT, "encoder": "encoder.fp16.onnx", "kept_fp32": ["heads.0"]}
    variant["id"] = manifest_id({**fields, "encoder": "encoder.fp16.onnx"})
    fields["variants"] = {"fp16": variant}
    return Variant("encoder.fp16.onnx", str(variant["id"]), ("heads.0",), {}, {})


def test_a_variant_shows_the_manifest_as_its_precision_sees_it(
    fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    variant = _with_variant(fields, manifest_id)
    manifest = parse_manifest(json.dumps(fields))

    assert manifest.precisions == ("fp32", "fp16")
    assert manifest.view("fp32") is manifest
    view = manifest.view("fp16")
    assert (view.precision, view.encoder, view.id) == ("fp16", "encoder.fp16.onnx", variant.id)
    assert view.id == view.compute_id() != manifest.id
    assert view.scorers == manifest.scorers and view.parity == {}
    assert json.loads(manifest.to_json()) == fields


def test_a_precision_that_the_bundle_has_not_is_refused(
    fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    _with_variant(fields, manifest_id)
    manifest = parse_manifest(json.dumps(fields))

    with pytest.raises(UsageError, match="one of this bundle's, fp32, fp16, got 'int8'; add it"):
        manifest.view("int8")


def test_a_variant_with_another_id_or_without_its_file_is_refused(
    fields: Fields, manifest_id: Callable[[Fields], str]
) -> None:
    _with_variant(fields, manifest_id)
    fields["files"]["encoder.fp16.onnx"]["sha256"] = "cd" * 32
    assert "`variants.fp16.id` must be the hash" in _refused(json.dumps(fields))
    del fields["files"]["encoder.fp16.onnx"]
    assert "'encoder.fp16.onnx' is not" in _refused(json.dumps(fields))


def test_a_manifest_of_another_precision_than_fp32_is_refused(fields: Fields) -> None:
    fields["precision"] = "fp16"
    assert "`precision` must be fp32, others are `variants`" in _refused(json.dumps(fields))
