"""Reading data sets: three layouts, masks, selection, and what is refused."""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_edge.config import load_config
from cff_edge.datasets import Dataset, Sample, load_mask, read_dataset, require_product
from cff_edge.selection import select_samples
from cff_runtime.errors import DatasetError, UsageError

COLUMNS = ["object", "split", "label", "image", "mask"]


def touch(path: Path) -> Path:
    """Make an empty file: reading a data set opens no image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_image(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_mvtec_product(folder: Path) -> Path:
    for name in ("train/good/01.png", "train/good/00.png", "test/good/00.png"):
        touch(folder / name)
    for stem in ("03", "00"):
        touch(folder / "test" / "scratch" / f"{stem}.png")
        touch(folder / "ground_truth" / "scratch" / f"{stem}_mask.png")
    return folder


def make_plain_product(folder: Path) -> Path:
    for name in ("good/b.png", "good/a.png", "dent/x.jpg", "crack/y.png"):
        touch(folder / name)
    touch(folder / "masks" / "dent" / "x.png")
    touch(folder / "masks" / "crack" / "y_mask.png")
    return folder


def make_visa(root: Path, rows: list[list[str]], columns: list[str] = COLUMNS) -> Path:
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    for row in rows:
        for name in row[3:]:
            if name and ".." not in name and not name.startswith("/") and "gone" not in name:
                touch(root / name)
    return root


def visa_rows(product: str) -> list[list[str]]:
    images, masks = f"{product}/Data/Images", f"{product}/Data/Masks/Anomaly"
    return [
        [product, "train", "normal", f"{images}/Normal/0001.JPG", ""],
        [product, "train", "normal", f"{images}/Normal/0000.JPG", ""],
        [product, "test", "anomaly", f"{images}/Anomaly/000.JPG", f"{masks}/000.png"],
        [product, "test", "normal", f"{images}/Normal/0002.JPG", ""],
    ]


def facts(dataset: Dataset) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (s.product, s.split, s.defect, s.path.name, s.mask.name if s.mask else None)
        for s in dataset.samples
    ]


def mvtec_facts(product: str) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (product, "test", "good", "00.png", None),
        (product, "test", "scratch", "00.png", "00_mask.png"),
        (product, "test", "scratch", "03.png", "03_mask.png"),
        (product, "train", "good", "00.png", None),
        (product, "train", "good", "01.png", None),
    ]


def plain_facts(product: str) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (product, "test", "crack", "y.png", "y_mask.png"),
        (product, "test", "dent", "x.jpg", "x.png"),
        (product, "test", "good", "a.png", None),
        (product, "test", "good", "b.png", None),
    ]


class TestLayouts:
    def test_mvtec(self, tmp_path: Path) -> None:
        make_mvtec_product(tmp_path / "nut")
        make_mvtec_product(tmp_path / "bolt")
        dataset = read_dataset(tmp_path)
        assert (dataset.layout, dataset.products) == ("mvtec", ("bolt", "nut"))
        assert dataset.root == tmp_path
        assert facts(dataset) == mvtec_facts("bolt") + mvtec_facts("nut")
        [scratched, _] = dataset.of("nut").select(split="test", defective=True)
        assert scratched.path == tmp_path / "nut" / "test" / "scratch" / "00.png"
        assert scratched.mask == tmp_path / "nut" / "ground_truth" / "scratch" / "00_mask.png"

    def test_one_mvtec_product(self, tmp_path: Path) -> None:
        dataset = read_dataset(make_mvtec_product(tmp_path / "bolt"))
        assert (dataset.layout, dataset.products) == ("mvtec", ("bolt",))
        assert facts(dataset) == mvtec_facts("bolt")

    def test_mvtec_with_good_training_parts_only(self, tmp_path: Path) -> None:
        touch(tmp_path / "bolt" / "train" / "good" / "0.png")
        dataset = read_dataset(tmp_path)
        assert dataset.layout == "mvtec"
        assert facts(dataset) == [("bolt", "train", "good", "0.png", None)]

    def test_pictures_beside_mvtec_products_change_nothing(self, tmp_path: Path) -> None:
        make_mvtec_product(tmp_path / "bolt")
        touch(tmp_path / "overview.png")
        touch(tmp_path / "bolt" / "overview.png")
        assert facts(read_dataset(tmp_path)) == mvtec_facts("bolt")

    def test_plain_folders(self, tmp_path: Path) -> None:
        make_plain_product(tmp_path / "nut")
        make_plain_product(tmp_path / "bolt")
        dataset = read_dataset(tmp_path)
        assert (dataset.layout, dataset.products) == ("folder", ("bolt", "nut"))
        assert facts(dataset) == plain_facts("bolt") + plain_facts("nut")

    def test_one_plain_product(self, tmp_path: Path) -> None:
        dataset = read_dataset(make_plain_product(tmp_path / "bolt"))
        assert (dataset.layout, dataset.products) == ("folder", ("bolt",))
        assert facts(dataset) == plain_facts("bolt")

    def test_images_alone_are_one_good_product(self, tmp_path: Path) -> None:
        for name in ("b.png", "a.png"):
            touch(tmp_path / "shots" / name)
        dataset = read_dataset(tmp_path / "shots")
        assert (dataset.layout, dataset.products) == ("folder", ("shots",))
        assert facts(dataset) == [
            ("shots", "test", "good", "a.png", None),
            ("shots", "test", "good", "b.png", None),
        ]

    def test_folders_of_images_alone_are_products(self, tmp_path: Path) -> None:
        touch(tmp_path / "nut" / "a.png")
        touch(tmp_path / "bolt" / "a.png")
        dataset = read_dataset(tmp_path)
        assert [fact[:3] for fact in facts(dataset)] == [
            ("bolt", "test", "good"),
            ("nut", "test", "good"),
        ]

    def test_visa(self, tmp_path: Path) -> None:
        dataset = read_dataset(make_visa(tmp_path, visa_rows("pcb1") + visa_rows("candle")))
        assert (dataset.layout, dataset.products) == ("visa", ("candle", "pcb1"))
        assert facts(dataset.of("pcb1")) == [
            ("pcb1", "test", "anomaly", "000.JPG", "000.png"),
            ("pcb1", "test", "good", "0002.JPG", None),
            ("pcb1", "train", "good", "0000.JPG", None),
            ("pcb1", "train", "good", "0001.JPG", None),
        ]
        [defective] = dataset.of("candle").select(defective=True)
        assert defective.path == tmp_path / "candle/Data/Images/Anomaly/000.JPG"
        assert defective.mask == tmp_path / "candle/Data/Masks/Anomaly/000.png"

    def test_visa_columns_may_stand_in_any_order_after_a_byte_order_mark(
        self, tmp_path: Path
    ) -> None:
        table = tmp_path / "split_csv" / "1cls.csv"
        table.parent.mkdir()
        table.write_text(
            "image,extra,mask,label,split,object\npcb/0.JPG,?,,normal,train,pcb\n",
            encoding="utf-8-sig",
        )
        touch(tmp_path / "pcb" / "0.JPG")
        assert facts(read_dataset(tmp_path)) == [("pcb", "train", "good", "0.JPG", None)]

    @pytest.mark.parametrize("layout", ["mvtec", "folder"])
    def test_a_layout_asked_for_is_not_looked_up(self, tmp_path: Path, layout: str) -> None:
        touch(tmp_path / "bolt" / "good" / "0.png")
        touch(tmp_path / "bolt" / "test" / "good" / "1.png")
        [sample] = read_dataset(tmp_path / "bolt", layout).samples
        assert sample.path.name == {"mvtec": "1.png", "folder": "0.png"}[layout]

    def test_visa_wins_over_folders(self, tmp_path: Path) -> None:
        make_mvtec_product(tmp_path / "bolt")
        assert read_dataset(make_visa(tmp_path, visa_rows("pcb1"))).products == ("pcb1",)
        assert read_dataset(tmp_path / "bolt").products == ("bolt",)

    def test_a_product_is_named_after_the_folder_behind_a_dot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_mvtec_product(tmp_path / "bolt")
        monkeypatch.chdir(tmp_path / "bolt")
        assert read_dataset(".").products == ("bolt",)
        monkeypatch.chdir(tmp_path / "bolt" / "test")
        assert read_dataset("..").products == ("bolt",)

    def test_suffixes_in_any_case_count_and_other_files_do_not(self, tmp_path: Path) -> None:
        product = make_mvtec_product(tmp_path / "bolt")
        good = product / "train" / "good"
        for name in ("a.PNG", "b.Jpg", "c.JPEG", "d.bmp", "e.TIF", "f.tiff"):
            touch(good / name)
        for name in ("Thumbs.db", "notes.txt", "x.gif", "png"):
            touch(good / name)
        (good / "folder.png").mkdir()
        names = [s.path.name for s in read_dataset(product).select(split="train")]
        assert names == ["00.png", "01.png", "a.PNG", "b.Jpg", "c.JPEG", "d.bmp", "e.TIF", "f.tiff"]

    @pytest.mark.parametrize("make", [make_mvtec_product, make_plain_product])
    def test_hidden_files_and_folders_are_left_out(
        self, tmp_path: Path, make: Callable[[Path], Path]
    ) -> None:
        make(tmp_path / "bolt")
        expected = facts(read_dataset(tmp_path))
        folders = [path for path in (tmp_path / "bolt").rglob("*") if path.is_dir()]
        for folder in (tmp_path, tmp_path / "bolt", *folders):
            touch(folder / "._00.png")
            touch(folder / ".trash" / "00.png")
        assert facts(read_dataset(tmp_path)) == expected

    def test_select_filters_by_split_and_kind(self, tmp_path: Path) -> None:
        dataset = read_dataset(make_mvtec_product(tmp_path / "bolt"))

        def names(split: str | None, defective: bool | None) -> list[str]:
            return [f"{s.split}/{s.defect}/{s.path.stem}" for s in dataset.select(split, defective)]

        assert names("train", None) == ["train/good/00", "train/good/01"]
        assert names("train", True) == []
        assert names("test", False) == ["test/good/00"]
        assert names(None, True) == ["test/scratch/00", "test/scratch/03"]
        assert len(names(None, None)) == 5

    def test_products_can_be_chosen(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            make_mvtec_product(tmp_path / name)
        dataset = read_dataset(tmp_path, products=["c", "a", "c"])
        assert dataset.products == ("a", "c")
        assert {s.product for s in dataset.samples} == {"a", "c"}

    def test_masks_of_products_not_chosen_may_lack(self, tmp_path: Path) -> None:
        make_mvtec_product(tmp_path / "a")
        touch(tmp_path / "b" / "test" / "dent" / "00.png")
        assert facts(read_dataset(tmp_path, products=["a"])) == mvtec_facts("a")

    def test_masks_may_lack_where_none_are_required(self, tmp_path: Path) -> None:
        product = make_mvtec_product(tmp_path / "bolt")
        (product / "ground_truth" / "scratch" / "03_mask.png").unlink()
        dataset = read_dataset(product, require_masks=False)
        masks = {s.path.name: s.mask for s in dataset.select(defective=True)}
        assert masks["03.png"] is None
        assert masks["00.png"] is not None


class TestErrors:
    """Each names the file or value, and what to do."""

    def test_root_that_is_no_folder(self, tmp_path: Path) -> None:
        for root in (tmp_path / "gone", touch(tmp_path / "file.png")):
            with pytest.raises(UsageError, match=rf"{root}.*must be an existing folder"):
                read_dataset(root)

    def test_unknown_layout(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r"must be one of mvtec, visa, folder, meta, got 'coco'"
        ):
            read_dataset(tmp_path, layout="coco")

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            (None, r"must hold images in MVTec AD, VisA or folder layout, none were found"),
            ("mvtec", r"must hold images in mvtec layout, none were found"),
            ("visa", r"in VisA layout must hold `split_csv/1cls\.csv`"),
            ("folder", r"must hold images in folder layout, none were found"),
        ],
    )
    def test_no_data_set(self, tmp_path: Path, layout: str | None, message: str) -> None:
        touch(tmp_path / "notes.txt")
        with pytest.raises(DatasetError, match=re.escape(str(tmp_path)) + ".*" + message):
            read_dataset(tmp_path, layout)

    @pytest.mark.parametrize("make", [make_mvtec_product, make_plain_product])
    def test_empty_product(self, tmp_path: Path, make: Callable[[Path], Path]) -> None:
        make(tmp_path / "bolt")
        (tmp_path / "nut" / "good").mkdir(parents=True)
        with pytest.raises(DatasetError, match=r"`.*/nut` must hold images, it is empty"):
            read_dataset(tmp_path)

    def test_images_beside_folders(self, tmp_path: Path) -> None:
        make_plain_product(tmp_path / "bolt")
        touch(tmp_path / "overview.png")
        with pytest.raises(DatasetError, match=r"got `overview\.png` beside `bolt`; move one"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize(
        ("make", "mask"),
        [
            (make_mvtec_product, "ground_truth/scratch/03_mask.png"),
            (make_plain_product, "masks/dent/x.png"),
        ],
    )
    def test_defective_image_without_mask(
        self, tmp_path: Path, make: Callable[[Path], Path], mask: str
    ) -> None:
        product = make(tmp_path / "bolt")
        (product / mask).unlink()
        with pytest.raises(DatasetError, match=r"(scratch/03\.png|dent/x\.jpg)` must have a mask"):
            read_dataset(tmp_path)

    def test_visa_anomaly_without_mask(self, tmp_path: Path) -> None:
        make_visa(tmp_path, [["pcb", "test", "anomaly", "pcb/000.JPG", ""]])
        with pytest.raises(DatasetError, match=r"pcb/000\.JPG` must have a mask"):
            read_dataset(tmp_path)
        assert read_dataset(tmp_path, require_masks=False).samples[0].is_defective

    @pytest.mark.parametrize("second", ["03.png", "03_mask.bmp", "03.PNG"])
    def test_two_masks_for_one_image(self, tmp_path: Path, second: str) -> None:
        product = make_mvtec_product(tmp_path / "bolt")
        touch(product / "ground_truth" / "scratch" / second)
        with pytest.raises(DatasetError, match=r"image '03' must have one mask, got `") as caught:
            read_dataset(tmp_path)
        assert f"/scratch/{second}`" in str(caught.value)
        assert "/scratch/03_mask.png`" in str(caught.value)

    def test_mask_without_image(self, tmp_path: Path) -> None:
        product = make_mvtec_product(tmp_path / "bolt")
        touch(product / "ground_truth" / "scratch" / "07_mask.png")
        with pytest.raises(DatasetError, match=r"07_mask\.png` must belong to an image of `"):
            read_dataset(tmp_path)

    def test_two_defective_images_of_one_name(self, tmp_path: Path) -> None:
        product = make_mvtec_product(tmp_path / "bolt")
        touch(product / "test" / "scratch" / "03.bmp")
        with pytest.raises(DatasetError, match=r"03\.bmp` must be the only image of its name"):
            read_dataset(tmp_path)

    def test_unknown_product_names_the_nearest(self, tmp_path: Path) -> None:
        for name in ("bottle", "transistor"):
            make_mvtec_product(tmp_path / name)
        for call in (
            lambda: read_dataset(tmp_path, products=["botle"]),
            lambda: read_dataset(tmp_path).of("botle"),
            lambda: require_product("botle", ("bottle", "transistor")),
        ):
            with pytest.raises(UsageError) as caught:
                call()
            assert str(caught.value) == (
                "product must be one of bottle, transistor, got 'botle'; did you mean 'bottle'?"
            )
        with pytest.raises(UsageError, match=r"got 'zzz'$"):
            read_dataset(tmp_path, products=["zzz"])

    def test_products_named_in_a_root_that_lacks_them(self, tmp_path: Path) -> None:
        make_mvtec_product(tmp_path / "one" / "bolt")
        make_mvtec_product(tmp_path / "two" / "nut")
        with pytest.raises(UsageError, match=r"must be one of bolt, got 'nut'"):
            read_dataset(tmp_path / "one", products=["nut"])

    @pytest.mark.parametrize("column", COLUMNS)
    def test_missing_csv_column(self, tmp_path: Path, column: str) -> None:
        columns = ["other" if name == column else name for name in COLUMNS]
        make_visa(tmp_path, visa_rows("pcb"), columns)
        with pytest.raises(DatasetError, match=rf"1cls\.csv` must have a column '{column}'"):
            read_dataset(tmp_path)

    def test_empty_csv(self, tmp_path: Path) -> None:
        touch(tmp_path / "split_csv" / "1cls.csv")
        with pytest.raises(DatasetError, match=r"must have a column 'image'"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize(
        ("image", "mask", "what"),
        [("gone.JPG", "m.png", "image"), ("i.JPG", "gone.png", "mask")],
    )
    def test_csv_naming_a_missing_file(
        self, tmp_path: Path, image: str, mask: str, what: str
    ) -> None:
        row = ["pcb", "test", "anomaly", image, mask]
        make_visa(tmp_path, [*visa_rows("pcb"), row])
        with pytest.raises(DatasetError, match=rf"^{what} `.*gone.*` must exist, line 6 of `.*csv"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize("what", ["image", "mask"])
    @pytest.mark.parametrize("form", ["../{}", "pcb/../../{}", "/{}"])
    def test_csv_path_leaving_the_root(self, tmp_path: Path, what: str, form: str) -> None:
        outside = touch(tmp_path / "outside.png")
        name = f"{outside}" if form == "/{}" else form.format("outside.png")
        inside = {"image": "pcb/in.png", "mask": "pcb/in.png"} | {what: name}
        root = make_visa(
            tmp_path / "set", [["pcb", "test", "anomaly", inside["image"], inside["mask"]]]
        )
        touch(root / "pcb" / "in.png")
        assert (root / name).is_file()  # it would be found
        with pytest.raises(DatasetError, match=rf"line 2 .*must name {what}s inside the data set"):
            read_dataset(root)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (["pcb", "test", "Anomaly", "i.png", "m.png"], r"got 'test' and 'Anomaly'"),
            (["pcb", "valid", "normal", "i.png", ""], r"got 'valid' and 'normal'"),
            (["pcb", "test"], r"got 'test' and ''"),
            (["../pcb", "test", "normal", "i.png", ""], r"must name its object, without slashes"),
            (["", "test", "normal", "i.png", ""], r"must name its object, without slashes"),
            (["..", "test", "normal", "i.png", ""], r"must name its object, without slashes"),
            (["pcb", "test", "normal", "i.webp", ""], r"must name images \(\.png, .*got 'i\.webp'"),
            (["pcb", "test", "normal"], r"must name images \(\.png, .*got ''"),
        ],
    )
    def test_damaged_csv_row(self, tmp_path: Path, row: list[str], message: str) -> None:
        make_visa(tmp_path, [*visa_rows("pcb"), row])
        with pytest.raises(DatasetError, match=r"^line 6 of `.*1cls\.csv` .*" + message):
            read_dataset(tmp_path)

    def test_csv_without_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"none were found"):
            read_dataset(make_visa(tmp_path, []))

    def test_csv_that_is_not_text(self, tmp_path: Path) -> None:
        make_visa(tmp_path, visa_rows("pcb"))
        table = tmp_path / "split_csv" / "1cls.csv"
        table.write_bytes(table.read_bytes() + b"\xff\xfe\n")
        with pytest.raises(DatasetError, match=r"1cls\.csv` must be CSV in UTF-8"):
            read_dataset(tmp_path)


def bilinear(binary: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Resize by Pillow's definition of bilinear: a triangle filter, widened when shrinking."""

    def weights(n_in: int, n_out: int) -> NDArray[np.float64]:
        scale = n_in / n_out
        reach = max(scale, 1.0)
        centres = (np.arange(n_out) + 0.5) * scale
        distance = np.abs(np.arange(n_in) + 0.5 - centres[:, None]) / reach
        triangle = np.clip(1.0 - distance, 0.0, None)
        return triangle / triangle.sum(axis=1, keepdims=True)

    return weights(binary.shape[0], height) @ binary @ weights(binary.shape[1], width).T


def make_sample(
    folder: Path, mask: NDArray[np.uint8], size: tuple[int, int] | None = None
) -> Sample:
    height, width = size or mask.shape
    image = write_image(folder / "image.png", np.zeros((height, width, 3), np.uint8))
    return Sample(image, "bolt", "test", "dent", write_image(folder / "mask.png", mask))


class TestLoadMask:
    @pytest.mark.parametrize("size", [(40, 50), (17, 31), (96, 96), (40, 96)])
    @pytest.mark.parametrize("values", [(255,), (1,), (1, 2, 3, 200)])
    def test_equals_brute_force(
        self, tmp_path: Path, size: tuple[int, int], values: tuple[int, ...]
    ) -> None:
        rng = np.random.default_rng(3)
        mask = np.zeros((40, 50), np.uint8)
        for _ in range(12):
            y, x = rng.integers(0, 34, 2)
            h, w = rng.integers(1, 16, 2)
            mask[y : y + h, x : x + w] = rng.choice(values)
        got = load_mask(make_sample(tmp_path, mask), *size)
        assert got.shape == size
        assert got.dtype == np.bool_
        exact = bilinear((mask > 0) * np.uint8(255), *size)
        # Pillow rounds to whole grey levels once per axis
        sure = np.abs(exact - 127.5) > 1.0
        assert sure.mean() > 0.95
        np.testing.assert_array_equal(got[sure], exact[sure] > 127.5)
        assert 0.05 < got.mean() < 0.8

    def test_same_size_keeps_every_pixel(self, tmp_path: Path) -> None:
        mask = np.random.default_rng(0).integers(0, 4, (33, 47)).astype(np.uint8)
        got = load_mask(make_sample(tmp_path, mask), 33, 47)
        np.testing.assert_array_equal(got, mask > 0)

    @pytest.mark.parametrize("value", [1, 255, 256, 65535])
    def test_16_bits(self, tmp_path: Path, value: int) -> None:
        sample = make_sample(tmp_path, np.zeros((40, 50), np.uint8))
        mask = np.zeros((40, 50), np.uint16)
        mask[:, 20:] = value
        Image.fromarray(mask).save(sample.mask or "")
        np.testing.assert_array_equal(load_mask(sample, 40, 50), mask > 0)

    @pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "I;16"])
    def test_image_modes(self, tmp_path: Path, mode: str) -> None:
        mask = np.zeros((20, 24), np.uint8)
        mask[4:12, 6:20] = 1
        if mode == "P":
            picture = Image.fromarray(mask)
            picture.putpalette([0, 0, 0, 128, 0, 0])
        elif mode == "I;16":
            picture = Image.fromarray(mask.astype(np.uint16))
        else:
            picture = Image.fromarray(mask * 255).convert(mode)
        assert picture.mode == mode
        sample = make_sample(tmp_path, mask)
        assert sample.mask is not None
        picture.save(sample.mask)
        np.testing.assert_array_equal(load_mask(sample, 20, 24), mask > 0)

    def test_without_mask_nothing_is_defective(self, tmp_path: Path) -> None:
        sample = Sample(tmp_path / "never_opened.png", "bolt", "test", "good", None)
        got = load_mask(sample, 5, 7)
        assert got.shape == (5, 7)
        assert got.dtype == np.bool_
        assert not got.any()

    @pytest.mark.parametrize("size", [(40, 51), (41, 50), (39, 49)])
    def test_one_pixel_of_difference_is_allowed(
        self, tmp_path: Path, size: tuple[int, int]
    ) -> None:
        mask = np.full((40, 50), 255, np.uint8)
        assert load_mask(make_sample(tmp_path, mask, size), 30, 30).all()

    @pytest.mark.parametrize("size", [(40, 52), (42, 50), (50, 40)])
    def test_more_is_refused(self, tmp_path: Path, size: tuple[int, int]) -> None:
        sample = make_sample(tmp_path, np.full((40, 50), 255, np.uint8), size)
        expected = rf"mask\.png` must have its image's size {size[1]} x {size[0]}, got 50 x 40"
        with pytest.raises(DatasetError, match=expected):
            load_mask(sample, 30, 30)

    @pytest.mark.parametrize("keep_bytes", [0, 20, 60])
    def test_unreadable_mask(self, tmp_path: Path, keep_bytes: int) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
        sample = make_sample(tmp_path, noise)
        assert sample.mask is not None
        sample.mask.write_bytes(sample.mask.read_bytes()[:keep_bytes])
        with pytest.raises(DatasetError, match=r"mask\.png` and its image must be readable"):
            load_mask(sample, 30, 30)

    def test_mask_or_image_that_went_away(self, tmp_path: Path) -> None:
        sample = make_sample(tmp_path, np.zeros((40, 50), np.uint8))
        sample.path.unlink()
        with pytest.raises(DatasetError, match=r"must be readable: .*image\.png"):
            load_mask(sample, 30, 30)

    def test_mask_too_large_to_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sample = make_sample(tmp_path, np.zeros((40, 50), np.uint8))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        with pytest.raises(DatasetError, match=r"mask\.png` and its image must be readable"):
            load_mask(sample, 30, 30)


class TestSelection:
    def make_roots(self, root: Path) -> list[str]:
        make_mvtec_product(root / "one" / "bolt")
        make_mvtec_product(root / "one" / "nut")
        make_plain_product(root / "two" / "gear")
        return [f"data.roots={[str(root / 'one'), str(root / 'two')]}"]

    def names(self, *overrides: str) -> list[str]:
        return [f"{s.product}/{s.path.name}" for s in select_samples(load_config(None, overrides))]

    def test_takes_labelled_images_of_all_roots(self, tmp_path: Path) -> None:
        roots = self.make_roots(tmp_path)
        assert Counter(name.split("/")[0] for name in self.names(*roots)) == Counter(
            bolt=3, gear=4, nut=3
        )
        samples = select_samples(load_config(None, roots))
        assert {sample.split for sample in samples} == {"test"}

    def test_products_and_exclude(self, tmp_path: Path) -> None:
        roots = self.make_roots(tmp_path)
        bolts = self.names(*roots, 'data.products=["bolt"]')
        assert bolts == ["bolt/00.png", "bolt/00.png", "bolt/03.png"]
        assert self.names(*roots, 'data.exclude=["gear", "nut"]') == bolts
        both = self.names(*roots, 'data.products=["bolt", "nut"]', 'data.exclude=["nut"]')
        assert both == bolts

    @pytest.mark.parametrize("key", ["products", "exclude"])
    def test_unknown_product_names_the_nearest(self, tmp_path: Path, key: str) -> None:
        roots = self.make_roots(tmp_path)
        with pytest.raises(UsageError, match=r"one of bolt, gear, nut, got 'bold'; .* 'bolt'\?"):
            self.names(*roots, f'data.{key}=["bold"]')

    def test_only_products_trained_on_need_masks(self, tmp_path: Path) -> None:
        roots = self.make_roots(tmp_path)
        (tmp_path / "one/nut/ground_truth/scratch/03_mask.png").unlink()
        assert len(self.names(*roots, 'data.exclude=["nut"]')) == 7
        assert len(self.names(*roots, 'data.products=["bolt"]')) == 3
        with pytest.raises(DatasetError, match=r"nut/test/scratch/03\.png` must have a mask"):
            self.names(*roots)

    def test_max_per_product_draws_by_the_seed(self, tmp_path: Path) -> None:
        for number in range(40):
            touch(tmp_path / "bolt" / "test" / "good" / f"{number:02}.png")
        touch(tmp_path / "nut" / "test" / "good" / "00.png")

        def draw(seed: int) -> list[str]:
            limits = ("data.max_per_product=5", f"train.seed={seed}")
            return self.names(f"data.roots={[str(tmp_path)]}", *limits)

        first = draw(1)
        assert first == draw(1) != draw(2)
        bolts = [name for name in first if name.startswith("bolt")]
        assert len(set(bolts)) == len(bolts) == 5
        assert bolts == sorted(bolts)
        assert [name for name in first if name.startswith("nut")] == ["nut/00.png"]

    def test_no_data_set_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"`--data` must name at least one data set"):
            self.names()


def test_reading_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(Image, "open", opened.append)
    read_dataset(make_mvtec_product(tmp_path / "bolt"))
    assert opened == []


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_all_sets_below_cff_data() -> None:
    """Counts of the data README's table: products, good training, good and defective test."""
    root = Path(os.environ["CFF_DATA"])
    line = re.compile(r"\| (\w+) \|.*\| (\d+) \| (\d+) / (\d+) / (\d+) \|")
    table = (root / "README.md").read_text(encoding="utf-8").splitlines()
    expected = {m[1]: tuple(int(n) for n in m.groups()[1:]) for m in map(line.match, table) if m}
    assert len(expected) == 6
    for name, counts in expected.items():
        dataset = read_dataset(root / name)
        assert dataset.layout == "mvtec"
        n_good = len(dataset.select("train", defective=False))
        n_test = len(dataset.select("test", defective=False))
        defective = dataset.select("test", defective=True)
        assert (len(dataset.products), n_good, n_test, len(defective)) == counts, name
        assert dataset.select("train", defective=True) == []
        for sample in defective[:: max(1, len(defective) // 20)]:
            assert load_mask(sample, 256, 256).any(), sample.mask


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_the_real_part_that_is_one_pixel_short() -> None:
    """One image of `piped` has 127 x 128 px, by its README."""
    odd = []
    for sample in read_dataset(Path(os.environ["CFF_DATA"]) / "piped").samples:
        with Image.open(sample.path) as image:
            if image.size != (128, 128):
                odd.append((sample, image.size))
    [(sample, size)] = odd
    assert size == (127, 128)
    assert load_mask(sample, 128, 127).any() == sample.is_defective
