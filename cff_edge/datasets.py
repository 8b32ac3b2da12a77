"""Reading labelled images in four layouts.

mvtec    <product>/{train,test}/good, <product>/test/<defect>,
         <product>/ground_truth/<defect>/<stem>_mask.png
visa     split_csv/1cls.csv with columns object, split, label, image, mask; paths from the root
folder   <product>/good, <product>/<defect>, masks in <product>/masks/<defect>/<stem>[_mask].png;
         a folder of images alone is one product, all of them good
meta     meta.json in the root, as APRIL-GAN writes it (`cff_edge.meta_json`); it goes before all
         other layouts

The root is a folder of products or one product. Hidden files and folders are left out.
"""

import csv
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_edge.meta_json import META_NAME, read_meta
from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.imaging import IMAGE_SUFFIXES

LAYOUTS = ("mvtec", "visa", "folder", "meta")
GOOD = "good"
_UNNAMED_DEFECT = "anomaly"
_VISA_CSV = Path("split_csv") / "1cls.csv"
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VISA_LABELS = {"normal": GOOD, "anomaly": _UNNAMED_DEFECT}
_MASK_FOLDERS = {"mvtec": "ground_truth", "folder": "masks"}
_SPLITS = ("train", "test")


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
        require_product(product, self.products)
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
    layout : {'mvtec', 'visa', 'folder', 'meta'}, optional
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
    if root.name in ("", ".."):
        root = root.resolve()  # one product is named after its folder
    if layout not in (None, *LAYOUTS):
        raise UsageError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    layout, expected = layout or _detect_layout(root), layout or "MVTec AD, VisA or folder"
    samples = list(_read_samples(root, layout))
    found = tuple(sorted({sample.product for sample in samples}))
    if not samples:
        raise DatasetError(f"`{root}` must hold images in {expected} layout, none were found")
    for product in products or ():
        require_product(product, found)
    if products:
        samples = [sample for sample in samples if sample.product in products]
        found = tuple(sorted(set(products)))
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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"mask `{sample.mask}` and its image must be readable: {error}"
        ) from error
    if any(abs(a - b) > 1 for a, b in zip(*sizes, strict=True)):
        raise DatasetError(
            f"mask `{sample.mask}` must have its image's size {_size(sizes[1])}, "
            f"got {_size(sizes[0])}"
        )
    return resize_mask(binary, height, width)


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Resize a mask [h,w] to [height,width]: bilinear, antialiased, cut at one half."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > 127


def require_product(product: str, products: Sequence[str]) -> None:
    """Check that a product is among those known.

    Raises
    ------
    UsageError
        If it is not; the message names the nearest.
    """
    if product not in products:
        near = difflib.get_close_matches(product, products, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"product must be one of {', '.join(products)}, got {product!r}{hint}")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _detect_layout(root: Path) -> str:
    if (root / META_NAME).is_file():
        return "meta"
    if (root / _VISA_CSV).is_file():
        return "visa"
    candidates = [root, *_subfolders(root)]
    has_splits = any((folder / split).is_dir() for folder in candidates for split in _SPLITS)
    return "mvtec" if has_splits else "folder"


def _read_samples(root: Path, layout: str) -> Iterator[Sample]:
    if layout == "visa":
        return _read_visa(root)
    return _read_meta(root) if layout == "meta" else _read_products(root, layout)


def _read_products(root: Path, layout: str) -> Iterator[Sample]:
    read = _read_mvtec_product if layout == "mvtec" else _read_plain_product
    marks = _SPLITS if layout == "mvtec" else (GOOD,)
    alone = layout == "folder" and any(_images(root))
    if alone or any((root / mark).is_dir() for mark in marks):
        yield from read(root)
        return
    for folder in _subfolders(root):
        samples = list(read(folder))
        if not samples:
            raise DatasetError(f"product folder `{folder}` must hold images, it is empty")
        yield from samples


def _read_mvtec_product(folder: Path) -> Iterator[Sample]:
    for split in _SPLITS:
        if (folder / split).is_dir():
            for defect in _subfolders(folder / split):
                yield from _read_defect(folder, defect, split, "mvtec")


def _read_plain_product(folder: Path) -> Iterator[Sample]:
    loose = _images(folder)
    for path in loose:
        yield Sample(path, folder.name, "test", GOOD, None)
    for defect in _subfolders(folder):
        if loose:  # silence would drop one or the other
            raise DatasetError(
                f"`{folder}` must hold either images or folders, got `{loose[0].name}` beside "
                f"`{defect.name}`; move one of them"
            )
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
    stems = Counter(path.stem for path in images)
    for stem, mask in masks.items():
        if stem not in stems:
            raise DatasetError(
                f"mask `{mask}` must belong to an image of `{folder}`, none is named so"
            )
    for path in images:
        if stems[path.stem] > 1:
            raise DatasetError(f"`{path}` must be the only image of its name in its folder")
        yield Sample(path, product.name, split, folder.name, masks.get(path.stem))


def _read_visa(root: Path) -> Iterator[Sample]:
    table = root / _VISA_CSV
    if not table.is_file():
        raise DatasetError(f"data set `{root}` in VisA layout must hold `{_VISA_CSV}`")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = set(_VISA_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise DatasetError(f"`{table}` must have a column {sorted(missing)[0]!r}")
            for row in reader:
                yield _read_visa_row(root, row, f"line {reader.line_num} of `{table}`")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"`{table}` must be CSV in UTF-8: {error}") from error


def _read_visa_row(root: Path, row: dict[str, str], line: str) -> Sample:
    product, split, label = row["object"], row["split"], row["label"]
    if label not in _VISA_LABELS or split not in _SPLITS:
        raise DatasetError(
            f"{line} must have split train or test and label normal or anomaly, "
            f"got {split!r} and {label!r}"
        )
    _check_product(product, line)
    defect = _VISA_LABELS[label]
    image = _listed_path(root, row["image"], "image", line)
    masked = defect != GOOD and row["mask"]
    mask = _listed_path(root, row["mask"], "mask", line) if masked else None
    return Sample(image, product, split, defect, mask)


def _read_meta(root: Path) -> Iterator[Sample]:
    seen: set[tuple[str, Path]] = set()
    for entry in read_meta(root / META_NAME):
        where = entry.where
        _check_product(entry.product, where)
        image = _listed_path(root, entry.image, "image", where)
        if (entry.split, image) in seen:
            raise DatasetError(f"image `{image}` must be listed once in a split, {where} is twice")
        seen.add((entry.split, image))
        defect = (entry.specie or _UNNAMED_DEFECT) if entry.is_anomalous else GOOD
        if entry.is_anomalous and defect == GOOD:
            raise DatasetError(f"{where} must not name a defect {GOOD!r}")
        masked = entry.is_anomalous and entry.mask
        mask = _listed_path(root, entry.mask, "mask", where) if masked else None
        yield Sample(image, entry.product, entry.split, defect, mask)


def _check_product(product: str, where: str) -> None:
    if product in ("", ".", "..") or "/" in product or "\\" in product:
        raise DatasetError(f"{where} must name its object, without slashes, got {product!r}")


def _listed_path(root: Path, name: str, what: str, where: str) -> Path:
    """Return the path of a file that an index names, after a look that it lies inside and is."""
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise DatasetError(f"{where} must name {what}s inside the data set, got {name!r}")
    if inside.suffix.lower() not in IMAGE_SUFFIXES:
        raise DatasetError(f"{where} must name {what}s ({', '.join(IMAGE_SUFFIXES)}), got {name!r}")
    try:
        exists = (root / inside).is_file()
    except (OSError, ValueError):  # a name that no file can have
        exists = False
    if not exists:
        raise DatasetError(f"{what} `{root / inside}` must exist, {where} names it")
    return root / inside


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
