"""Exporting a bundle: the gate, all or nothing, the facts in the manifest."""

import copy
import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from PIL import Image

import cff_export
from cff_edge.config import load_config
from cff_export import (
    ExportSettings,
    cff_subject,
    export_bundle,
    exporter,
    graph_files,
    head_chains,
)
from cff_export.head_chains import fold_head
from cff_export.passes import Linear, PassResult, StageChain, fold_affine
from cff_runtime import Bundle, Inspector
from cff_runtime.errors import CffError, CheckpointError, ParityError, StorageError, UsageError
from cff_runtime.parity import ParityLimits

Exporting = Callable[..., Bundle]


@pytest.fixture
def case(exported: Callable[..., Any]) -> Any:
    """The bundle of a tiny vision transformer with affine calibrators."""
    return exported("vit", "affine")


@pytest.fixture
def export(case: Any, replay: Callable[[Bundle], None]) -> Exporting:
    """Return ``export(out, **settings)``; it does all of an export but trace the model."""
    replay(case.bundle)

    def run(out: Path, **settings: Any) -> Bundle:
        return export_bundle(
            case.backbone, case.head, case.config, out, ExportSettings(**settings), ["ring"]
        )

    return run


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- the gate


def test_a_slightly_wrong_fold_is_found_and_nothing_is_written(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = iter(range(4))

    def wrong(chain: StageChain) -> PassResult:
        result = fold_affine(chain)
        if next(stages) != 2:
            return result
        (layer,) = result.chain.layers
        assert isinstance(layer, Linear)
        weight = layer.weight.copy()
        weight[3, 5] += 1e-2 * np.abs(weight).max()
        changed = StageChain((Linear(weight, layer.bias),))
        return PassResult(changed, True, result.reason)

    target = tmp_path / "bundle"
    shutil.copytree(case.bundle.path, target)
    before = _content(target)
    monkeypatch.setitem(head_chains.PASSES, "fold_affine", wrong)
    with pytest.raises(ParityError, match="left the parity gate: features of stage 2 differ") as e:
        export_bundle(case.backbone, case.head, case.config, target, ExportSettings(replace=True))
    assert "stage 0" not in str(e.value)
    assert "stage 1" not in str(e.value)
    assert _content(target) == before  # the old bundle stands
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    Bundle.open(target)


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        # the input normalisation is folded into it
        ("trunk.visual.conv1.weight", 1.02, "features of stage 0 differ by"),
        ("heads.1.0.bias", 1.1, "features of stage 1 differ by"),
        ("heads.3.0.bias", np.nan, "must be finite, got nan"),
        ("difference", 1.01, r"encoder's map differs by .*; encoder's score differs by"),
        ("up_y_0", 1.05, "encoder's map differs by"),
        ("trunk.visual.proj", 1.1, "encoder's score differs by"),
    ],
)
def test_every_part_of_the_graph_is_under_the_gate(
    case: Any,
    export: Exporting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    scale: float,
    message: str,
) -> None:
    model = ir.load(case.bundle.path / case.bundle.manifest.encoder)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[: len(array) // 2] *= scale
    value.const_value = ir.Tensor(array, name=name)
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: SimpleNamespace(model=model))
    with pytest.raises(CffError, match=message):
        export(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "factor"), [("scale", 1.01), ("shift", 0.98)])
def test_a_wrong_normalisation_constant_is_found(
    exported: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    factor: float,
) -> None:
    case = exported("lite", "affine")
    model = ir.load(case.bundle.path / case.bundle.manifest.encoder)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = (value.const_value.numpy() * factor).astype(np.float32)
    value.const_value = ir.Tensor(array, name=name)
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: SimpleNamespace(model=model))
    with pytest.raises(ParityError, match="features of stage 0 differ by"):
        export_bundle(case.backbone, case.head, case.config, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_head_of_nan_is_refused(case: Any, tmp_path: Path) -> None:
    head = copy.deepcopy(case.head)
    head.projectors[1].weight.data[2, 3] = np.nan
    with pytest.raises(
        CheckpointError, match=r"`projectors\.1\.weight` of the trained model must be finite"
    ):
        export_bundle(case.backbone, head, case.config, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_wrong_basis_is_found(
    exported: Callable[..., Any],
    replay: Callable[[Bundle], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = exported("lite", "affine")
    replay(case.bundle)

    def wrong(head: Any) -> Any:
        chains, records = fold_head(head)
        basis = chains[1].basis
        assert basis is not None
        basis = np.linalg.qr(basis + 0.05 * np.random.default_rng(0).normal(size=basis.shape))[0]
        chains[1] = dataclasses.replace(chains[1], basis=basis)
        return chains, records

    monkeypatch.setattr(cff_subject, "fold_head", wrong)
    with pytest.raises(ParityError, match="features of stage 1 leave the folded space"):
        export_bundle(case.backbone, case.head, case.config, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("diff", [2e-4, float("nan")])
def test_an_image_must_not_depend_on_its_batch(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diff: float
) -> None:
    monkeypatch.setattr(exporter, "batch_position_diff", lambda *_: diff)
    with pytest.raises(ParityError, match=r"an image's answers change by .* with its batch"):
        export(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_limits_can_be_chosen(export: Exporting, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"features of stage 0 differ by .* at most 1e-12"):
        export(tmp_path / "bundle", limits=ParityLimits(features=1e-12))
    assert not list(tmp_path.iterdir())


# --- all or nothing


def test_an_existing_target_is_refused(export: Exporting, case: Any, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(case.bundle.path, target)
    before = _content(target)
    with pytest.raises(UsageError, match=r"must not exist yet; .*`--replace`"):
        export(target)
    assert _content(target) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="must be a bundle to be replaced, it is something else"):
        export(tmp_path / "photos", replace=True)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="must be a bundle to be replaced"):
        export(tmp_path / "file", replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file", "photos"]
    assert (tmp_path / "photos" / "mine.png").exists()


def test_replace_replaces(export: Exporting, case: Any, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(case.bundle.path, target)
    (target / "left_over.txt").write_text("old")
    bundle = export(target, replace=True, text_weight=0.25)
    assert bundle.manifest.map.weight == 0.25
    assert bundle.manifest.id != case.bundle.manifest.id
    assert not (target / "left_over.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [
        (Path, "write_bytes"),  # the text vectors, the first file of all
        (ir, "save"),  # the encoder
        (onnx, "save"),  # a scorer
        (Image.Image, "save"),  # a golden image
        (exporter, "note_parity"),  # the parity report
    ],
    ids=["text", "encoder", "scorer", "golden image", "report"],
)
@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    export: Exporting,
    case: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    attribute: str,
    replace: bool,
) -> None:
    target = tmp_path / "bundle"
    if replace:
        shutil.copytree(case.bundle.path, target)
    before = _content(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, _no_space)
        with pytest.raises(StorageError, match="could not be written: No space left on device"):
            export(target, replace=replace)
    assert _content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if replace else [])


def test_the_old_bundle_comes_back_if_the_new_one_cannot_take_its_place(
    export: Exporting, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(case.bundle.path, target)
    before = _content(tmp_path)
    rename = Path.rename

    def fail_for_the_new(path: Path, goal: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, goal)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_for_the_new)
        with pytest.raises(StorageError, match="Input/output error; nothing was left behind"):
            export(target, replace=True)
    assert _content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_file_in_the_way_is_a_storage_error(export: Exporting, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="bundle` could not be written"):
        export(tmp_path / "file" / "bundle")


def test_an_interruption_leaves_nothing_behind(
    export: Exporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "verify_bundle", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_text_weight_must_be_one(export: Exporting, tmp_path: Path, weight: float) -> None:
    with pytest.raises(UsageError, match="`text_weight` must be 0 or more and finite"):
        export(tmp_path / "bundle", text_weight=weight)
    assert not list(tmp_path.iterdir())


# --- facts


def test_manifest_names_every_file_with_its_hash(case: Any) -> None:
    manifest = json.loads((case.bundle.path / "manifest.json").read_text())
    written = _content(case.bundle.path)
    del written["manifest.json"]
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == written
    for name, entry in manifest["files"].items():
        assert (case.bundle.path / name).stat().st_size == entry["n_bytes"]
    assert "golden/golden_2.png" in written
    assert json.loads((case.bundle.path / "parity.json").read_text()) == {
        "fp32": manifest["parity"]
    }


def test_manifest_states_the_backbone(case: Any, lite_bundle: Bundle) -> None:
    vit, lite = case.bundle.manifest, lite_bundle.manifest
    assert (vit.backbone["activation"], lite.backbone["activation"]) == ("gelu", "relu6")
    assert vit.backbone["weights"] == "random"
    assert vit.backbone["weights_sha256"] == case.backbone.info.weights_sha256
    assert (vit.licences, lite.licences) == ({"backbone": "unknown"}, {"backbone": "Apache-2.0"})
    assert (vit.score.output, lite.score.output) == ("text_score", None)
    assert [stage.grid for stage in vit.stages] == [(4, 4)] * 4
    assert [stage.grid for stage in lite.stages] == [(12, 12), (12, 12), (6, 6), (3, 3)]
    assert (vit.head["bank"], lite.head["bank"]) == ("calibrated", "calibrated")
    assert (vit.precision, vit.condition.shape, vit.preprocessing.width) == ("fp32", (32, 2), 64)


def test_notes_warn_of_random_weights_and_training_images(case: Any, lite_bundle: Bundle) -> None:
    random, licence = case.bundle.manifest.notes
    assert random.startswith("random backbone weights: for latency and parity only")
    assert licence.startswith("the head was trained on images of the products in")
    assert case.bundle.manifest.head["trained_on"] == ["ring"]
    assert lite_bundle.manifest.notes == ()
    assert lite_bundle.manifest.head["trained_on"] == []


def test_manifest_lists_every_pass_with_its_reason(case: Any, lite_bundle: Bundle) -> None:
    for manifest in (case.bundle.manifest, lite_bundle.manifest):
        names = [entry["pass"] for entry in manifest.passes]
        assert names == ["fold_affine", "fold_mlp", "fold_rank"] * 4 + [
            "fold_normalization",
            "fold_text",
            "split_attention",
            "order_gelu",
            "drop_unused",
        ]
        assert all(entry["reason"] for entry in manifest.passes)
        applied = {entry["pass"] for entry in manifest.passes if entry["applied"]}
        assert {"fold_affine", "fold_normalization", "fold_text"} <= applied
        assert "fold_mlp" not in applied
    reasons = [
        {entry["reason"] for entry in m.passes}
        for m in (case.bundle.manifest, lite_bundle.manifest)
    ]
    assert "folded into the stem convolution" in reasons[0]
    assert "width 48 + 1 is not below the joint dimension 32" in reasons[0]
    assert "the stem pads: kept as one multiply-add" in reasons[1]
    assert "64 dimensions kept as 25" in reasons[1]


def test_parity_is_written_down(case: Any) -> None:
    parity = case.bundle.manifest.parity
    assert parity["passed"] is True
    assert parity["n_images"] == 8
    assert parity["failures"] == []
    assert len(parity["feature_max_diff"]) == 4
    assert max(parity["feature_max_diff"]) <= parity["limits"]["features"] == 1e-4
    assert min(parity["feature_min_cosine"]) > 0.9999
    assert 0 <= parity["batch_position_max_diff"] <= 1e-4
    assert parity["verdict_flips"] == 0


def test_tools_and_time_are_written_down(case: Any) -> None:
    manifest = case.bundle.manifest
    assert set(manifest.tools) >= {"torch", "onnx", "onnxruntime", "numpy", "pillow", "cff-edge"}
    assert manifest.created.endswith("+00:00")


def test_text_vectors_of_every_name_are_carried(
    exported: Callable[..., Any], replay: Callable[[Bundle], None], tmp_path: Path
) -> None:
    case = exported("lite", "affine")
    replay(case.bundle)
    names = ("bottle", "object", "bottle", "metal_nut")
    settings = ExportSettings(text_names=names)
    bundle = export_bundle(case.backbone, case.head, case.config, tmp_path / "b", settings)
    assert bundle.manifest.condition.names == ("object", "bottle", "metal_nut")
    for name in bundle.manifest.condition.names:
        expected = case.backbone.text_vectors(name).numpy()
        assert np.array_equal(bundle.condition_of_word(name), expected)


def test_id_follows_what_decides_a_score_and_nothing_else(
    export: Exporting, case: Any, tmp_path: Path
) -> None:
    same = export(tmp_path / "same")
    assert same.manifest.id == case.bundle.manifest.id
    other = export(tmp_path / "other", text_weight=0.9)
    assert other.manifest.id != case.bundle.manifest.id


def test_another_distance_makes_another_bundle_of_the_same_graphs(
    case: Any, replay: Callable[[Bundle], None], tmp_path: Path
) -> None:
    replay(case.bundle)
    head = dataclasses.replace(case.config.head, distance="log")
    config = dataclasses.replace(case.config, head=head)
    bundle = export_bundle(case.backbone, case.head, config, tmp_path / "log", ExportSettings())
    found, before = bundle.manifest, case.bundle.manifest
    assert (before.distance, found.distance) == ("cosine", "log")
    assert found.id != before.id
    assert found.files[found.encoder] == before.files[before.encoder]
    # the gate holds the runtime's maps against golden ones in float64; they are others now
    assert found.parity["passed"] is True
    before_map, found_map = (b.tensors(b.manifest.golden)["map_2"] for b in (case.bundle, bundle))
    assert (found_map > before_map + 1.0).any()


def test_default_text_weight_is_that_of_training(case: Any, lite_bundle: Bundle) -> None:
    assert case.bundle.manifest.map.weight == 1.0
    assert lite_bundle.manifest.map.weight == load_config().head.text_weight < 1.0


def test_weights_beside_the_graph_are_part_of_the_bundle(
    export: Exporting,
    case: Any,
    tmp_path: Path,
    photos: dict[str, NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph_files, "MAX_SINGLE_FILE_BYTES", 100_000)
    bundle = export(tmp_path / "bundle")
    name = f"{bundle.manifest.encoder}.data"
    assert bundle.manifest.files[name].n_bytes == (bundle.path / name).stat().st_size > 100_000
    assert bundle.manifest.id != case.bundle.manifest.id
    answers = []
    for path in (bundle.path, case.bundle.path):
        inspector = Inspector.open(path)
        profile = inspector.enroll([photos["face"]], "face")
        answers.append(inspector.inspect(photos["coffee"], profile))
    np.testing.assert_array_equal(answers[0].anomaly_map, answers[1].anomaly_map)
    assert answers[0].verdict == answers[1].verdict
    damaged = bytearray((bundle.path / name).read_bytes())
    damaged[5000] ^= 1
    (bundle.path / name).write_bytes(bytes(damaged))
    with pytest.raises(CffError, match=r"\.data` must have the SHA-256 of the manifest"):
        Inspector.open(bundle.path)


def test_exports_are_sorted_and_importable() -> None:
    assert cff_export.__all__ == sorted(cff_export.__all__)
    assert list(cff_export._MODULE_OF) == cff_export.__all__
    assert all(getattr(cff_export, name).__name__ == name for name in cff_export.__all__)
    with pytest.raises(AttributeError, match="module 'cff_export' has no attribute 'Exporter'"):
        _ = cff_export.Exporter
