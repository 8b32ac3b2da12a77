"""Mosaics, checked pixel by pixel, and how they are drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_edge.datasets import Sample
from cff_edge.mosaic import Mosaic, MosaicPool
from cff_runtime.errors import DatasetError, ImageError

COLOURS = ((200, 10, 10), (10, 200, 10), (10, 10, 200), (90, 90, 90))


def _sample(folder: Path, index: int, size: tuple[int, int], mask: bool = True) -> Sample:
    """A plain image, its mask a bar over the left third; `size` is (height, width)."""
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = COLOURS[index]
    path = folder / f"{index}.png"
    Image.fromarray(pixels).save(path)
    if not mask:
        return Sample(path, "part", "test", "good", None)
    bar = np.zeros(size, np.uint8)
    bar[:, : size[1] // 3] = index + 1  # small class ids, as in VisA
    Image.fromarray(bar).save(folder / f"{index}_mask.png")
    return Sample(path, "part", "test", f"bar{index}", folder / f"{index}_mask.png")


def _expected(size: tuple[int, int], good: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    h, w = size
    image, mask = np.empty((2 * h, 2 * w, 3), np.uint8), np.zeros((2 * h, 2 * w), bool)
    for index, (y, x) in enumerate(((0, 0), (0, w), (h, 0), (h, w))):
        image[y : y + h, x : x + w] = COLOURS[index]
        if index != good:
            mask[y : y + h, x : x + w // 3] = True
    return image, mask


def test_four_images_and_masks_are_pasted(tmp_path: Path) -> None:
    size = (24, 30)
    tiles = [_sample(tmp_path, index, size, mask=index != 2) for index in range(4)]
    image, mask = Mosaic((tiles[0], tiles[1], tiles[2], tiles[3])).load(48, 60)  # no resize at all
    expected_image, expected_mask = _expected(size, good=2)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(mask, expected_mask)


def test_the_whole_is_resized_to_the_input(tmp_path: Path) -> None:
    size = (24, 30)
    tiles = [_sample(tmp_path, index, size) for index in range(4)]
    image, mask = Mosaic((tiles[0], tiles[1], tiles[2], tiles[3])).load(40, 40)
    canvas, binary = _expected(size, good=9)
    wide = Image.fromarray(canvas).resize((40, 48), Image.Resampling.BICUBIC)
    resized = wide.resize((40, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image, np.asarray(resized))
    grey = Image.fromarray(binary.astype(np.uint8) * 255).resize(
        (40, 40), Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(mask, np.asarray(grey) > 127)


def test_tiles_take_the_size_of_the_first(tmp_path: Path) -> None:
    sizes = ((24, 30), (48, 60), (30, 24), (17, 16))
    tiles = [_sample(tmp_path, index, size) for index, size in enumerate(sizes)]
    image, mask = Mosaic((tiles[0], tiles[1], tiles[2], tiles[3])).load(48, 60)
    expected_image, expected_mask = _expected(sizes[0], good=9)
    np.testing.assert_array_equal(image, expected_image)  # plain colours survive a resize
    # 16 // 3 of 16 columns resized to 30: its edge may fall one column off
    differing = np.flatnonzero((mask != expected_mask).any(axis=0))
    assert set(differing) <= {38, 39, 40}
    np.testing.assert_array_equal(mask[:24], expected_mask[:24])


def test_facts(tmp_path: Path) -> None:
    good = _sample(tmp_path, 0, (20, 20), mask=False)
    bad = _sample(tmp_path, 1, (20, 20))
    assert Mosaic((good, good, good, good)).is_defective is False
    assert Mosaic((good, good, bad, good)).is_defective is True
    assert Mosaic((good, bad, good, bad)).product == "part"


def test_folders_are_drawn_uniformly_and_then_their_images() -> None:
    def samples(product: str, defect: str, n: int) -> list[Sample]:
        return [
            Sample(Path(f"{product}{defect}{i}"), product, "test", defect, None) for i in range(n)
        ]

    pool = MosaicPool(
        [
            *samples("a", "good", 30),
            *samples("a", "cut", 3),
            *samples("a", "dent", 1),
            *samples("b", "good", 5),
        ]
    )
    rng = np.random.default_rng(0)
    tiles = [tile for _ in range(600) for tile in pool.draw("a", rng).tiles]
    assert {tile.product for tile in tiles} == {"a"}
    shares = {defect: n / 2400 for defect, n in Counter(t.defect for t in tiles).items()}
    assert shares == pytest.approx({"good": 1 / 3, "cut": 1 / 3, "dent": 1 / 3}, abs=0.04)
    cuts = Counter(tile.path for tile in tiles if tile.defect == "cut")
    assert min(cuts.values()) > 0.8 * max(cuts.values())
    assert len({tile.path for tile in tiles if tile.defect == "good"}) == 30
    assert {tile.defect for tile in pool.draw("b", rng).tiles} == {"good"}
    again, once_more = (pool.draw("a", np.random.default_rng(5)) for _ in range(2))
    assert again == once_more != pool.draw("a", np.random.default_rng(6))


def test_unusable_files_are_named(tmp_path: Path) -> None:
    tiles = [_sample(tmp_path, index, (20, 20)) for index in range(4)]
    mosaic = Mosaic((tiles[0], tiles[1], tiles[2], tiles[3]))
    assert tiles[3].mask is not None
    tiles[3].mask.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"3_mask\.png` and its image must be readable"):
        mosaic.load(32, 32)
    tiles[2].path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"2\.png` must be a readable PNG"):
        mosaic.load(32, 32)
