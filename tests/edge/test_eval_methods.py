"""Methods: recognised by what they are, and judged alike whether in PyTorch or exported."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import CONFIG_NAME, save_head
from cff_edge.config import load_config
from cff_edge.datasets import load_mask, read_dataset
from cff_edge.evaluation.cells import Cell, CellResult
from cff_edge.evaluation.context import Context, choose_references, read_datasets
from cff_edge.evaluation.methods import MethodSpec, Task, open_method, parse_method
from cff_edge.evaluation.runner import make_task, run_cell, warnings_of
from cff_edge.heads import Head
from cff_runtime import Bundle
from cff_runtime.errors import CheckpointError, DatasetError, UsageError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing

Array = NDArray[np.float64]
SIZE_PX = 96
RAW = ("backbone.image_size=96", "train.device=cpu")


def make_context(root: Path, out: Path, *methods: MethodSpec, **changes: Any) -> Context:
    datasets = read_datasets([root])
    shots = changes.pop("shots", (1, 2))
    references, seeds = choose_references(datasets, shots, changes.pop("n_seeds", 2), None, None)
    context = Context(
        methods=methods,
        datasets=datasets,
        references=references,
        shots=shots,
        seeds=seeds,
        image_score="deployable",
        out=out,
        cache=out / "cache",
        command=("cff-eval",),
    )
    return dataclasses.replace(context, **changes)


def test_kinds_are_recognised(lite_run: Path, lite_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "peer" / "data" / "ring" / "k1_seed0"
    folder.mkdir(parents=True)
    (folder / "predictions.json").write_text("{}")
    kinds = {"run": lite_run, "bundle": lite_bundle.path, "predictions": tmp_path / "peer"}
    for kind, path in kinds.items():
        spec = parse_method(f"a-1.b_c={path}", ["head.text_weight=0"])
        assert (spec.name, spec.kind, spec.path) == ("a-1.b_c", kind, str(path))
        assert spec.overrides == (("head.text_weight=0",) if kind == "run" else ())
    assert parse_method("x=raw").kind == "raw"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cff", "must be NAME=PATH or NAME=raw, got 'cff'"),
        ("cff=", "must be NAME=PATH or NAME=raw"),
        ("=raw", "the name of a method must be of letters"),
        ("a/b=raw", "the name of a method must be of letters"),
        ("..=raw", "the name of a method must be of letters"),
        ("-a=raw", "the name of a method must be of letters"),
        ("ä=raw", "the name of a method must be of letters"),
        ("a b=raw", "the name of a method must be of letters"),
        ("mask=raw", "the name of a method must be of letters"),
        ("a=/absent", "must be a run of cff-train, .* there is no such folder"),
        ("a=/etc", "must be a run of cff-train, .* it is none of these"),
    ],
)
def test_what_is_no_method_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_method(text)


def test_a_run_without_a_head_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text(load_config(None, ["model.name=tfa-net"]).to_toml())
    with pytest.raises(UsageError, match="got one of tfa-net; export it with `cff-export`"):
        parse_method(f"a={tmp_path}")


def test_a_changed_run_has_another_identity(lite_run: Path, tmp_path: Path) -> None:
    shutil.copytree(lite_run, tmp_path / "run")
    before = parse_method(f"a={tmp_path / 'run'}")
    cell = Cell("a", "data", "ring", 1, 0)
    sha256 = open_method(before, tmp_path).facts(cell)["sha256"]
    heavier = parse_method(f"a={tmp_path / 'run'}", ["head.text_weight=0.5"])
    assert open_method(heavier, tmp_path).facts(cell)["sha256"] != sha256
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text() + "\n")
    assert parse_method(f"a={tmp_path / 'run'}") != before
    same = open_method(parse_method(f"a={tmp_path / 'run'}"), tmp_path).facts(cell)
    assert same["sha256"] == sha256  # a blank line decides nothing


@pytest.mark.parametrize("kind", ["run", "raw"])
def test_another_distance_is_told_and_another_identity(
    kind: str, lite_run: Path, tmp_path: Path
) -> None:
    text, overrides = (f"a={lite_run}", ()) if kind == "run" else ("a=raw", RAW)
    cell = Cell("a", "data", "ring", 1, 0)
    default, *others = (
        open_method(parse_method(text, (*overrides, *change)), tmp_path).facts(cell)
        for change in ((), ("head.distance=log",), ("head.distance=cosine",))
    )
    assert [facts["distance"] for facts in (default, *others)] == ["log", "log", "cosine"]
    assert default["sha256"] == others[0]["sha256"] != others[1]["sha256"]


def test_overrides_that_do_not_fit_a_run_are_refused(lite_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be"):
        open_method(parse_method(f"a={lite_run}", ["backbone.image_size=64"]), tmp_path)
    with pytest.raises(UsageError, match="must be known"):
        open_method(parse_method(f"a={lite_run}", ["head.weight=1"]), tmp_path)


def test_a_run_and_its_bundle_agree(
    lite_run: Path, lite_bundle: Bundle, tiny_dataset: Path, tmp_path: Path
) -> None:
    torch_spec = parse_method(f"torch={lite_run}")
    onnx_spec = parse_method(f"onnx={lite_bundle.path}")
    context = make_context(tiny_dataset, tmp_path, torch_spec, onnx_spec)
    for product in ("ring", "washer"):
        task, _ = make_task(context, Cell("torch", "data", product, 2, 1))
        a = open_method(torch_spec, tmp_path).judge(task)
        b = open_method(onnx_spec, tmp_path).judge(task)
        assert a.maps.shape == b.maps.shape == (len(task.images), SIZE_PX, SIZE_PX)
        # the cache keeps tokens in half precision: 11 bits, over maps of 0 to 8
        assert np.abs(a.maps - b.maps).max() < 4e-3
        assert np.abs(a.scores - b.scores).max() < 4e-3
        assert a.image_score == b.image_score == "peak"
        assert a.maps.std() > 0.05
    results = [run_cell(context, Cell(name, "data", "ring", 1, 0)) for name in ("torch", "onnx")]
    for name, value in results[0].metrics.items():
        assert results[1].metrics[name] == pytest.approx(value, abs=5e-3)


def _tokens(backbone: Backbone, path: Path) -> list[Array]:
    """Unit tokens of an image, rounded to half precision as the cache does."""
    image = Preprocessing(SIZE_PX, SIZE_PX)(load_image(path)).astype(np.float32)
    pixels = (image - np.array(backbone.info.mean)) / np.array(backbone.info.std)
    with torch.no_grad():
        stages, _ = backbone.module(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
    tokens = [stage[0].numpy().astype(np.float16).astype(np.float64) for stage in stages]
    return [stage / np.linalg.norm(stage, axis=1, keepdims=True) for stage in tokens]


def _upsampled(grid: Array) -> Array:
    rows = np.linspace(0, grid.shape[0] - 1, SIZE_PX)
    columns = np.linspace(0, grid.shape[1] - 1, SIZE_PX)
    return np.asarray(map_coordinates(grid, np.meshgrid(rows, columns, indexing="ij"), order=1))


def _brute_force_map(
    backbone: Backbone, references: list[Path], image: Path, distance: str
) -> Array:
    """Sum over the stages of 1 - cosine to the nearest token of any reference, in float64."""
    banks = [np.concatenate(s) for s in zip(*(_tokens(backbone, p) for p in references))]  # noqa: B905
    total = np.zeros((SIZE_PX, SIZE_PX))
    for tokens, bank, stage in zip(_tokens(backbone, image), banks, backbone.info.stages):  # noqa: B905
        plane = (1.0 - tokens @ bank.T).min(axis=1).reshape(stage.grid)
        total += _upsampled(np.log(1.0 + plane / 0.01) if distance == "log" else plane)
    return total


@pytest.mark.parametrize(("distance", "tolerance"), [("cosine", 2e-5), ("log", 1e-3)])
def test_a_raw_cell_equals_brute_force(
    lite_backbone: Backbone, tiny_dataset: Path, tmp_path: Path, distance: str, tolerance: float
) -> None:
    raw = parse_method("raw=raw", (*RAW, f"head.distance={distance}"))
    context = make_context(tiny_dataset, tmp_path, raw)
    result = run_cell(context, Cell("raw", "data", "ring", 2, 1))
    samples = read_dataset(tiny_dataset).of("ring").select(split="test")
    assert result.images == tuple(s.path.relative_to(tiny_dataset).as_posix() for s in samples)
    assert result.labels == tuple(s.defect != "good" for s in samples)
    assert len(result.references) == 2
    references = [tiny_dataset / name for name in result.references]
    maps = np.stack(
        [_brute_force_map(lite_backbone, references, s.path, distance) for s in samples]
    )
    np.testing.assert_allclose(result.scores, maps.max(axis=(1, 2)), atol=tolerance)
    masks = np.stack([load_mask(s, SIZE_PX, SIZE_PX) for s in samples]).ravel()
    pixels = maps.ravel()
    labels, scores = np.array(result.labels), maps.max(axis=(1, 2))
    expected = {
        "pixel_auroc": roc_auc_score(masks, pixels),
        "pixel_ap": average_precision_score(masks, pixels),
        "pixel_f1_max": _f1_max(masks, pixels),
        "image_auroc": roc_auc_score(labels, scores),
        "image_ap": average_precision_score(labels, scores),
        "image_f1_max": _f1_max(labels, scores),
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, abs=1e-4), name
    assert 0.5 < result.metrics["pixel_ap"] < 1.0  # a figure that could be wrong


def _f1_max(truth: NDArray[np.bool_], values: Array) -> float:
    precision, recall, _ = precision_recall_curve(truth, values)
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(2 * precision * recall / (precision + recall)))


def test_an_untrained_head_gives_what_raw_features_give(tiny_dataset: Path, tmp_path: Path) -> None:
    """Orthonormal projectors into more dimensions keep every cosine."""
    wide = load_backbone("efficientnet-lite0", "imagenet", SIZE_PX, joint_dim=384)
    torch.manual_seed(0)
    head = Head([stage.width for stage in wide.info.stages], 384, "affine", "orthonormal")
    config = load_config(None, (*RAW, "backbone.joint_dim=384", "head.text_weight=0"))
    save_head(tmp_path / "run", head, wide.info, [])
    (tmp_path / "run" / CONFIG_NAME).write_text(config.to_toml())
    specs = parse_method("raw=raw", RAW), parse_method(f"run={tmp_path / 'run'}")
    context = make_context(tiny_dataset, tmp_path, *specs)
    a, b = (run_cell(context, Cell(spec.name, "data", "washer", 1, 0)) for spec in specs)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
    assert a.metrics["pixel_ap"] == pytest.approx(b.metrics["pixel_ap"], abs=1e-3)
    assert a.provenance["method"]["sha256"] != b.provenance["method"]["sha256"]


def test_references_make_a_difference(tiny_dataset: Path, tmp_path: Path) -> None:
    context = make_context(tiny_dataset, tmp_path, parse_method("raw=raw", RAW), n_seeds=5)
    results = [run_cell(context, Cell("raw", "data", "ring", 1, seed)) for seed in context.seeds]
    by_reference: dict[tuple[str, ...], set[tuple[float, ...]]] = {}
    for result in results:
        by_reference.setdefault(result.references, set()).add(result.scores)
    assert len(by_reference) == 2  # there are two training images
    assert all(len(scores) == 1 for scores in by_reference.values())
    assert len(set.union(*by_reference.values())) == 2


Written = tuple[Context, Cell, Path, Task]


@pytest.fixture
def written(tiny_dataset: Path, tmp_path: Path) -> Written:
    """A peer's predictions of one cell, in another order than the cell's."""
    folder = tmp_path / "peer" / "data" / "ring" / "k2_seed0"
    folder.mkdir(parents=True)
    cell = Cell("peer", "data", "ring", 2, 0)
    (folder / "predictions.json").write_text("{}")
    spec = parse_method(f"peer={tmp_path / 'peer'}")
    context = make_context(tiny_dataset, tmp_path, spec)
    task, samples = make_task(context, cell)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(samples))
    maps = rng.random((len(samples), 20, 30)).astype(np.float32)
    fields = {
        "references": list(reversed(task.references)),
        "images": [task.images[index] for index in order],
        "scores": [float(index) for index in order],
        "image_score": "nearest",
        "facts": {"program": "peer 1.0"},
    }
    (folder / "predictions.json").write_text(json.dumps(fields))
    np.save(folder / "maps.npy", maps)
    return context, cell, folder, task


def test_predictions_are_put_in_the_order_of_the_cell(written: Written) -> None:
    context, cell, folder, task = written
    result = run_cell(context, cell)
    assert result.scores == tuple(float(index) for index in range(len(task.images)))
    assert result.image_score == "nearest"
    assert result.provenance["method"]["program"] == "peer 1.0"
    samples = {s.path: s for s in context.datasets["data"].samples}
    images = json.loads((folder / "predictions.json").read_text())["images"]
    masks = np.stack([load_mask(samples[task.root / name], 20, 30) for name in images])
    expected = roc_auc_score(masks.ravel(), np.load(folder / "maps.npy").ravel())
    assert result.metrics["pixel_auroc"] == pytest.approx(expected, abs=1e-9)


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "predictions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _drop_image(folder: Path) -> None:
    fields = json.loads((folder / "predictions.json").read_text())
    _edit(folder, images=fields["images"][1:], scores=fields["scores"][1:])
    np.save(folder / "maps.npy", np.load(folder / "maps.npy")[1:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _edit(f, references=["ring/train/good/000.png"]), "made with the references"),
        (_drop_image, "must hold every test image, 1 are missing, such as `ring/test/"),
        (lambda f: _edit(f, scores=[1.0]), "one score per image"),
        (lambda f: _edit(f, scores=["1"] * 7), "one score per image"),
        (lambda f: _edit(f, facts=[]), "one score per image"),
        (lambda f: (f / "predictions.json").write_text("{"), "must be predictions of a peer"),
        (lambda f: (f / "predictions.json").write_text("[]"), "must be predictions of a peer"),
        (lambda f: (f / "predictions.json").unlink(), "of the peer; run it for this cell"),
        (lambda f: (f / "maps.npy").unlink(), "of the peer; run it for this cell"),
        (lambda f: (f / "maps.npy").write_bytes(b"\x93NUMPY"), "must be a NumPy array"),
        (lambda f: np.save(f / "maps.npy", np.zeros((7, 4))), r"of shape \(7, H, W\)"),
        (lambda f: np.save(f / "maps.npy", np.zeros((7, 4, 4))), "must be float16 or float32"),
    ],
)
def test_unfit_predictions_are_named(
    written: Written, damage: Callable[[Path], object], message: str
) -> None:
    context, cell, folder, _ = written
    damage(folder)
    with pytest.raises(DatasetError, match=message) as caught:
        run_cell(context, cell)
    assert str(folder) in str(caught.value)


def test_maps_must_be_finite(written: Written) -> None:
    context, cell, folder, _ = written
    maps = np.load(folder / "maps.npy")
    maps[3, 2, 1] = np.nan
    np.save(folder / "maps.npy", maps)
    with pytest.raises(Exception, match=r"peer data/ring K=2 seed=0: .* must be finite"):
        run_cell(context, cell)


def test_predictions_are_identified_by_their_content(written: Written) -> None:
    context, cell, folder, _ = written
    method = open_method(context.method("peer"), context.cache)
    before = method.facts(cell)["sha256"]
    np.save(folder / "maps.npy", np.load(folder / "maps.npy") + 1)
    assert method.facts(cell)["sha256"] != before


def test_provenance_says_what_made_the_figures(
    lite_run: Path, lite_bundle: Bundle, tiny_dataset: Path, tmp_path: Path
) -> None:
    specs = (parse_method(f"torch={lite_run}"), parse_method(f"onnx={lite_bundle.path}"))
    context = make_context(tiny_dataset, tmp_path, *specs)
    results: dict[tuple[str, str], CellResult] = {
        (name, product): run_cell(context, Cell(name, "data", product, 1, 0))
        for name in ("torch", "onnx")
        for product in ("ring", "washer")
    }
    facts = results["torch", "ring"].provenance["method"]
    assert (facts["kind"], facts["backbone"]) == ("run", "efficientnet-lite0")
    assert facts["run"] == str(lite_run)
    assert results["onnx", "ring"].provenance["method"]["id"] == lite_bundle.manifest.id
    for name in ("torch", "onnx"):
        assert results[name, "ring"].provenance["method"]["distance"] == "log"
    assert results["torch", "ring"].provenance["versions"]["numpy"] == np.__version__
    assert results["torch", "ring"].provenance["warnings"] == []
    # the run was trained on `washer`; the bundle's manifest does not say so
    [warning] = results["torch", "washer"].provenance["warnings"]
    assert "was trained on test images of washer" in warning


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({}, "the head was trained on test images of nut"),
        ({"trained_split": "test"}, "the head was trained on test images of nut"),
        (
            {"trained_split": "train"},
            "the network was trained on good parts of nut, and references",
        ),
    ],
)
def test_the_warning_says_what_training_saw(split: dict[str, str], said: str) -> None:
    facts = {"trained_on": ["nut"], **split}
    (warning,) = warnings_of(facts, Cell("a", "data", "nut", 1, 0))
    assert warning.startswith(said)
    assert warnings_of(facts, Cell("a", "data", "screw", 1, 0)) == []
