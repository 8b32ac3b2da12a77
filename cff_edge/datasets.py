"""Reading labelled images in three layouts.

mvtec    <product>/{train,test}/good, <product>/test/<defect>,
         <product>/ground_truth/<defect>/<stem>_mask.png
visa     split_csv/1cls.csv with columns object, split, label, image, mask; paths from the root
folder   <product>/good, <product>/<defect>, masks in <product>/masks/<defect>/<stem>[_mask].png;
         a folder of images alone is one product, all of them good
"""

import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES

LAYOUTS = ("mvtec", "visa", "folder")
GOOD = "good"
_VISA_CSV = Path("split_csv") / "1cls.csv"
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_MASK_FOLDERS = {"mvtec": "ground_truth", "folder": "masks"}


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes
    ----------
    path : Path
    product : str
    split : {'train', 'test'}
    defect : str
        ``good`` or the defect's name.
    mask : Path or None
        None for a good part, and for a defective one without a mask.
    """

    path: Path
    product: str
    split: str
    defect: str
    mask: Path | None

    @property
    def is_defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect != GOOD


@dataclass(frozen=True)
class Dataset:
    """Samples of some products, sorted by product, split, defect and file name."""

    root: Path
    layout: str
    products: tuple[str, ...]
    samples: tuple[Sample, ...]

    def of(self, product: str) -> "Dataset":
        """Return the part of one product.

        Raises
        ------
        UsageError
            If there is no such product.
        """
        _require_known(product, self.products)
        samples = tuple(sample for sample in self.samples if sample.product == product)
        return Dataset(self.root, self.layout, (product,), samples)

    def select(self, split: str | None = None, defective: bool | None = None) -> list[Sample]:
        """Return the samples of a split and a kind; None takes both."""
        return [
            sample
            for sample in self.samples
            if split in (None, sample.split) and defective in (None, sample.is_defective)
        ]


def read_dataset(
    root: Path | str,
    layout: str | None = None,
    products: Sequence[str] | None = None,
    require_masks: bool = True,
) -> Dataset:
    """Read a data set's folders; no image is opened.

    Parameters
    ----------
    root : path
        Folder of products, or one product's folder.
    layout : {'mvtec', 'visa', 'folder'}, optional
        Found by looking if None.
    products : sequence of str, optional
        Read only these.
    require_masks : bool
        Refuse a defective image without a mask.

    Raises
    ------
    UsageError
        If `root` is no folder, or the layout or a product is unknown.
    DatasetError
        If nothing is found, a product is empty, or images and masks do not fit together.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"data set `{root}` must be an existing folder; check the path")
    layout = layout or _detect_layout(root)
    if layout not in LAYOUTS:
        raise UsageError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    samples = list(_read_visa(root) if layout == "visa" else _read_products(root, layout))
    found = tuple(sorted({sample.product for sample in samples}))
    if not samples:
        raise DatasetError(f"`{root}` must hold images in {layout} layout, none were found")
    for product in products or ():
        _require_known(product, found)
    if products:
        samples = [sample for sample in samples if sample.product in products]
        found = tuple(sorted(products))
    for sample in samples:
        if require_masks and sample.is_defective and sample.mask is None:
            raise DatasetError(
                f"defective image `{sample.path}` must have a mask, none was found; add one, or "
                "leave the image out"
            )
    samples.sort(key=lambda s: (s.product, s.split, s.defect, s.path.name))
    return Dataset(root, layout, found, tuple(samples))


def load_mask(sample: Sample, height: int, width: int) -> NDArray[np.bool_]:
    """Read a sample's mask at a given size; all False without one.

    Any value above 0 counts as defective (VisA stores small class ids); the binary mask is then
    resized bilinearly and cut at one half, as APRIL-GAN does.

    Returns
    -------
    ndarray of shape (height, width), bool

    Raises
    ------
    DatasetError
        If the mask cannot be read, or its size differs from its image's by more than 1 px.
    """
    if sample.mask is None:
        return np.zeros((height, width), bool)
    try:
        with Image.open(sample.mask) as mask, Image.open(sample.path) as image:
            sizes = (mask.size, image.size)
            binary = np.asarray(mask.convert("L")) > 0
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"mask `{sample.mask}` must be a readable image: {error}") from error
    if any(abs(a - b) > 1 for a, b in zip(*sizes, strict=True)):
        raise DatasetError(
            f"mask `{sample.mask}` must have its image's size {sizes[1]}, got {sizes[0]}"
        )
    grey = Image.fromarray(binary.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > 127


def _detect_layout(root: Path) -> str:
    if (root / _VISA_CSV).is_file():
        return "visa"
    candidates = [root, *_subfolders(root)]
    return "mvtec" if any((folder / "test").is_dir() for folder in candidates) else "folder"


def _read_products(root: Path, layout: str) -> Iterator[Sample]:
    read = _read_mvtec_product if layout == "mvtec" else _read_plain_product
    marks = ("train", "test") if layout == "mvtec" else (GOOD,)
    if any((root / mark).is_dir() for mark in marks) or any(_images(root)):
        yield from read(root)
        return
    for folder in _subfolders(root):
        samples = list(read(folder))
        if not samples:
            raise DatasetError(f"product folder `{folder}` must hold images, it is empty")
        yield from samples


def _read_mvtec_product(folder: Path) -> Iterator[Sample]:
    for split in ("train", "test"):
        if (folder / split).is_dir():
            for defect in _subfolders(folder / split):
                yield from _read_defect(folder, defect, split, "mvtec")


def _read_plain_product(folder: Path) -> Iterator[Sample]:
    loose = _images(folder)
    for path in loose:
        yield Sample(path, folder.name, "test", GOOD, None)
    if loose:
        return
    for defect in _subfolders(folder):
        if defect.name != _MASK_FOLDERS["folder"]:
            yield from _read_defect(folder, defect, "test", "folder")


def _read_defect(product: Path, folder: Path, split: str, layout: str) -> Iterator[Sample]:
    images = _images(folder)
    if folder.name == GOOD:
        for path in images:
            yield Sample(path, product.name, split, GOOD, None)
        return
    masks: dict[str, Path] = {}
    for mask in _images(product / _MASK_FOLDERS[layout] / folder.name):
        stem = mask.stem.removesuffix("_mask")
        if stem in masks:
            raise DatasetError(
                f"image {stem!r} must have one mask, got `{masks[stem]}` and `{mask}`"
            )
        masks[stem] = mask
    stems = [path.stem for path in images]
    for stem, mask in masks.items():
        if stem not in stems:
            raise DatasetError(
                f"mask `{mask}` must belong to an image of `{folder}`, none is named so"
            )
    for path in images:
        if stems.count(path.stem) > 1:
            raise DatasetError(f"`{path}` must be the only image of its name in its folder")
        yield Sample(path, product.name, split, folder.name, masks.get(path.stem))


def _read_visa(root: Path) -> Iterator[Sample]:
    table = root / _VISA_CSV
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(_VISA_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise DatasetError(f"`{table}` must have a column {sorted(missing)[0]!r}")
        for row in reader:
            path = root / row["image"]
            if not path.is_file():
                raise DatasetError(f"image `{path}` must exist, line {reader.line_num} names it")
            defective = row["label"] == "anomaly"
            mask = root / row["mask"] if defective and row["mask"] else None
            if mask is not None and not mask.is_file():
                raise DatasetError(f"mask `{mask}` must exist, line {reader.line_num} names it")
            defect = "anomaly" if defective else GOOD
            yield Sample(path, row["object"], row["split"], defect, mask)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _require_known(product: str, products: Sequence[str]) -> None:
    if product not in products:
        near = difflib.get_close_matches(product, products, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"product must be one of {', '.join(products)}, got {product!r}{hint}")
