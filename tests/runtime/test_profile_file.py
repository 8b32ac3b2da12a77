import errno
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Profile
from cff_runtime import profile as profile_module
from cff_runtime.errors import ProfileError, ProfileMismatchError, StorageError, UsageError

Facts = dict[str, Any]
Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def profile_file(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


@pytest.fixture
def damage(profile_file: Path) -> Callable[..., Path]:
    """Return ``damage(facts=edit, tensors=edit)``, which rewrites the file after the edits."""

    def change(
        facts: Callable[[Facts], None] | None = None,
        tensors: Callable[[Tensors], None] | None = None,
    ) -> Path:
        with safe_open(profile_file, framework="numpy") as file:
            loaded: Facts = json.loads(file.metadata()["cff_profile"])
        content: Tensors = load_file(profile_file)
        if facts is not None:
            facts(loaded)
        if tensors is not None:
            tensors(content)
        save_file(content, profile_file, metadata={"cff_profile": json.dumps(loaded)})
        return profile_file

    return change


def _refused(path: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        Profile.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message and len(message) < 500
    assert message.endswith("; copy it again or enrol again")
    return message


def test_a_profile_comes_back_from_its_file(lite_profile: Profile, profile_file: Path) -> None:
    for path in (profile_file, str(profile_file)):
        loaded = Profile.load(path)

        for name in Profile.__dataclass_fields__:
            saved, found = getattr(lite_profile, name), getattr(loaded, name)
            if name in ("banks", "means"):
                for one, other in zip(saved, found, strict=True):
                    np.testing.assert_array_equal(one, other)
            elif name in ("condition", "reference_images"):
                np.testing.assert_array_equal(saved, found)
            else:
                assert found == saved, name


def test_the_file_holds_tensors_and_facts_as_documented(
    lite_profile: Profile, profile_file: Path
) -> None:
    tensors = load_file(profile_file)
    with safe_open(profile_file, framework="numpy") as file:
        facts = json.loads(file.metadata()["cff_profile"])

    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "references": (4, 96, 96, 3),
        "mean_0": (4, 25),
        "mean_1": (4, 41),
        "mean_2": (4, 64),
        "mean_3": (4, 64),
        "condition": (64, 2),
        "bank_0": (4 * 144, 25),
        "bank_1": (4 * 144, 41),
        "bank_2": (4 * 36, 64),
        "bank_3": (4 * 9, 64),
    }
    assert tensors.pop("references").dtype == np.uint8
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert facts["schema_version"] == 3
    assert facts["origin"]["precision"] == "fp32"
    assert [reference["size"] for reference in facts["references"]] == [[150, 120]] * 4
    assert facts["threshold"]["value"] == lite_profile.threshold.value
    assert facts["history"][0]["action"] == "enroll"


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_a_wrong_call(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "none.safetensors"

    with pytest.raises(UsageError, match="cff-run enroll"):
        Profile.load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(profile_file: Path) -> None:
    data = profile_file.read_bytes()
    for n_bytes in (0, 1, 7, 8, 9, 500, len(data) // 2, len(data) - 1):
        profile_file.write_bytes(data[:n_bytes])

        assert "complete safetensors file" in _refused(profile_file)


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).bytes(5000),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(1000),
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 4) + b"null",
    ],
)
def test_bytes_of_another_kind_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(data)

    assert "complete safetensors file" in _refused(path)


def test_a_file_with_bytes_behind_its_end_is_refused(profile_file: Path) -> None:
    profile_file.write_bytes(profile_file.read_bytes() + b"more")

    _refused(profile_file)


def test_safetensors_that_are_no_profile_are_refused(lite_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(load_file(lite_bundle.path / "text.safetensors"), path)
    assert "this safetensors file is none" in _refused(path)

    save_file({"weight": np.ones((2, 2))}, path, metadata={"format": "pt"})
    assert "this safetensors file is none" in _refused(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 200_000, "{'a': 1}"])
def test_metadata_that_is_no_json_object_is_refused(text: str, profile_file: Path) -> None:
    save_file(load_file(profile_file), profile_file, metadata={"cff_profile": text})

    assert "metadata must" in _refused(profile_file)


FACTS = (
    "schema_version",
    "product",
    "bundle_id",
    "origin",
    "references",
    "threshold",
    "display_range",
    "peak_scale",
    "condition_name",
    "product_limit",
    "settings",
    "compression",
    "history",
)
THRESHOLD_FACTS = (
    "value",
    "pixel_value",
    "method",
    "n_parts",
    "scores",
    "peaks",
    "expected_false_rejects",
    "statement",
)


def test_the_lists_of_facts_are_complete(lite_profile: Profile, profile_file: Path) -> None:
    with safe_open(profile_file, framework="numpy") as file:
        facts = json.loads(file.metadata()["cff_profile"])

    assert set(facts) == set(FACTS)
    assert set(facts["threshold"]) == set(asdict(lite_profile.threshold))
    # these two may be missing
    assert set(facts["threshold"]) == {*THRESHOLD_FACTS, "review", "card"}


@pytest.mark.parametrize("name", FACTS)
def test_a_missing_fact_is_named(name: str, damage: Callable[..., Path]) -> None:
    path = damage(facts=lambda facts: facts.pop(name))

    assert f"`{name}` must be present" in _refused(path)


@pytest.mark.parametrize("name", THRESHOLD_FACTS)
def test_a_missing_fact_of_the_threshold_is_named(name: str, damage: Callable[..., Path]) -> None:
    path = damage(facts=lambda facts: facts["threshold"].pop(name))

    assert f"`{name}` must be present" in _refused(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema_version", "1"),
        ("schema_version", True),
        ("schema_version", 1),
        ("schema_version", 2),
        ("schema_version", 4),
        ("product", 5),
        ("bundle_id", None),
        ("origin", "fp32"),
        ("references", []),
        ("references", {"0": {}}),
        ("references", [None] * 4),
        ("references", [{}] * 3),
        ("product_limit", float("nan")),
        ("product_limit", "12"),
        ("settings", [0.25]),
        ("compression", "greedy"),
        ("compression", False),
        ("threshold", [0.5]),
        ("threshold", 0.5),
        ("display_range", [0.1]),
        ("display_range", [0.1, 0.2, 0.3]),
        ("display_range", ["0", "1"]),
        ("display_range", [False, True]),
        ("display_range", [0.5, 0.5]),
        ("display_range", [0.7, 0.2]),
        ("display_range", [0.1, float("nan")]),
        ("display_range", [0.1, float("inf")]),
        ("display_range", [0, 10**400]),
        ("display_range", {"low": 0, "high": 1}),
        ("peak_scale", "1"),
        ("peak_scale", float("nan")),
        ("peak_scale", 10**400),
        ("condition_name", 1),
        ("history", "enrolled"),
        ("history", ["enrolled"]),
        ("history", [None]),
    ],
)
def test_a_wrong_fact_is_named(name: str, value: object, damage: Callable[..., Path]) -> None:
    path = damage(facts=lambda facts: facts.update({name: value}))

    assert f"`{name}`" in _refused(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", "0.5"),
        ("value", None),
        ("value", float("nan")),  # nothing is above NaN: every part would pass
        ("value", float("inf")),
        ("value", 10**400),
        ("pixel_value", float("nan")),
        ("method", 1),
        ("n_parts", 4.5),
        ("scores", 0.5),
        ("scores", ["0.5"]),
        ("scores", [True]),
        ("scores", [float("nan")]),
        ("peaks", [None]),
        ("expected_false_rejects", float("nan")),
        ("statement", None),
    ],
)
def test_a_wrong_fact_of_the_threshold_is_named(
    name: str, value: object, damage: Callable[..., Path]
) -> None:
    path = damage(facts=lambda facts: facts["threshold"].update({name: value}))

    assert f"`{name}`" in _refused(path)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("origin", "precision", None),
        ("origin", "encoder_sha256", 5),
        ("origin", "preprocessing", [96, 96]),
        ("origin", "preprocessing", {"height": 96}),
        ("origin", "preprocessing", {"height": 96, "width": "96"}),
        ("origin", "distance", None),
        ("origin", "map_weight", float("nan")),
        ("origin", "score_statistic", 1),
        ("references", "name", 7),
        ("references", "sha256", None),
        ("references", "added", 0),
        ("references", "size", [150]),
        ("references", "size", [150, 0]),
        ("references", "size", [150.0, 120]),
        ("settings", "margin", "0.25"),
        ("settings", "margin", float("inf")),
    ],
)
def test_a_wrong_fact_inside_is_named(
    place: str, name: str, value: object, damage: Callable[..., Path]
) -> None:
    def edit(facts: Facts) -> None:
        inner = facts[place][1] if place == "references" else facts[place]
        inner[name] = value

    missing = "width" if value == {"height": 96} or value == {"height": 96, "width": "96"} else name
    assert f"`{missing}`" in _refused(damage(facts=edit))


def test_a_profile_of_the_first_schema_says_what_it_lacks(damage: Callable[..., Path]) -> None:
    message = _refused(damage(facts=lambda facts: facts.update(schema_version=1)))

    assert "earlier version" in message and "enrol again" in message


def test_whole_numbers_pass_for_floats(damage: Callable[..., Path]) -> None:
    path = damage(facts=lambda facts: facts["threshold"].update(value=1, review=1, scores=[1, 0]))

    threshold = Profile.load(path).threshold

    assert threshold.value == 1.0 and type(threshold.value) is float
    assert threshold.scores == (1.0, 0.0)


def _set(name: str, value: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name] = value(tensors[name].copy())

    return edit


def _with(place: tuple[int, int], value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def edit(tensor: NDArray[Any]) -> NDArray[Any]:
        tensor[place] = value
        return tensor

    return edit


def _longer_row(tensor: NDArray[Any]) -> NDArray[Any]:
    tensor[7] *= 1.01
    return tensor


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_set("bank_1", lambda t: t.astype(np.float64)), "`bank_1` must be a float32 matrix"),
        (_set("bank_1", lambda t: t.astype(np.float16)), "`bank_1` must be a float32 matrix"),
        (_set("bank_1", lambda t: t.astype(np.int32)), "`bank_1` must be a float32 matrix"),
        (_set("bank_1", lambda t: t.reshape(-1)), "`bank_1` must be a float32 matrix"),
        (_set("bank_1", lambda t: t[None]), "`bank_1` must be a float32 matrix"),
        (_set("bank_1", lambda t: t[:0]), "rows of `bank_1` must have unit length"),
        (_set("bank_1", lambda t: t[:, :0]), "rows of `bank_1` must have unit length"),
        (_set("bank_1", _with((5, 3), np.nan)), "rows of `bank_1` must have unit length"),
        (_set("bank_1", _with((5, 3), np.inf)), "rows of `bank_1` must have unit length"),
        (_set("bank_3", lambda t: 0 * t), "rows of `bank_3` must have unit length"),
        (_set("bank_3", lambda t: 2 * t), "rows of `bank_3` must have unit length"),
        (_set("bank_0", _longer_row), "rows of `bank_0` must have unit length"),
        (_set("condition", _with((0, 0), np.nan)), "`condition` must be finite"),
        (_set("condition", _with((0, 0), -np.inf)), "`condition` must be finite"),
        (_set("condition", lambda t: t[:, 0].copy()), "`condition` must be a float32 matrix"),
        (_set("condition", lambda t: t.astype(np.float64)), "`condition` must be a float32 matrix"),
        (lambda tensors: tensors.pop("condition"), "tensors must be `condition`, `references`"),
        (lambda tensors: tensors.pop("references"), "tensors must be `condition`, `references`"),
        (lambda tensors: tensors.pop("mean_1"), "tensors must be `condition`, `references`"),
        (_set("references", lambda t: t[:3].copy()), "an image of every entry of `references`"),
        (_set("references", lambda t: t[:, :95].copy()), "an image of every entry"),
        (_set("references", lambda t: t.astype(np.int8)), "`references` must be uint8 [K,H,W,3]"),
        (_set("references", lambda t: t[..., :1].copy()), "`references` must be uint8 [K,H,W,3]"),
        (_set("references", lambda t: t[0].copy()), "`references` must be uint8 [K,H,W,3]"),
        (_set("mean_1", lambda t: t[:3].copy()), "`mean_s` must have a row of each of 4"),
        (_set("mean_1", lambda t: 2 * t), "rows of `mean_1` must have unit length"),
        (lambda tensors: tensors.pop("bank_1"), "tensors must be `condition`, `references`"),
        (lambda tensors: tensors.update(bank_9=tensors["bank_0"]), "tensors must be"),
        (lambda tensors: tensors.update(extra=tensors["bank_0"]), "tensors must be"),
        (lambda t: [t.pop(f"mean_{s}") for s in range(4)], "tensors must be"),
        (
            lambda t: t.update({f"bank_{s}": t["bank_3"].copy() for s in range(4, 17)}),
            "tensors must be",
        ),
    ],
)
def test_wrong_tensors_are_named(
    edit: Callable[[Tensors], None], expected: str, damage: Callable[..., Path]
) -> None:
    assert expected in _refused(damage(tensors=edit))


def _raw_file(
    path: Path, entries: dict[str, Any], n_bytes: int, facts: str = '{"schema_version": 3}'
) -> None:
    header = json.dumps({"__metadata__": {"cff_profile": facts}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + n_bytes)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "BF16", "BOOL", "U64", "C64"])
def test_types_that_numpy_may_lack_are_refused(kind: str, tmp_path: Path) -> None:
    n_bytes = {"BF16": 8, "U64": 32, "C64": 32}.get(kind, 4)
    entry = {"dtype": kind, "shape": [2, 2], "data_offsets": [0, n_bytes]}
    _raw_file(tmp_path / "file", {"bank_0": entry}, n_bytes)

    assert f"got {kind} [2, 2]" in _refused(tmp_path / "file")


@pytest.mark.parametrize(
    "shape", [[1 << 40, 1 << 40], [1 << 62, 0], [1 << 63, 0], [-1, 2], [2**70, 0]]
)
def test_shapes_beyond_any_memory_are_refused(shape: list[int], tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    _raw_file(tmp_path / "file", {"bank_0": entry}, 0)

    _refused(tmp_path / "file")


def test_banks_beyond_all_measure_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profile_module.MAX_BANK_BYTES == 16 * 2**30
    monkeypatch.setattr(profile_module, "MAX_BANK_BYTES", 1 << 20)
    for n_rows, expected in ((1 << 17, "tensors must be"), ((1 << 17) + 1, "at most 1048576")):
        entry = {"dtype": "F32", "shape": [n_rows, 2], "data_offsets": [0, 8 * n_rows]}
        _raw_file(tmp_path / "file", {"bank_0": entry}, 8 * n_rows)

        assert expected in _refused(tmp_path / "file")


def test_rows_within_rounding_of_unit_length_are_accepted(damage: Callable[..., Path]) -> None:
    path = damage(tensors=_set("bank_0", lambda tensor: (tensor * 1.0005).astype(np.float32)))

    assert Profile.load(path).banks[0].shape == (576, 25)


def test_its_own_bundle_accepts_a_profile(lite_profile: Profile, lite_bundle: Bundle) -> None:
    lite_profile.require_bundle(lite_bundle.manifest)


def test_another_bundle_refuses_a_profile(lite_profile: Profile, lite_bundle: Bundle) -> None:
    other = replace(lite_bundle.manifest, id="f" * 64)

    with pytest.raises(ProfileMismatchError, match=r"`ring` belongs to bundle .*; enrol") as caught:
        lite_profile.require_bundle(other)

    assert lite_profile.bundle_id[:12] in str(caught.value)
    assert "ffffffffffff" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: {"banks": p.banks[:3]}, r"widths \[25, 41, 64, 64\], got \[25, 41, 64\]"),
        (lambda p: {"banks": p.banks[::-1]}, r"got \[64, 64, 41, 25\]"),
        (lambda p: {"condition": p.condition[:32]}, r"shape \(64, 2\), got \(32, 2\)"),
    ],
)
def test_shapes_must_fit_the_bundle(
    change: Callable[[Profile], Facts],
    expected: str,
    lite_profile: Profile,
    lite_bundle: Bundle,
) -> None:
    forged = replace(lite_profile, **change(lite_profile))

    with pytest.raises(ProfileMismatchError, match=expected):
        forged.require_bundle(lite_bundle.manifest)


@pytest.mark.parametrize("step", ["write_bytes", "fsync"])
def test_a_full_disk_leaves_the_old_profile(
    step: str, lite_profile: Profile, profile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = profile_file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)

    with pytest.raises(StorageError, match="No space left"):
        replace(lite_profile, product="other").save(profile_file)

    monkeypatch.undo()
    assert profile_file.read_bytes() == before
    assert list(profile_file.parent.iterdir()) == [profile_file]
    assert Profile.load(profile_file).product == "ring"


def test_banks_need_not_be_contiguous_to_be_saved(lite_profile: Profile, tmp_path: Path) -> None:
    strided = tuple(np.asfortranarray(bank)[::2] for bank in lite_profile.banks)

    replace(lite_profile, banks=strided).save(tmp_path / "half")

    for saved, bank in zip(Profile.load(tmp_path / "half").banks, lite_profile.banks, strict=True):
        np.testing.assert_array_equal(saved, bank[::2])


def test_the_schema_version_is_the_documented_one() -> None:
    assert profile_module.SCHEMA_VERSION == 3
