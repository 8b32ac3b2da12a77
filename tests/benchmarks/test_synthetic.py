"""The synthetic data set: exact masks, one seed, parts that are never equal."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench.demo.synthetic import (
    DEFECTS,
    PRODUCTS,
    SIDE_PX,
    cut_part,
    draw_defective_part,
    write_synthetic_dataset,
)
from cff_edge.datasets import Dataset, load_mask, read_dataset

N_TRAIN, N_GOOD, N_PER_DEFECT = 2, 2, 1
TEXTURES = ("brick", "grass", "gravel")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small set of all products, read back."""
    root: Path = tmp_path_factory.mktemp("synthetic")
    write_synthetic_dataset(root, 0, N_TRAIN, N_GOOD, N_PER_DEFECT)
    return read_dataset(root)


def digests(dataset: Dataset) -> dict[str, str]:
    files = [s.path for s in dataset.samples] + [s.mask for s in dataset.samples if s.mask]
    return {
        str(path.relative_to(dataset.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_layout_and_counts(written: Dataset) -> None:
    assert written.layout == "mvtec"
    assert written.products == tuple(sorted(PRODUCTS))
    assert len(PRODUCTS) >= 6 and set(TEXTURES) < set(PRODUCTS)
    for product in PRODUCTS:
        dataset = written.of(product)
        assert len(dataset.select("train", defective=False)) == N_TRAIN
        assert len(dataset.select("train", defective=True)) == 0
        assert len(dataset.select("test", defective=False)) == N_GOOD
        defects = [sample.defect for sample in dataset.select("test", defective=True)]
        assert defects == sorted(N_PER_DEFECT * DEFECTS)


def test_files_are_rgb_and_masks_black_and_white(written: Dataset) -> None:
    for sample in written.samples:
        assert pixels(sample.path).shape == (SIDE_PX, SIDE_PX, 3)
        if sample.mask is not None:
            mask = pixels(sample.mask)
            assert mask.shape == (SIDE_PX, SIDE_PX)
            assert set(np.unique(mask)) == {0, 255}
            np.testing.assert_array_equal(load_mask(sample, SIDE_PX, SIDE_PX), mask == 255)


def test_no_two_images_are_equal(written: Dataset) -> None:
    images = [hashlib.sha256(s.path.read_bytes()).digest() for s in written.samples]
    assert len(set(images)) == len(images)


def test_channels_are_written_in_order(written: Dataset) -> None:
    """The retina is red: a swap of red and blue would show here."""
    for sample in written.of("eye").select("train"):
        red, _, blue = pixels(sample.path).reshape(-1, 3).mean(axis=0)
        assert red > blue + 50


def test_one_seed_gives_the_same_bytes(written: Dataset, tmp_path: Path) -> None:
    write_synthetic_dataset(tmp_path, 0, N_TRAIN, N_GOOD, N_PER_DEFECT)
    assert digests(read_dataset(tmp_path)) == digests(written)


def test_another_seed_gives_other_images(written: Dataset, tmp_path: Path) -> None:
    write_synthetic_dataset(tmp_path, 1, N_TRAIN, N_GOOD, N_PER_DEFECT)
    first, second = digests(written), digests(read_dataset(tmp_path))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("product", range(len(PRODUCTS)), ids=PRODUCTS)
def test_mask_covers_exactly_the_changed_pixels(product: int, defect: str) -> None:
    for seed in range(4):
        part = draw_defective_part(product, defect, rng_of(seed))
        assert part.image.shape == part.clean.shape == (SIDE_PX, SIDE_PX, 3)
        assert part.image.dtype == part.clean.dtype == np.uint8
        np.testing.assert_array_equal(part.mask, (part.image != part.clean).any(axis=2))
        assert 0.003 <= part.mask.mean() <= 0.042


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_can_be_seen(defect: str) -> None:
    """The cup's black shadows would swallow a stain that is drawn there."""
    for product in (PRODUCTS.index("cup"), PRODUCTS.index("brick")):
        for seed in range(25):
            part = draw_defective_part(product, defect, rng_of(seed))
            change = np.abs(part.image.astype(int) - part.clean).max(axis=2)[part.mask]
            assert change.mean() >= 20


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_differ_in_place(defect: str) -> None:
    masks = [draw_defective_part(0, defect, rng_of(seed)).mask for seed in range(6)]
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    assert (centres.std(axis=0) > 10).all()


def test_part_without_its_defect_is_the_good_part() -> None:
    part = draw_defective_part(0, "hole", rng_of(3))
    np.testing.assert_array_equal(part.clean, cut_part(0, rng_of(3), "test"))


@pytest.mark.parametrize("product", range(len(PRODUCTS)), ids=PRODUCTS)
def test_parts_have_no_black_border(product: int) -> None:
    for seed in range(6):
        grey = cut_part(product, rng_of(seed), "train").astype(float).mean(axis=2)
        for edge in (grey[0], grey[-1], grey[:, 0], grey[:, -1]):
            assert (edge < 6).mean() < 0.1
