"""`meta.json`, APRIL-GAN's index of a data set: round trips, and what is refused."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cff_edge.cli import main
from cff_edge.datasets import Dataset, read_dataset
from cff_edge.meta_json import META_NAME, write_meta
from cff_runtime.errors import DatasetError, UsageError


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _mvtec(root: Path) -> Path:
    for product in ("bottle", "metal_nut"):
        folder = root / product
        _touch(folder, "train/good/000.png", "train/good/001.png", "test/good/000.png")
        _touch(folder, "test/cut/000.png", "ground_truth/cut/000_mask.png")
    return root


def _visa(root: Path) -> Path:
    rows = [
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/1.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png",
    ]
    for row in rows:
        _touch(root, *(name for name in row.split(",")[3:] if name))
    (root / "split_csv").mkdir()
    text = "\n".join(["object,split,label,image,mask", *rows])
    (root / "split_csv" / "1cls.csv").write_text(text)
    return root


def _folder(root: Path) -> Path:
    _touch(root, "plate ä/good/a.png", "plate ä/dent/b.png", "plate ä/masks/dent/b.png")
    _touch(root, "plate ä/scratch/without a mask.jpg")
    return root


def _facts(dataset: Dataset) -> list[tuple[object, ...]]:
    return [(s.path, s.product, s.split, s.defect, s.mask) for s in dataset.samples]


@pytest.mark.parametrize("make", [_mvtec, _visa, _folder])
def test_a_data_set_comes_back_from_its_index(tmp_path: Path, make: Callable[..., Path]) -> None:
    root = make(tmp_path / "data")
    dataset = read_dataset(root, require_masks=False)
    write_meta(dataset, root / META_NAME)
    again = read_dataset(root, require_masks=False)
    assert again.layout == "meta"
    assert again.products == dataset.products
    assert _facts(again) == _facts(dataset)
    # the other layouts are still there to be asked for
    assert read_dataset(root, dataset.layout, require_masks=False) == dataset


def test_the_file_is_what_april_gan_reads(tmp_path: Path) -> None:
    root = _mvtec(tmp_path / "mvtec")
    write_meta(read_dataset(root), root / META_NAME)
    meta = json.loads((root / META_NAME).read_text(encoding="utf-8"))
    assert list(meta) == ["train", "test"]
    assert list(meta["test"]) == ["bottle", "metal_nut"]
    assert meta["test"]["metal_nut"] == [
        {
            "img_path": "metal_nut/test/cut/000.png",
            "mask_path": "metal_nut/ground_truth/cut/000_mask.png",
            "cls_name": "metal_nut",
            "specie_name": "cut",
            "anomaly": 1,
        },
        {
            "img_path": "metal_nut/test/good/000.png",
            "mask_path": "",
            "cls_name": "metal_nut",
            "specie_name": "good",
            "anomaly": 0,
        },
    ]
    assert [entry["anomaly"] for entry in meta["train"]["bottle"]] == [0, 0]
    visa = _visa(tmp_path / "visa")
    write_meta(read_dataset(visa), visa / META_NAME)
    entries = json.loads((visa / META_NAME).read_text())["test"]["candle"]
    assert {entry["specie_name"] for entry in entries} == {""}


def test_an_index_may_list_less_than_there_is(tmp_path: Path) -> None:
    root = _mvtec(tmp_path / "data")
    write_meta(read_dataset(root).of("bottle"), root / META_NAME)
    assert read_dataset(root).products == ("bottle",)


def test_an_index_is_not_overwritten_and_lies_above_its_images(tmp_path: Path) -> None:
    root = _mvtec(tmp_path / "data")
    dataset = read_dataset(root)
    with pytest.raises(DatasetError, match=r"must lie inside .* to be listed there"):
        write_meta(dataset, tmp_path / "elsewhere" / META_NAME)
    write_meta(dataset, root / META_NAME)
    with pytest.raises(UsageError, match="must not exist yet"):
        write_meta(dataset, root / META_NAME)


def test_the_command_line_writes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _mvtec(tmp_path / "data")
    assert main(["--write-meta", str(root)]) == 0
    assert capsys.readouterr().out == ""
    assert read_dataset(root).layout == "meta"
    assert main(["--write-meta", str(root)]) == 2
    assert "error: " in capsys.readouterr().err
    assert main(["--write-meta", str(tmp_path / "absent")]) == 2
    monkeypatch.chdir(_mvtec(tmp_path / "here"))
    assert main(["--write-meta", "."]) == 0
    assert len(read_dataset(".").samples) == 8


# --- what a stranger may have written


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A data set with an index, and what it says."""
    root = _mvtec(tmp_path / "data")
    write_meta(read_dataset(root), root / META_NAME)
    _touch(tmp_path, "outside.png")
    return root, json.loads((root / META_NAME).read_text())


def _first(meta: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = meta["test"]["bottle"][0]
    assert entry["anomaly"] == 1
    return entry


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda meta: _first(meta).__setitem__(key, value)


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    def drop(meta: dict[str, Any]) -> None:
        del _first(meta)[key]

    return drop


def _twice(meta: dict[str, Any]) -> None:
    meta["test"]["bottle"].append(copy.deepcopy(_first(meta)))


def _renamed(name: str) -> Callable[[dict[str, Any]], None]:
    def rename(meta: dict[str, Any]) -> None:
        entries = meta["test"].pop("bottle")
        meta["test"][name] = [{**entry, "cls_name": name} for entry in entries]

    return rename


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("img_path", "../outside.png"), "must name images inside the data set, got '../out"),
        (_set("img_path", "bottle/../../outside.png"), "must name images inside the data set"),
        (_set("img_path", "/etc/passwd.png"), "must name images inside the data set"),
        (_set("mask_path", "../outside.png"), "must name masks inside the data set"),
        (_set("img_path", "bottle/test"), "must name images .*png.* got 'bottle/test'"),
        (_set("img_path", ""), "must name images .* got ''"),
        (_set("img_path", "bottle/absent.png"), "absent.png` must exist, entry 0 of test, 'bott"),
        (_set("img_path", "a\0b.png"), "must exist"),
        (_set("img_path", "x" * 5000 + ".png"), "must exist"),
        (_set("mask_path", "bottle/absent.png"), "mask .*absent.png` must exist"),
        (_set("mask_path", ""), "must have a mask, none was found"),
        (_set("img_path", 3), "entry 0 of test, 'bottle' .*`img_path` must be of type str, got 3"),
        (_set("mask_path", None), "field `mask_path` must be of type str, got None"),
        (_set("anomaly", "1"), "field `anomaly` must be of type int, got '1'"),
        (_set("anomaly", True), "field `anomaly` must be of type int, got True"),
        (_set("anomaly", 2), "field `anomaly` must be 0 or 1, got 2"),
        (_set("specie_name", "good"), "must not name a defect 'good'"),
        (_set("cls_name", "screw"), "`cls_name` must be the product it is listed under, got 'scr"),
        *((_drop(key), f"field `{key}` must be present") for key in ("img_path", "anomaly")),
        *((_drop(key), f"field `{key}` must be present") for key in ("mask_path", "cls_name")),
        (_drop("specie_name"), "field `specie_name` must be present"),
        (_twice, "must be listed once in a split"),
        (_renamed("a/b"), "must name its object, without slashes, got 'a/b'"),
        (_renamed(".."), "must name its object, without slashes"),
        (_renamed(""), "must name its object"),
        (lambda meta: meta.pop("train"), "must hold train and test, got test"),
        (lambda meta: meta.update(val={}), "must hold train and test, got test, train, val"),
        (lambda meta: meta.update(test=[]), r"test of .* must be an object, got \[\]"),
        (lambda meta: meta["test"].update(bottle={}), r"'bottle' of .* must be a list, got \{\}"),
        (lambda meta: meta["test"].update(bottle=[3]), "entry 0 of .* must be an object, got 3"),
        (lambda meta: meta.update(train={}, test={}), "must hold images in"),
    ],
)
def test_hostile_content_is_refused(
    written: tuple[Path, dict[str, Any]], damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    root, meta = written
    damage(meta)
    (root / META_NAME).write_text(json.dumps(meta))
    with pytest.raises(DatasetError, match=message):
        read_dataset(root)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"train": ', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_other_files_are_refused(written: tuple[Path, dict[str, Any]], content: bytes) -> None:
    root, _ = written
    (root / META_NAME).write_bytes(content)
    with pytest.raises(DatasetError, match=r"meta\.json` must"):
        read_dataset(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_index_is_refused(written: tuple[Path, dict[str, Any]]) -> None:
    root, _ = written
    (root / META_NAME).chmod(0)
    with pytest.raises(DatasetError, match="must be a readable file"):
        read_dataset(root)


def test_a_mask_of_a_good_part_does_not_count(written: tuple[Path, dict[str, Any]]) -> None:
    root, meta = written
    meta["test"]["bottle"][1]["mask_path"] = "bottle/absent.png"
    (root / META_NAME).write_text(json.dumps(meta))
    (good,) = (s for s in read_dataset(root).of("bottle").select("test", defective=False))
    assert good.mask is None


def test_the_layout_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"meta\.json` must be a readable file"):
        read_dataset(_mvtec(tmp_path / "data"), "meta")
