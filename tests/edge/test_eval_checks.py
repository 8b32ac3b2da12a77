"""Broken data sets: every fault is named with its file, all at once, before any long work."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cff_edge.datasets import read_dataset
from cff_edge.evaluation.checks import check_datasets, check_files
from cff_edge.evaluation.context import choose_references, read_datasets
from cff_edge.evaluation.references import draw_references
from cff_runtime.errors import DatasetError, UsageError

WriteDataset = Callable[[Path], Path]


def _check(root: Path, n_references: int = 2, pool: str = "train", n_seeds: int = 2) -> None:
    """Do what a run does before it computes."""
    datasets = read_datasets([root])
    seeds = tuple(range(n_seeds))
    references = draw_references(datasets, n_references, seeds, pool)
    check_datasets(datasets, references, n_references, seeds)
    check_files([sample for dataset in datasets.values() for sample in dataset.samples])


def _truncate(root: Path) -> None:
    path = root / "ring" / "test" / "good" / "002.png"
    path.write_bytes(path.read_bytes()[:3000])


def _truncate_reference(root: Path) -> None:
    path = root / "washer" / "train" / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:3000])


def _write_text(root: Path) -> None:
    (root / "ring" / "test" / "bar" / "001.png").write_text("no image")


def _empty_mask(root: Path) -> None:
    path = root / "ring" / "ground_truth" / "bar" / "001_mask.png"
    Image.fromarray(np.zeros((120, 150), np.uint8)).save(path)


def _small_mask(root: Path) -> None:
    path = root / "ring" / "ground_truth" / "bar" / "001_mask.png"
    Image.fromarray(np.full((60, 75), 255, np.uint8)).save(path)


def _truncate_mask(root: Path) -> None:
    path = root / "washer" / "ground_truth" / "bar" / "000_mask.png"
    path.write_bytes(path.read_bytes()[:60])


def _no_mask(root: Path) -> None:
    (root / "ring" / "ground_truth" / "bar" / "001_mask.png").unlink()


def _no_defects(root: Path) -> None:
    shutil.rmtree(root / "washer" / "test" / "bar")
    shutil.rmtree(root / "washer" / "ground_truth")


def _no_good(root: Path) -> None:
    shutil.rmtree(root / "washer" / "test" / "good")


def _one_normal(root: Path) -> None:
    (root / "washer" / "train" / "good" / "001.png").unlink()


def _dangling_link(root: Path) -> None:
    path = root / "ring" / "test" / "good" / "003.png"
    path.unlink()
    path.symlink_to(root / "nowhere.png")


DAMAGES = {
    _truncate: r"ring/test/good/002.png` must be a readable PNG",
    _truncate_reference: r"washer/train/good/001.png` must be a readable PNG",
    _write_text: r"ring/test/bar/001.png` must be a readable PNG",
    _empty_mask: r"ring/ground_truth/bar/001_mask.png` must mark the defect of `001.png`",
    _small_mask: r"001_mask.png` must have its image's size 150 x 120, got 75 x 60",
    _truncate_mask: r"washer/ground_truth/bar/000_mask.png` and its image must be readable",
    _no_mask: r"ring/test/bar/001.png` must have a mask",
    _no_defects: r"`data/washer` must have defective test images, got none",
    _no_good: r"`data/washer` must have good test images, got none",
    _one_normal: r"`data/washer` must be 2 or more, got 1 for seed 0; .* with `--pool good`",
    _dangling_link: r"ring/test/good/003.png` must be an existing file",
}


def test_a_sound_data_set_passes(tiny_dataset: Path) -> None:
    _check(tiny_dataset)
    _check(tiny_dataset, 1, pool="good")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_fault_is_named_with_its_file(
    write_dataset: WriteDataset, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    root = write_dataset(tmp_path / "data")
    damage(root)
    with pytest.raises(DatasetError, match=DAMAGES[damage]) as caught:
        _check(root, n_seeds=1)
    assert "; " in str(caught.value)  # the next step


def test_all_faults_come_in_one_error(write_dataset: WriteDataset, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    for damage in (_no_good, _truncate, _empty_mask, _no_mask):
        damage(root)
    _write_text(root)
    with pytest.raises(DatasetError) as caught:
        _check(root)
    lines = str(caught.value).splitlines()
    # `_no_mask` took the empty mask away again, and the text file lost its mask
    assert lines[0].startswith("4 problems must be solved")
    assert len(lines) == 5
    assert sum("washer` must have good test images" in line for line in lines) == 1
    assert sum("002.png` must be a readable" in line for line in lines) == 1
    assert sum("001.png` must be a readable" in line for line in lines) == 1
    assert sum("001.png` must have a mask" in line for line in lines) == 1


def test_ten_faults_are_shown_and_all_are_counted(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "data")
    images = sorted(root.rglob("test/*/*.png"))
    assert len(images) == 11
    for path in images:
        path.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        _check(root)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("11 problems")
    assert len(lines) == 12
    assert lines[-1].strip() == "and 1 more"
    named = [path for path in images if any(str(path) in line for line in lines)]
    assert len(named) == 10


def test_a_draw_may_not_take_every_good_test_image(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"washer` must have good test images besides the ref"):
        _check(root, n_references=4, pool="good", n_seeds=1)  # 2 train and 2 test


def test_data_sets_are_read_by_name(tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dataset / "ring", tmp_path / "more" / "bolt")
    datasets = read_datasets([tiny_dataset, tmp_path / "more"], ["washer", "bolt"])
    assert {name: dataset.products for name, dataset in datasets.items()} == {
        "data": ("washer",),
        "more": ("bolt",),
    }
    assert set(read_datasets([tiny_dataset, tmp_path / "more"], ["bolt"])) == {"more"}
    with pytest.raises(UsageError, match="got 'bolts'; did you mean 'bolt'"):
        read_datasets([tiny_dataset, tmp_path / "more"], ["bolts"])
    twin = tmp_path / "twin" / "data"
    shutil.copytree(tiny_dataset, twin)
    with pytest.raises(UsageError, match="got two folders `data`"):
        read_datasets([tiny_dataset, twin])


def test_references_of_a_file_give_the_seeds(tiny_dataset: Path, tmp_path: Path) -> None:
    datasets = {"data": read_dataset(tiny_dataset)}
    path = tmp_path / "references.json"
    drawn, seeds = choose_references(datasets, (1, 2), 3, None, None)
    assert (drawn.pool, seeds) == ("train", (0, 1, 2))
    drawn.save(path)
    assert choose_references(datasets, (1, 2), None, None, path) == (drawn, (0, 1, 2))
    assert choose_references(datasets, (1,), 2, "train", path)[1] == (0, 1)
    with pytest.raises(UsageError, match=r"`--pool` must be that of .*, train, got good"):
        choose_references(datasets, (1,), None, "good", path)
    with pytest.raises(DatasetError, match=r"must hold 4 or more seeds .* got 3"):
        choose_references(datasets, (1,), 4, None, path)
    other = {"other": datasets["data"]}
    with pytest.raises(DatasetError, match="must hold 1 or more seeds"):
        choose_references(other, (1,), None, None, path)


def test_without_a_file_five_draws_are_made(tiny_dataset: Path) -> None:
    datasets = {"data": read_dataset(tiny_dataset)}
    assert choose_references(datasets, (1,), None, None, None)[1] == (0, 1, 2, 3, 4)
