"""Resuming: a finished cell is computed again only if what decides it has changed."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import cff_edge.evaluation.runner as runner
from cff_edge.evaluation.cells import PICTURES_FOLDER, Cell, CellResult, load_results
from cff_edge.evaluation.context import Context, choose_references, read_datasets
from cff_edge.evaluation.methods import parse_method
from cff_edge.evaluation.pictures import N_PICTURES, choose_images
from cff_edge.evaluation.runner import applicable_cells, collect, plan, run_all, run_cell
from cff_edge.metrics import METRIC_NAMES
from cff_runtime.errors import CffError, DatasetError

RAW = ("backbone.image_size=96", "train.device=cpu")


def make_context(root: Path, out: Path, run: Path) -> Context:
    datasets = read_datasets([root])
    references, seeds = choose_references(datasets, (1, 2), 2, None, None)
    return Context(
        methods=(parse_method("raw=raw", RAW), parse_method(f"run={run}")),
        datasets=datasets,
        references=references,
        shots=(1, 2),
        seeds=seeds,
        image_score="deployable",
        out=out,
        cache=out / "cache",
        command=("cff-eval", "--data", str(root)),
    )


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: Path, lite_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 2 methods x 2 products x 2 seeds x K of 1 and 2; read-only."""
    context = make_context(tiny_dataset, tmp_path_factory.mktemp("evaluated"), lite_run)
    missing = plan(context)
    assert len(missing) == 16
    run_all(context, missing)
    return context.out


@pytest.fixture
def root(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(lite_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(lite_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def finished(evaluated: Path, root: Path, run: Path, tmp_path: Path) -> Context:
    """The finished evaluation, all of it moved elsewhere."""
    shutil.copytree(evaluated, tmp_path / "out")
    return make_context(root, tmp_path / "out", run)


def _again(context: Context, root: Path, run: Path) -> list[Cell]:
    """Plan as a new process would, from the files alone."""
    return plan(make_context(root, context.out, run))


def test_a_finished_evaluation_is_complete(finished: Context, root: Path, run: Path) -> None:
    assert _again(finished, root, run) == []
    results = collect(finished)
    assert [result.cell for result in results] == applicable_cells(finished)
    found = [result.cell for result in load_results(finished.out)]
    assert found == sorted(applicable_cells(finished))
    for result in results:
        assert set(result.metrics) == set(METRIC_NAMES)
        assert all(0.0 <= value <= 1.0 for value in result.metrics.values())
        assert len(result.references) == result.k
        assert all((root / name).is_file() for name in (*result.references, *result.images))
        assert result.image_score == "peak"
        assert result.seconds > 0
        assert result.provenance["command"][:2] == ["cff-eval", "--data"]
        pixels = (result.positive.astype(int) + result.negative).sum(axis=1)
        assert (pixels == 96 * 96).all()


def test_a_cells_json_is_as_described(finished: Context) -> None:
    path = finished.out / "cells" / "raw" / "data" / "ring" / "k2_seed1.json"
    fields = json.loads(path.read_text())
    assert set(fields) == {
        *("schema", "method", "dataset", "product", "k", "seed", "image_score", "metrics"),
        *("references", "images", "defects", "labels", "scores", "seconds", "provenance"),
    }
    assert (fields["schema"], fields["k"], fields["seed"]) == (1, 2, 1)
    assert fields["labels"] == [defect != "good" for defect in fields["defects"]]
    assert {"command", "versions", "method", "warnings"} <= set(fields["provenance"])
    with np.load(path.with_suffix(".npz")) as counts:
        assert {name: counts[name].dtype for name in counts} == {
            "positive": np.uint32,
            "negative": np.uint32,
        }


def test_the_first_k_of_a_seed_are_nested_and_the_images_shared(finished: Context) -> None:
    results = {result.cell: result for result in collect(finished)}
    for cell, result in results.items():
        longer = results[dataclasses.replace(cell, k=2)]
        assert longer.references[: cell.k] == result.references
        assert longer.images == result.images
        other = results[dataclasses.replace(cell, method="run")]
        assert (other.references, other.images) == (result.references, result.images)


def test_a_changed_test_image_concerns_its_product(
    finished: Context, root: Path, run: Path
) -> None:
    path = root / "ring" / "test" / "good" / "001.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    again = _again(finished, root, run)
    assert len(again) == 8
    assert {cell.product for cell in again} == {"ring"}
    before = {result.cell: result for result in collect(finished)}
    run_all(finished, again)
    after = {result.cell: result for result in collect(finished)}
    for cell in again:
        index = after[cell].images.index("ring/test/good/001.png")
        assert after[cell].scores[index] > before[cell].scores[index] + 0.1
    assert _again(finished, root, run) == []


def test_a_changed_mask_concerns_its_product(finished: Context, root: Path, run: Path) -> None:
    path = root / "washer" / "ground_truth" / "bar" / "000_mask.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert {cell.product for cell in _again(finished, root, run)} == {"washer"}


def test_a_changed_reference_concerns_the_cells_that_use_it(
    finished: Context, root: Path, run: Path
) -> None:
    path = root / "ring" / "train" / "good" / "000.png"
    Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(path)
    using = [r.cell for r in collect(finished) if "ring/train/good/000.png" in r.references]
    assert 0 < len(using) < 8
    assert sorted(_again(finished, root, run)) == sorted(using)


def test_a_new_test_image_concerns_its_product(
    finished: Context, root: Path, run: Path, draw_part: Callable[..., np.ndarray]
) -> None:
    Image.fromarray(draw_part(77)).save(root / "washer" / "test" / "good" / "009.png")
    assert {cell.product for cell in _again(finished, root, run)} == {"washer"}


def test_a_changed_method_concerns_its_cells(finished: Context, root: Path, run: Path) -> None:
    config = run / "config.toml"
    config.write_text(re.sub("text_weight = .*", "text_weight = 0.5", config.read_text()))
    again = _again(finished, root, run)
    assert len(again) == 8
    assert {cell.method for cell in again} == {"run"}


@pytest.mark.parametrize("name", ["k1_seed0.json", "k1_seed0.npz"])
def test_a_damaged_result_is_computed_again(
    finished: Context, root: Path, run: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = finished.out / "cells" / "raw" / "data" / "ring" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CffError, match=r"k1_seed0.json` must be a result of cff-eval"):
        collect(finished)
    again = _again(finished, root, run)
    assert again == [Cell("raw", "data", "ring", 1, 0)]
    assert "it is computed again" in caplog.text
    run_all(finished, again)
    assert len(collect(finished)) == 16


def test_what_is_finished_before_an_interrupt_is_kept(
    root: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(root, tmp_path / "out", run)
    computed = []

    def interrupted(context: Context, cell: Cell) -> CellResult:
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(cell)
        return run_cell(context, cell)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(context, plan(context))
    monkeypatch.undo()
    again = _again(context, root, run)
    assert len(again) == 13
    assert not set(again) & set(computed)
    assert not list(context.out.rglob("*.tmp"))


def test_another_executor_may_take_cells_in_any_order(
    root: Path, run: Path, tmp_path: Path
) -> None:
    context = make_context(root, tmp_path / "out", run)

    def backwards(context: Context, cells: Sequence[Cell]) -> Iterator[CellResult]:
        for cell in reversed(cells):
            yield run_cell(context, cell)

    seen: list[Cell] = []
    missing = plan(context)[:4]
    run_all(context, missing, lambda result: seen.append(result.cell), backwards)
    assert seen == missing[::-1]
    forwards = dataclasses.replace(context, out=tmp_path / "other")
    run_all(forwards, missing)
    for cell in missing:
        a, b = (CellResult.load(folder / cell.path) for folder in (context.out, forwards.out))
        assert (a.metrics, a.scores, a.images) == (b.metrics, b.scores, b.images)


def test_broken_images_are_found_before_a_cell_is_computed(
    root: Path, run: Path, tmp_path: Path
) -> None:
    path = root / "washer" / "test" / "bar" / "001.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"washer/test/bar/001.png` must be a readable"):
        plan(make_context(root, tmp_path / "out", run))
    assert not (tmp_path / "out" / "cells").exists()


def _pictures(context: Context, product: str) -> dict[str, np.ndarray]:
    folder = context.out / PICTURES_FOLDER / "data" / product
    return {path.name: cv2.imread(str(path)) for path in sorted(folder.iterdir())}


def test_pictures_show_part_mask_and_maps(finished: Context) -> None:
    pictures = _pictures(finished, "ring")
    shown = sorted({int(name.partition("_")[0]) for name in pictures})
    result = next(r for r in collect(finished) if r.product == "ring")
    assert len(shown) == N_PICTURES  # of 7 test images
    assert {result.defects[index] for index in shown} == {"good", "bar"}
    assert set(pictures) == {
        f"{index}_{what}.png" for index in shown for what in ("input", "mask", "raw", "run")
    }
    assert len({picture.shape for picture in pictures.values()}) == 1
    for index in shown:
        assert (pictures[f"{index}_mask.png"] > 0).any() == result.labels[index]


def test_colours_are_on_one_scale_for_all_pictures(finished: Context) -> None:
    pictures = _pictures(finished, "ring")
    result = next(r for r in collect(finished) if r.product == "ring")
    red = {name: picture[:, :, 2].max() for name, picture in pictures.items() if "_raw" in name}
    good = [
        red[f"{index}_raw.png"]
        for index, bad in enumerate(result.labels)
        if not bad and f"{index}_raw.png" in red
    ]
    bad = [
        red[f"{index}_raw.png"]
        for index, bad in enumerate(result.labels)
        if bad and f"{index}_raw.png" in red
    ]
    assert max(good) + 50 < min(bad)


def test_pictures_that_went_missing_are_drawn_again(
    finished: Context, root: Path, run: Path
) -> None:
    before = _pictures(finished, "ring")
    folder = finished.out / PICTURES_FOLDER / "data" / "ring"
    shutil.rmtree(folder)
    again = _again(finished, root, run)
    assert again == [Cell(name, "data", "ring", 2, 0) for name in ("raw", "run")]
    folder.mkdir()
    (folder / "99_input.png").write_bytes(b"of an image that is shown no more")
    run_all(finished, again)
    after = _pictures(finished, "ring")
    assert set(after) == set(before)
    assert all((after[name] == before[name]).all() for name in before)


def test_images_are_chosen_by_turns_from_all_kinds() -> None:
    assert choose_images(["b", "b", "b", "good", "good", "a"]) == [0, 1, 2, 3, 4, 5]
    defects = ["hole"] * 4 + ["scratch"] * 4 + ["good"] * 4
    assert choose_images(defects) == [0, 1, 4, 5, 8, 9]
    assert choose_images(["good", "z"]) == [0, 1]
    many = [f"defect {index}" for index in range(9)] + ["good"]
    assert choose_images(many) == [0, 1, 2, 3, 4, 9]
