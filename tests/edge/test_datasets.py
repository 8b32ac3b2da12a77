"""Reading data sets: three layouts, masks, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cff_edge.datasets import Dataset, Sample, load_mask, read_dataset
from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES

WIDTH, HEIGHT = 20, 16

# train good, test good and defective images of every set, as shared/data/README.md lists them
REAL_SETS = {
    "piped": (12, 369, 188, 576),
    "ballscrew": (1, 40, 40, 79),
    "hazelnut_toy": (1, 28, 6, 17),
    "fabric_hsst": (1, 42, 24, 37),
    "mvtec_mini": (4, 68, 52, 32),
    "deeppcb": (3, 60, 60, 60),
}


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def write_product(folder: Path) -> Path:
    """Write two training parts, a good test part and two defects of two images each."""
    for name in ("train/good/001.png", "train/good/000.png", "test/good/000.png"):
        write_image(folder / name)
    for defect in ("scratch", "dent"):
        for stem in ("001", "000"):
            write_image(folder / "test" / defect / f"{stem}.png")
            write_image(folder / "ground_truth" / defect / f"{stem}_mask.png", 255)
    return folder


def write_visa(root: Path, *rows: str, columns: str = "object,split,label,image,mask") -> Path:
    """Write the table and four images: 0 and 1 are good, 2 and 3 defective with masks."""
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join((columns, *rows)) + "\n", encoding="utf-8")
    for number in range(4):
        kind = "Normal" if number < 2 else "Anomaly"
        write_image(root / f"candle/Data/Images/{kind}/{number}.JPG")
        if kind == "Anomaly":
            write_image(root / f"candle/Data/Masks/Anomaly/{number}.png", 1)
    return root


def names(dataset: Dataset) -> list[str]:
    return [f"{s.product}/{s.split}/{s.defect}/{s.path.name}" for s in dataset.samples]


def sample_with_mask(folder: Path, mask: Path) -> Sample:
    return Sample(write_image(folder / "part.png"), "bottle", "test", "scratch", mask)


def test_mvtec_root_is_read_in_order(tmp_path: Path) -> None:
    write_product(tmp_path / "bottle")
    write_product(tmp_path / "anvil")
    dataset = read_dataset(tmp_path)
    assert (dataset.root, dataset.layout) == (tmp_path, "mvtec")
    assert dataset.products == ("anvil", "bottle")
    assert names(dataset.of("anvil")) == [
        "anvil/test/dent/000.png",
        "anvil/test/dent/001.png",
        "anvil/test/good/000.png",
        "anvil/test/scratch/000.png",
        "anvil/test/scratch/001.png",
        "anvil/train/good/000.png",
        "anvil/train/good/001.png",
    ]
    assert names(dataset)[7:] == [n.replace("anvil", "bottle", 1) for n in names(dataset)[:7]]


def test_masks_belong_to_their_images(tmp_path: Path) -> None:
    write_product(tmp_path / "bottle")
    for sample in read_dataset(tmp_path).samples:
        assert sample.is_defective == (sample.defect != "good")
        if sample.is_defective:
            expected = f"bottle/ground_truth/{sample.defect}/{sample.path.stem}_mask.png"
            assert sample.mask == tmp_path / expected
        else:
            assert sample.mask is None


def test_root_may_be_one_mvtec_product(tmp_path: Path) -> None:
    dataset = read_dataset(write_product(tmp_path / "bottle"))
    assert (dataset.layout, dataset.products) == ("mvtec", ("bottle",))
    assert names(dataset) == names(read_dataset(tmp_path))


def test_root_may_be_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_product(tmp_path / "bottle"))
    assert read_dataset(".").products == ("bottle",)


def test_product_may_lack_test_parts(tmp_path: Path) -> None:
    write_image(tmp_path / "bottle" / "train" / "good" / "000.png")
    for root in (tmp_path, tmp_path / "bottle"):
        dataset = read_dataset(root)
        assert (dataset.layout, names(dataset)) == ("mvtec", ["bottle/train/good/000.png"])


def test_select_by_split_and_kind(tmp_path: Path) -> None:
    write_product(tmp_path / "bottle")
    dataset = read_dataset(tmp_path)
    assert dataset.select() == list(dataset.samples)
    assert {s.split for s in dataset.select("train")} == {"train"}
    assert len(dataset.select("test", defective=False)) == 1
    assert len(dataset.select(defective=True)) == 4
    assert dataset.select("train", defective=True) == []


def test_only_the_named_products_are_read(tmp_path: Path) -> None:
    for name in ("anvil", "bottle", "cable"):
        write_product(tmp_path / name)
    dataset = read_dataset(tmp_path, products=["cable", "anvil", "cable"])
    assert dataset.products == ("anvil", "cable")
    assert {sample.product for sample in dataset.samples} == {"anvil", "cable"}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_suffixes_in_any_case_are_images(tmp_path: Path, suffix: str) -> None:
    for name in ("a" + suffix, "b" + suffix.upper()):
        write_image(tmp_path / "bottle" / "test" / "good" / name)
    assert len(read_dataset(tmp_path).samples) == 2


def test_hidden_files_and_other_files_are_ignored(tmp_path: Path) -> None:
    folder = write_product(tmp_path / "bottle")
    expected = names(read_dataset(tmp_path))
    write_image(folder / "test" / "good" / "._000.png")
    write_image(folder / "ground_truth" / "dent" / ".000.png")
    (folder / "test" / "good" / "notes.txt").write_text("none")
    (folder / "test" / ".cache").mkdir()
    (folder / "test" / "good" / "folder.png").mkdir()
    write_image(tmp_path / "preview.png")
    (tmp_path / ".git").mkdir()
    (tmp_path / "license.txt").write_text("none")
    assert names(read_dataset(tmp_path)) == expected


def test_visa_columns_are_read_by_name(tmp_path: Path) -> None:
    images, masks = "candle/Data/Images", "candle/Data/Masks/Anomaly"
    root = write_visa(
        tmp_path,
        f"{masks}/2.png,{images}/Anomaly/2.JPG,candle,anomaly,test",
        f",{images}/Normal/1.JPG,candle,normal,test",
        f",{images}/Normal/0.JPG,candle,normal,train",
        columns="mask,image,object,label,split",
    )
    dataset = read_dataset(root)
    assert (dataset.layout, dataset.products) == ("visa", ("candle",))
    assert names(dataset) == [
        "candle/test/anomaly/2.JPG",
        "candle/test/good/1.JPG",
        "candle/train/good/0.JPG",
    ]
    assert [s.is_defective for s in dataset.samples] == [True, False, False]
    assert dataset.samples[0].mask == root / masks / "2.png"
    assert load_mask(dataset.samples[0], 8, 8).all()  # the mask holds the class id 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,test,normal,candle/none.JPG,", r"none\.JPG` must exist, line 2"),
        (
            "candle,test,anomaly,candle/Data/Images/Anomaly/2.JPG,candle/none.png",
            r"none\.png` must exist, line 2",
        ),
        ("candle,test,anomaly,candle/Data/Images/Anomaly/2.JPG,", r"2\.JPG` must have a mask"),
    ],
)
def test_visa_rows_that_name_no_file_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(write_visa(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,test,Anomaly,a.JPG,", "'Anomaly'"),
        ("candle,valid,normal,a.JPG,", "'valid'"),
        ("candle,test", "line 2"),
        (",test,normal,a.JPG,", "must name its object"),
        ("../candle,test,normal,a.JPG,", "must name its object"),
        ("candle,test,normal,../a.JPG,", r"inside the data set, got '\.\./a\.JPG'"),
        ("candle,test,normal,/a.JPG,", "inside the data set, got '/a.JPG'"),
        ("candle,test,normal,a.txt,", r"must name images .*, got 'a\.txt'"),
    ],
)
def test_visa_rows_that_mean_nothing_are_refused(tmp_path: Path, row: str, message: str) -> None:
    write_image(tmp_path / "a.JPG")
    with pytest.raises(DatasetError, match=message):
        read_dataset(write_visa(tmp_path / "visa", row))


def test_visa_table_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    row = "candle,test,normal,candle/Data/Images/Normal/0.JPG,"
    root = write_visa(tmp_path, row, columns="\ufeffobject,split,label,image,mask")
    assert names(read_dataset(root)) == ["candle/test/good/0.JPG"]


def test_visa_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    root = write_visa(tmp_path)
    (root / "split_csv" / "1cls.csv").write_bytes(b"object,split,label,image,mask\n\xff\xfe,,,,\n")
    with pytest.raises(DatasetError, match="must be CSV in UTF-8"):
        read_dataset(root)


def test_visa_layout_without_its_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="VisA layout must hold"):
        read_dataset(tmp_path, layout="visa")


@pytest.mark.parametrize("missing", ["object", "split", "label", "image", "mask"])
def test_visa_table_without_a_column_is_refused(tmp_path: Path, missing: str) -> None:
    columns = [c for c in ("object", "split", "label", "image", "mask") if c != missing]
    with pytest.raises(DatasetError, match=rf"1cls\.csv` must have a column '{missing}'"):
        read_dataset(write_visa(tmp_path, columns=",".join(columns)))


def test_visa_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none were found"):
        read_dataset(write_visa(tmp_path))


@pytest.mark.parametrize("ending", [".png", "_mask.png"])
def test_plain_folder_of_good_and_defects(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "bolt"
    write_image(folder / "good" / "000.png")
    write_image(folder / "rust" / "000.jpg")
    mask = write_image(folder / "masks" / "rust" / f"000{ending}", 255)
    dataset = read_dataset(folder)
    assert (dataset.layout, dataset.products) == ("folder", ("bolt",))
    assert [(s.defect, s.mask) for s in dataset.samples] == [("good", None), ("rust", mask)]


def test_plain_folder_of_images_is_all_good(tmp_path: Path) -> None:
    for stem in ("b", "a"):
        write_image(tmp_path / "bolt" / f"{stem}.png")
    dataset = read_dataset(tmp_path / "bolt")
    assert dataset.layout == "folder"
    assert [(s.product, s.path.name, s.is_defective) for s in dataset.samples] == [
        ("bolt", "a.png", False),
        ("bolt", "b.png", False),
    ]


def test_plain_folder_of_images_beside_folders_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "bolt" / "good" / "000.png")
    write_image(tmp_path / "bolt" / "preview.png")
    with pytest.raises(DatasetError, match=r"either images or folders, got `preview\.png`"):
        read_dataset(tmp_path / "bolt")


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_layout_that_is_asked_for_is_not_looked_up(tmp_path: Path, layout: str) -> None:
    write_image(tmp_path / "bolt" / "good" / "000.png")
    write_image(tmp_path / "bolt" / "test" / "good" / "000.png")
    assert read_dataset(tmp_path / "bolt", layout).layout == layout


def test_defective_image_must_have_a_mask(tmp_path: Path) -> None:
    folder = write_product(tmp_path / "bottle")
    (folder / "ground_truth" / "dent" / "001_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"test/dent/001\.png` must have a mask"):
        read_dataset(tmp_path)


def test_masks_may_be_missing_where_they_are_not_required(tmp_path: Path) -> None:
    write_image(tmp_path / "bottle" / "test" / "dent" / "000.png")
    (sample,) = read_dataset(tmp_path, require_masks=False).samples
    assert sample.is_defective and sample.mask is None


@pytest.mark.parametrize("second", ["000.png", "000_mask.jpg"])
def test_two_masks_of_one_image_are_refused(tmp_path: Path, second: str) -> None:
    folder = write_product(tmp_path / "bottle")
    write_image(folder / "ground_truth" / "dent" / second)
    with pytest.raises(DatasetError, match=r"'000' must have one mask, got .*000.* and .*000"):
        read_dataset(tmp_path)


def test_mask_without_image_is_refused(tmp_path: Path) -> None:
    folder = write_product(tmp_path / "bottle")
    write_image(folder / "ground_truth" / "dent" / "007_mask.png")
    with pytest.raises(DatasetError, match=r"007_mask\.png` must belong to an image"):
        read_dataset(tmp_path)


def test_two_defective_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    folder = write_product(tmp_path / "bottle")
    write_image(folder / "test" / "dent" / "000.jpg")
    with pytest.raises(DatasetError, match=r"dent/000\.jpg` must be the only image"):
        read_dataset(tmp_path)


def test_empty_product_folder_is_refused(tmp_path: Path) -> None:
    write_product(tmp_path / "bottle")
    (tmp_path / "cable").mkdir()
    with pytest.raises(DatasetError, match="cable` must hold images, it is empty"):
        read_dataset(tmp_path)


def test_unknown_product_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_product(tmp_path / "bottle")
    write_product(tmp_path / "cable")
    with pytest.raises(UsageError, match="bottle, cable, got 'botle'; did you mean 'bottle'"):
        read_dataset(tmp_path, products=["cable", "botle"])
    with pytest.raises(UsageError, match=r"got 'xyz'$"):
        read_dataset(tmp_path).of("xyz")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="must hold images in .* layout, none were found"):
        read_dataset(tmp_path)


def test_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path / "none", write_image(tmp_path / "a.png")):
        with pytest.raises(UsageError, match="must be an existing folder"):
            read_dataset(root)


def test_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`layout` must be one of mvtec, visa, folder, got 'voc'"):
        read_dataset(tmp_path, layout="voc")


def test_mask_of_a_good_part_is_empty(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "part.png", "bottle", "test", "good", None)
    mask = load_mask(sample, 5, 7)
    assert mask.shape == (5, 7)
    assert mask.dtype == np.bool_
    assert not mask.any()


@pytest.mark.parametrize("value", [1, 128, 255])
def test_any_grey_value_above_zero_is_defective(tmp_path: Path, value: int) -> None:
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[4:8, 10:18] = value
    Image.fromarray(grey).save(tmp_path / "mask.png")
    sample = sample_with_mask(tmp_path, tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(sample, HEIGHT, WIDTH), grey > 0)


def test_mask_is_resized_as_height_by_width(tmp_path: Path) -> None:
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[:8, :10] = 255
    Image.fromarray(grey).save(tmp_path / "mask.png")
    mask = load_mask(sample_with_mask(tmp_path, tmp_path / "mask.png"), 32, 10)
    expected = np.zeros((32, 10), bool)
    expected[:16, :5] = True
    np.testing.assert_array_equal(mask, expected)


def test_shrunken_mask_is_cut_at_one_half(tmp_path: Path) -> None:
    """Pillow's bilinear filter widens when it shrinks: a thin line goes, a thick one stays."""
    for n_rows, stays in ((1, False), (6, True)):
        grey = np.zeros((64, 64), np.uint8)
        grey[30 : 30 + n_rows] = 255
        path = tmp_path / f"{n_rows}.png"
        Image.fromarray(grey).save(path)
        part = write_image(tmp_path / f"part{n_rows}.png", size=(64, 64))
        mask = load_mask(Sample(part, "bottle", "test", "scratch", path), 16, 16)
        assert mask.any() == stays


@pytest.mark.parametrize("size", [(WIDTH + 1, HEIGHT - 1), (WIDTH, HEIGHT)])
def test_mask_may_differ_by_one_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    sample = sample_with_mask(tmp_path, write_image(tmp_path / "mask.png", 255, size))
    assert load_mask(sample, 8, 8).all()


@pytest.mark.parametrize("size", [(WIDTH + 2, HEIGHT), (WIDTH, HEIGHT - 2), (HEIGHT, WIDTH)])
def test_mask_of_another_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    sample = sample_with_mask(tmp_path, write_image(tmp_path / "mask.png", 255, size))
    with pytest.raises(
        DatasetError, match=r"mask\.png` must have its image's size .*20.*16.*, got"
    ):
        load_mask(sample, 8, 8)


@pytest.mark.parametrize("n_bytes", [0, 10, 60])
def test_damaged_mask_is_refused(tmp_path: Path, n_bytes: int) -> None:
    data = write_image(tmp_path / "whole.png", 255, (200, 200)).read_bytes()
    (tmp_path / "mask.png").write_bytes(data[:n_bytes])
    sample = sample_with_mask(tmp_path, tmp_path / "mask.png")
    with pytest.raises(DatasetError, match=r"mask\.png` .*must be .*readable"):
        load_mask(sample, 8, 8)


def test_mask_of_a_damaged_image_is_refused(tmp_path: Path) -> None:
    sample = sample_with_mask(tmp_path, write_image(tmp_path / "mask.png", 255))
    sample.path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"must be .*readable: .*part\.png"):
        load_mask(sample, 8, 8)


def test_mask_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sample_with_mask(tmp_path, write_image(tmp_path / "mask.png", 255))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)  # Pillow refuses twice it
    with pytest.raises(DatasetError, match="decompression bomb"):
        load_mask(sample, 8, 8)


@pytest.mark.parametrize("value", [1, 200, 65535])
def test_mask_may_have_16_bits(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint16)).save(tmp_path / "mask.png")
    assert load_mask(sample_with_mask(tmp_path, tmp_path / "mask.png"), 8, 8).all()


@pytest.mark.real_parts
@pytest.mark.skipif("CFF_DATA" not in os.environ, reason="CFF_DATA does not name the real images")
@pytest.mark.parametrize("name", REAL_SETS)
def test_real_sets_hold_what_their_readme_says(name: str) -> None:
    dataset = read_dataset(Path(os.environ["CFF_DATA"]) / name)
    assert dataset.layout == "mvtec"
    counts = (
        len(dataset.products),
        len(dataset.select("train", defective=False)),
        len(dataset.select("test", defective=False)),
        len(dataset.select("test", defective=True)),
    )
    assert counts == REAL_SETS[name]
    assert not dataset.select("train", defective=True)
    for product in dataset.products:
        for sample in dataset.of(product).select("test", defective=True)[::8]:
            assert load_mask(sample, 256, 256).any(), sample.mask


@pytest.mark.real_parts
@pytest.mark.skipif("CFF_DATA" not in os.environ, reason="CFF_DATA does not name the real images")
def test_real_part_one_pixel_short_has_a_mask_of_its_size() -> None:
    dataset = read_dataset(Path(os.environ["CFF_DATA"]) / "piped")
    odd = []
    for sample in dataset.samples:
        with Image.open(sample.path) as image:
            if image.size != (128, 128):
                odd.append((sample, image.size))
    assert [size for _, size in odd] == [(127, 128)]
    sample, (width, height) = odd[0]
    assert load_mask(sample, height, width).any() == sample.is_defective
