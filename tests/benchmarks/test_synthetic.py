"""The synthetic data set: exact masks, one seed, parts that are never equal."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench.demo import synthetic
from cff_bench.demo.synthetic import (
    DEFECTS,
    PRODUCTS,
    Part,
    cut_part,
    draw_defective_part,
    write_synthetic_dataset,
)
from cff_edge.datasets import load_mask, read_dataset
from cff_runtime.imaging import load_image

SHAPE = (256, 256, 3)
TEXTURES = ("brick", "grass", "gravel")
# share of the image, in percent, that a defect of each kind may take
AREA_PERCENT = {"hole": (0.5, 2.0), "patch": (1.0, 4.5), "scratch": (0.3, 2.0), "stain": (0.3, 6.0)}
EVERY_DEFECT = [(product, defect) for product in range(len(PRODUCTS)) for defect in DEFECTS]


def draw(product: int, defect: str, seed: int = 0) -> Part:
    return draw_defective_part(product, defect, np.random.default_rng([seed, product]))


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic_dataset(root, seed=7, n_train=2, n_good=1, n_per_defect=1)
    return root


class TestDefects:
    @pytest.mark.parametrize(("product", "defect"), EVERY_DEFECT)
    def test_mask_is_exactly_what_changed(self, product: int, defect: str) -> None:
        for seed in range(2):
            part = draw(product, defect, seed)
            assert part.clean.shape == part.image.shape == SHAPE
            assert part.clean.dtype == part.image.dtype == np.uint8
            assert part.mask.dtype == np.bool_
            np.testing.assert_array_equal(part.mask, (part.image != part.clean).any(axis=2))

    @pytest.mark.parametrize(("product", "defect"), EVERY_DEFECT)
    def test_can_be_seen(self, product: int, defect: str) -> None:
        low, high = AREA_PERCENT[defect]
        for seed in range(8):
            part = draw(product, defect, seed)
            assert low <= 100 * part.mask.mean() <= high, seed
            change = np.abs(part.image.astype(int) - part.clean).max(axis=2)
            assert change[part.mask].mean() >= 20, seed

    @pytest.mark.parametrize("defect", DEFECTS)
    def test_comes_on_a_good_test_part_anywhere(self, defect: str) -> None:
        centres = []
        for seed in range(6):
            part = draw(0, defect, seed)
            good = cut_part(0, np.random.default_rng([seed, 0]), "test")
            np.testing.assert_array_equal(part.clean, good)
            centres.append(np.argwhere(part.mask).mean(axis=0))
        assert (np.std(centres, axis=0) > 10).all()

    @pytest.mark.parametrize("defect", DEFECTS)
    def test_is_in_one_place(self, defect: str) -> None:
        for product in range(len(PRODUCTS)):
            mask = draw(product, defect).mask.astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            areas = stats[1:, cv2.CC_STAT_AREA]
            assert areas.max() >= 0.9 * areas.sum()

    def test_an_invisible_one_is_drawn_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As is a stain on black: first no pixel changes, then each by 19 levels, then by 21."""
        bright = np.full(SHAPE, 200, np.uint8)
        drawn: list[Part] = []

        def fake(_product: int, _defect: str, _rng: object, clean: NDArray[np.uint8]) -> Part:
            image = (clean, clean + 19, clean - 21)[len(drawn)]
            drawn.append(Part(clean, image, (image != clean).any(axis=2)))
            return drawn[-1]

        monkeypatch.setattr(synthetic, "cut_part", lambda *_: bright)
        monkeypatch.setattr(synthetic, "_draw_defect", fake)
        part = draw(0, "stain")
        assert len(drawn) == 3
        assert part is drawn[-1]


class TestParts:
    def test_all_are_distinct(self) -> None:
        rng = np.random.default_rng(0)
        for product in range(len(PRODUCTS)):
            parts = [cut_part(product, rng, split) for split in ("train", "test") * 6]
            assert {part.shape for part in parts} == {SHAPE}
            assert {part.dtype for part in parts} == {np.dtype(np.uint8)}
            assert len({part.tobytes() for part in parts}) == len(parts)

    @pytest.mark.parametrize("name", TEXTURES)
    def test_training_and_test_parts_share_no_pixel(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut from a photograph whose left half is red and whose right half is green."""
        halves = np.zeros((512, 512, 3), np.uint8)
        halves[:, :256, 0] = halves[:, 256:, 1] = 200
        monkeypatch.setattr(synthetic, "_photograph", lambda _: halves)
        product = PRODUCTS.index(name)
        for seed in range(40):
            rng = np.random.default_rng(seed)
            train, test = cut_part(product, rng, "train"), cut_part(product, rng, "test")
            # 200 with up to 6 % of gain and noise of 2.5, against 0 with noise
            assert train[:, :, 0].min() > 150 > 50 > train[:, :, 1].max()
            assert test[:, :, 1].min() > 150 > 50 > test[:, :, 0].max()

    @pytest.mark.parametrize("name", TEXTURES)
    def test_no_part_shows_the_edge_of_its_photograph(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        framed = np.full((512, 512, 3), 200, np.uint8)
        framed[:2] = framed[-2:] = 0
        framed[:, :2] = framed[:, -2:] = 0
        monkeypatch.setattr(synthetic, "_photograph", lambda _: framed)
        product = PRODUCTS.index(name)
        for seed in range(40):
            rng = np.random.default_rng(seed)
            for split in ("train", "test"):
                assert cut_part(product, rng, split).min() > 150

    @pytest.mark.parametrize("name", [name for name in PRODUCTS if name not in TEXTURES])
    def test_aligned_parts_are_aligned(self, name: str) -> None:
        rng = np.random.default_rng(0)
        product = PRODUCTS.index(name)
        first, *others = [
            cv2.GaussianBlur(cut_part(product, rng, "test").mean(axis=2), (0, 0), 6)
            for _ in range(4)
        ]
        for other in others:
            alike = np.corrcoef(first.ravel(), other.ravel())[0, 1]
            turned = np.corrcoef(first.ravel(), other[::-1, ::-1].ravel())[0, 1]
            assert alike > max(0.9, turned + 0.2)


class TestDataset:
    def test_same_seed_same_bytes(self, dataset_root: Path, tmp_path: Path) -> None:
        write_synthetic_dataset(tmp_path / "again", 7, n_train=2, n_good=1, n_per_defect=1)
        assert hashes(tmp_path / "again") == hashes(dataset_root)

    def test_other_seed_other_images(self, dataset_root: Path, tmp_path: Path) -> None:
        write_synthetic_dataset(tmp_path / "other", 8, n_train=1, n_good=1, n_per_defect=1)
        known, other = hashes(dataset_root), hashes(tmp_path / "other")
        assert set(other) < set(known)  # the same names
        assert all(known[name] != digest for name, digest in other.items())

    def test_reads_as_mvtec(self, dataset_root: Path) -> None:
        dataset = read_dataset(dataset_root)
        assert dataset.layout == "mvtec"
        assert set(dataset.products) == set(PRODUCTS)
        for name in PRODUCTS:
            product = dataset.of(name)
            assert len(product.select("train", defective=False)) == 2
            assert len(product.select("test", defective=False)) == 1
            kinds = [sample.defect for sample in product.select("test", defective=True)]
            assert kinds == sorted(DEFECTS)

    def test_no_two_images_are_equal(self, dataset_root: Path) -> None:
        images = [path for path in dataset_root.rglob("*.png") if "ground_truth" not in path.parts]
        pixels = [load_image(path).tobytes() for path in images]
        assert len(set(pixels)) == len(pixels) == 7 * (2 + 1 + 4)

    def test_masks_are_black_and_white(self, dataset_root: Path) -> None:
        masks = list(dataset_root.rglob("*_mask.png"))
        assert len(masks) == 7 * 4
        for path in masks:
            with Image.open(path) as mask:
                assert (mask.mode, mask.size) == ("L", (256, 256))
                assert set(np.unique(np.asarray(mask))) == {0, 255}

    def test_files_hold_what_was_drawn(self, dataset_root: Path) -> None:
        dataset = read_dataset(dataset_root).of("cup")
        [good, *_] = dataset.select("train")
        rgb = load_image(good.path).astype(int)
        assert rgb[:, :, 0].mean() > 1.5 * rgb[:, :, 2].mean()  # a brown cup, not a blue one
        [hole, *_] = [sample for sample in dataset.select("test") if sample.defect == "hole"]
        mask = load_mask(hole, 256, 256)
        inside = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert inside.any()
        assert load_image(hole.path)[inside].max() < 40


def test_default_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` draws 12 training, 10 good and 4 x 4 defective test parts a product."""
    written: list[Path] = []
    blank = np.zeros(SHAPE, np.uint8)
    part = Part(blank, blank, np.zeros(SHAPE[:2], bool))
    monkeypatch.setattr(synthetic, "_write", lambda path, _: written.append(path))
    monkeypatch.setattr(synthetic, "cut_part", lambda *_: blank)
    monkeypatch.setattr(synthetic, "draw_defective_part", lambda *_: part)
    write_synthetic_dataset(Path("root"))
    assert len(written) == len(set(written)) == len(PRODUCTS) * (12 + 10 + 2 * 16)
    assert sum(path.name.endswith("_mask.png") for path in written) == len(PRODUCTS) * 16
